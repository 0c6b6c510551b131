"""Services in processes of their own: started, killed, frozen, asked to end, and what they logged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.commands import Shop


class Serving:
    """One `audiencesync serve`; `lines` are what it logged, each a JSON object."""

    def __init__(self, shop: Shop, *words: str, **more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "audiencesync", "--project", str(shop.root), "serve", "--listen", "127.0.0.1:0",
             *words], env={**os.environ, **shop.environment, **more}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        self.lines: list[dict[str, Any]] = []
        self.odd: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.odd.append(line)

    def said(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of one event whose fields are so."""
        return [line for line in list(self.lines) if line["event"] == event
                and all(line.get(name) == value for name, value in fields.items())]

    def until(self, event: str, *, seconds: float = 30.0, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the `count`-th line of an event."""
        wait_for(lambda: len(self.said(event, **fields)) >= count or self.process.poll() is not None, seconds)
        found = self.said(event, **fields)
        assert len(found) >= count, f"{event} {fields} was not logged, but: {self.lines[-20:]} {self.odd}"
        return found[count - 1]

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.until("listening")["url"])

    def freeze(self) -> None:
        """Let it stand still."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait(30)

    def end(self, seconds: float = 30.0) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            self._reader.join(5)


@contextmanager
def serving(shop: Shop, *words: str, **more: str) -> Iterator[Serving]:
    """A service for as long as the block lasts."""
    service = Serving(shop, *words, **more)
    try:
        yield service
    finally:
        with suppress(ProcessLookupError):
            service.thaw()
        service.process.kill()
        service.process.wait(30)
        service._reader.join(5)
        assert service.process.stderr
        service.process.stderr.close()


def wait_for(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until it is true, or so long."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.05)

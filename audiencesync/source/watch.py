"""Ends a query that takes too long or that nobody waits for any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from audiencesync.errors import Interrupted, SourceUnavailable
from audiencesync.schedule import show_duration

_EVERY = 0.05
"""Seconds between two looks at the clock and at `interrupted`."""


class Watch:
    """The time one read has: `seconds` from now, and less when `interrupted()` becomes true."""

    def __init__(self, file: str, seconds: float, interrupted: Callable[[], bool]) -> None:
        self._file = file
        self._seconds = seconds
        self._interrupted = interrupted
        self._deadline = time.monotonic() + seconds

    def check(self) -> None:
        """Raise Interrupted or SourceUnavailable when the read must end."""
        if self._interrupted():
            raise Interrupted(f"{self._file}: asked to end before its result was read; nothing of it was kept")
        if time.monotonic() > self._deadline:
            raise self.expired()

    def expired(self) -> SourceUnavailable:
        """The error of a query that is too slow."""
        span = show_duration(timedelta(seconds=self._seconds))
        return SourceUnavailable(f"{self._file}: the query took longer than {span} (source.statement_timeout); "
                                 f"make it cheaper or allow more time")

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Call `cancel`, which must be safe in another thread, for as long as the block outlasts its time."""
        done = threading.Event()
        thread = threading.Thread(target=self._poll, args=(done, cancel), name="source-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _poll(self, done: threading.Event, cancel: Callable[[], object]) -> None:
        while not done.wait(_EVERY):
            if self._interrupted() or time.monotonic() > self._deadline:
                with suppress(Exception):  # a query that ended by itself cannot be cancelled, which is as good
                    cancel()

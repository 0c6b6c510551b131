"""What the fake servers of all APIs share: JSON in and out, faults on command, what they hold and what was wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from tests.loopback import Answer, Loopback, Request


class Fake(Loopback):
    """A context manager like Loopback, with `script` for faults; a subclass answers `handle`.

    `holds()` is what its people have of the audiences: {(user id, key): value}, by the ids our side uses.
    `violations` are requests that no client of the real API may make; tests expect none. `calls` counts by route.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.violations: list[str] = []
        self.calls: dict[str, int] = {}

    def holds(self) -> dict[tuple[str, str], object]:
        """What people have, by (our id, key)."""
        raise NotImplementedError

    def handle(self, method: str, path: list[str], query: Mapping[str, str], body: Any, request: Request) -> Answer:
        """The answer of a healthy server; `path` is split at its slashes and decoded, `body` is parsed JSON or None."""
        raise NotImplementedError

    def answer(self, request: Request, *, taken: bool) -> Answer:
        parts = urlsplit(request.path)
        path = [unquote(part) for part in parts.path.split("/")[1:]]
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if not taken:
            return reply({})
        with self._lock:
            self.calls[request.method] = self.calls.get(request.method, 0) + 1
            try:
                body = orjson.loads(request.body) if request.body else None
            except ValueError:
                self.violations.append("a body that is no JSON")
                return reply({"error": "invalid json"}, 400)
            return self.handle(request.method, path, query, body, request)


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON answer."""
    return Answer(status, orjson.dumps(value), headers or {})

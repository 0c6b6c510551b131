"""What the fake servers of all APIs share: JSON in and out, faults on command, what they hold and what was wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from tests.loopback import Answer, Loopback, Request


class Fake(Loopback):
    """A context manager like Loopback, with `script` for faults; a subclass answers `handle`.

    `holds()` is what its people have of the audiences: {(user id, key): value}, by the ids our side uses.
    `violations` are requests that no client of the real API may make; tests expect none. `calls` counts by route,
    `received` the bytes of bodies.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.violations: list[str] = []
        self.calls: dict[str, int] = {}
        self.received = 0

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
            self.received += len(request.body)
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


class _Watched(dict[Any, Any]):
    """A dict of which every way to write ends in __setitem__ or __delitem__, as that of the built-in one does not."""

    __slots__ = ()

    def update(self, *others: Any, **more: Any) -> None:
        for name, value in dict(*others, **more).items():
            self[name] = value

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def setdefault(self, name: Any, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: Any, *default: Any) -> Any:
        if name not in self and default:
            return default[0]
        value = self[name]
        del self[name]
        return value

    def popitem(self) -> tuple[Any, Any]:
        if not self:
            raise KeyError
        last = next(reversed(self))
        return last, self.pop(last)

    def clear(self) -> None:
        for name in [*self]:
            del self[name]


class Record(_Watched):
    """One entry of a table, which it tells of every change of a field that is looked up."""

    __slots__ = ("_at", "_table")

    def __init__(self, values: Mapping[str, Any], table: Table, at: int) -> None:
        super().__init__(values)
        self._table: Table | None = table
        self._at = at
        for name in table.fields:
            table.note(name, self.get(name), self, at)

    def __setitem__(self, name: str, value: Any) -> None:
        if self._table is not None and name in self._table.fields:
            self._table.forget(name, self.get(name), self._at)
            self._table.note(name, value, self, self._at)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        if self._table is not None and name in self._table.fields and name in self:
            self._table.forget(name, self[name], self._at)
            self._table.note(name, None, self, self._at)
        super().__delitem__(name)

    def leave(self) -> int:
        """It is no entry any more; where it stood."""
        assert self._table is not None
        for name in self._table.fields:
            self._table.forget(name, self.get(name), self._at)
        self._table = None
        return self._at


class Table(_Watched):
    """A dict of records, found at once by what they have in `fields`, however table and records are written.

    What is put in is copied into a Record, so keep what `table[name]` says and not what was put.
    """

    __slots__ = ("_found", "_next", "fields")

    def __init__(self, *fields: str) -> None:
        super().__init__()
        self.fields = frozenset(fields)
        self._found: dict[tuple[str, str], dict[int, Record]] = {}
        self._next = 0

    def like(self, field: str, value: object) -> Iterator[Record]:
        """In the table's order those who have this there, in capitals or not; None is that of who has nothing."""
        found = self._found.get((field, _plain(value)), {})
        return (found[at] for at in (sorted(found) if len(found) > 1 else [*found]))

    def __setitem__(self, name: Any, values: Mapping[str, Any]) -> None:
        at = self._next
        if name in self:
            at = self[name].leave()
        else:
            self._next += 1
        super().__setitem__(name, Record(values, self, at))

    def __delitem__(self, name: Any) -> None:
        self[name].leave()
        super().__delitem__(name)

    def note(self, field: str, value: object, record: Record, at: int) -> None:
        """A record has this there from now on; `at` is its place in the table."""
        self._found.setdefault((field, _plain(value)), {})[at] = record

    def forget(self, field: str, value: object, at: int) -> None:
        """It has that no more."""
        having = self._found[field, _plain(value)]
        del having[at]
        if not having:
            del self._found[field, _plain(value)]


def _plain(value: object) -> str:
    return "" if value is None else str(value).lower()

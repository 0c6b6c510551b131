"""A packer under watch: whatever it packs, for a page or for a later wave of one, is held to what packers promise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from audiencesync.model import Batch, Call, Content, Destination, Packed, Packer
from audiencesync.testing.pages import Limits

METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET", "HEAD")

Reader = Callable[[Batch], Iterable[tuple[str, str, object]] | None]
"""What a request says: user, key and value of each call, in any order; None where a test cannot read it."""


class Checked(Packer):
    """Packs as the destination does, and again with a packer that has seen nothing else: the two must be the same.

    `packs` are all results so far; `limits` hold for each request; `read` tells what a request says, where a suite
    knows. Raises AssertionError for whatever breaks a promise.
    """

    def __init__(self, destination: Destination, content: Content, *, limits: Limits | None = None,
                 read: Reader | None = None) -> None:
        self._destination, self._content = destination, content
        self._limits = limits or Limits()
        self._read: Reader = read or (lambda _: None)
        self._packer = destination.packer(content)
        self.packs: list[Packed] = []
        vars(self)["in_turn"] = self._packer.in_turn  # which is of the class it stands for

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """The same names as the destination's."""
        return self._packer.names(calls)

    def pack(self, calls: Sequence[Call]) -> Packed:
        """Pack without knowing anything."""
        return self.pack_known(calls, {})

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Pack, and look at every request."""
        packed = self._packer.pack_known(calls, known)
        fresh = self._destination.packer(self._content)
        assert packed == fresh.pack_known(list(calls), dict(known)), "packing depends on what was packed before"
        if not known:
            assert packed == fresh.pack(calls), "`pack` is not `pack_known` without knowledge"
        parts = [*(call for batch in packed.batches for call in batch.calls), *(call for call, _ in packed.refused),
                 *packed.done, *packed.later]
        assert Counter(parts) == Counter(calls), "each call is in one request, or refused, or done, or for later"
        assert packed.batches or not packed.later, "nothing is asked that could teach what the calls for later wait for"
        users = [{call.user_id for call in batch.calls} for batch in packed.batches]
        if self._destination.shape != "call":
            assert sum(map(len, users)) == len(set().union(*users)), "a user is in two requests at once"
        for batch in packed.batches:
            self._look_at(batch, known)
        self.packs.append(packed)
        return packed

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """The same as the destination's."""
        return self._packer.imagine(batch)

    def _look_at(self, batch: Batch, known: Mapping[str, str]) -> None:
        assert batch.calls, "a request about nobody"
        assert len(batch.calls) <= (self._limits.calls or len(batch.calls))
        assert len(batch.body) <= (self._limits.body or len(batch.body))
        method, _, path = batch.route.partition(" ")
        assert not batch.route or (method in METHODS and path.isascii() and path.isprintable() and " " not in path), (
            f"the route {batch.route!r} is no `METHOD /path`")
        if batch.asks:
            return
        if (said := self._read(batch)) is not None:
            keys = [envelope.key for envelope in self._content.envelopes]
            wanted = Counter((call.user_id, keys[call.span], repr(call.value)) for call in batch.calls)
            assert Counter((user, key, repr(value)) for user, key, value in said) == wanted, "it says something else"
            return
        text, place = f"{batch.route} {batch.body.decode(errors='replace')}", 0
        for call in batch.calls:
            found = [known.get(name, "") for name in self._packer.names([call])]
            place = next((at for spelling in _spellings(call, found) for start in (place, 0)
                          if (at := text.find(spelling, start)) >= 0), -1)
            assert place >= 0, f"a request for {call.user_id!r} names neither his id, his email nor what was learned"
        self._look_at_values(batch)

    def _look_at_values(self, batch: Batch) -> None:
        """Under a computation's key stand its calls' values; where a request has no such field, they stand anywhere."""
        if (parsed := _parsed(batch.body)) is None:
            return
        fields = list(_fields(parsed))
        anywhere = {value for _, value in fields if isinstance(value, bool)}
        for span, envelope in enumerate(self._content.envelopes):
            wanted = {call.value for call in batch.calls if call.span == span}
            if not wanted:
                continue
            under = [value for name, value in fields if name == envelope.key]
            assert all(isinstance(value, bool) for value in under), f"{envelope.key} is {under[:3]}, no JSON boolean"
            assert (not under and wanted <= anywhere) or set(under) == wanted, f"{envelope.key} has other values"


def _spellings(call: Call, found: Iterable[str]) -> Iterator[str]:
    """The ways in which a request may name somebody: in JSON, in a path, in a form."""
    columns = json.loads(call.included) if call.included else {}
    for name in (call.user_id, columns.get("email"), *found):
        if name:
            yield orjson.dumps(name).decode()[1:-1]
            yield json.dumps(name)[1:-1]
            yield quote(name, safe="")
            yield quote_plus(name)


def _parsed(body: bytes) -> Any:
    """A body of JSON, or of a JSON value a line; None for any other."""
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:
        return [orjson.loads(line) for line in body.splitlines()]
    except ValueError:
        return None


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, object]]:
    """Every value in a JSON document that holds no others, with the name of the field that it stands in."""
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from _fields(one, inner)
    elif isinstance(value, list):
        for one in value:
            yield from _fields(one, name)
    else:
        yield name, value

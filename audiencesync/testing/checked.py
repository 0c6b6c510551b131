"""A packer under watch: whatever it packs, for a page or for a later wave of one, is held to what packers promise."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

from audiencesync.model import Batch, Call, Content, Destination, Packed, Packer
from audiencesync.testing.pages import Limits

METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET", "HEAD")

Reader = Callable[[Batch], Iterable[tuple[str, str, object]] | None]
"""What a request says: user, name and value of each trait, in any order; None where a test cannot read it."""


class Checked(Packer):
    """Packs as the destination does, and again with a packer that has seen nothing else: the two must be the same.

    `packs` are all results so far; `limits` hold for each request; `read` tells what a request says, where a suite
    knows, and `opened` is its text where it is not plain. Raises AssertionError for whatever breaks a promise.
    """

    def __init__(self, destination: Destination, content: Content, *, limits: Limits | None = None,
                 read: Reader | None = None, opened: Callable[[Batch], bytes] | None = None) -> None:
        self._destination, self._content = destination, content
        self._limits = limits or Limits()
        self._read: Reader = read or (lambda _: None)
        self._opened = opened or unsealed
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
        calls: Sequence[Call] = batch.calls
        if (said := self._read(batch)) is not None:
            calls = self._compare(calls, said)
        body = self._opened(batch)
        text, place = f"{batch.route} {body.decode(errors='replace')}", 0
        for call in calls:
            found = [known.get(name, "") for name in self._packer.names([call])]
            place = next((at for spelling in _spellings(call, found) for start in (place, 0)
                          if (at := text.find(spelling, start)) >= 0), -1)
            assert place >= 0, f"a request for {call.user_id!r} names neither his id, his email nor what was learned"
        self._look_at_values(body, calls)

    def _compare(self, calls: Sequence[Call], said: Iterable[tuple[str, str, object]]) -> Sequence[Call]:
        """Hold what a reader says against calls; those computed traits are left of which it says nothing at all.

        What is told by events may be said in another request, and twice.
        """
        found = Counter((user, name, _plain(value)) for user, name, value in said)
        spoken = {(user, name) for user, name, _ in found}
        wanted, left = Counter[tuple[str, str, object]](), []
        for call in calls:
            traits = call.traits(self._content.envelopes[call.span].key)
            if self._content.envelopes[call.span].send != "identify":
                found = Counter({one: times for one, times in found.items() if one[:2] not in {
                    (call.user_id, name) for name in traits}})
            elif isinstance(call.value, str) and not any((call.user_id, name) in spoken for name in traits):
                left.append(call)
            else:
                wanted.update((call.user_id, name, _plain(value)) for name, value in traits.items())
        assert found == wanted, "it says something else"
        return left

    def _look_at_values(self, body: bytes, calls: Sequence[Call]) -> None:
        """Under a trait's name stand its values; where a request has no such field, they stand anywhere.

        Calls that are told by events are looked at when all of their requests are there.
        """
        if not calls or (document := parsed(body)) is None:
            return
        fields = list(leaves(document))
        anywhere = {(kind, value) for _, kind, value in fields}
        audiences = {one.key for one in self._content.envelopes if one.computation_class == "audience"}
        for name, values in self._wanted(calls).items():
            under = {(kind, value) for field, kind, value in fields if field == name}
            if name in audiences:
                assert all(kind for kind, _ in under), f"{name} is {[*under][:3]}, no JSON boolean"
            told = [value for value in values if value is not None]
            found = [shown(value, under or anywhere) for value in told]
            rest = under - set().union(*found) if len(told) == len(values) else ()
            right = all(found) and not rest
            assert right, (
                f"{name} has other values than were told. A computed trait's call has JSON text as its value: "
                "call.traits(envelope.key) gives the values by their names, as it does of an audience")
            if len(told) < len(values):  # for null a destination may have other words
                assert under or (False, None) in anywhere or name.encode() in body, (
                    f"null is told for {name}, and the request says nothing of it")

    def _wanted(self, calls: Sequence[Call]) -> dict[str, list[object]]:
        found: dict[str, list[object]] = {}
        for call in calls:
            envelope = self._content.envelopes[call.span]
            if envelope.send == "identify":
                for name, value in call.traits(envelope.key).items():
                    found.setdefault(name, []).append(value)
        return found


def _plain(value: object) -> object:
    """A value as two may be compared, of which one may have gone through a double."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return float(value)
    return repr(value)


def _spellings(call: Call, found: Iterable[str]) -> Iterator[str]:
    """The ways in which a request may name somebody: in JSON, in a path, in a form."""
    columns = json.loads(call.included) if call.included else {}
    learned = [part for text in found for part in (text, *re.split(r'[|"{}\[\]:, ]+', text)) if len(part) >= _TELLING]
    for name in (call.user_id, columns.get("email"), *learned):
        if name:
            yield orjson.dumps(name).decode()[1:-1]
            yield json.dumps(name)[1:-1]
            yield quote(name, safe="")
            yield quote_plus(name)
            yield quote(name, safe="").replace(".", "%2E")  # dots alone would mean a folder


_TELLING = 3
"""Characters from which a part of what was learned may be the name of somebody; `1` stands everywhere."""

_SEALED = re.compile(rb'"(eyJ[A-Za-z0-9+/]+=*)"')
"""A text that begins like an object's in base64."""

_EXACT = json.JSONDecoder(parse_float=Decimal)


def parsed(body: bytes) -> Any:
    """A body of JSON, or of a JSON value a line, whose numbers keep every digit; None for any other."""
    try:
        text = body.decode()
        try:
            return _EXACT.decode(text)
        except ValueError:
            return [_EXACT.decode(line) for line in text.split("\n") if line]
    except ValueError:
        return None


def shown(value: object, where: Collection[tuple[bool, Any]]) -> set[tuple[bool, Any]]:
    """Those of a document's values that say this one; a list's items stand there, or a text that has all of them."""
    if not isinstance(value, list):
        return {(isinstance(value, bool), value)} & set(where)
    items: set[tuple[bool, Any]] = {(False, item) for item in value}
    return items if items <= set(where) else {(kind, text) for kind, text in where
                                              if isinstance(text, str) and joins(text, value)}


def joins(text: str, items: Sequence[str]) -> bool:
    """Whether a text has these items in their order, as it does where an API has no lists."""
    at = 0
    for item in items:
        if (at := text.find(item, at)) < 0:
            return False
        at += len(item)
    return True


def unsealed(batch: Batch) -> bytes:
    """The text of a request, with that of a JSON object which it has in base64 in place of itself."""
    found = _SEALED.search(batch.body)
    try:
        return b64decode(found[1], validate=True) if found else batch.body
    except ValueError:
        return batch.body


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, bool, Any]]:
    """Every value in a JSON document that holds no others: its field's name, whether it is a boolean, itself."""
    if isinstance(value, dict):
        for inner, one in value.items():
            yield from leaves(one, inner)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one, name)
    else:
        yield name, isinstance(value, bool), value

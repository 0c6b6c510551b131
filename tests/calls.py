"""Calls as the tests of destinations bring them, and ids that break careless code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import orjson

from audiencesync.model import Call, Content, Destination, Packed
from audiencesync.testing import content, envelope
from audiencesync.testing.drive import Journal
from tests.fakes.base import Fake

KEYS = ("vip", "big_spender", "dormant")
AWKWARD = ("user@123", "a/b", "a+b", "a b", "日本", "100%41", "q?u=e&r#y", ".", "..", "../../up", "o'brien", "5577")


def made(*keys: str, kind: str = "user_id") -> Content:
    """The content of a sync of these keys, or of all three."""
    return content(*(envelope(key, id_kind=kind) for key in keys or KEYS))


def true(user: str, span: int = 0, **columns: object) -> Call:
    """A member, with his included columns."""
    return Call(user, span, True, orjson.dumps(columns).decode() if columns else None)


def false(user: str, span: int = 0) -> Call:
    """Somebody who left."""
    return Call(user, span, False, None)


def computed(user: str, span: int = 0, *, columns: dict[str, object] | None = None, **values: object) -> Call:
    """What a user is told of a computed trait, with his included columns."""
    return Call(user, span, orjson.dumps(values).decode(), orjson.dumps(columns).decode() if columns else None)


def unlucky(draw: Random, server: Fake, faults: Sequence[Any], member: Callable[[str], Call],
            valued: Callable[..., Call], bring: Callable[[Sequence[Call], Journal], Journal]) -> Iterator[
                tuple[dict[str, bool], dict[str, str | None]]]:
    """Six syncs of random changes, of which requests fail, and which are resumed then; after each what is true now.

    That is who was ever told of an audience, his membership; and his size, where it was told just now.
    """
    journal, members, sizes = Journal(), dict[str, bool](), dict[str, str | None]()
    for _ in range(6):
        calls: list[Call] = []
        for user in (f"u{number}" for number in range(12)):
            if draw.random() < 0.4 and (new := draw.random() < 0.6) != members.get(user, False):
                members[user] = new
                calls.append(member(user) if new else false(user))
            if draw.random() < 0.4 and (size := draw.choice(["S", "M", None])) != sizes.get(user):
                sizes[user] = size
                calls.append(valued(user, 1, size=size, labels=["a"]))
        server.script = lambda *_: draw.choice(faults) if draw.random() < 0.1 else None
        journal = bring(calls, journal)
        server.script = ()
        if not journal.stop.finished:
            journal = bring(calls, journal)
        assert (journal.stop.finished, journal.refused) == (True, [])
        yield members, {user: size for user, size in sizes.items() if any(user == call.user_id for call in calls)}


def pure(destination: Destination, made: Content, remembered: Mapping[str, str] | None = None) -> Any:
    """A destination's packer of which every result is held to be the same from another, whole, and of a user once.

    Its names are all that it wants to know, where `remembered` is what the state says.
    """
    class Pure(type(destination.packer(made))):  # type: ignore[misc] - whatever class it is
        def names(self, calls: Sequence[Call]) -> Iterable[str]:
            found = list(super().names(calls))
            known = {name: value for name, value in (remembered or {}).items() if name in found}
            return [*found, *super().more_names(calls, known)]

        def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
            packed: Packed = super().pack_known(calls, known)
            assert packed == destination.packer(made).pack_known(list(calls), dict(known)), "it depends on other pages"
            parts = [*(call for batch in packed.batches for call in batch.calls), *packed.done, *packed.later,
                     *(call for call, _ in packed.refused)]
            assert Counter(parts) == Counter(calls), "each call is in one place"
            assert packed.batches or not packed.later, "what is left for later waits for nothing"
            users = [user for batch in packed.batches for user in {call.user_id for call in batch.calls}]
            assert len(users) == len(set(users)), "a user is under way twice"
            return packed

    packer = destination.packer(made)
    packer.__class__ = Pure
    return packer

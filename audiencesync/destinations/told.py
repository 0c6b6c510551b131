"""What calls come to at destinations that tell people apart: traits, events, and who is cheaper told alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from audiencesync.model import Call, Envelope

MOST_IN_TURN = 10
"""Requests that a user shares with others one after the other; who needs more of them is told alone."""

LITTLE = 1e-9

SEPARATOR = ", "
"""Between the items of a list that becomes text."""

Part = TypeVar("Part", bound=Hashable)


class Event(NamedTuple):
    """A track event: its name, the trait that it is about, and its properties, as Segment has them."""

    name: str
    about: str
    properties: Mapping[str, Any]


def is_identify(envelope: Envelope) -> bool:
    """Whether users hold what is told under this computation."""
    return envelope.send != "track"


def events_of(call: Call, envelope: Envelope) -> Sequence[Event]:
    """The events of one call: one of an audience, of a computed trait one for each value told; none of identify."""
    entered, exited, computed = envelope.events
    if envelope.send == "identify":
        return ()
    if isinstance(call.value, bool):
        name = entered if call.value else exited
        return (Event(name, envelope.key, {"audience_key": envelope.key, envelope.key: call.value}),)
    return tuple(Event(computed, name, {"trait_key": name, name: value})
                 for name, value in call.traits(envelope.key).items())


def plain_value(value: Any, *, nothing: str | None) -> Any:
    """A value where there are no lists: one becomes text; `nothing` stands for a trait that a user has no more."""
    return nothing if value is None else SEPARATOR.join(value) if isinstance(value, list) else value


def seconds_of(envelope: Envelope) -> int:
    """The instant of a computation's calls, in seconds since 1970."""
    return int(datetime.fromisoformat(envelope.timestamp).timestamp())


def alone(parts: Mapping[str, Sequence[Part]], most: int, having: Collection[str]) -> set[str]:
    """The users for whom a request of their own is cheaper than their parts in those of many users.

    `parts` are the requests that each user would share, by what they say; one names at most so many users. Those
    `having` values of computed traits are told alone where it costs the same: its answer says if they are not there.
    """
    sizes = Counter(part for mine in parts.values() for part in mine)
    found: set[str] = set()
    while True:
        dear = [user for user, mine in parts.items() if user not in found and (
            len(mine) > MOST_IN_TURN or sum(1 / min(sizes[part], most) for part in mine) > (
                1 - LITTLE if user in having else 1 + LITTLE))]
        if not dear:
            return found
        found.update(dear)
        sizes.subtract(part for user in dear for part in parts[user])


def having_values(calls: Mapping[str, Iterable[Call]]) -> set[str]:
    """The users of whom some call is one of computed traits."""
    return {user for user, mine in calls.items() if any(isinstance(call.value, str) for call in mine)}


def going(parts: Mapping[str, Sequence[Part]]) -> set[Part]:
    """The shared requests that may leave now: those whose users have nothing before them, so that nobody has two.

    `parts` are ordered alike for all users. Each request then leaves once, with everybody whom it names.
    """
    firsts = {user: mine[0] for user, mine in parts.items()}
    waiting = {part for mine in parts.values() for part in mine[1:]}
    return set(firsts.values()) - waiting

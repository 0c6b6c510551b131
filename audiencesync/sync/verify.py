"""Verify: read some people back from a destination and compare what they hold with what it was told."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from typing import NamedTuple

from audiencesync.errors import Unavailable, UsageError
from audiencesync.model import Call, Content, Packer, Person, Project
from audiencesync.store import identities, leases, runs, samples, syncs
from audiencesync.store.connect import Store
from audiencesync.store.positions import NOTHING, known_positions, last_envelope
from audiencesync.sync.asking import Turns, asking
from audiencesync.sync.blocked import blocked_account

TOGETHER = 1000
"""Users of whom is read at once what is remembered."""


class Drift(NamedTuple):
    """A user who does not hold what the destination was told; `found` is None where he is not known there.

    `key` is the trait's name, which an audience's key is.
    """

    user_id: str
    key: str
    told: object
    found: object
    there: bool


class Verified(NamedTuple):
    """So many values of so many people were compared; `left_out` more could not be found the way this API allows.

    `waiting` are keys that are being told just now.
    """

    people: int
    values: int
    drift: tuple[Drift, ...]
    waiting: tuple[str, ...]
    left_out: int


def verify(project: Project, store: Store, name: str, *, sample: int) -> Verified:
    """Compare at most `sample` people, and forget whom the destination does not know any more.

    Raises UsageError where nobody can be read back or it may be another account, Unavailable where it is paused
    or its day is used up, a DeliveryError, or LeaseHeld while it is worked on, since its speed limits are shared.
    """
    destination = project.destinations[name]
    if not destination.reads_back:
        raise UsageError(f"{name} cannot be read back: the API of a {destination.type} destination does not allow it")
    if (blocked := blocked_account(store, project.root, name, destination)) is not None:
        kind = UsageError if blocked.status == "held" else Unavailable
        raise kind(f"{name} is not asked: {blocked.reason}; {blocked.help}")
    with asking(store, name, destination) as turns:
        return _compare(project, store, name, sample, turns)


def _compare(project: Project, store: Store, name: str, sample: int, turns: Turns) -> Verified:
    destination = project.destinations[name]
    people, told, waiting = _told(project, store, name, sample)
    read, values = 0, 0
    drift: list[Drift] = []
    gone: set[str] = set()
    kept: set[str] = set()
    if people:  # a wrong address or key must not look like people who are gone
        with turns.request():
            list(destination.check())
    for person, held in destination.read_back(_paced(people, turns)):
        mine = told[person.id_kind, person.user_id]
        read, values = read + 1, values + len(mine)
        (gone if held is None else kept).update(person.known)
        if held is None and person.known:  # who was not there as he is remembered may have been looked for once more
            turns.count()
        for key, value in mine.items():
            found = None if held is None else held.get(key)
            if not same(value, found):
                drift.append(Drift(person.user_id, key, value, found, held is not None))
    if people and not read:
        raise UsageError(f"none of the users drawn ({len(people):,}) can be read back from {name}, which finds people "
                         "by their email: name it in include, or draw more of them with --sample")
    with store.write() as connection:
        leases.guard(store, connection, turns.lease)
        identities.remember(store, connection, name, dict.fromkeys(gone - kept, ""))
    return Verified(read, values, tuple(sorted(drift, key=lambda one: one[:2])), tuple(waiting), len(people) - read)


Told = dict[tuple[str, str], dict[str, object]]
"""By kind and id: what a user was told, by the trait's name."""


def same(told: object, found: object) -> bool:
    """Whether a destination holds what it was told, in its own spelling: 9.5 or "9.50", any absence for null."""
    if isinstance(told, bool):
        return found is True if told else found in (False, None)
    if told is None or found is None:
        return found in (told, "", None) and told is None
    if isinstance(told, int | float | Decimal):
        try:
            return float(str(found)) == float(told)
        except ValueError:
            return False
    if isinstance(told, list):
        return found in (told, ", ".join(map(str, told)))
    return str(found) == told or _instant(str(found)) == _instant(str(told)) is not None


def _instant(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _told(project: Project, store: Store, name: str, sample: int) -> tuple[list[Person], Told, list[str]]:
    """Whom to read back, what each was told, and the keys that are being told just now, so that nobody knows."""
    destination, stands = project.destinations[name], known_positions(store, name)
    busy = {span.computation_id for sync in syncs.open_syncs(store, name) for span in sync.spans}
    known = runs.latest(store, [audience.key for audience in project.audiences if name in audience.destinations])
    mine = [due for due in known.values() if due.computation_id in stands and stands[due.computation_id].run
            and due.computation_id not in busy
            and last_envelope(store, name, due.computation_id).send != "track"]  # events leave nothing to read back
    random.shuffle(mine)  # so that of many audiences and few people each is seen at times
    people: dict[tuple[str, str], Person] = {}
    told: Told = {}
    for index, due in enumerate(mine):
        kind = str(due.id_kind)
        packer = destination.packer(Content(bytes(16), (replace(NOTHING, key=due.key, id_kind=kind),)))
        share = sample * (index + 1) // len(mine) - sample * index // len(mine)
        calls = samples.sample(store, name, due.computation_id, due.key, stands[due.computation_id].run, share)
        for call, remembered in zip(calls, _remembered(store, name, packer, calls), strict=True):
            who = kind, call.user_id
            told.setdefault(who, {}).update(call.traits(due.key))
            before = people.get(who, Person(call.user_id, kind, None, {}))
            people[who] = before._replace(included=call.included or before.included,
                                          known={**before.known, **remembered})
    return list(people.values()), told, [due.key for due in known.values() if due.computation_id in busy]


def _remembered(store: Store, name: str, packer: Packer, calls: Sequence[Call]) -> Iterator[Mapping[str, str]]:
    """What is remembered of each call's user, read for many at once."""
    for start in range(0, len(calls), TOGETHER):
        some = calls[start:start + TOGETHER]
        named = [list(packer.names([call])) for call in some]
        found = identities.known(store, name, chain.from_iterable(named))
        more = [list(packer.more_names([call], found)) for call in some]
        found |= identities.known(store, name, chain.from_iterable(more))
        yield from ({one: found[one] for one in (*first, *then) if one in found}
                    for first, then in zip(named, more, strict=True))


def _paced(people: Iterable[Person], turns: Turns) -> Iterator[Person]:
    """Let people pass as fast as the destination's limits allow, which its syncs share."""
    for person in people:
        with turns.request(spare=1 if person.known else 0):
            yield person

"""Verify: read some people back from a destination and compare what they hold with what it was told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from audiencesync import clock
from audiencesync.delivery import Load
from audiencesync.errors import UsageError
from audiencesync.model import Call, Content, Person, Project
from audiencesync.store import identities, leases, runs, samples, syncs
from audiencesync.store.connect import Store
from audiencesync.store.positions import NOTHING, known_positions
from audiencesync.sync.allowance import Allowance, allowance


class Drift(NamedTuple):
    """A user who does not hold what the destination was told; `found` is None where he is not known there."""

    user_id: str
    key: str
    told: bool
    found: object


class Verified(NamedTuple):
    """So many values of so many people were compared; `waiting` are keys that are being told just now."""

    people: int
    values: int
    drift: tuple[Drift, ...]
    waiting: tuple[str, ...]


def verify(project: Project, store: Store, name: str, *, sample: int) -> Verified:
    """Compare about `sample` people, and forget whom the destination does not know any more.

    Raises UsageError where a destination cannot be read back, a DeliveryError, or LeaseHeld while it is worked on,
    since its speed limits are shared.
    """
    destination = project.destinations[name]
    if not destination.reads_back:
        raise UsageError(f"{name} cannot be read back: the API of a {destination.type} destination does not allow it")
    lease = leases.acquire(store, f"destination:{name}", holder=leases.this_process(),
                           life=max(leases.LIFE, destination.timeout * 2 + timedelta(seconds=15)))
    try:
        allowed = allowance(store, name, destination, clock.monotonic)
        found = _compare(project, store, name, sample, lease, allowed)
        allowed.close()
        return found
    finally:
        leases.release(store, lease)


def _compare(project: Project, store: Store, name: str, sample: int, lease: leases.Lease,
             allowed: Allowance) -> Verified:
    destination = project.destinations[name]
    people, told, waiting = _told(project, store, name, sample)
    drift: list[Drift] = []
    gone: set[str] = set()
    for person, held in destination.read_back(_paced(people, store, lease, allowed)):
        if held is None:
            gone |= set(person.known)
        for key, value in told[person.id_kind, person.user_id].items():
            found = None if held is None else held.get(key)
            if found is not True if value else found not in (False, None):
                drift.append(Drift(person.user_id, key, value, found))
    with store.write() as connection:
        leases.guard(store, connection, lease)
        identities.remember(store, connection, name, dict.fromkeys(gone, ""))
    return Verified(len(people), sum(map(len, told.values())), tuple(drift), tuple(waiting))


Told = dict[tuple[str, str], dict[str, bool]]
"""By kind and id: what a user was told, by key."""


def _told(project: Project, store: Store, name: str, sample: int) -> tuple[list[Person], Told, list[str]]:
    """Whom to read back, what each was told, and the keys that are being told just now, so that nobody knows."""
    destination, stands = project.destinations[name], known_positions(store, name)
    busy = {span.computation_id for sync in syncs.open_syncs(store, name) for span in sync.spans}
    known = runs.latest(store, [audience.key for audience in project.audiences if name in audience.destinations])
    mine = [due for due in known.values() if due.computation_id in stands and stands[due.computation_id].run]
    people: dict[tuple[str, str], Person] = {}
    told: Told = {}
    for due in mine:
        if due.computation_id in busy:
            continue
        run, kind = stands[due.computation_id].run, str(due.id_kind)
        packer = destination.packer(Content(bytes(16), (replace(NOTHING, key=due.key, id_kind=kind),)))
        for one in samples.sample(store, name, due.computation_id, run, max(1, sample // len(mine))):
            call = Call(one.user_id, 0, one.value, one.included)
            told.setdefault((kind, one.user_id), {})[due.key] = one.value
            before = people.get((kind, one.user_id))
            remembered = identities.of_page(store, name, packer, [call])
            people[kind, one.user_id] = Person(
                one.user_id, kind, one.included or (before.included if before else None),
                {**(before.known if before else {}), **remembered})
    return list(people.values()), told, [due.key for due in mine if due.computation_id in busy]


def _paced(people: Iterable[Person], store: Store, lease: leases.Lease, allowed: Allowance) -> Iterator[Person]:
    """Let people pass as fast as the destination's limits allow, which its syncs share."""
    load = Load(1)
    for person in people:
        while (wait := allowed.pace.free_at(load, clock.monotonic()) - clock.monotonic()) > 0:
            time.sleep(min(wait, 1.0))
            leases.renew(store, lease)
        allowed.pace.sent(load)
        yield person
        allowed.pace.answered(load, clock.monotonic())
        if lease.remaining < lease.life.total_seconds() / 2:
            leases.renew(store, lease)

"""What `doctor` says of a destination beyond reaching it: its fields, and how long its initial syncs would take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import orjson

from audiencesync.delivery import Cost, page_size, rehearse
from audiencesync.model import Audience, Call, Content, Destination, Project, Trait
from audiencesync.schedule import show_rates
from audiencesync.store import runs
from audiencesync.store.connect import Store
from audiencesync.store.positions import NOWHERE, known_positions
from audiencesync.sync import fields
from audiencesync.sync.envelopes import envelope

SAMPLE = 1000
"""Made-up members whose requests are counted; more would only be more of the same."""


class Estimate(NamedTuple):
    """An initial sync that is still to come: members, requests, seconds (None: no limit), the limits in words.

    Before the first run nobody knows the members; then it is of a thousand.
    """

    key: str
    run: bool
    members: int
    requests: int
    seconds: float | None
    limits: str


def declare(store: Store | None, name: str, destination: Destination, audiences: Sequence[Audience], *,
            fix: bool) -> Iterator[Trait]:
    """How the fields of these audiences stand, made where they are missing and `fix` says so. Raises a DeliveryError.

    What is found is remembered where there is a state, so that a sync need not look again.
    """
    found = list(destination.prepare([audience.key for audience in audiences], create=fix))
    if fix and store is not None:
        fields.note(store, name, found)
    return iter(found)


def initial_syncs(project: Project, store: Store, name: str, audiences: Sequence[Audience]) -> Iterator[Estimate]:
    """What the initial syncs would cost that this destination has not had, by the members of the last runs."""
    destination, stands = project.destinations[name], known_positions(store, name)
    known = runs.latest(store, [audience.key for audience in audiences])
    for audience in audiences:
        due = known.get(audience.key)
        if due is not None and (due.retired or stands.get(due.computation_id, NOWHERE).run):
            continue
        run = due.run if due is not None else None
        members = run.members if run is not None else SAMPLE
        kind = str(due.id_kind) if due is not None and due.id_kind else destination.id_kinds[0]
        shape = envelope(project, name, audience, kind, datetime.now(UTC))
        cost = _cost(destination, Content(bytes(16), (shape,)), audience, members)
        limits, quota = destination.limits(), destination.quota()
        said = show_rates(limits) + (f" and {quota:,} requests a day" if quota else "")
        yield Estimate(audience.key, run is not None, members, cost.requests, cost.seconds(members, limits, quota),
                       said.removeprefix(" and "))


def _cost(destination: Destination, content: Content, audience: Audience, members: int) -> Cost:
    """The cost of so many members, from that of a sample in pages as they are sent."""
    packer, count = destination.packer(content), min(members, SAMPLE)
    size = page_size(destination.page, destination.limits(), content.envelopes)
    calls = [_member(number, content.envelopes[0].id_kind, audience.include) for number in range(count)]
    cost = Cost()
    for start in range(0, count, size):
        cost = cost.plus(rehearse(packer, calls[start:start + size], {}))
    return Cost(*(round(part * members / max(1, count)) for part in cost))


def _member(number: int, id_kind: str, include: Sequence[str]) -> Call:
    email = f"member{number:07}@example.com"
    columns = {column: email if column == "email" else f"{column}{number}" for column in include}
    return Call(email if id_kind == "email" else f"member{number:07}", 0, True,
                orjson.dumps(columns).decode() if columns else None)

"""What `doctor` says of a destination beyond reaching it: its fields, and how long its initial syncs would take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple

import orjson

from audiencesync.delivery import Cost, page_size, rehearse
from audiencesync.errors import LeaseHeld
from audiencesync.model import Audience, Call, Content, Destination, Project, Trait
from audiencesync.schedule import RateLimit, show_rates
from audiencesync.store import accounts, identities, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.positions import NOWHERE, known_positions
from audiencesync.store.traits import BOOLEAN, fields_of
from audiencesync.sync import fields
from audiencesync.sync.allowance import used_today
from audiencesync.sync.asking import NotNow, Turns, asking
from audiencesync.sync.envelopes import envelope

SAMPLE = 1000
"""Made-up members whose requests are counted; more would only be more of the same."""

LISTS = 2
"""Requests that a list of fields takes at most, where it is of usual length."""

PATIENCE = 120.0
"""Seconds that a turn is waited for: the windows of most limits, and not those of hours."""

FIX = "audiencesync doctor --fix"


class Estimate(NamedTuple):
    """An initial sync that is still to come: members, requests, seconds (None: no limit), the limits in words.

    `known` is new, of which nobody knows the members, so that it is of a thousand; ready; or begun, of which those are
    meant who are still to be told. Without a key it is all of them together.
    """

    key: str
    known: str
    members: int
    requests: int
    seconds: float | None
    limits: str


@contextmanager
def turns_at(store: Store | None, name: str, destination: Destination) -> Iterator[Turns | None]:
    """The right to ask it, None where no state says what of its limits is used.

    Raises NotNow where a process is at work there, or it asked to come back later.
    """
    if store is None:
        yield None
        return
    known, now = accounts.account(store, name)
    if known.retry_at is not None and known.retry_at > now:
        why = known.retry_reason or "it asked to come back later"
        raise NotNow(f"it is not to be asked before {known.retry_at:%Y-%m-%d %H:%M:%S}Z: {why}")
    with ExitStack() as stack:
        try:
            turns = stack.enter_context(asking(store, name, destination, patience=PATIENCE))
        except LeaseHeld as error:
            raise NotNow("a process is at work there, which uses its limits") from error
        yield turns


def reach(turns: Turns | None, destination: Destination) -> Iterator[str]:
    """What it says of its reachability, when it is its turn. Raises a DeliveryError, or NotNow as `Turns.request`."""
    with turns.request() if turns is not None else nullcontext():
        yield from destination.check()


def declare(store: Store | None, turns: Turns | None, name: str, destination: Destination,
            audiences: Sequence[Audience], *, fix: bool) -> Iterator[Trait]:
    """How the fields of these audiences stand, made where they are missing and `fix` says so. Raises a DeliveryError.

    What is found or made then is remembered where there is a state, so that a sync need not look again; also what was
    made before an error. Where ids are of a kind that nobody is known by there, that is as if the field were wrong.
    """
    keys = [audience.key for audience in audiences]
    mine = _known_fields(store, audiences)
    seen = identities.known(store, name, [f"field:{field}" for field in mine]) if store else {}
    found: list[Trait] = []
    try:
        for field in _fields(turns, destination, mine, fix=fix):
            found.append(field)
            yield field if field.status != "missing" or fix else field._replace(
                words=f"{field.words}; {_help(destination, seen=f'field:{field.name}' in seen)}")
    finally:
        if fix and store is not None:
            fields.note(store, name, found)
    kinds = {key: due.id_kind for key, due in (runs.latest(store, keys) if store else {}).items()}
    strange = {key: kind for key, kind in kinds.items() if kind is not None and kind not in destination.id_kinds}
    if store and strange:
        unfit = fields.unfit(store, name, destination, strange)
        yield from (Trait(key, "wrong", one.why) for key, one in unfit.items())


def _known_fields(store: Store | None, audiences: Sequence[Audience]) -> dict[str, str]:
    """The kind of value by the name of each trait; those of a computed trait are known when it has been run."""
    new = {audience.key: {audience.key: BOOLEAN} if audience.kind == "audience" else {} for audience in audiences}
    known = fields_of(store, runs.latest(store, new)) if store else {}
    return {field: kind for mine in (new | known).values() for field, kind in mine.items() if kind}


def _fields(turns: Turns | None, destination: Destination, kinds: Mapping[str, str], *, fix: bool) -> Iterator[Trait]:
    """The fields as they are found or made; with the first one all that there are were listed."""
    found = destination.prepare(list(kinds), create=fix, kinds=kinds)
    if turns is None or not fields.declares(destination):
        return found
    return turns.each(found, len(kinds), before=LISTS if fix else LISTS - 1)


def _help(destination: Destination, *, seen: bool) -> str:
    """Who declares a missing field: a sync looks once, before a key is sent the first time."""
    if seen:
        return f"it was there when a sync looked, which they do once a day: {FIX}"
    makes = getattr(destination, "create_fields", True)
    return f"{'the next sync declares it, or' if makes else 'to declare it'}: {FIX}"


def initial_syncs(project: Project, store: Store | None, name: str, audiences: Sequence[Audience]) -> list[Estimate]:
    """What the initial syncs would cost that this destination has not had, by the members of the last runs.

    Without a store nothing was run yet. Of several there is one more, which is all of them together.
    """
    destination = project.destinations[name]
    limits, quota = destination.limits(), destination.quota()
    day = _day(store, name, quota)
    said = " and ".join(filter(None, (show_rates(limits), day.words() if day else "")))
    known = runs.latest(store, [audience.key for audience in audiences]) if store else {}
    stands, begun = (known_positions(store, name), _begun(store, name)) if store else ({}, {})
    found, total, everybody = [], Cost(), 0
    for audience in audiences:
        due = known.get(audience.key)
        if due is not None and (due.retired or stands.get(due.computation_id, NOWHERE).run):
            continue
        kind = str(due.id_kind) if due is not None and due.id_kind else destination.id_kinds[0]
        if kind not in destination.id_kinds:
            continue
        members, how = SAMPLE, "new"
        if due is not None and due.computation_id in begun:
            members, how = begun[due.computation_id], "begun"
        elif due is not None and due.run is not None:
            members, how = due.run.members, "ready"
        shape = envelope(project, name, audience, kind, datetime.now(UTC))
        cost = _cost(destination, Content(bytes(16), (shape,)), audience, members)
        total, everybody = total.plus(cost), everybody + members
        found.append(Estimate(audience.key, how, members, cost.requests, _seconds(cost, limits, day), said))
    if len(found) > 1:
        found.append(Estimate("", "", everybody, total.requests, _seconds(total, limits, day), said))
    return found


class _Day(NamedTuple):
    """The requests of a day, how many of today's are left, and the seconds until there are more."""

    quota: int
    left: int
    ends: float

    def words(self) -> str:
        today = f" ({self.left:,} left today)" if self.left < self.quota else ""
        return f"{self.quota:,} requests a day{today}"


def _day(store: Store | None, name: str, quota: int | None) -> _Day | None:
    if not quota:
        return None
    if store is None:
        return _Day(quota, quota, 0.0)
    used, ends = used_today(*accounts.allowed(store, name))
    return _Day(quota, max(0, quota - used), ends)


def _seconds(cost: Cost, limits: Sequence[RateLimit], day: _Day | None) -> float | None:
    """How long it takes: what is beyond the requests that are left today begins when the day ends, at midnight UTC."""
    quota = day.quota if day is not None else None
    if day is None or day.left == day.quota or cost.requests <= day.left:
        return cost.seconds(limits, quota)
    part = (cost.requests - day.left) / cost.requests
    rest = Cost(*(ceil(one * part) for one in cost))
    return day.ends + (rest.seconds(limits, quota) or 0.0)


def _begun(store: Store, name: str) -> dict[int, int]:
    """By computation, about how many members its initial sync that is under way has still to tell."""
    return {span.computation_id: max(0, sync.total - sync.sent - sync.rejected) // len(sync.spans)
            for sync in syncs.open_syncs(store, name) if sync.mode == "initial" for span in sync.spans}


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

"""Plan: exactly what `sync` would send, found by the same reading and packing, with nothing written or sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count, groupby
from typing import TYPE_CHECKING

from audiencesync.delivery import page_size
from audiencesync.errors import AudiencesyncError, Interrupted, StateUnavailable
from audiencesync.model import (
    Audience,
    Chunk,
    Destination,
    Outcome,
    Page,
    Plan,
    PlannedAudience,
    PlannedDelivery,
    PlannedSync,
    Project,
    Span,
    Sync,
)
from audiencesync.schedule import RateLimit, show_rate
from audiencesync.store import content, planning, positions, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.stage import Stage, stage
from audiencesync.sync.compute import Errors, instant
from audiencesync.sync.blocked import blocked_account
from audiencesync.sync.envelopes import envelope

if TYPE_CHECKING:
    from audiencesync.source import Source

NOBODY_YET = -1
"""A computation id that no row has."""


@dataclass(slots=True)
class _Desk:
    """What is planned for one destination."""

    name: str
    settings: Destination
    blocked: Outcome | None
    open: Sequence[Sync]
    numbers: Iterator[int]
    slots: list[tuple[str, int, Span]] = field(default_factory=list)
    """What is planned: the mode, the open sync that it has to wait for, the span."""
    rows: list[PlannedSync] = field(default_factory=list)


def plan(project: Project, store: Store, audiences: Sequence[Audience], destinations: Iterable[str], *,
         as_of: datetime | None, interrupted: Callable[[], bool]) -> Plan:
    """Ask the source as `sync` would and compare with what each destination was told.

    An audience that fails is among the errors, with its exit code; it never stops the others.
    """
    from audiencesync.source import open_source

    moment = instant(store, as_of)
    known = runs.latest(store, [audience.key for audience in audiences])
    numbers = count(1)
    desks = [_Desk(name, project.destinations[name], blocked_account(store, project.root, name, project.destinations[name]),
                   _going_on(store, name, known), numbers) for name in destinations]
    found: list[PlannedAudience] = []
    errors: Errors = []
    with planning.thinking(store) as thought, open_source(project.source) as source:
        for audience in audiences:
            try:
                found.append(_audience(project, thought, source, audience, moment, known.get(audience.key), desks,
                                       interrupted))
            except (StateUnavailable, Interrupted):
                raise
            except AudiencesyncError as error:
                errors.append((error.exit_code, str(error)))
                _owed(project, store, thought, audience, known.get(audience.key), desks)
        deliveries = [_delivery(store, thought, desk) for desk in desks]
    left = planning.left_behind(store, [audience.key for audience in project.audiences])
    return Plan(moment, tuple(found), tuple(row for desk in desks for row in desk.rows), tuple(deliveries),
                tuple(errors), tuple(row.key for row in left))


def _audience(project: Project, thought: Store, source: Source, audience: Audience, moment: datetime,
              known: runs.Due | None, desks: Sequence[_Desk], interrupted: Callable[[], bool]) -> PlannedAudience:
    last = known.run if known is not None else None
    if known is not None and known.paused:
        return PlannedAudience(audience.key, last.members if last else None, last.members if last else 0, 0, 0,
                               note=f"paused: {known.pause_reason or 'no reason given'}; "
                                    f"audiencesync resume {audience.key}")
    runs.check_key(audience, retired=known is not None and known.retired)
    runs.check_run(known, last, audience, known.id_kind if known else None, moment)
    result = source.read(audience, moment, interrupted=interrupted)
    runs.check_run(known, last, audience, result.id_kind, moment)
    with stage(thought, result.chunks) as held:
        identity, number = (known.computation_id, last.number if last else 0) if known else (NOBODY_YET, 0)
        entered, exited = planning.differences(held, identity, number)
        for desk in desks:
            if desk.name in audience.destinations:
                shape = envelope(project.name, audience, result.id_kind, moment)
                _plan_sync(thought, held, desk, identity, Span(0, audience.key, 0, 0, shape))
        return PlannedAudience(audience.key, last.members if last else None, held.members, entered, exited,
                               held.rows - held.members, "" if last else "new")


def _owed(project: Project, store: Store, thought: Store, audience: Audience, known: runs.Due | None,
          desks: Sequence[_Desk]) -> None:
    """An audience that cannot be computed is still told as of its last run where a destination lags behind."""
    if known is None or known.run is None or known.retired:
        return
    shape = envelope(project.name, audience, str(known.id_kind), known.run.as_of)
    members = _draft("", [Span(known.computation_id, audience.key, 0, known.run.number, shape)])
    found = (Chunk([call.user_id for call in page.calls], [call.included or "{}" for call in page.calls])
             for page in content.pages(store, members, size=5000, retried=False))
    with stage(thought, found) as held:
        for desk in desks:
            if desk.name in audience.destinations:
                _plan_sync(thought, held, desk, known.computation_id, Span(0, audience.key, 0, 0, shape))


def _going_on(store: Store, name: str, known: Mapping[str, runs.Due]) -> list[Sync]:
    """The open syncs of the audiences asked for, without those that are paused."""
    mine = {due.computation_id for due in known.values()}
    found = [sync for sync in syncs.open_syncs(store, name) if mine & {span.computation_id for span in sync.spans}]
    due = runs.latest(store, {span.key for sync in found for span in sync.spans}).values()
    paused = {one.computation_id for one in due if one.paused}
    alive = [replace(sync, spans=tuple(span for span in sync.spans if span.computation_id not in paused))
             for sync in found]
    return [sync for sync in alive if sync.spans]


def _plan_sync(thought: Store, held: Stage, desk: _Desk, identity: int, span: Span) -> None:
    """Plan the next sync of one audience: from where the destination will stand when its open sync is done."""
    run, status, reason = _standing(thought, desk, identity)
    mode = "incremental" if run else "initial"
    slot = next(desk.numbers)
    entered, exited = planning.think(held, slot, identity, run)
    again = planning.think_again(held, slot, desk.name, identity, desk.open)
    desk.rows.append(PlannedSync(span.key, desk.name, mode, status, entered, exited, again, reason))
    if status == "ready":
        behind = max((sync.id for sync in desk.open if sync.mode != "incremental"
                      and identity in {one.computation_id for one in sync.spans}), default=0)
        desk.slots.append((mode, behind, replace(span, computation_id=slot, from_run=planning.FROM,
                                                 to_run=planning.TO)))


def _standing(thought: Store, desk: _Desk, identity: int) -> tuple[int, str, str]:
    """The run the next sync starts from, and whether anything keeps it from starting now."""
    position = positions.known_positions(thought, desk.name).get(identity)
    run = position.run if position is not None else 0
    unresolved = False
    for sync in desk.open:
        for span in sync.spans:
            if span.computation_id == identity:
                run, unresolved = span.to_run, unresolved or sync.claimed != sync.acknowledged
    if desk.blocked is not None:
        return run, desk.blocked.status, desk.blocked.reason
    if position is not None and position.settled_at is not None:
        with thought.read() as connection:
            if position.settled_at > thought.now(connection):
                return run, "waiting", f"an unanswered request may still arrive until {position.settled_at:%H:%M:%S}Z"
    if unresolved and desk.settings.settle:
        return run, "waiting", "the open sync goes first, then its unanswered requests must settle"
    return run, "ready", ""


def _delivery(store: Store, thought: Store, desk: _Desk) -> PlannedDelivery:
    """Count what goes on and what is planned, by packing it as it would be sent."""
    pace = desk.settings.pace()
    tally = _Tally()
    if desk.blocked is None:
        for sync in desk.open:
            _count(tally, desk, sync, content.pages(store, sync, size=page_size(desk.settings.page, pace, sync.spans)))
            desk.rows += [PlannedSync(span.key, desk.name, sync.mode, "goes on", tally.values[index, True],
                                      tally.values[index, False], 0, "an earlier command began it")
                          for index, span in enumerate(sync.spans)]
        desk.slots.sort(key=lambda slot: (*slot[:2], slot[2].envelope.id_kind, slot[2].key))
        for _, same in groupby(desk.slots, key=lambda slot: (*slot[:2], slot[2].envelope.id_kind)):
            draft = _draft(desk.name, [span for *_, span in same])
            size = page_size(desk.settings.page, pace, draft.spans)
            _count(tally, desk, draft, content.pages(thought, draft, size=size, table=planning.planned, retried=False))
    going_on = desk.open if desk.blocked is None else ()
    users = planning.distinct_users(thought, [span.computation_id for *_, span in desk.slots], going_on)
    return PlannedDelivery(desk.name, tally.calls, users, tally.requests, tally.refused,
                           _seconds(pace, tally.calls, tally.requests), show_rate(pace) if pace else "")


@dataclass(slots=True)
class _Tally:
    """What a destination would be sent; `values` counts the calls of one sync by span and value."""

    calls: int = 0
    requests: int = 0
    refused: int = 0
    values: Counter[tuple[int, bool]] = field(default_factory=Counter)


def _count(tally: _Tally, desk: _Desk, sync: Sync, pages: Iterable[Page]) -> None:
    packer = desk.settings.packer(sync.content)
    tally.values = Counter()
    for page in pages:
        packed = packer.pack(page.calls)
        tally.calls += len(page.calls)
        tally.requests += len(packed.batches)
        tally.refused += len(packed.refused)
        if sync.id:
            tally.values.update((call.span, call.value) for call in page.calls)


def _draft(name: str, spans: list[Span]) -> Sync:
    return Sync(0, name, "incremental", bytes(16), syncs.EVERYONE, None, None, 0, 0, 0, 0, syncs.EVERYONE, tuple(spans))


def _seconds(pace: RateLimit | None, calls: int, requests: int) -> float | None:
    if pace is None:
        return None
    return (calls if pace.unit == "items" else requests) / pace.limit * pace.seconds

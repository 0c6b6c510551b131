"""Plan: exactly what `sync` would send, found by the same reading and packing, with nothing written or sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count, groupby
from typing import TYPE_CHECKING

from sqlalchemy import FromClause

from audiencesync.delivery import page_size
from audiencesync.errors import AudiencesyncError, Interrupted, StateUnavailable
from audiencesync.model import (
    Audience,
    Destination,
    Outcome,
    Plan,
    PlannedAudience,
    PlannedDelivery,
    PlannedSync,
    Project,
    Span,
    Sync,
)
from audiencesync.schedule import RateLimit, show_rate
from audiencesync.store import content, planning, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.stage import Stage, stage
from audiencesync.sync.compute import Errors, instant
from audiencesync.sync.deliver import blocked_account
from audiencesync.sync.opening import envelope

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
    slots: list[tuple[str, Span]] = field(default_factory=list)
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
    desks = [_Desk(name, project.destinations[name], blocked_account(store, name, project.destinations[name]),
                   syncs.open_syncs(store, name), numbers) for name in destinations]
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


def _plan_sync(thought: Store, held: Stage, desk: _Desk, identity: int, span: Span) -> None:
    """Plan the next sync of one audience: from where the destination will stand when its open sync is done."""
    run, status, reason = _standing(thought, desk, identity)
    mode = "incremental" if run else "initial"
    slot = next(desk.numbers)
    entered, exited = planning.think(held, slot, identity, run)
    again = planning.think_again(held, slot, desk.name, identity)
    desk.rows.append(PlannedSync(span.key, desk.name, mode, status, entered, exited, again, reason))
    if status == "ready":
        desk.slots.append((mode, replace(span, computation_id=slot, from_run=planning.FROM, to_run=planning.TO)))


def _standing(thought: Store, desk: _Desk, identity: int) -> tuple[int, str, str]:
    """The run the next sync starts from, and whether anything keeps it from starting now."""
    position = syncs.known_positions(thought, desk.name).get(identity)
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
    """Count what is open and what is planned, by packing it as it would be sent."""
    pace = desk.settings.pace()
    calls = requests = refused = users = 0
    drafts: list[tuple[Store, Sync, FromClause | None]] = []
    if desk.blocked is None:
        drafts += [(store, sync, None) for sync in desk.open]
        desk.slots.sort(key=lambda pair: (pair[0], pair[1].envelope.id_kind, pair[1].key))
        for _, same in groupby(desk.slots, key=lambda pair: (pair[0], pair[1].envelope.id_kind)):
            drafts.append((thought, _draft(desk.name, [span for _, span in same]), planning.planned))
    for where, sync, table in drafts:
        packer = desk.settings.packer(sync.content)
        size = page_size(desk.settings.page, pace, sync.spans)
        pages = content.pages(where, sync, size=size) if table is None else content.pages(
            where, sync, size=size, table=table, retried=False)
        for page in pages:
            packed = packer.pack(page.calls)
            calls, requests = calls + len(page.calls), requests + len(packed.batches)
            refused += len(packed.refused)
            if table is None:
                users += len({call.user_id for call in page.calls})
    users += planning.distinct_users(thought, [span.computation_id for _, span in desk.slots])
    return PlannedDelivery(desk.name, calls, users, requests, refused, _seconds(pace, calls, requests),
                           show_rate(pace) if pace else "")


def _draft(name: str, spans: list[Span]) -> Sync:
    return Sync(0, name, "incremental", bytes(16), syncs.EVERYONE, None, None, 0, 0, 0, 0, syncs.EVERYONE, tuple(spans))


def _seconds(pace: RateLimit | None, calls: int, requests: int) -> float | None:
    if pace is None:
        return None
    return (calls if pace.unit == "items" else requests) / pace.limit * pace.seconds

"""Plan: exactly what `sync` would send, found by the same reading and packing, with nothing written or sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING

from audiencesync.errors import AudiencesyncError, Interrupted, SourceUnavailable, StateUnavailable
from audiencesync.model import (
    Audience,
    Chunk,
    Plan,
    PlannedAudience,
    PlannedSync,
    Project,
    Span,
    Sync,
)
from audiencesync.store import content, decisions, planning, positions, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.stage import Stage, stage
from audiencesync.sync import brakes
from audiencesync.sync.blocked import blocked_account
from audiencesync.sync.compute import Computer, Errors, instant
from audiencesync.sync.envelopes import envelope, farewell, stamp
from audiencesync.sync.tally import Desk, delivery, draft

if TYPE_CHECKING:
    from audiencesync.source import Source

NOBODY_YET = -1
"""A computation id that no row has."""


def plan(project: Project, store: Store, audiences: Sequence[Audience], destinations: Iterable[str], *,
         as_of: datetime | None, interrupted: Callable[[], bool], farewells: bool = True) -> Plan:
    """Ask the source as `sync` would and compare with what each destination was told.

    An audience that fails is among the errors, with its exit code; it never stops the others. `farewells` says whether
    retired audiences are planned to be cleared, as a sync of everything does.
    """
    from audiencesync.source import open_source

    moment = instant(store, as_of)
    known = runs.latest(store, [audience.key for audience in audiences])
    numbers = count(1)
    desks = [_desk(project, store, name, known, numbers, farewells=farewells) for name in destinations]
    found: list[PlannedAudience] = []
    errors: Errors = []
    with planning.thinking(store) as thought, open_source(project.source) as source:
        computer = Computer.at(project, thought, source, moment, interrupted)
        if computer.stale:
            errors.append((SourceUnavailable.exit_code, f"nothing is computed: {computer.stale}"))
        for audience in audiences:
            try:
                if computer.stale:
                    _owed(project, store, thought, audience, known.get(audience.key), desks)
                    continue
                if computer.unfit is not None:
                    raise computer.unfit
                found.append(_audience(project, thought, source, audience, moment, known.get(audience.key), desks,
                                       interrupted))
            except (StateUnavailable, Interrupted):
                raise
            except AudiencesyncError as error:
                errors.append((error.exit_code, str(error)))
                _owed(project, store, thought, audience, known.get(audience.key), desks)
        deliveries = [delivery(store, thought, desk) for desk in desks]
    left = planning.left_behind(store, [audience.key for audience in project.audiences])
    goes_to = {audience.key: audience.destinations for audience in project.audiences}
    return Plan(moment, tuple(found), tuple(row for desk in desks for row in desk.rows), tuple(deliveries),
                tuple(dict.fromkeys(errors)), tuple(row.key for row in left),
                tuple(planning.taken_away(store, goes_to)))


def _desk(project: Project, store: Store, name: str, known: Mapping[str, runs.Due], numbers: Iterator[int], *,
          farewells: bool) -> Desk:
    leaving = runs.latest(store, decisions.farewells(store, name)) if farewells else {}
    blocked = blocked_account(store, project.root, name, project.destinations[name])
    desk = Desk(name, project.destinations[name], blocked, _going_on(store, name, {**known, **leaving}), numbers,
                decisions.decisions_of(store, name))
    stands = positions.known_positions(store, name)
    for due in leaving.values():
        stand = stands[due.computation_id]
        run, status, reason = _standing(store, desk, due.computation_id)
        if not run or stand.clear_as_of is None:
            continue
        span = Span(due.computation_id, due.key, run, 0, farewell(store, name, due, stand.clear_as_of))
        if status == "ready":
            desk.asides.append((draft(name, [span]), "ready", "retired: whoever is still there is told that he left"))
        else:
            desk.rows.append(PlannedSync(due.key, name, "incremental", status, reason=reason))
    return desk


def _audience(project: Project, thought: Store, source: Source, audience: Audience, moment: datetime,
              known: runs.Due | None, desks: Sequence[Desk], interrupted: Callable[[], bool]) -> PlannedAudience:
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
                _plan_sync(thought, held, desk, audience, identity, Span(0, audience.key, 0, 0, shape))
        return PlannedAudience(audience.key, last.members if last else None, held.members, entered, exited,
                               held.rows - held.members, "" if last else "new")


def _owed(project: Project, store: Store, thought: Store, audience: Audience, known: runs.Due | None,
          desks: Sequence[Desk]) -> None:
    """An audience that cannot be computed is still told as of its last run where a destination lags behind."""
    if known is None or known.run is None or known.retired:
        return
    shape = envelope(project.name, audience, str(known.id_kind), known.run.as_of)
    members = draft("", [Span(known.computation_id, audience.key, 0, known.run.number, shape)])
    found = (Chunk([call.user_id for call in page.calls], [call.included or "{}" for call in page.calls])
             for page in content.pages(store, members, size=5000, retried=False))
    with stage(thought, found) as held:
        for desk in desks:
            if desk.name in audience.destinations:
                _plan_sync(thought, held, desk, audience, known.computation_id, Span(0, audience.key, 0, 0, shape))


def _going_on(store: Store, name: str, known: Mapping[str, runs.Due]) -> list[Sync]:
    """The open syncs of the audiences asked for, without those that are paused."""
    mine = {due.computation_id for due in known.values()}
    found = [sync for sync in syncs.open_syncs(store, name) if mine & {span.computation_id for span in sync.spans}]
    due = runs.latest(store, {span.key for sync in found for span in sync.spans}).values()
    paused = {one.computation_id for one in due if one.paused}
    alive = [replace(sync, spans=tuple(span for span in sync.spans if span.computation_id not in paused))
             for sync in found]
    return [sync for sync in alive if sync.spans]


def _plan_sync(thought: Store, held: Stage, desk: Desk, audience: Audience, identity: int, span: Span) -> None:
    """Plan the next sync of one audience: from where the destination will stand when its open sync is done."""
    run, status, reason = _standing(thought, desk, identity)
    if status == "retired":
        return
    mode = "incremental" if run else "initial"
    slot = next(desk.numbers)
    entered, exited = planning.think(held, slot, identity, run)
    net = brakes.Net(entered, exited, decisions.members_at(thought, identity, run) if run else 0)
    why = brakes.why_held(audience.guard, net, initial=not run)
    if status == "ready" and why:
        status, reason = "held", f"{why}; after the run: audiencesync approve {span.key} --destination {desk.name}"
        _approved(thought, desk, identity, run, span)
    again = planning.think_again(held, slot, desk.name, identity, desk.open)
    desk.rows.append(PlannedSync(span.key, desk.name, mode, status, entered, exited, again, reason))
    if status == "ready":
        behind = max((sync.id for sync in desk.open if sync.mode != "incremental"
                      and identity in {one.computation_id for one in sync.spans}), default=0)
        desk.slots.append((mode, behind, replace(span, computation_id=slot, from_run=planning.FROM,
                                                 to_run=planning.TO)))


def _approved(thought: Store, desk: Desk, identity: int, run: int, span: Span) -> None:
    """Plan what a person approved up to an earlier run, which is sent though the newest change is held again."""
    decision = desk.decided.get(identity)
    if decision is None or decision.verdict != decisions.APPROVED or not run < decision.to_run:
        return
    if brakes.counted(thought, identity, run, decision.to_run) == (decision.entered, decision.exited):
        shape = replace(span.envelope, timestamp=stamp(runs.instant_of(thought, identity, decision.to_run)))
        approved = Span(identity, span.key, run, decision.to_run, shape)
        desk.asides.append((draft(desk.name, [approved]), "ready", f"approved up to run {decision.to_run}"))


def _standing(thought: Store, desk: Desk, identity: int) -> tuple[int, str, str]:
    """The run the next sync starts from, and whether anything keeps it from starting now."""
    position = positions.known_positions(thought, desk.name).get(identity)
    run = position.run if position is not None else 0
    unresolved = False
    for sync in desk.open:
        for span in sync.spans:
            if span.computation_id == identity:
                run, unresolved = span.to_run, unresolved or sync.claimed != sync.acknowledged
    if position is not None and position.retired_at is not None and position.clear_as_of is None:
        return run, "retired", ""
    if desk.blocked is not None:
        return run, desk.blocked.status, desk.blocked.reason
    if position is not None and position.settled_at is not None:
        with thought.read() as connection:
            if position.settled_at > thought.now(connection):
                return run, "waiting", f"an unanswered request may still arrive until {position.settled_at:%H:%M:%S}Z"
    if unresolved and desk.settings.settle:
        return run, "waiting", "the open sync goes first, then its unanswered requests must settle"
    return run, "ready", ""

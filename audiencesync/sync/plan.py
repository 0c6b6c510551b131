"""Plan: exactly what `sync` would send, found by the same reading and packing, with nothing written or sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count

from audiencesync.errors import AudiencesyncError, Interrupted, SourceUnavailable, StateUnavailable
from audiencesync.model import TRAIT, Audience, Plan, PlannedAudience, Project, Span, Sync
from audiencesync.store import decisions, planning, positions, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.members import Kept, keeping
from audiencesync.store.positions import NOTHING, Position
from audiencesync.store.stage import stage
from audiencesync.store.traits import traits_of
from audiencesync.sync import fields
from audiencesync.sync.blocked import blocked_account
from audiencesync.sync.compute import Computer, Errors, instant
from audiencesync.sync.envelopes import envelope
from audiencesync.sync.look import stopped
from audiencesync.sync.planned import members, plan_approved, plan_farewells, plan_sync
from audiencesync.sync.tally import Desk, delivery
from audiencesync.sync.uses import check_used, given, in_order

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
    desks = [_desk(project, store, name, audiences, known, numbers, farewells=farewells) for name in destinations]
    found: list[PlannedAudience] = []
    errors: Errors = []
    wanted = frozenset(key for audience in audiences for key in audience.uses)
    with planning.thinking(store) as thought, keeping(thought, wanted) as kept, open_source(project.source) as source:
        plan_farewells(store, thought, desks)
        computer = Computer.at(project, thought, source, moment, interrupted)
        for audience in in_order(audiences):
            mine = [desk for desk in desks if desk.name in audience.destinations]
            try:
                found.append(_audience(project, thought, computer, kept, audience, known.get(audience.key), mine))
            except (StateUnavailable, Interrupted):
                raise
            except AudiencesyncError as error:
                errors.append((error.exit_code, str(error)))
                computer.failed[audience.key] = error.exit_code
                _owed(project, store, thought, audience, known.get(audience.key), mine)
            plan_approved(store, thought, mine)
        deliveries = [delivery(store, thought, desk) for desk in desks]
    left = planning.left_behind(store, [audience.key for audience in project.audiences])
    goes_to = {audience.key: audience.destinations for audience in project.audiences}
    return Plan(moment, tuple(found), tuple(row for desk in desks for row in desk.rows), tuple(deliveries),
                tuple(dict.fromkeys(errors)), tuple(row.key for row in left),
                tuple(planning.taken_away(store, goes_to)))


def _desk(project: Project, store: Store, name: str, audiences: Sequence[Audience], known: Mapping[str, runs.Due],
          numbers: Iterator[int], *, farewells: bool) -> Desk:
    """What stands there before anything is planned; whose audience is selected is cleared, else by `farewells`."""
    mine = [audience.key for audience in audiences if name in audience.destinations]
    leaving = runs.latest(store, [key for key in decisions.farewells(store, name) if farewells or key in mine])
    asked = {**{key: known[key] for key in mine if key in known}, **leaving}
    stands = positions.known_positions(store, name)
    settings = project.destinations[name]
    unfit = fields.unfit(store, name, settings, {key: known[key].id_kind if key in known else None for key in mine})
    return Desk(name, settings, blocked_account(store, project.root, name, settings),
                _going_on(store, name, asked, stands), numbers, decisions.decisions_of(store, name), stands, unfit,
                tuple(leaving.values()))


def _audience(project: Project, thought: Store, computer: Computer, kept: Kept, audience: Audience,
              known: runs.Due | None, desks: Sequence[Desk]) -> PlannedAudience:
    last = known.run if known is not None else None
    if known is not None and known.paused:
        return PlannedAudience(audience.key, last.members if last else None, last.members if last else 0, 0, 0,
                               note=f"paused: {known.pause_reason or 'no reason given'}; "
                                    f"audiencesync resume {audience.key}")
    runs.check_key(audience, retired=known is not None and known.retired)
    runs.check_run(known, last, audience, known.id_kind if known else None, computer.moment)
    if computer.unfit is not None:
        raise computer.unfit
    if computer.stale:
        raise SourceUnavailable(f"nothing is computed: {computer.stale}")
    check_used(audience, computer.failed)
    result = computer.source.read(audience, computer.moment, interrupted=computer.interrupted,
                                  given=given(thought, audience, kept.shipped))
    runs.check_run(known, last, audience, result.id_kind, computer.moment)
    with stage(thought, result.chunks) as held:
        identity, number = (known.computation_id, last.number if last else 0) if known else (NOBODY_YET, 0)
        kinds = runs.check_result(thought, held, audience, result.traits, computer.included)
        renamed = list(kinds) != list(traits_of(thought, identity, number))
        entered, exited, updated = planning.differences(held, identity, number, renamed=renamed)
        kept.keep(held, audience, kinds)
        for desk in desks:
            shape = envelope(project, desk.name, audience, result.id_kind, computer.moment, result.traits)
            plan_sync(thought, held, desk, audience, identity, Span(0, audience.key, 0, 0, shape))
        return PlannedAudience(audience.key, last.members if last else None, held.members, entered, exited,
                               held.rows - held.members, "" if last else "new", updated,
                               audience.missing if audience.kind == TRAIT else None)


def _owed(project: Project, store: Store, thought: Store, audience: Audience, known: runs.Due | None,
          desks: Sequence[Desk]) -> None:
    """An audience that cannot be computed is still told as of its last run where a destination lags behind."""
    if known is None or known.run is None or known.retired:
        return
    number, identity = known.run.number, known.computation_id
    with stage(thought, members(store, Span(identity, audience.key, 0, number, NOTHING))) as held:
        for desk in desks:
            shape = envelope(project, desk.name, audience, str(known.id_kind), known.run.as_of,
                             traits_of(store, identity, number))
            plan_sync(thought, held, desk, audience, identity, Span(0, audience.key, 0, 0, shape), newest=number)


def _going_on(store: Store, name: str, asked: Mapping[str, runs.Due], stands: Mapping[int, Position]) -> list[Sync]:
    """The open syncs of the audiences asked for, without those that are paused or were retired."""
    mine = {due.computation_id for due in asked.values()}
    found = [sync for sync in syncs.open_syncs(store, name) if mine & {span.computation_id for span in sync.spans}]
    due = runs.latest(store, {span.key for sync in found for span in sync.spans}).values()
    still = {one.computation_id for one in due if stopped(one, stands)}
    alive = [replace(sync, spans=tuple(span for span in sync.spans if span.computation_id not in still))
             for sync in found]
    return [sync for sync in alive if sync.spans]

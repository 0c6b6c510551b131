"""What one destination would be sent of one audience: its next sync, what was approved, who is told that he left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from audiencesync.model import Audience, Chunk, PlannedSync, Span
from audiencesync.store import content, decisions, planning, runs
from audiencesync.store.connect import Store
from audiencesync.store.positions import NOWHERE
from audiencesync.store.stage import Stage, stage
from audiencesync.store.traits import traits_of
from audiencesync.sync import brakes
from audiencesync.sync.envelopes import farewell, stamp
from audiencesync.sync.tally import Desk


def plan_sync(thought: Store, held: Stage, desk: Desk, audience: Audience, identity: int, span: Span, *,
              newest: int = 0) -> None:
    """Plan the next sync of one audience: from where the destination will stand when its open sync is done.

    `newest` is the run that the stage holds; 0 for one that is only thought of.
    """
    if desk.stands.get(identity, NOWHERE).retired_at is not None:
        return
    run, status, reason = _standing(thought, desk, identity)
    span = _from(thought, identity, span, run)
    if status == "ready" and span.envelope.id_kind not in desk.settings.id_kinds:
        status, reason = "held", f"{desk.name} knows nobody by {span.envelope.id_kind}"
    elif status == "ready" and span.key in desk.unfit:
        reason, status = desk.unfit[span.key]
    slot, mode, part = next(desk.numbers), "incremental" if run else "initial", ""
    change = planning.think(held, slot, identity, run, span.envelope)
    net = _net(thought, identity, run, change)
    why = brakes.why_held(audience.guard, net, initial=not run) if status == "ready" else ""
    decision = desk.decided.get(identity)
    said = brakes.verdict(thought, identity, run, decision) if why else ""
    if said == decisions.APPROVED and (upto := desk.decided[identity].to_run) == newest:
        why = ""
    elif said == decisions.APPROVED:  # which goes first, in a sync of its own; what is left is judged anew
        desk.approved.append((mode, Span(identity, span.key, run, upto, span.envelope)))
        slot, part, mode = next(desk.numbers), f"after {mode}", "incremental"
        span = _from(thought, identity, span, upto)
        change = planning.think(held, slot, identity, upto, span.envelope)
        why = brakes.why_held(audience.guard, _net(thought, identity, upto, change))
    if why:
        quiet = said == decisions.DISCARDED and decision is not None and not brakes.grown(decision, net)
        status, reason = _waits(why, span.key, desk.name, quiet=quiet)
    again = 0 if part else planning.think_again(held, slot, desk.name, identity, span.envelope,
                                                       desk.open)
    if not part or change.calls:
        desk.rows.append(PlannedSync(span.key, desk.name, mode, status, change.entered, change.exited,
                                     again + change.moved, reason, updated=change.updated))
    if status == "ready":
        desk.plan(slot, mode, part, identity, span)


def _from(thought: Store, identity: int, span: Span, run: int) -> Span:
    """The span as it goes on from a run, whose computed traits may have had other names."""
    before = tuple(traits_of(thought, identity, run))
    return replace(span, envelope=replace(span.envelope, traits_before=before))


def _net(thought: Store, identity: int, run: int, change: planning.Change) -> brakes.Net:
    return brakes.Net(*change.net, decisions.members_at(thought, identity, run) if run else 0)


def _waits(why: str, key: str, name: str, *, quiet: bool) -> tuple[str, str]:
    if quiet:
        return "discarded", f"{why}; discarded until a newer run is harmless"
    return "held", f"{why}; after the run: audiencesync approve {key} --destination {name}"


def plan_approved(store: Store, thought: Store, desks: Sequence[Desk]) -> None:
    """Plan what a person approved up to an earlier run, which is sent though the newest change is held again."""
    for desk in desks:
        for mode, wanted in desk.approved:
            as_of = runs.instant_of(store, wanted.computation_id, wanted.to_run)
            names = tuple(traits_of(store, wanted.computation_id, wanted.to_run))
            shape = replace(wanted.envelope, timestamp=stamp(as_of), traits=names)
            span = Span(0, wanted.key, 0, 0, shape)
            with stage(thought, members(store, wanted)) as held:
                slot = next(desk.numbers)
                change = planning.think(held, slot, wanted.computation_id, wanted.from_run, shape)
                again = change.moved + planning.think_again(held, slot, desk.name, wanted.computation_id, shape,
                                                               desk.open)
            desk.rows.append(PlannedSync(wanted.key, desk.name, mode, "ready", change.entered, change.exited, again,
                                         f"approved up to run {wanted.to_run}", updated=change.updated))
            desk.plan(slot, mode, "aside", wanted.computation_id, span)
        desk.approved.clear()


def plan_farewells(store: Store, thought: Store, desks: Sequence[Desk]) -> None:
    """Plan that whoever still holds the trait of an audience that leaves is told that he left."""
    found = [(desk, due) for desk in desks for due in desk.leaving if not due.paused]
    if not found:
        return
    with stage(thought, ()) as nobody:
        for desk, due in found:
            as_of = desk.stands[due.computation_id].clear_as_of
            if as_of is None:
                continue
            run, status, reason = _standing(thought, desk, due.computation_id)
            slot, shape = next(desk.numbers), farewell(store, desk.name, due, as_of, run)
            exited = planning.think(nobody, slot, due.computation_id, run, shape).exited
            again = planning.think_again(nobody, slot, desk.name, due.computation_id, shape, desk.open)
            if not exited + again:
                continue
            desk.rows.append(PlannedSync(due.key, desk.name, "incremental", status, 0, exited, again,
                                         reason or "retired: whoever is still there is told that he left"))
            if status == "ready":
                desk.plan(slot, "incremental", "aside", due.computation_id, Span(0, due.key, 0, 0, shape))


def members(store: Store, span: Span) -> Iterator[Chunk]:
    """Who was in it as of a span's `to`, with values and included columns, as a source would give it."""
    for users, included, values in content.members(store, span.computation_id, span.to_run):
        yield Chunk(users, [text or "{}" for text in included], values if values[0] is not None else None)


def _standing(thought: Store, desk: Desk, identity: int) -> tuple[int, str, str]:
    """The run the next sync starts from, and whether anything keeps it from starting now."""
    position = desk.stands.get(identity, NOWHERE)
    run, unresolved = position.run, False
    for sync in desk.open:
        for span in sync.spans:
            if span.computation_id == identity:
                run, unresolved = span.to_run, unresolved or sync.claimed != sync.acknowledged
    if desk.blocked is not None:
        return run, desk.blocked.status, desk.blocked.reason
    if position.settled_at is not None:
        with thought.read() as connection:
            if position.settled_at > thought.now(connection):
                return run, "waiting", f"an unanswered request may still arrive until {position.settled_at:%H:%M:%S}Z"
    if unresolved and desk.settings.settle:
        return run, "waiting", "the open sync goes first, then its unanswered requests must settle"
    return run, "ready", ""

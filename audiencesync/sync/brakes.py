"""The brakes: which change of an audience is so large that a person must allow it before a byte of it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from audiencesync.model import Audience
from audiencesync.report import counted
from audiencesync.store import content, decisions, runs
from audiencesync.store.connect import Store
from audiencesync.store.decisions import APPROVED, DISCARDED, Decision

MOST_EXITS, FEW_EXITS = 0.3, 50
"""What holds a change unless the project says otherwise: more than 30 % of an audience exits, and at least 50 users."""

MORE = 1.1
"""A change that was discarded is asked of a person again when it has grown by more than a tenth."""

WHOLE = 50
"""An audience of at least so many members that empties is held whatever the limits are."""


class Net(NamedTuple):
    """A change as a guard sees it: who enters and exits, of how many members."""

    entered: int
    exited: int
    before: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A change that waits for a person: up to which run, its counts, the limit it is over.

    One that was `discarded` asks nobody any more, until a newer run is harmless and moves the position.
    """

    to_run: int
    net: Net
    why: str
    discarded: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """The run that a destination is to be brought to next, its instant, and what is held instead, if anything.

    `aside` says that it is not the audience's newest run, so that the sync is one of its own.
    """

    run: int
    as_of: datetime
    aside: bool = False
    hold: Hold | None = None


def why_held(guard: Mapping[str, object], net: Net, *, initial: bool = False) -> str:
    """The limit that a change is over, in words; empty where it is over none.

    A limit that is a float is a share of the members before, one that is an integer a number of users.
    """
    if initial:
        most = guard.get("max_initial")
        over = most is not None and net.entered > _users(most, net.entered)
        return f"{counted(net.entered, 'member')} would be told, more than max_initial {_shown(most)}" if over else ""
    most, few = guard.get("max_exit", MOST_EXITS), guard.get("min_exits", FEW_EXITS)
    if net.exited >= WHOLE and net.exited >= net.before:
        return f"all {net.before:,} members would exit"
    if most is not None and net.exited >= _users(few, net.before) and net.exited > _users(most, net.before):
        return f"{net.exited:,} of {counted(net.before, 'member')} would exit, more than max_exit {_shown(most)}"
    most = guard.get("max_enter")
    share_of_nobody = isinstance(most, float) and not net.before
    if most is not None and not share_of_nobody and net.entered > _users(most, net.before):
        return f"{counted(net.entered, 'user')} would enter {net.before:,}, more than max_enter {_shown(most)}"
    return ""


def _users(limit: object, members: int) -> float:
    assert isinstance(limit, int | float)
    # rounded, since 29 % of 100 is a breath less than 29 to a computer
    return round(limit * members, 6) if isinstance(limit, float) else limit


def _shown(limit: object) -> str:
    return f"{limit * 100:g}%" if isinstance(limit, float) else f"{limit:,}"


def target(store: Store, audience: Audience, known: runs.Due, position: int, decision: Decision | None) -> Target:
    """Where a destination goes from its position (a run's number): to the newest run, unless that is held.

    A change that was approved is sent up to the very run that was shown, though a newer one is held again; one whose
    newest run is harmless again needs nobody's word any more.
    """
    assert known.run is not None
    newest = Target(known.run.number, known.run.as_of)
    why, found = _judged(store, audience.guard, known, position)
    if not why:
        return newest
    said = verdict(store, known.computation_id, position, decision)
    if decision is not None and said == APPROVED:
        if decision.to_run == known.run.number:
            return newest
        return Target(decision.to_run, runs.instant_of(store, known.computation_id, decision.to_run), aside=True)
    quiet = decision is not None and said == DISCARDED and not grown(decision, found)
    return Target(known.run.number, known.run.as_of, hold=Hold(known.run.number, found, why, quiet))


def grown(decision: Decision, found: Net) -> bool:
    """Whether a change is so much larger than the one discarded that it is asked of a person again."""
    return found.entered + found.exited > MORE * (decision.entered + decision.exited)


def verdict(store: Store, computation_id: int, position: int, decision: Decision | None) -> str:
    """What a person said of the change from this position; nothing where it is not the very one that he was shown."""
    if decision is None or not position < decision.to_run:
        return ""
    shown = net(store, computation_id, position, decision.to_run) == (decision.entered, decision.exited)
    return decision.verdict if shown else ""


def _judged(store: Store, guard: Mapping[str, object], known: runs.Due, position: int) -> tuple[str, Net]:
    assert known.run is not None
    if not position:
        everybody = Net(known.run.members, 0, 0)
        return why_held(guard, everybody, initial=True), everybody
    before = decisions.members_at(store, known.computation_id, position)
    # no net change is larger than the runs' own changes together, which are read at once
    largest = Net(*decisions.sums(store, known.computation_id, position, known.run.number), before)
    if not why_held(guard, largest):
        return "", largest
    exact = Net(*net(store, known.computation_id, position, known.run.number), before)
    return why_held(guard, exact), exact


def net(store: Store, computation_id: int, from_run: int, to_run: int) -> tuple[int, int]:
    """Who entered and exited between two runs, counted once: what runs have found never changes."""
    key = (computation_id, from_run, to_run)
    if key not in store.counted:
        if len(store.counted) > 1000:
            store.counted.clear()
        store.counted[key] = content.net(store, *key)
    return store.counted[key]


def held(key: str, destination: str, hold: Hold) -> tuple[str, str, str]:
    """How a change that waits is told: `held` or `discarded`, why with its counts, and the command that helps."""
    command = f"{key} --destination {destination} --run {hold.to_run}"
    why = f"{hold.why} (+{hold.net.entered:,} -{hold.net.exited:,} up to run {hold.to_run})"
    if hold.discarded:
        return "discarded", f"{why}; discarded until a newer run is harmless", f"audiencesync approve {command}"
    return "held", why, f"audiencesync approve {command}  or  audiencesync discard {command}"

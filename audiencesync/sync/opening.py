"""Which sync of a destination comes next: an open one goes on, or the next one opens with its content fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby

from audiencesync.model import Audience, Project, Span, Sync
from audiencesync.store import accounts, content, decisions, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.leases import Lease
from audiencesync.store.positions import NOWHERE, Position, known_positions
from audiencesync.store.traits import gone_traits, traits_of
from audiencesync.sync import brakes, fields
from audiencesync.sync.brakes import Target
from audiencesync.sync.envelopes import envelope, farewell
from audiencesync.sync.look import Look, Ready, Waiting, stopped

AGAIN = "run the same command again; it goes on where this one stopped"


@dataclass(slots=True)
class Agenda:
    """What one command wants of one destination.

    `typed` is a person's command: it tries every refused user again, once. `farewells` says whether it also clears
    audiences that were retired. `waiting` collects what cannot start yet.
    """

    project: Project
    store: Store
    destination: str
    audiences: Sequence[Audience]
    typed: bool
    farewells: bool = False
    retried: set[int] = field(default_factory=set)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    backfill: set[int] = field(default_factory=set)
    set_aside: set[int] = field(default_factory=set)
    _again: bool = False
    _newest: datetime | None = None
    _looked: float = 0.0

    def ask_backfill(self) -> None:
        """Want everyone told again, unless an unfinished backfill already does it."""
        open_now = {span.computation_id for sync in syncs.open_syncs(self.store, self.destination)
                    if sync.mode == "backfill" for span in sync.spans}
        known = runs.latest(self.store, [audience.key for audience in self.audiences]).values()
        self.backfill, self._again = {due.computation_id for due in known} - open_now, True

    def next_sync(self, lease: Lease) -> Sync | None:
        """The sync to work on now, or None when everything selected is told, waits or was set aside."""
        self.waiting.clear()
        look = self._look()
        workable = [left for sync in look.open
                    if (left := self._without_stopped(lease, sync, look)) is not None]
        ready = self._ready(look)
        for mode in syncs.FAIRNESS:
            for sync in workable:
                if sync.mode == mode and sync.id not in self.set_aside:
                    return sync
            opened = self._open(lease, mode, ready)
            if opened is not None:
                return opened
        return None

    def _look(self) -> Look:
        everything = syncs.open_syncs(self.store, self.destination)
        asked = {audience.key for audience in self.audiences}
        if self.farewells:
            asked |= set(decisions.farewells(self.store, self.destination))
        positions = known_positions(self.store, self.destination)
        found = runs.latest(self.store, asked | {span.key for sync in everything for span in sync.spans})
        mine = {known.computation_id for key, known in found.items() if key in asked}
        busy = {span.computation_id for sync in everything for span in sync.spans}
        unfit = fields.unfit(self.store, self.destination, self.project.destinations[self.destination],
                             {key: known.id_kind for key, known in found.items()})
        return Look([sync for sync in everything if mine & {span.computation_id for span in sync.spans}],
                     {known.computation_id: known for known in found.values()
                      if stopped(known, positions) or known.key in unfit},
                     [known for key, known in found.items() if key in asked and known.computation_id not in busy],
                     positions, unfit)

    def keys(self) -> set[str]:
        """The keys of which something may be sent now."""
        look = self._look()
        self.waiting.clear()
        return {span.key for sync in look.open for span in sync.spans} | {
            one.known.key for one in self._ready(look._replace(unfit={}))}

    def has_work(self) -> bool:
        """Whether a sync could go on or begin now; only reads, so that it may be asked often."""
        self.waiting.clear()
        look = self._look()
        return bool(self._ready(look)) or any(
            {span.computation_id for span in sync.spans} - set(look.stopped) for sync in look.open)

    def something_else(self, sync: Sync, now: float) -> bool:
        """Whether this sync shall stop for fresh changes, or since one of its audiences was stopped; changes nothing.

        A new run is noticed at once; the rest (a settle time over, a retry due) within half a minute of `now`.
        """
        mine = [span.computation_id for span in sync.spans]
        if accounts.any_paused(self.store, mine) or decisions.any_ended(self.store, self.destination, mine):
            return True
        newest = runs.newest(self.store)
        if sync.mode == "incremental" or (newest == self._newest and now < self._looked + 30.0):
            return False
        self._newest, self._looked = newest, now
        look = self._look()
        return any(self._wanted("incremental", one) for one in self._ready(look)) or any(
            other.mode == "incremental" and other.id not in self.set_aside
            and {span.computation_id for span in other.spans} - set(look.stopped) for other in look.open)

    def _without_stopped(self, lease: Lease, sync: Sync, look: Look) -> Sync | None:
        """The sync without its stopped audiences, which get one of their own that waits; None when that is all."""
        stuck = {span.computation_id for span in sync.spans} & set(look.stopped)
        for computation in stuck:
            self._note_stopped(look.stopped[computation], look)
        if not stuck:
            return sync
        if len(stuck) == len(sync.spans):
            return None
        return syncs.split(self.store, lease, sync, stuck)

    def _note_stopped(self, known: runs.Due, look: Look) -> None:
        if known.paused:
            self.waiting[known.key] = Waiting("skipped", known.pause_reason or "paused", None,
                                              f"audiencesync resume {known.key}")
        elif known.key in look.unfit:
            why, status = look.unfit[known.key]
            self.waiting[known.key] = Waiting(status, why, None, fields.HELP if status == "held" else AGAIN)

    def _note_held(self, known: runs.Due, hold: brakes.Hold) -> None:
        kind, why, help_ = brakes.held(known.key, self.destination, hold)
        if kind == "held" or not self._again:  # who asks for a backfill does not ask for what was discarded
            self.waiting[known.key] = Waiting("held" if kind == "held" else "skipped", why, None, help_)

    def _ready(self, look: Look) -> list[Ready]:
        """Who may have a next sync now; the others are noted with what they wait for."""
        refused = syncs.rejected_counts(self.store, self.destination, due=not self.typed)
        decided = decisions.decisions_of(self.store, self.destination)
        with self.store.read() as connection:
            now = self.store.now(connection)
        found = []
        for known in look.free:
            position = look.positions.get(known.computation_id, NOWHERE)
            again = known.computation_id not in self.retried and known.computation_id in refused
            ready = self._aimed(known, position, decided.get(known.computation_id), now=now, again=again)
            if ready is None or not any(self._wanted(mode, ready) for mode in syncs.FAIRNESS):
                continue
            if known.paused or known.key in look.unfit:
                self._note_stopped(known, look)
            elif position.settled_at is not None and position.settled_at > now and self._has_content(ready):
                self.waiting[known.key] = Waiting("waiting", "an unanswered request may still arrive (settle)",
                                                  position.settled_at, "run the same command after that")
            elif ready.target.hold is not None:
                self._note_held(known, ready.target.hold)
            else:
                found.append(ready)
        return sorted(found, key=lambda one: (one.target.aside, one.known.id_kind or "", one.known.key))

    def _aimed(self, known: runs.Due, position: Position, decision: decisions.Decision | None, *, now: datetime,
               again: bool) -> Ready | None:
        """Where the destination is to go with an audience; None when nowhere: never run, or retired."""
        if position.clear_as_of is not None:
            return Ready(known, position.run, again, now, Target(0, position.clear_as_of, aside=True), leaves=True)
        if known.run is None or known.retired or position.retired_at is not None:
            return None
        aim = Target(known.run.number, known.run.as_of)
        if position.run < known.run.number:
            audience = next(audience for audience in self.audiences if audience.key == known.key)
            aim = brakes.target(self.store, audience, known, position.run, decision)
        if aim.hold is not None and position.run and known.computation_id in self.backfill:
            # what is held stays so, while everybody is told again what he was told
            return Ready(known, position.run, again=False, now=now, target=Target(position.run, known.run.as_of))
        return Ready(known, position.run, again, now, aim)

    def _has_content(self, ready: Ready) -> bool:
        """Whether the next sync would send anything; one that would not need not settle, only its position moves."""
        if not ready.position or ready.again or ready.known.computation_id in self.backfill:
            return True
        return content.differ(self.store, self._span("incremental", ready, str(ready.known.id_kind)))

    def _wanted(self, mode: str, ready: Ready) -> bool:
        if mode == "backfill":
            return ready.known.computation_id in self.backfill and ready.position > 0
        if mode == "initial":
            return ready.position == 0 and not ready.leaves
        return (ready.position > 0 or ready.leaves) and (ready.position != ready.target.run or ready.again)

    def _open(self, lease: Lease, mode: str, ready: Sequence[Ready]) -> Sync | None:
        wanted = [one for one in ready if self._wanted(mode, one)]
        for (_, id_kind), same in groupby(wanted, key=lambda one: (one.target.aside, one.known.id_kind)):
            parts = [self._span(mode, one, str(id_kind)) for one in same]
            opened = syncs.open_sync(self.store, lease, destination=self.destination, mode=mode, parts=parts,
                                     retries_due=syncs.EVERYONE if self.typed else wanted[0].now)
            self.retried |= {part.computation_id for part in parts}
            if mode == "backfill":
                self.backfill -= {part.computation_id for part in parts}
            if opened is not None:
                return opened
        return None

    def _span(self, mode: str, ready: Ready, id_kind: str) -> Span:
        known, from_run, to_run, as_of = ready.known, ready.position, ready.target.run, ready.target.as_of
        if mode == "backfill":
            to_run, as_of = from_run, runs.instant_of(self.store, known.computation_id, from_run)
        if ready.leaves:
            # neither ever changes; said for one that goes along without anybody to be told
            shape = replace(farewell(self.store, self.destination, known, as_of, from_run), key=known.key,
                            id_kind=id_kind)
        else:
            audience = next(audience for audience in self.audiences if audience.key == known.key)
            before, after = (traits_of(self.store, known.computation_id, run) for run in (from_run, to_run))
            gone = gone_traits(self.store, self.destination, known.computation_id, to_run,
                               ever=mode == "backfill") if after else ()
            shape = envelope(self.project, self.destination, audience, id_kind, as_of, after, before, gone)
        return Span(known.computation_id, known.key, from_run, to_run, shape)

"""Which sync of a destination comes next: an open one goes on, or the next one opens with its content fixed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from audiencesync import __version__
from audiencesync.model import Audience, Envelope, Project, Span, Sync
from audiencesync.store import accounts, content, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.leases import Lease


@dataclass(frozen=True, slots=True)
class Ready:
    """An audience that may have a next sync: where the destination stands, and whether refused users are due."""

    known: runs.Due
    position: int
    again: bool
    now: datetime


class _Look(NamedTuple):
    """How a destination stands: the open syncs that concern the command, who is paused, who has no open sync."""

    open: list[Sync]
    paused: dict[int, runs.Due]
    free: list[runs.Due]


@dataclass(slots=True)
class Agenda:
    """What one command wants of one destination.

    `typed` is a person's command: it tries every refused user again, once. `waiting` collects what cannot start yet.
    """

    project: Project
    store: Store
    destination: str
    audiences: Sequence[Audience]
    typed: bool
    retried: set[int] = field(default_factory=set)
    waiting: dict[str, tuple[str, datetime | None, str]] = field(default_factory=dict)
    backfill: set[int] = field(default_factory=set)
    set_aside: set[int] = field(default_factory=set)
    _newest: datetime | None = None
    _looked: float = 0.0

    def ask_backfill(self) -> None:
        """Want everyone told again, unless an unfinished backfill already does it."""
        open_now = {span.computation_id for sync in syncs.open_syncs(self.store, self.destination)
                    if sync.mode == "backfill" for span in sync.spans}
        known = runs.latest(self.store, [audience.key for audience in self.audiences]).values()
        self.backfill = {due.computation_id for due in known} - open_now

    def next_sync(self, lease: Lease) -> Sync | None:
        """The sync to work on now, or None when everything selected is told, waits or was set aside."""
        self.waiting.clear()
        look = self._look()
        workable = [left for sync in look.open if (left := self._without_paused(lease, sync, look.paused)) is not None]
        ready = self._ready(look.free)
        for mode in syncs.FAIRNESS:
            for sync in workable:
                if sync.mode == mode and sync.id not in self.set_aside:
                    return sync
            opened = self._open(lease, mode, ready)
            if opened is not None:
                return opened
        return None

    def _look(self) -> _Look:
        everything = syncs.open_syncs(self.store, self.destination)
        asked = {audience.key for audience in self.audiences}
        found = runs.latest(self.store, asked | {span.key for sync in everything for span in sync.spans})
        mine = {known.computation_id for key, known in found.items() if key in asked}
        busy = {span.computation_id for sync in everything for span in sync.spans}
        return _Look([sync for sync in everything if mine & {span.computation_id for span in sync.spans}],
                     {known.computation_id: known for known in found.values() if known.paused},
                     [known for key, known in found.items() if key in asked and known.computation_id not in busy])

    def something_else(self, sync: Sync, now: float) -> bool:
        """Whether this sync shall stop for fresh changes, or because one of its audiences was paused; changes nothing.

        A new run is noticed at once; the rest (a settle time over, a retry due) within half a minute of `now`.
        """
        if accounts.any_paused(self.store, [span.computation_id for span in sync.spans]):
            return True
        newest = runs.newest(self.store)
        if sync.mode == "incremental" or (newest == self._newest and now < self._looked + 30.0):
            return False
        self._newest, self._looked = newest, now
        look = self._look()
        return any(self._wanted("incremental", one) for one in self._ready(look.free)) or any(
            other.mode == "incremental" and other.id not in self.set_aside
            and {span.computation_id for span in other.spans} - set(look.paused) for other in look.open)

    def _without_paused(self, lease: Lease, sync: Sync, paused: Mapping[int, runs.Due]) -> Sync | None:
        """The sync without its paused audiences, which get one of their own that waits; None when that is all of it."""
        stuck = {span.computation_id for span in sync.spans} & set(paused)
        for computation in stuck:
            self._note_paused(paused[computation])
        if not stuck:
            return sync
        if len(stuck) == len(sync.spans):
            return None
        return syncs.split(self.store, lease, sync, stuck)

    def _note_paused(self, known: runs.Due) -> None:
        self.waiting[known.key] = (known.pause_reason or "paused", None, f"audiencesync resume {known.key}")

    def _ready(self, due: Sequence[runs.Due]) -> list[Ready]:
        """Who may have a next sync now; the others are noted with what they wait for."""
        positions = syncs.known_positions(self.store, self.destination)
        refused = syncs.rejected_counts(self.store, self.destination, due=not self.typed)
        with self.store.read() as connection:
            now = self.store.now(connection)
        found = []
        for known in due:
            position = positions.get(known.computation_id)
            again = known.computation_id not in self.retried and known.computation_id in refused
            ready = Ready(known, position.run if position is not None else 0, again, now)
            if known.run is None or known.retired or not any(self._wanted(mode, ready) for mode in syncs.FAIRNESS):
                continue
            if known.paused:
                self._note_paused(known)
            elif (position is not None and position.settled_at is not None and position.settled_at > now
                  and self._has_content(ready)):
                self.waiting[known.key] = ("an unanswered request may still arrive (settle)", position.settled_at,
                                           "run the same command after that")
            else:
                found.append(ready)
        return sorted(found, key=lambda ready: (ready.known.id_kind or "", ready.known.key))

    def _has_content(self, ready: Ready) -> bool:
        """Whether the next sync would send anything; one that would not need not settle, only its position moves."""
        if not ready.position or ready.again or ready.known.computation_id in self.backfill:
            return True
        return content.differ(self.store, ready.known.computation_id, ready.position,
                              ready.known.run.number if ready.known.run else 0)

    def _wanted(self, mode: str, ready: Ready) -> bool:
        if mode == "backfill":
            return ready.known.computation_id in self.backfill and ready.position > 0
        if mode == "initial":
            return ready.position == 0
        run = ready.known.run
        return ready.position > 0 and run is not None and (ready.position < run.number or ready.again)

    def _open(self, lease: Lease, mode: str, ready: Sequence[Ready]) -> Sync | None:
        wanted = [one for one in ready if self._wanted(mode, one)]
        for id_kind, same in groupby(wanted, key=lambda one: one.known.id_kind):
            parts = [self._span(mode, one.known, one.position, str(id_kind)) for one in same]
            opened = syncs.open_sync(self.store, lease, destination=self.destination, mode=mode, parts=parts,
                                     retries_due=syncs.EVERYONE if self.typed else wanted[0].now)
            self.retried |= {part.computation_id for part in parts}
            if mode == "backfill":
                self.backfill -= {part.computation_id for part in parts}
            if opened is not None:
                return opened
        return None

    def _span(self, mode: str, known: runs.Due, from_run: int, id_kind: str) -> Span:
        audience = next(audience for audience in self.audiences if audience.key == known.key)
        assert known.run is not None
        to_run, as_of = known.run.number, known.run.as_of
        if mode == "backfill":
            to_run, as_of = from_run, runs.instant_of(self.store, known.computation_id, from_run)
        return Span(known.computation_id, known.key, from_run, to_run,
                    envelope(self.project.name, audience, id_kind, as_of))


def envelope(namespace: str, audience: Audience, id_kind: str, as_of: datetime) -> Envelope:
    """What every body of this audience has in common as of this instant."""
    identity = hashlib.blake2b(f"{namespace} {audience.key}".encode(), digest_size=14).hexdigest()[:27]
    stamp = as_of.strftime("%Y-%m-%dT%H:%M:%S.") + f"{as_of.microsecond // 1000:03}Z"
    return Envelope(audience.key, id_kind, namespace, __version__, stamp, audience.kind, f"aud_{identity}",
                    audience.integrations)

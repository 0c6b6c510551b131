"""What the schedules say is due: each slot computed once, by whichever process comes first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from audiencesync.errors import AudiencesyncError, Interrupted, LeaseHeld, LeaseLost, OlderRun
from audiencesync.model import Audience, Project
from audiencesync.schedule import after, longest_interval, newest_due
from audiencesync.store import leases, runs, slots
from audiencesync.store.connect import Store
from audiencesync.sync.blocked import everything_paused
from audiencesync.sync.compute import Computer, definition_hash, instant
from audiencesync.sync.kept import Kept
from audiencesync.sync.looks import Done, Seen
from audiencesync.sync.uses import failures, in_order, mended

LOGGER = logging.getLogger(__name__)

MANUAL = "manual"

LIFE = timedelta(seconds=10)
"""How long the right to compute an audience lasts unless renewed: no byte leaves by it, so it may be short."""

TAKEN = "another process took it over while this one slept; nothing of it was kept"

TRIES = 5
"""Attempts in a row while the source is away; the last is remembered as failed, and the next slot begins anew."""

FIRST_PAUSE = 1 / 100
"""The pause before the second attempt, as a part of the schedule's interval; each further one is twice as long."""

NUDGE = timedelta(minutes=1)
"""By how much a clock may be set back without a word."""


@dataclass(frozen=True, slots=True)
class Desk:
    """One schedule and the audiences that share it; `edited` are those whose definition was changed meanwhile.

    `awaited` are the keys of all that are computed by themselves, here or at another desk.
    """

    project: Project
    store: Store
    schedule: str
    audiences: Sequence[Audience]
    holder: str
    interrupted: Callable[[], bool]
    edited: frozenset[str] = frozenset()
    awaited: frozenset[str] = frozenset()
    turns: AbstractContextManager[object] = field(default_factory=nullcontext)
    """What is entered for each audience, where only so many may be asked of the source at once."""

    def work(self) -> Done:
        """Compute whatever is due now and nobody else is computing. Raises StateUnavailable."""
        done = Done()
        if everything_paused(self.store, self.project.root):
            return done
        now = instant(self.store, None)
        slot, seen = self._slot(now), self._seen()
        due: dict[str, datetime] = {}
        ordered = in_order(self.audiences)
        for audience in ordered:  # as of no earlier instant than what it uses, which goes first
            if (moment := self._moment(audience, seen, slot, now, done)) is not None:
                due[audience.key] = max([moment, *(due[key] for key in audience.uses if key in due)])
        for moment in sorted(set(due.values())):
            self._compute([audience for audience in ordered if due.get(audience.key) == moment], moment, slot, done)
        done.later(self.next_slot())
        return done

    def next_slot(self) -> datetime | None:
        """When the schedule is due next; None where nothing of it was ever run, or nothing is by itself."""
        anchor = self.anchor()
        return None if anchor is None else after(self.schedule, anchor, zone_of(self.project))

    def anchor(self) -> datetime | None:
        """The instant from which the next slot is counted: the last slot, before the first one the last run.

        Of several audiences it is the one whose last run is the oldest, so that none waits for the others' runs.
        """
        last = slots.newest(self.store, self.schedule)
        if last is not None:
            return last.at
        known = runs.latest(self.store, [audience.key for audience in self.audiences]).values()
        ran = slots.latest(self.store, [one.key for one in known if not (one.paused or one.retired)]).values()
        return min((one.as_of for one in ran if one.as_of != slots.NEVER), default=None)

    @property
    def mine(self) -> dict[str, Audience]:
        """Its audiences by key."""
        return {audience.key: audience for audience in self.audiences}

    def _seen(self, *keys: str) -> Seen:
        """What the state knows of these audiences; of all of the schedule's, without any."""
        wanted = keys or tuple(audience.key for audience in self.audiences)
        return Seen(runs.latest(self.store, wanted), slots.latest(self.store, wanted))

    def _slot(self, now: datetime) -> slots.Slot | None:
        """The slot in force, begun by this look where it is due and nobody began it."""
        last, anchor = slots.newest(self.store, self.schedule), self.anchor()
        at = newest_due(self.schedule, anchor, now, zone_of(self.project)) if anchor is not None else None
        if at is None:
            if last is not None and last.as_of > now + NUDGE:
                _say_clock_went_back(self.schedule, self.next_slot())
            return last
        slot, mine = slots.claim(self.store, self.schedule, at, now)
        if mine:
            LOGGER.info("slot begun", extra={"schedule": self.schedule, "slot": at.isoformat()})
        return slot

    def _moment(self, audience: Audience, seen: Seen, slot: slots.Slot | None, now: datetime,
                done: Done) -> datetime | None:
        """As of when an audience is to be computed now; None when it is not due.

        One whose source was away waits for its next attempt. After the clock went back everything waits until it has
        caught up: no run lies in the future, and none before the last one.
        """
        known, last = seen.known.get(audience.key), seen.latest.get(audience.key)
        if known is not None and (known.paused or known.retired):
            return None
        again = self._again(last, slot)
        if again is not None and now < again:
            done.later(again)
            return None
        moment = self._wanted(audience, seen, slot, now)
        if moment is None or (known is not None and known.run is not None and moment < known.run.as_of):
            return None
        if moment > now:
            done.later(moment)
            return None
        return moment

    def _wanted(self, audience: Audience, seen: Seen, slot: slots.Slot | None, now: datetime) -> datetime | None:
        """As of when its schedule wants it; at once a new audience, one that was edited, one that can be now."""
        last = seen.latest.get(audience.key)
        edited = audience.key in self.edited and last is not None and last.definition != definition_hash(audience)
        if last is None or last.as_of == slots.NEVER or edited or mended(audience, seen.latest, self.mine):
            return now
        if slot is not None and last.as_of < slot.at:
            return slot.as_of
        return now if last.tries else None  # edited while the source was away

    def _again(self, last: slots.Latest | None, slot: slots.Slot | None) -> datetime | None:
        """When an audience is tried again whose source was away."""
        if last is None or last.ended_at is None:
            return None
        interval = longest_interval(self.schedule, slot.at if slot else last.ended_at, zone_of(self.project))
        return last.ended_at + (interval or timedelta(hours=2)) * (FIRST_PAUSE * 2.0 ** min(last.tries - 1, TRIES))

    def _put_off(self, audience: Audience, seen: Seen, slot: slots.Slot | None) -> bool:
        """Whether something that it uses comes first: by the same schedule, or by another one its very first run.

        A host that computes that at this moment goes on with this; else the next look does.
        """
        mine, now = self.mine, instant(self.store, None)
        for key in self.awaited.intersection(audience.uses):
            known, last = seen.known.get(key), seen.latest.get(key)
            if known is not None and (known.paused or known.retired):
                continue
            if last is None or last.as_of == slots.NEVER or (
                    key in mine and self._wanted(mine[key], seen, slot, now) is not None):
                return True
        return False

    def _compute(self, audiences: Iterable[Audience], moment: datetime, slot: slots.Slot | None, done: Done) -> None:
        from audiencesync.source import open_source

        with open_source(self.project.source) as source:
            computer: Computer | None = None
            for audience in audiences:
                if everything_paused(self.store, self.project.root):
                    return
                try:
                    with self.turns, self._lease(audience.key) as lease:
                        seen = self._seen(audience.key, *audience.uses)
                        if self._moment(audience, seen, slot, instant(self.store, None), Done()) is None:
                            continue  # another process has done it since
                        if self._put_off(audience, seen, slot):
                            continue
                        done.failed = failures(audience, seen.latest, self.mine) | done.failed
                        computer = computer or replace(Computer.at(
                            self.project, self.store, source, moment, lambda: self.interrupted() or lease.lost),
                            failed=done.failed)
                        tried = seen.latest[audience.key].tries if audience.key in seen.latest else 0
                        run, errors = computer.run(audience, lease=lease.lease, retried=tried + 1 < TRIES)
                        done.runs.append(run)
                        done.errors += errors
                        if run.status == slots.UNAVAILABLE:
                            done.later(self._again(self._seen(audience.key).latest[audience.key], slot))
                except LeaseHeld:
                    continue
                except (LeaseLost, OlderRun, Interrupted) as error:
                    ended = isinstance(error, Interrupted) and bool(self.interrupted())
                    why = str(error) if ended or isinstance(error, OlderRun) else TAKEN
                    LOGGER.warning("run given up", extra={"computation": audience.key, "reason": why})
                    if ended:
                        done.errors.append((error.exit_code, why))
                        return

    @contextmanager
    def _lease(self, key: str) -> Iterator[Kept]:
        lease = leases.acquire(self.store, f"computation:{key}", holder=self.holder, life=LIFE)
        kept = Kept(self.store, lease)
        try:
            yield kept
        finally:
            kept.end()
            try:
                leases.release(self.store, lease)
            except AudiencesyncError as error:
                LOGGER.warning("lease not given back", extra={"computation": key, "reason": str(error)})


@lru_cache(maxsize=1000)
def _say_clock_went_back(schedule: str, until: datetime | None) -> None:
    """Say it once, however often this is called: what a cache is for."""
    LOGGER.warning("the clock went back; the schedule waits until it has caught up",
                   extra={"schedule": schedule, "until": until.isoformat() if until else ""})


def desks(project: Project, store: Store, audiences: Iterable[Audience], *, interrupted: Callable[[], bool],
          holder: str) -> list[Desk]:
    """One for each schedule of these audiences that runs by itself."""
    by_schedule: dict[str, list[Audience]] = {}
    mine = in_order(scheduled(audiences))
    for audience in mine:
        by_schedule.setdefault(audience.schedule, []).append(audience)
    awaited = frozenset(audience.key for audience in mine)
    return [Desk(project, store, schedule, found, holder, interrupted, awaited=awaited)
            for schedule, found in by_schedule.items()]


def scheduled(audiences: Iterable[Audience]) -> tuple[Audience, ...]:
    """Those that are computed by themselves; the others are for a person's or a pipeline's command."""
    return tuple(audience for audience in audiences if audience.schedule != MANUAL)


def zone_of(project: Project) -> tzinfo:
    """The zone in which the project's cron schedules are meant."""
    return UTC if project.timezone == "UTC" else ZoneInfo(project.timezone)

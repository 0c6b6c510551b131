"""What the schedules say is due: each slot computed once, by whichever process comes first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from audiencesync.errors import AudiencesyncError, Interrupted, LeaseHeld, LeaseLost, OlderRun
from audiencesync.model import Audience, Project, Run
from audiencesync.schedule import after, longest_interval, newest_due
from audiencesync.store import leases, runs, slots
from audiencesync.store.connect import Store
from audiencesync.sync.blocked import everything_paused
from audiencesync.sync.compute import Computer, Errors, instant

LOGGER = logging.getLogger(__name__)

MANUAL = "manual"

LIFE = timedelta(seconds=10)
"""How long the right to compute an audience lasts unless renewed: no byte leaves by it, so it may be short."""

TAKEN = "another process took it over while this one slept; nothing of it was kept"

TRIES = 5
"""Attempts in one slot while the source is away; the last is remembered as failed."""

FIRST_PAUSE = 1 / 100
"""The pause before the second attempt, as a part of the schedule's interval; each further one is twice as long."""


@dataclass(slots=True)
class Done:
    """What came of one look: the runs made, what went wrong, and when at the latest to look again."""

    runs: list[Run] = field(default_factory=list)
    errors: Errors = field(default_factory=list)
    again: datetime | None = None

    def later(self, moment: datetime | None) -> None:
        """Look again at this moment, if not sooner."""
        if moment is not None and (self.again is None or moment < self.again):
            self.again = moment


@dataclass(frozen=True, slots=True)
class Desk:
    """One schedule and the audiences that share it; `edited` are those whose definition was changed meanwhile."""

    project: Project
    store: Store
    schedule: str
    audiences: Sequence[Audience]
    holder: str
    interrupted: Callable[[], bool]
    edited: frozenset[str] = frozenset()

    def work(self) -> Done:
        """Compute whatever is due now and nobody else is computing. Raises StateUnavailable."""
        done = Done()
        if not everything_paused(self.store, self.project.root):
            now = instant(self.store, None)
            slot = self._slot(now)
            due = [(audience, moment) for audience in self.audiences
                   if (moment := self._moment(audience, slot, now, done)) is not None]
            for moment in sorted({moment for _, moment in due}):
                self._compute([audience for audience, at in due if at == moment], moment, slot, done)
        done.later(self.next_slot())
        return done

    def next_slot(self) -> datetime | None:
        """When the schedule is due next; None where nothing of it was ever run, or nothing is by itself."""
        anchor = self.anchor()
        return None if anchor is None else after(self.schedule, anchor, zone_of(self.project))

    def anchor(self) -> datetime | None:
        """The instant from which the next slot is counted: the last slot, before the first one the last run."""
        last = slots.newest(self.store, self.schedule)
        if last is not None:
            return last.at
        known = [slots.latest(self.store, audience.key) for audience in self.audiences]
        return max((one.as_of for one in known if one is not None and one.as_of != slots.NEVER), default=None)

    def _slot(self, now: datetime) -> slots.Slot | None:
        """The slot in force, begun by this look where it is due and nobody began it."""
        last, anchor = slots.newest(self.store, self.schedule), self.anchor()
        at = newest_due(self.schedule, anchor, now, zone_of(self.project)) if anchor is not None else None
        if at is None:
            return last
        slot, mine = slots.claim(self.store, self.schedule, at, now)
        if mine:
            LOGGER.info("slot begun", extra={"schedule": self.schedule, "slot": at.isoformat()})
        return slot

    def _moment(self, audience: Audience, slot: slots.Slot | None, now: datetime, done: Done) -> datetime | None:
        """As of when an audience is to be computed now; None when it is not due.

        A new audience is due at once, one that was edited too. One whose source was away waits for its next attempt.
        """
        known = runs.latest(self.store, [audience.key]).get(audience.key)
        if known is not None and (known.paused or known.retired):
            return None
        last = slots.latest(self.store, audience.key)
        if last is not None and last.ended_at is not None:
            retry = last.ended_at + self._pause(last.tries, now)
            if now < retry:
                done.later(retry)
                return None
        if last is None or last.as_of == slots.NEVER or audience.key in self.edited:
            return now
        return slot.as_of if slot is not None and last.as_of < slot.as_of else None

    def _pause(self, tries: int, now: datetime) -> timedelta:
        interval = longest_interval(self.schedule, now, zone_of(self.project)) or timedelta(hours=2)
        return interval * (FIRST_PAUSE * 2.0 ** min(tries - 1, TRIES))

    def _compute(self, audiences: Iterable[Audience], moment: datetime, slot: slots.Slot | None, done: Done) -> None:
        from audiencesync.source import open_source

        with open_source(self.project.source) as source:
            computer: Computer | None = None
            for audience in audiences:
                if self.interrupted():
                    return
                try:
                    with self._lease(audience.key) as lease:
                        if self._moment(audience, slot, moment, Done()) is None:
                            continue  # another process has done it since
                        computer = computer or Computer.at(self.project, self.store, source, moment,
                                                           lambda: self.interrupted() or lease.lost)
                        last = slots.latest(self.store, audience.key)
                        tried = last.tries if last is not None else 0
                        run, errors = computer.run(audience, lease=lease.lease, retried=tried + 1 < TRIES)
                        done.runs.append(run)
                        done.errors += errors
                except LeaseHeld:
                    continue
                except (LeaseLost, OlderRun, Interrupted) as error:
                    ended = isinstance(error, Interrupted) and bool(self.interrupted())
                    why = str(error) if ended or isinstance(error, OlderRun) else TAKEN
                    LOGGER.warning("run given up", extra={"computation": audience.key, "reason": why})
                    done.errors += [(error.exit_code, why)] if ended else []

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


class Kept:
    """A lease that a thread renews while its holder waits for the source; `lost` says that another process has it."""

    def __init__(self, store: Store, lease: leases.Lease) -> None:
        self.lease = lease
        self.lost = False
        self._store = store
        self._ended = threading.Event()
        self._thread: threading.Timer | None = None
        self._again()

    def _again(self) -> None:
        self._thread = threading.Timer(self.lease.life.total_seconds() / 3, self._renew)
        self._thread.daemon = True
        self._thread.start()

    def _renew(self) -> None:
        if self._ended.is_set():
            return
        try:
            leases.renew(self._store, self.lease)
        except LeaseLost:
            self.lost = True
            return
        except AudiencesyncError as error:
            LOGGER.warning("lease not renewed", extra={"lease": self.lease.name, "reason": str(error)})
        self._again()

    def end(self) -> None:
        """Renew it no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.cancel()


def desks(project: Project, store: Store, audiences: Iterable[Audience], *, interrupted: Callable[[], bool],
          holder: str) -> list[Desk]:
    """One for each schedule of these audiences that runs by itself."""
    by_schedule: dict[str, list[Audience]] = {}
    for audience in scheduled(audiences):
        by_schedule.setdefault(audience.schedule, []).append(audience)
    return [Desk(project, store, schedule, found, holder, interrupted)
            for schedule, found in sorted(by_schedule.items())]


def scheduled(audiences: Iterable[Audience]) -> tuple[Audience, ...]:
    """Those that are computed by themselves; the others are for a person's or a pipeline's command."""
    return tuple(audience for audience in audiences if audience.schedule != MANUAL)


def zone_of(project: Project) -> tzinfo:
    """The zone in which the project's cron schedules are meant."""
    return UTC if project.timezone == "UTC" else ZoneInfo(project.timezone)

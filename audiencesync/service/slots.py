"""Wakes whoever works at a schedule's slots; the only module that knows apscheduler.

Its jobs live in memory and are made anew from the definitions and the state: what is due is decided there, and a wake
that comes twice, or not at all, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from audiencesync import clock
from audiencesync.schedule import after, newest_due

BEAT = 5
"""Seconds between two beats, by which it is known that the scheduler is alive."""


class SlotTrigger(BaseTrigger):  # type: ignore[misc] # apscheduler has no types
    """Fires at the slots of a schedule that follow `anchor`, as every other host finds them."""

    def __init__(self, schedule: str, anchor: datetime, zone: tzinfo) -> None:
        self.schedule, self.anchor, self.zone = schedule, anchor, zone

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first slot after what has come by now: what was missed is made up for by whoever is woken."""
        last = previous_fire_time or self.anchor
        return after(self.schedule, newest_due(self.schedule, last, now, self.zone) or last, self.zone)


class Clockwork:
    """The service's scheduler; `beat` is when it last showed a sign of life."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            timezone=UTC, executors={"default": ThreadPoolExecutor(4)},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1})
        self._followed: dict[str, tuple[Any, ...]] = {}
        self.beat = clock.monotonic()

    def start(self) -> None:
        """Begin to wake."""
        self._scheduler.add_job(self._live, IntervalTrigger(seconds=BEAT, timezone=UTC), id=":beat")
        self._scheduler.start()

    def _live(self) -> None:
        self.beat = clock.monotonic()

    def follow(self, schedule: str, anchor: datetime, zone: tzinfo, wake: Callable[[], None]) -> None:
        """From now on call `wake` at the slots behind `anchor`; a schedule that is followed so already stays."""
        if schedule not in self._followed:
            self._scheduler.add_job(wake, SlotTrigger(schedule, anchor, zone), id=schedule, replace_existing=True)
            self._followed[schedule] = (zone, anchor)
        elif self._followed[schedule][0] != zone:
            del self._followed[schedule]
            self.follow(schedule, anchor, zone, wake)

    def forget(self, schedule: str) -> None:
        """Wake nobody for this schedule any more."""
        if self._followed.pop(schedule, None) is not None:
            self._scheduler.remove_job(schedule)

    def close(self) -> None:
        """Wake nobody any more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

"""What probes and scrapers are told: whether the process lives, whether it can do its work, what it has counted."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from audiencesync import clock
from audiencesync.errors import StateUnavailable, UsageError
from audiencesync.model import Project, Trouble
from audiencesync.service.listener import Listener, Page
from audiencesync.service.metrics import AudienceFacts, DestinationFacts, Facts, Metrics, StandingFacts
from audiencesync.service.slots import Clockwork
from audiencesync.store.accounts import EVERYTHING
from audiencesync.sync.blocked import stop_file
from audiencesync.sync.due import zone_of
from audiencesync.sync.standing import Overview

LOGGER = logging.getLogger(__name__)

FRESH = 30.0
"""Seconds without a sign of life after which the scheduler, or the state, counts as gone."""

CALLED = 60.0
"""Seconds without a state before anybody is called: a restart of a database is no trouble."""


class Vitals:
    """How the process is, as its workers find it."""

    def __init__(self) -> None:
        self.clockwork = Clockwork()
        self.host = socket.gethostname()
        self.state = "not asked yet"
        self.returned = 0.0
        """When the state last came back."""
        self._answered = clock.monotonic()
        self._away: tuple[float, datetime, str] | None = None
        self._lock = threading.Lock()

    def follow(self, project: Project, schedule: str, anchor: object, wake: Callable[[], None]) -> None:
        """Have a worker woken at a schedule's slots."""
        if isinstance(anchor, datetime):
            self.clockwork.follow(schedule, anchor, zone_of(project), wake)

    def open(self, kind: type[Listener], address: tuple[str, int], found: Mapping[str, Callable[[], Page]], *,
             strictly: bool) -> Listener:
        """Listen at the address, or at any free port of it where nobody asked for this very one."""
        listener = kind(address, found)
        try:
            listener.start()
        except UsageError as error:
            if strictly:
                raise
            LOGGER.warning("another port is taken for the listener", extra={"reason": str(error)})
            listener = kind((address[0], 0), found)
            listener.start()
        return listener

    # the state, as the workers found it

    def state_failed(self, error: StateUnavailable) -> bool:
        """Take note of a failure; whether it is the first."""
        with self._lock:
            first = self._away is None
            if first:
                self._away = (clock.monotonic(), datetime.now(UTC), str(error))
            return first

    def state_came_back(self) -> bool:
        """Take note of an answer; whether it is the first one again."""
        with self._lock:
            self._answered, away, self._away = clock.monotonic(), self._away, None
            if away is not None:
                self.returned = self._answered
            return away is not None

    def state_trouble(self) -> Trouble | None:
        """What people are called for while the state is away for longer than a restart takes."""
        away = self._away
        if away is None or clock.monotonic() < away[0] + CALLED:
            return None
        return Trouble("state", f"the state, as {self.host} sees it", away[2],
                       "see to the database; the service goes on by itself as soon as it answers", since=away[1])

    def unready(self) -> list[str]:
        """Why no work can be done now."""
        found = []
        if self._away is not None:
            found.append("the state is away")
        elif clock.monotonic() > self._answered + FRESH:
            found.append("the state has not answered")
        elif self.state != "ready":
            found.append(f"the state's tables: {self.state}")
        if clock.monotonic() > self.clockwork.beat + FRESH:
            found.append("the scheduler stands still")
        return found

    def facts(self, seen: Overview) -> Facts:
        """What the state says, for a scrape."""
        paused = {name for name, door in seen.doors.items() if door.paused_at is not None}
        everything = EVERYTHING in paused or bool(stop_file(seen.project.root))
        still = {one.key for one in seen.known if one.paused_at is not None}
        troubles: dict[str, int] = {}
        for one in seen.troubles:
            troubles[one.kind] = troubles.get(one.kind, 0) + 1

        def age(moment: datetime | None) -> float | None:
            return None if moment is None else max(0.0, (seen.now - moment).total_seconds())

        return Facts(
            tuple(AudienceFacts(one.key, one.run.run.members if one.run else None,
                                age(one.run.run.as_of if one.run else None), everything or one.key in still)
                  for one in seen.known if one.retired_at is None),
            tuple(DestinationFacts(name, everything or name in paused) for name in seen.project.destinations),
            tuple(StandingFacts(one.key, one.destination, one.pending, age(one.position_as_of), age(one.oldest_unsent),
                                one.rejected, (one.key, one.destination) in seen.holds,
                                everything or one.key in still or one.destination in paused)
                  for one in seen.standings),
            troubles)


def pages(vitals: Vitals, metrics: Metrics) -> dict[str, Callable[[], Page]]:
    """What is answered, by path."""
    def ready() -> Page:
        found = vitals.unready()
        return Page(503, "\n".join(found) + "\n") if found else Page(200, "ready\n")

    return {"/healthz": lambda: Page(200, "alive\n"), "/readyz": ready,
            "/metrics": lambda: Page(200, *metrics.page())}

"""What a service does beside its work: it shows that it lives, calls people, and forgets what nobody needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from audiencesync import clock
from audiencesync.errors import LeaseHeld, StateUnavailable
from audiencesync.model import Project
from audiencesync.service.alarms import Alarms
from audiencesync.service.pages import Vitals
from audiencesync.store import housekeeping, leases, migrate
from audiencesync.store.told import Told
from audiencesync.sync.standing import Overview, overview

if TYPE_CHECKING:
    from audiencesync.service import Service

LOGGER = logging.getLogger(__name__)

PULSE, WATCH, TIDY = 5.0, 10.0, 3600.0
"""Seconds between two signs of life, two looks for troubles, two looks for what to forget."""

UNSURE = 30.0
"""Seconds after the start, or after the state came back, in which nothing is called late: it is caught up with."""


@dataclass(slots=True)
class House:
    """The house of one service; `began` is when it started, in seconds of the process's clock."""

    service: Service
    vitals: Vitals
    alarms: Alarms
    began: float = field(default_factory=clock.monotonic)
    late: dict[str, datetime] = field(default_factory=dict)

    def pulse(self) -> float:
        """Show that this process lives, and that the state answers at the revision it should have."""
        try:
            leases.beat(self.service.store, holder=self.service.holder)
            self.vitals.state = migrate.check(self.service.store)
        except StateUnavailable as error:
            self.state_failed(error)
            return PULSE
        if self.vitals.state_came_back():
            LOGGER.info("the state answers again")
            self.service.wake_all()
        return PULSE

    def state_failed(self, error: StateUnavailable) -> None:
        """Say that the state is away, once."""
        if self.vitals.state_failed(error):
            LOGGER.error("the state is away; it is asked again", extra={"reason": str(error)})

    def watch(self) -> float:
        """Tell each channel of what began and what is over; while the state is away, of that alone."""
        project = self.service.definitions.project
        self.alarms.tell_of_state(project.alerts, self.vitals.state_trouble())
        if not project.alerts:
            return WATCH
        try:
            lease = leases.acquire(self.service.store, "alerts:all", holder=self.service.holder,
                                   life=timedelta(minutes=2))
        except LeaseHeld:
            return 1.0
        try:
            seen = overview(project, self.service.store, counted=False)
            self._note_late(seen)
            self.alarms.tell(self.service.store, project.alerts, (*seen.troubles, *self.service.definitions.troubles),
                              self._sure_of(project, seen.now), lambda: leases.renew(self.service.store, lease))
        finally:
            leases.release(self.service.store, lease)
        return WATCH

    def _note_late(self, seen: Overview) -> None:
        """Since when this process sees a destination late: what is resumed or mended is late until it has caught up."""
        late = {one.what for one in seen.troubles if one.kind == "late"}
        self.late = {what: self.late.get(what, seen.now) for what in late}

    def _sure_of(self, project: Project, now: datetime) -> Callable[[Told], bool]:
        """Whether this process can know that a trouble lasts or is over.

        It cannot of mistakes in another host's files, of audiences whose file is broken here, and of lateness that has
        only begun, or while it only begins to catch up itself.
        """
        defined = {audience.key for audience in project.audiences}
        catching_up = clock.monotonic() < max(self.began, self.vitals.returned) + UNSURE

        def sure(one: Told) -> bool:
            if one.kind == "definitions":
                return one.what.endswith(f" on {self.vitals.host}")
            if one.kind == "late" and one.what in self.late:
                return now - self.late[one.what] >= timedelta(seconds=UNSURE)
            if one.kind == "late" and catching_up:
                return False
            return not (project.broken and one.key and one.key not in defined)

        return sure

    def tidy(self) -> float:
        """Forget what nobody needs any more, once a day by one process of all."""
        housekeeping.tidy(self.service.store, self.service.definitions.project.retention)
        return TIDY

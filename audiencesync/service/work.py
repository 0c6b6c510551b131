"""What the workers of a service do in one look: compute what a schedule owes, tell a destination what it is owed."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

from audiencesync.model import Outcome
from audiencesync.service.logs import bound
from audiencesync.sync import Request, tell
from audiencesync.sync.blocked import blocked_account
from audiencesync.sync.compute import instant
from audiencesync.sync.due import Desk, scheduled
from audiencesync.sync.opening import Agenda

if TYPE_CHECKING:
    from audiencesync.service import Service

LOGGER = logging.getLogger(__name__)

POLL = 3.0
"""Seconds until a worker looks by itself: another process may have died at work."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds until a destination that failed is tried again: twice as long each time."""

_TURNS = threading.Semaphore(4)
"""So many audiences are asked of the source at once, however many schedules are due."""


@dataclass(slots=True)
class Compute:
    """The work of one schedule."""

    service: Service
    schedule: str

    def look(self) -> float:
        """Compute what is due; the seconds until the next look."""
        service, project = self.service, self.service.definitions.project
        audiences = tuple(one for one in scheduled(project.audiences) if one.schedule == self.schedule)
        edited = {one.key: service.edited[one.key] for one in audiences if one.key in service.edited}
        desk = Desk(project, service.store, self.schedule, audiences, service.holder,
                    lambda: bool(service.interrupted), frozenset(edited),
                    frozenset(one.key for one in scheduled(project.audiences)), _TURNS)
        with bound(schedule=self.schedule):
            done = desk.work()
        for run in done.runs:  # edited once more meanwhile, it is due once more
            if service.edited.get(run.key) == edited.get(run.key):
                service.edited.pop(run.key, None)
        if any(run.status == "done" for run in done.runs):
            for name in {name for one in audiences for name in one.destinations}:
                service.wake("destination", name)
        service.follow(self.schedule, desk.anchor())
        if done.again is None:
            return POLL
        return min(POLL, max(0.0, (done.again - instant(service.store, None)).total_seconds()))


@dataclass(slots=True)
class Tell:
    """The work of one destination; `_said` is what was last said of it, so that it is said once."""

    service: Service
    name: str
    _failures: int = 0
    _said: frozenset[tuple[str, str, tuple[str, ...]]] = field(default=frozenset())

    def look(self) -> float:
        """Tell the destination what it is owed; the seconds until the next look."""
        service, name = self.service, self.name
        project, version = service.definitions.project, service.definitions.version
        if name not in project.destinations or service.interrupted:
            return POLL
        if (blocked := blocked_account(service.store, project.root, name, project.destinations[name])) is not None:
            self._say(blocked)
            return POLL
        audiences = tuple(one for one in scheduled(project.audiences) if name in one.destinations)
        if not Agenda(project, service.store, name, audiences, typed=False, farewells=True).has_work():
            return POLL
        changed = "the definitions changed"
        request = Request(audiences, (name,), typed=False, interrupted=lambda: service.interrupted or (
            changed if service.definitions.version != version else ""))
        with bound(destination=name):
            outcomes, errors = tell(project, service.store, request, name)
        outcomes += [Outcome(name, "", "failed", reason=words) for code, words in errors if code != LEASED]
        return self._pause(outcomes, leased=any(code == LEASED for code, _ in errors))

    def _pause(self, outcomes: list[Outcome], *, leased: bool) -> float:
        """Until when to leave the destination alone: growing while it fails, not at all while there is more to do."""
        self._say(*outcomes)
        failing = [one for one in outcomes if one.status in ("waiting", "paused", "failed") and one.until is None]
        if failing:
            self._failures += 1
            return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        if leased:
            return POLL
        self._failures = 0
        done = any(one.sent or one.rejected or one.status in ("done", "interrupted") for one in outcomes)
        return 0.2 if done else POLL

    def _say(self, *outcomes: Outcome) -> None:
        """Say what has changed since the last look: what waits, is paused or held, and that it all goes on."""
        wrong = {(one.status, one.reason, one.keys): one for one in outcomes
                 if one.status not in ("done", "yielded", "interrupted", "skipped")}
        for subject in wrong.keys() - self._said:
            one = wrong[subject]
            LOGGER.warning("the destination is %s", one.status, extra={
                "destination": self.name, "computation": ",".join(one.keys), "reason": one.reason,
                "until": one.until.astimezone(UTC).isoformat() if one.until else "", "next": one.help})
        if self._said and outcomes and not wrong:
            LOGGER.info("the destination is told again", extra={"destination": self.name})
        if outcomes:
            self._said = frozenset(wrong)


LEASED = 99
"""The exit code of a lease that another process holds, which is no trouble among services."""

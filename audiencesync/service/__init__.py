"""The service: every audience computed at its slots, every destination kept in step, with nobody watching.

A worker for each schedule computes what is due, a worker for each destination tells what it is owed, and a few more
keep house: they read the definitions again, show that the process lives, call people. Workers share nothing but the
state, which is what makes any number of such processes as safe as one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from audiencesync import clock, meter
from audiencesync.errors import StateMissing, StateUnavailable
from audiencesync.model import Destination
from audiencesync.project import survey
from audiencesync.service.alarms import Alarms
from audiencesync.service.definitions import Definitions
from audiencesync.service.house import House
from audiencesync.service.metrics import Facts, Metrics
from audiencesync.service.pages import Vitals, pages
from audiencesync.service.work import Compute, Tell
from audiencesync.service.workers import Worker
from audiencesync.store import leases
from audiencesync.store.connect import Store
from audiencesync.store.leases import this_process
from audiencesync.sync.due import scheduled
from audiencesync.sync.standing import overview

LOGGER = logging.getLogger(__name__)

GLANCE = 1.0
"""Seconds between two looks at the files."""


class Service:
    """One process that serves a project until it is asked to end.

    `registry` are the destinations by type. `listen` is where probes and scrapers ask, or None for nowhere.
    """

    def __init__(self, root: Path, registry: dict[str, type[Destination]], *,
                 listen: tuple[str, int] | None, listen_strictly: bool = False) -> None:
        self.definitions = Definitions(root, lambda: survey(root, registry=registry))
        self.holder = this_process()
        self.store: Store
        self._listen, self._strictly = listen, listen_strictly
        self._reason, self._hup = "", False
        self._vitals = Vitals()
        self.house = House(self, self._vitals, Alarms(self.definitions.project.name))
        self._workers: dict[tuple[str, str], Worker] = {}
        self._lock = threading.RLock()
        self.edited: dict[str, int] = {}
        """Keys whose definition was changed and not computed since, with the version that it came with."""

    # what signals ask for

    def end(self, reason: str) -> None:
        """Ask it to end: pages under way are finished, and nothing else is begun."""
        self._reason = reason  # no event: a signal may come while this very thread holds an event's lock

    def reload(self) -> None:
        """Ask it to read the definitions now."""
        self._hup = True

    @property
    def interrupted(self) -> str:
        """The reason to end, or nothing."""
        return self._reason

    # the story

    def serve(self, opened: Callable[[str], Store]) -> None:
        """Work until asked to end; `opened` gives the state of a URL, made and migrated.

        Raises UsageError for what must be mended first, and StateUnavailable where the state must exist and does not.
        """
        with ExitStack() as stack:
            stack.enter_context(self._listening())
            self.store = self._wait_for_state(opened)
            stack.callback(self.store.close)
            self._begin()
            LOGGER.info("serving", extra={"audiences": len(self.definitions.project.audiences),
                                          "destinations": len(self.definitions.project.destinations)})
            while not self._reason:
                time.sleep(GLANCE / 4)
                if self._hup:
                    self.wake("house", "definitions")
            self._finish()

    def _wait_for_state(self, opened: Callable[[str], Store]) -> Store:
        """The state, waited for while it is away; a service that starts before its database is no mistake."""
        said, pause = False, 0.5
        while True:
            try:
                return opened(self.definitions.project.state)
            except StateMissing:
                raise
            except StateUnavailable as error:
                if not said:
                    LOGGER.error("the state is waited for", extra={"reason": str(error)})
                said, pause = True, min(15.0, pause * 2)
                until = clock.monotonic() + pause
                while clock.monotonic() < until and not self._reason:
                    time.sleep(GLANCE / 4)
                if self._reason:
                    raise

    def _listening(self) -> ExitStack:
        """Answer probes and scrapers for as long as the block lasts, and count what leaves."""
        from audiencesync.service.listener import Listener

        stack = ExitStack()
        if self._listen is None:
            return stack
        metrics = Metrics(self._facts)
        meter.install(metrics)
        stack.callback(meter.install, None)
        listener = self._vitals.open(Listener, self._listen, pages(self._vitals, metrics), strictly=self._strictly)
        stack.callback(listener.close)
        LOGGER.info("listening", extra={"url": listener.url})
        return stack

    def _facts(self) -> Facts:
        if not hasattr(self, "store"):
            raise StateUnavailable("the state is waited for")
        return self._vitals.facts(overview(self.definitions.project, self.store))

    def _begin(self) -> None:
        self._vitals.clockwork.start()
        self._arrange()
        self._hire("house", "definitions", self._glance)
        self._hire("house", "pulse", self.house.pulse)
        self._hire("house", "alarms", self.house.watch)
        self._hire("house", "housekeeping", self.house.tidy)

    def _finish(self) -> None:
        """End within the longest time that a request may still take."""
        LOGGER.info("ending", extra={"reason": self._reason})
        self._vitals.clockwork.close()
        longest = max((one.timeout.total_seconds() for one in self.definitions.project.destinations.values()),
                      default=0.0)
        until = clock.monotonic() + longest + 5.0
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        left = [worker.name for worker in workers if not worker.join(until - clock.monotonic())]
        try:
            leases.silence(self.store)
        except StateUnavailable as error:
            LOGGER.warning("the state does not know that this service ended", extra={"reason": str(error)})
        LOGGER.info("ended", extra={"unfinished": left} if left else {})

    # who works

    def _arrange(self) -> None:
        """One worker for each schedule and each destination that the definitions name, and no others."""
        project = self.definitions.project
        wanted: dict[tuple[str, str], Callable[[], float]] = {}
        for schedule in {audience.schedule for audience in scheduled(project.audiences)}:
            wanted["schedule", schedule] = Compute(self, schedule).look
        for name in project.destinations:
            wanted["destination", name] = Tell(self, name).look
        with self._lock:
            for place in [place for place in self._workers if place[0] != "house" and place not in wanted]:
                self._workers.pop(place).stop()
                self._vitals.clockwork.forget(place[1])
            for place, look in wanted.items():
                if place not in self._workers:
                    self._hire(*place, look)
                else:
                    self._workers[place].wake()

    def _hire(self, kind: str, name: str, look: Callable[[], float]) -> None:
        worker = Worker(f"{kind} {name}", look, self.house.state_failed)
        self._workers[kind, name] = worker
        worker.start()

    def wake_all(self) -> None:
        """Have everybody look now."""
        with self._lock:
            for worker in self._workers.values():
                worker.wake()

    def wake(self, kind: str, name: str) -> None:
        """Have a worker look now."""
        with self._lock:
            worker = self._workers.get((kind, name))
        if worker is not None:
            worker.wake()

    def follow(self, schedule: str, anchor: object) -> None:
        """Have the worker of a schedule woken at the slots that follow `anchor`."""
        self._vitals.follow(self.definitions.project, schedule, anchor, lambda: self.wake("schedule", schedule))

    def _glance(self) -> float:
        now, self._hup = self._hup, False
        self._read_definitions(now=now)
        return GLANCE

    def _read_definitions(self, *, now: bool) -> None:
        with self._lock:
            change = self.definitions.refresh(now=now)
            if change is not None:
                self.edited |= dict.fromkeys(change.edited | change.added, self.definitions.version)
                self._arrange()

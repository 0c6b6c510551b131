"""Deliver: bring one destination to the newest runs, page by page, and end between two pages when asked to."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter

from audiencesync import clock, failpoints, meter
from audiencesync.delivery import Commit, Delivery, Pace, Read, Send, Stop, Wait, page_size
from audiencesync.errors import DeliveryError
from audiencesync.model import Destination, Outcome, Sync
from audiencesync.store import accounts, content, leases, syncs
from audiencesync.store.connect import Store
from audiencesync.sync.blocked import blocked_account
from audiencesync.sync.opening import Agenda
from audiencesync.sync.wire import Threads, Wire

LOGGER = logging.getLogger(__name__)

GLANCE = 0.25
"""Seconds between two looks at whether this process shall end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Where a sync stands, for whoever shows progress."""

    destination: str
    mode: str
    told: int
    total: int


@dataclass(slots=True)
class Courier:
    """One worker of one destination: what it needs of the world, so that a simulator can be the world."""

    store: Store
    destination: Destination
    agenda: Agenda
    holder: str = field(default_factory=leases.this_process)
    wire: Callable[[Destination], Wire] = Threads
    monotonic: Callable[[], float] = clock.monotonic
    draw: Callable[[float], float] = field(default=lambda limit: random.uniform(0.0, limit))  # noqa: S311 - no secret
    interrupted: Callable[[], str] = field(default=lambda: "")
    outcomes: list[Outcome] = field(default_factory=list)
    _looked: float = 0.0
    _asked: str = ""
    _help: str = ""
    _named: bool = False

    def deliver(self) -> Iterator[Tick]:
        """Work every sync the agenda has; `outcomes` says afterwards what became of each. Raises LeaseHeld."""
        name = self.agenda.destination
        blocked = self._blocked(name)
        if blocked is not None:
            self.outcomes.append(blocked)
            return
        life = max(leases.LIFE, self.destination.timeout + timedelta(seconds=15))
        lease = leases.acquire(self.store, f"destination:{name}", holder=self.holder, life=life,
                               monotonic=self.monotonic)
        wire = self.wire(self.destination)
        try:
            yield from self._work_all(lease, wire)
        finally:
            if wire.close():  # else the lease keeps everybody off until the last byte's deadline
                leases.release(self.store, lease)

    def _work_all(self, lease: leases.Lease, wire: Wire) -> Iterator[Tick]:
        name, pace, failed = self.agenda.destination, Pace(self.destination.limits()), 0
        blocked = self._blocked(name)
        if blocked is not None:  # since the look before the lease
            self.outcomes.append(blocked)
            return
        syncs.unsettle(self.store, lease, syncs.open_syncs(self.store, name), settle=self.destination.settle)
        while (blocked := self._blocked(name)) is None and (sync := self.agenda.next_sync(lease)) is not None:
            outcome = yield from self._work(lease, wire, sync, pace)
            self.outcomes.append(outcome)
            _log(sync, outcome)
            if outcome.status in ("done", "yielded"):
                failed = 0
                continue
            # one sync that fails may be its own fault, two in a row are the destination's
            failed += 1
            if outcome.status != "waiting" or outcome.until is not None or failed > 1:
                break
            self.agenda.set_aside.add(sync.id)
        if blocked is not None:  # since a sync before the next one
            self.outcomes.append(blocked)
        self._say_what_waits()

    def _blocked(self, name: str) -> Outcome | None:
        return blocked_account(self.store, self.agenda.project.root, name, self.destination)

    def _work(self, lease: leases.Lease, wire: Wire, sync: Sync, pace: Pace) -> Generator[Tick, None, Outcome]:
        settings, told = self.destination, 0
        size = page_size(settings.page, settings.limits(), sync.spans)
        refused = syncs.rejected_counts(self.store, sync.destination)
        pages = content.pages(self.store, sync, size=size,
                              retried=any(span.computation_id in refused for span in sync.spans))
        machine = Delivery(settings.packer(sync.content), claimed=sync.claimed, acknowledged=sync.acknowledged,
                           concurrency=_concurrency(settings, size), pace=pace, draw=self.draw,
                           told=sync.sent or int(syncs.was_told(self.store, sync.destination)))
        self._looked, self._asked, self._help = self.monotonic(), "", ""
        while True:
            self._attend(lease, wire, machine, sync)
            step = machine.next_step(self.monotonic())
            if isinstance(step, Read):
                machine.offer(next(pages, None))
                failpoints.reach("page.read")
            elif isinstance(step, Commit) and self._stops_before(machine, sync, step):
                continue
            elif isinstance(step, Commit):
                told += len(step.progress.accepted)
                self._commit(lease, machine, sync, step)
            elif isinstance(step, Send):
                if lease.remaining <= 0:
                    leases.renew(self.store, lease)  # raises, unless only this process's own clock was late
                wire.send(step.flight, seconds=min(settings.timeout.total_seconds(), lease.remaining))
            elif isinstance(step, Wait):
                seconds = GLANCE if step.until is None else min(GLANCE, step.until - self.monotonic())
                self._take(wire, machine, sync, max(0.001, seconds))
            else:
                return self._end(sync, step, told)
            yield Tick(sync.destination, sync.mode, sync.sent + sync.rejected + told, sync.total)

    def _attend(self, lease: leases.Lease, wire: Wire, machine: Delivery, sync: Sync) -> None:
        """Take what has arrived, keep the lease, and see whether something else goes first."""
        self._take(wire, machine, sync, 0.0)
        if lease.remaining < lease.life.total_seconds() * 2 / 3:
            leases.renew(self.store, lease)
        if reason := self.interrupted():
            self._ask_to_stop(machine, "interrupted", reason)
        elif self.monotonic() >= self._looked + 1.0:
            self._look(machine, sync)

    def _look(self, machine: Delivery, sync: Sync) -> None:
        self._looked = self.monotonic()
        blocked = self._blocked(sync.destination)
        if blocked is not None:
            self._help = blocked.help
            self._ask_to_stop(machine, blocked.status, blocked.reason)
        elif self.agenda.something_else(sync, self._looked):
            self._ask_to_stop(machine, "yielded", "something else goes first")

    def _stops_before(self, machine: Delivery, sync: Sync, step: Commit) -> bool:
        """Whether somebody paused it before this commit would let other pages leave: then it is not made so."""
        if self._asked or step.progress.claimed == step.progress.acknowledged:
            return False
        self._look(machine, sync)
        return bool(self._asked)

    def _ask_to_stop(self, machine: Delivery, status: str, reason: str) -> None:
        self._asked = self._asked or status
        machine.stop(reason)

    def _commit(self, lease: leases.Lease, machine: Delivery, sync: Sync, step: Commit) -> None:
        if step.progress.accepted:
            self._remember_fingerprint(sync.destination)
        syncs.advance(self.store, lease, sync, step.progress, settle=self.destination.settle, finished=step.finished)
        machine.committed(step, self.monotonic())
        for outcome, found in (("accepted", step.progress.accepted),
                               ("rejected", [call for call, _ in step.progress.refused])):
            for index, count in Counter(map(itemgetter(1), found)).items():
                meter.calls(sync.destination, sync.spans[index].key, outcome, count)
        if step.progress.accepted:
            failpoints.reach("page.acknowledged")
        failpoints.reach("sync.closed" if step.finished else "page.claimed")

    def _take(self, wire: Wire, machine: Delivery, sync: Sync, timeout: float) -> None:
        """Take the answers that are here, waiting up to `timeout` seconds for the first."""
        for flight, answer in wire.answers(timeout):
            now = self.monotonic()
            meter.request(sync.destination, type(answer).__name__ if isinstance(answer, DeliveryError) else "answered",
                          now - flight.left)
            machine.answered(flight, answer, now)

    def _end(self, sync: Sync, stop: Stop, told: int) -> Outcome:
        after = syncs.reload(self.store, sync)
        self._remember_account(sync, stop)
        status, help_ = "done", ""
        until = None
        if not stop.finished:
            status, help_ = "waiting", AGAIN
            if stop.pause:
                status, help_ = "paused", f"mend it, then: audiencesync resume {sync.destination}"
            elif stop.graceful:
                status = self._asked
                help_ = self._help or AGAIN
            elif stop.until is not None:
                until = accounts.account(self.store, sync.destination)[0].retry_at
        return Outcome(sync.destination, sync.mode, status, told, after.rejected - sync.rejected,
                       after.total - after.sent - after.rejected if status != "done" else 0, after.total,
                       after.requests - sync.requests, tuple(span.key for span in sync.spans),
                       "" if stop.finished else stop.reason, until, help_)

    def _remember_fingerprint(self, name: str) -> None:
        """Before anything counts as told to this account, so that another one is never taken for it."""
        fingerprint = self.destination.fingerprint()
        if not self._named and fingerprint and accounts.account(self.store, name)[0].fingerprint is None:
            accounts.note(self.store, name, fingerprint=fingerprint)
        self._named = True

    def _remember_account(self, sync: Sync, stop: Stop) -> None:
        name = sync.destination
        known, now = accounts.account(self.store, name)
        if stop.pause:
            accounts.pause_destination(self.store, name, reason=stop.reason, who=accounts.OURSELVES)
        elif not (stop.finished or stop.graceful):
            until = None if stop.until is None else now + timedelta(seconds=stop.until - self.monotonic())
            accounts.note(self.store, name, retry_at=until, retry_reason=stop.reason)
        elif stop.finished and known.retry_reason is not None:
            accounts.note(self.store, name, retry_at=None, retry_reason=None)

    def _say_what_waits(self) -> None:
        for key, one in sorted(self.agenda.waiting.items()):
            self.outcomes.append(Outcome(self.agenda.destination, "", one.status, keys=(key,), reason=one.reason,
                                         until=one.until, help=one.help))


AGAIN = "run the same command again; it goes on where this one stopped"


def _log(sync: Sync, outcome: Outcome) -> None:
    LOGGER.info("sync %s", outcome.status, extra={
        "destination": sync.destination, "computation": ",".join(outcome.keys), "sync": sync.id, "mode": sync.mode,
        "run": ",".join(str(span.to_run) for span in sync.spans), "sent": outcome.sent, "rejected": outcome.rejected,
        "remaining": outcome.remaining, "requests": outcome.requests, "reason": outcome.reason})


def _concurrency(settings: Destination, size: int) -> int:
    """No more requests at once than a pace in items can use, so that no claim runs far ahead of what is sent."""
    items = [limit.limit for limit in settings.limits() if limit.unit == "items"]
    return min([settings.concurrency, *(1 + limit // size for limit in items)])

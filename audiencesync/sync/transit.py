"""One sync on its way: the loop that does what the machine says, under a lease and within what is allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter

from audiencesync import failpoints, meter
from audiencesync.delivery import Commit, Delivery, Read, Send, Stop, Wait, page_size
from audiencesync.errors import DeliveryError
from audiencesync.model import Destination, Outcome, Packer, Page, Sync
from audiencesync.store import accounts, content, identities, leases, syncs
from audiencesync.store.connect import Store
from audiencesync.store.positions import full_content
from audiencesync.sync.allowance import Allowance
from audiencesync.sync.blocked import blocked_account
from audiencesync.sync.opening import AGAIN, Agenda
from audiencesync.sync.wire import Wire

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
class Transit:
    """What one sync needs on its way; `draw` gives the pauses of retries, `interrupted` the reason to end."""

    store: Store
    destination: Destination
    agenda: Agenda
    lease: leases.Lease
    wire: Wire
    allowed: Allowance
    sync: Sync
    monotonic: Callable[[], float]
    draw: Callable[[float], float]
    interrupted: Callable[[], str]
    _looked: float = 0.0
    _asked: str = ""
    _help: str = ""
    _named: bool = False

    def work(self) -> Generator[Tick, None, Outcome]:
        """Do what the machine says until the sync is done or stops; what became of it."""
        sync, lease, settings, told = self.sync, self.lease, self.destination, 0
        size = page_size(settings.page, settings.limits(), sync.spans, settings.quota())
        refused = syncs.rejected_counts(self.store, sync.destination)
        pages = content.pages(self.store, sync, size=size,
                              retried=any(span.computation_id in refused for span in sync.spans))
        packer = settings.packer(full_content(self.store, sync))
        machine = Delivery(packer, claimed=sync.claimed, acknowledged=sync.acknowledged,
                           concurrency=_concurrency(settings, size), pace=self.allowed.pace, draw=self.draw,
                           told=sync.sent or int(syncs.was_told(self.store, sync.destination)))
        self._looked = self.monotonic()
        while True:
            self._attend(machine)
            step = machine.next_step(self.monotonic())
            if isinstance(step, Read):
                self._offer(machine, packer, next(pages, None))
                failpoints.reach("page.read")
            elif isinstance(step, Commit) and self._stops_before(machine, step):
                continue
            elif isinstance(step, Commit):
                told += len(step.progress.accepted)
                self._commit(machine, step)
            elif isinstance(step, Send):
                if lease.remaining <= 0:
                    leases.renew(self.store, lease)  # raises, unless only this process's own clock was late
                self.wire.send(step.flight, seconds=min(settings.timeout.total_seconds(), lease.remaining))
            elif isinstance(step, Wait):
                seconds = GLANCE if step.until is None else min(GLANCE, step.until - self.monotonic())
                self._take(machine, max(0.001, seconds))
            else:
                return self._end(step, told)
            yield Tick(sync.destination, sync.mode, sync.sent + sync.rejected + told, sync.total)

    def _offer(self, machine: Delivery, packer: Packer, page: Page | None) -> None:
        known = identities.of_page(self.store, self.sync.destination, packer, page.calls) if page else {}
        machine.offer(page, known)

    def _attend(self, machine: Delivery) -> None:
        """Take what has arrived, keep the lease, and see whether something else goes first."""
        self._take(machine, 0.0)
        if self.lease.remaining < self.lease.life.total_seconds() * 2 / 3:
            leases.renew(self.store, self.lease)
        if reason := self.interrupted():
            self._ask_to_stop(machine, "interrupted", reason)
        elif self.monotonic() >= self._looked + 1.0:
            self._look(machine)

    def _look(self, machine: Delivery) -> None:
        self._looked = self.monotonic()
        self.allowed.note()
        name = self.sync.destination
        blocked = blocked_account(self.store, self.agenda.project.root, name, self.destination)
        if blocked is not None:
            self._help = blocked.help
            self._ask_to_stop(machine, blocked.status, blocked.reason)
        elif self.agenda.something_else(self.sync, self._looked):
            self._ask_to_stop(machine, "yielded", "something else goes first")

    def _stops_before(self, machine: Delivery, step: Commit) -> bool:
        """Whether somebody paused it before this commit would let other pages leave: then it is not made so."""
        if self._asked or step.progress.claimed == step.progress.acknowledged:
            return False
        self._look(machine)
        return bool(self._asked)

    def _ask_to_stop(self, machine: Delivery, status: str, reason: str) -> None:
        self._asked = self._asked or status
        machine.stop(reason)

    def _commit(self, machine: Delivery, step: Commit) -> None:
        sync = self.sync
        if step.progress.accepted and not self._named:
            self._remember_fingerprint(sync.destination)
            self._named = True
        syncs.advance(self.store, self.lease, sync, step.progress, settle=self.destination.settle,
                      finished=step.finished)
        machine.committed(step, self.monotonic())
        for outcome, found in (("accepted", step.progress.accepted),
                               ("rejected", [call for call, _ in step.progress.refused])):
            for index, count in Counter(map(itemgetter(1), found)).items():
                meter.calls(sync.destination, sync.spans[index].key, outcome, count)
        if step.progress.accepted:
            failpoints.reach("page.acknowledged")
        failpoints.reach("sync.closed" if step.finished else "page.claimed")

    def _take(self, machine: Delivery, timeout: float) -> None:
        """Take the answers that are here, waiting up to `timeout` seconds for the first."""
        for flight, answer in self.wire.answers(timeout):
            now = self.monotonic()
            outcome = type(answer).__name__ if isinstance(answer, DeliveryError) else "answered"
            meter.request(self.sync.destination, outcome, now - flight.left)
            machine.answered(flight, answer, now)

    def _end(self, stop: Stop, told: int) -> Outcome:
        sync, after = self.sync, syncs.reload(self.store, self.sync)
        remember_stop(self.store, sync.destination, stop, self.monotonic())
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
        if fingerprint and accounts.account(self.store, name)[0].fingerprint is None:
            accounts.note(self.store, name, fingerprint=fingerprint)


def remember_stop(store: Store, name: str, stop: Stop, at: float) -> None:
    """What a stop means for the destination: a pause, or a time before which it is not asked; `at` is the clock's."""
    known, now = accounts.account(store, name)
    if stop.pause:
        accounts.pause_destination(store, name, reason=stop.reason, who=accounts.OURSELVES)
    elif not (stop.finished or stop.graceful):
        until = None if stop.until is None else now + timedelta(seconds=stop.until - at)
        accounts.note(store, name, retry_at=until, retry_reason=stop.reason)
    elif stop.finished and known.retry_reason is not None:
        accounts.note(store, name, retry_at=None, retry_reason=None)


def _concurrency(settings: Destination, size: int) -> int:
    """No more requests at once than a pace in items can use, so that no claim runs far ahead of what is sent."""
    items = [limit.limit for limit in settings.limits() if limit.unit == "items"]
    return min([settings.concurrency, *(1 + limit // size for limit in items)])

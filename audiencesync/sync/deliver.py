"""Deliver: bring one destination to the newest runs, page by page, and end between two pages when asked to."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from audiencesync import clock
from audiencesync.delivery import Load, Stop
from audiencesync.delivery.machine import SPENT
from audiencesync.delivery.patience import PATIENCE
from audiencesync.errors import AccountRefused, DeliveryError, Throttled
from audiencesync.model import Destination, Outcome, Sync
from audiencesync.store import leases, syncs
from audiencesync.store.connect import Store
from audiencesync.sync import fields
from audiencesync.sync.allowance import Allowance, allowance
from audiencesync.sync.blocked import blocked_account
from audiencesync.sync.opening import AGAIN, Agenda
from audiencesync.sync.transit import Tick, Transit, remember_stop
from audiencesync.sync.wire import Threads, Wire

__all__ = ["AGAIN", "Courier", "Tick"]

LOGGER = logging.getLogger(__name__)


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
    _first: bool = True

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
            allowed = allowance(self.store, name, self.destination, self.monotonic)
            try:
                yield from self._work_all(lease, wire, allowed)
            finally:
                if lease.remaining > 0:  # else whoever took over counts by himself
                    allowed.close()
        finally:
            if wire.close():  # else the lease keeps everybody off until the last byte's deadline
                leases.release(self.store, lease)

    def _turn(self, lease: leases.Lease, allowed: Allowance) -> None:
        """Wait until one more request may leave, count it, and keep the lease. Raises Throttled for a long wait."""
        pace, one = allowed.pace, Load(1)
        while (wait := pace.free_at(one, self.monotonic()) - self.monotonic()) > 0 and not pace.spent():
            if wait > PATIENCE:
                raise Throttled("the speed limit leaves no request for now", wait=wait)
            time.sleep(min(wait, 1.0))
            leases.renew(self.store, lease)
        if pace.spent():
            raise Throttled(SPENT, wait=pace.renews - self.monotonic())
        pace.sent(one)
        pace.answered(one, self.monotonic())
        leases.renew(self.store, lease)

    def _prepared(self, lease: leases.Lease, allowed: Allowance) -> bool:
        """Whether the fields are there that the keys at hand need, as far as that lies with the destination."""
        name, again = self.agenda.destination, self.agenda.typed and self._first
        self._first = False
        try:
            fields.prepare(self.store, name, self.destination, self.agenda.keys, again=again,
                           beat=lambda: self._turn(lease, allowed))
        except DeliveryError as error:
            at, pause = self.monotonic(), isinstance(error, AccountRefused)
            stop = Stop(reason=str(error), pause=pause, until=None if error.wait is None else at + error.wait)
            remember_stop(self.store, name, stop, at)
            help_ = f"mend it, then: audiencesync resume {name}" if pause else AGAIN
            self.outcomes.append(Outcome(name, "", "paused" if pause else "waiting", reason=str(error), help=help_))
            return False
        return True

    def _work_all(self, lease: leases.Lease, wire: Wire, allowed: Allowance) -> Iterator[Tick]:
        name, failed = self.agenda.destination, 0
        blocked = self._blocked(name)
        if blocked is not None:  # since the look before the lease
            self.outcomes.append(blocked)
            return
        syncs.unsettle(self.store, lease, syncs.open_syncs(self.store, name), settle=self.destination.settle)
        while (blocked := self._blocked(name)) is None and self._prepared(lease, allowed) and (
                sync := self.agenda.next_sync(lease)) is not None:
            outcome = yield from Transit(self.store, self.destination, self.agenda, lease, wire, allowed, sync,
                                         self.monotonic, self.draw, self.interrupted).work()
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

    def _say_what_waits(self) -> None:
        for key, one in sorted(self.agenda.waiting.items()):
            self.outcomes.append(Outcome(self.agenda.destination, "", one.status, keys=(key,), reason=one.reason,
                                         until=one.until, help=one.help))


def _log(sync: Sync, outcome: Outcome) -> None:
    LOGGER.info("sync %s", outcome.status, extra={
        "destination": sync.destination, "computation": ",".join(outcome.keys), "sync": sync.id, "mode": sync.mode,
        "run": ",".join(str(span.to_run) for span in sync.spans), "sent": outcome.sent, "rejected": outcome.rejected,
        "remaining": outcome.remaining, "requests": outcome.requests, "reason": outcome.reason})

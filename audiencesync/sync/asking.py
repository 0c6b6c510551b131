"""Asking a destination beside its syncs: each request waits for its turn and is counted, as theirs are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from math import inf, isinf
from typing import TypeVar

from audiencesync import clock
from audiencesync.delivery import Load
from audiencesync.errors import Unavailable
from audiencesync.model import Destination
from audiencesync.store import leases
from audiencesync.store.connect import Store
from audiencesync.sync.allowance import Allowance, allowance

REQUEST = Load(1)
"""What it weighs to ask for something."""

GLANCE = 1.0
"""Seconds of a wait between two looks at the lease and the day."""

One = TypeVar("One")


class NotNow(Unavailable):
    """It is not to be asked now: its limits are used up, it asked for that, or a process is at work there."""


@dataclass(slots=True)
class Turns:
    """The right to ask one destination, whose lease this process holds; it waits `patience` seconds for a turn."""

    store: Store
    lease: leases.Lease
    allowed: Allowance
    patience: float = inf
    _noted: float = -inf

    @contextmanager
    def request(self, requests: int = 1, *, spare: int = 0) -> Iterator[None]:
        """Let so many requests leave together when it is their turn, with room for so many more (`count`).

        Raises NotNow where the day has no more of them or that would take longer than `patience`, LeaseLost where
        another process took over meanwhile.
        """
        for number in range(requests):
            self._wait(requests - number + spare)
            self.allowed.pace.sent(REQUEST)
        try:
            if spare:  # what is under way counts already, so that this is room beside it
                self._wait(spare)
            yield
        finally:
            for _ in range(requests):
                self.allowed.pace.answered(REQUEST, clock.monotonic())

    def each(self, things: Iterable[One], count: int, *, before: int = 0) -> Iterator[One]:
        """Pass on so many things, each of which costs a request, and the first so many requests more."""
        source = iter(things)
        for number in range(count):
            with self.request(1 if number else 1 + before):
                found = list(islice(source, 1))
            yield from found
        yield from source

    def count(self) -> None:
        """Count a request more."""
        self.allowed.pace.sent(REQUEST)
        self.allowed.pace.answered(REQUEST, clock.monotonic())

    def _wait(self, wanted: int) -> None:
        """Wait until one request may leave, and the day has as many as are wanted."""
        self._keep()
        if self.allowed.pace.budget is not None and self.allowed.pace.budget < wanted:
            raise NotNow(f"the {self.allowed.quota:,} requests of this day are used up; it ends at midnight UTC")
        while (pause := self.allowed.pace.free_at(REQUEST, clock.monotonic()) - clock.monotonic()) > 0:
            if isinf(pause):  # only our own answer could free it, and that comes after this
                return
            if pause > self.patience:
                raise NotNow(f"its limits are used up, and the next request may leave only in {pause:,.0f} s")
            time.sleep(min(pause, GLANCE))
            self._keep()

    def _keep(self) -> None:
        """Keep the lease, and what is written of the day, while this takes its time."""
        if self.lease.remaining < self.lease.life.total_seconds() * 2 / 3:
            leases.renew(self.store, self.lease)
        if clock.monotonic() >= self._noted + GLANCE:
            self._noted = clock.monotonic()
            self.allowed.note()


@contextmanager
def asking(store: Store, name: str, destination: Destination, *, patience: float = inf) -> Iterator[Turns]:
    """Take the destination's lease and its limits, and leave to the next worker what still counts of them.

    Raises LeaseHeld while another process works it.
    """
    lease = leases.acquire(store, f"destination:{name}", holder=leases.this_process(),
                           life=max(leases.LIFE, destination.timeout * 2 + timedelta(seconds=15)))
    try:
        allowed = allowance(store, name, destination, clock.monotonic)
        try:
            yield Turns(store, lease, allowed, patience)
        finally:
            if lease.remaining > 0:  # else whoever took over counts by himself
                allowed.close()
    finally:
        leases.release(store, lease)

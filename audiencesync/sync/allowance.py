"""What a destination allows: its speed limits and its day's requests, counted on where the last process left off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from audiencesync.delivery import Pace
from audiencesync.model import Destination
from audiencesync.schedule import RateLimit
from audiencesync.store import accounts
from audiencesync.store.connect import Store

SHORT = 2.0
"""A limit's seconds below which starting a process alone lets its window pass, so that nothing need be remembered."""


@dataclass(slots=True)
class Allowance:
    """The pace of one worker; `day` is the day of UTC that is counted, `before` the requests that it had already."""

    store: Store
    name: str
    pace: Pace
    monotonic: Callable[[], float]
    quota: int | None
    kept: bool
    limits: tuple[RateLimit, ...] = ()
    day: str = ""
    before: int = 0

    def note(self) -> None:
        """Write down how many of the day's requests are used; a new day begins with all of them."""
        if self.quota is None:
            return
        today = _day(accounts.account(self.store, self.name)[1])
        if today != self.day:
            self.day, self.before = today, -self.pace.requests
            self.pace.budget, self.pace.renews = self.quota, self.pace.renews + timedelta(days=1).total_seconds()
        accounts.note(self.store, self.name, day=self.day, used=self.before + self.pace.requests)

    def close(self) -> None:
        """Leave what still counts to the next worker."""
        self.note()
        if self.kept:
            now = accounts.account(self.store, self.name)[1]
            spent = self.pace.remembered(self.monotonic())
            accounts.note(self.store, self.name, paced=_written(now, self.limits, spent))


def allowance(store: Store, name: str, destination: Destination, monotonic: Callable[[], float]) -> Allowance:
    """Take up the limits of a destination, which only the holder of its lease may.

    Until `close` it stands in the state that they are in use: one who takes over from a dead process takes them for
    used up, since nobody knows.
    """
    limits, quota = destination.limits(), destination.quota()
    kept = any(limit.seconds >= SHORT for limit in limits)
    if quota is None and not kept:
        return Allowance(store, name, Pace(limits), monotonic, None, kept=False)
    known, now = accounts.allowed(store, name)
    today, (used, ends) = _day(now), used_today(known, now)
    at = monotonic()
    pace = Pace(limits, budget=None if quota is None else quota - used, renews=at + ends)
    if kept:
        if known.paced:
            pace.recall(_recalled(known.paced, limits, now), at)
        accounts.note(store, name, paced=_written(now, limits, None))
    return Allowance(store, name, pace, monotonic, quota, kept, limits, today, used)


def used_today(known: accounts.Allowed, now: datetime) -> tuple[int, float]:
    """Requests of this day of UTC that are used, and the seconds until it ends."""
    now = now.astimezone(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return int(known.used or 0) if known.day == _day(now) else 0, (midnight - now).total_seconds()


def _day(now: datetime) -> str:
    return now.astimezone(UTC).date().isoformat()


def _written(now: datetime, limits: tuple[RateLimit, ...], spent: Any) -> str:
    return orjson.dumps({"at": now, "limits": list(map(list, limits)), "spent": spent}).decode()


def _recalled(text: str, limits: tuple[RateLimit, ...], now: datetime) -> list[list[tuple[float, int]]] | None:
    """What still counts against each limit; None where that is not known, as of limits that were others."""
    found = orjson.loads(text)
    if found["spent"] is None or found.get("limits") != list(map(list, limits)):
        return None
    passed = (now - datetime.fromisoformat(found["at"])).total_seconds()
    return [[(seconds - passed, weight) for seconds, weight in window] for window in found["spent"]]

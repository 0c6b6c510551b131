"""How fast requests may leave, and how many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from audiencesync.model import Batch
from audiencesync.schedule import RateLimit

SLOWEST = 1 / 32
"""The least part of its limits that a destination's 429s bring us down to."""


STEP = 1 / 200
"""The part of a window within which requests count to the same moment, so that memory does not grow with them."""

REST = 50
"""Judgements in a row after which it is tried again whether more at once are answered faster."""


class Load(NamedTuple):
    """What a request weighs: identify calls, and bytes of its body."""

    items: int
    size: int = 0

    def weight(self, unit: str) -> int:
        """So much of a limit's unit."""
        return self.items if unit == "items" else self.size if unit == "bytes" else 1


def load_of(batch: Batch) -> Load:
    """What a batch weighs."""
    return Load(len(batch.calls) if batch.merged is None else batch.merged, len(batch.body))


class Pace:
    """Speed limits that hold in every window: what was sent counts until a window after its answer.

    `budget` are the requests left of a day's quota (None: days are not counted), `renews` when there are more.
    After a 429 only a part of every limit is used, which grows again with each answer.
    """

    def __init__(self, rates: Sequence[RateLimit] = (), *, budget: int | None = None, renews: float = 0.0) -> None:
        self._windows = [_Window(rate) for rate in rates]
        self.budget, self.renews = budget, renews
        self.requests = 0
        """Requests that left, ever."""
        self._part = 1.0

    def sent(self, load: Load) -> None:
        """A request leaves."""
        self.requests += 1
        if self.budget is not None:
            self.budget -= 1
        for window in self._windows:
            window.flying += load.weight(window.rate.unit)

    def answered(self, load: Load, now: float) -> None:
        """The answer to a request is here; it arrived at the latest now."""
        self._part = min(1.0, self._part + SLOWEST)
        for window in self._windows:
            window.answered(load.weight(window.rate.unit), now)

    def slow_down(self) -> None:
        """The destination says that this was too fast, so others use its limits as well."""
        self._part = max(SLOWEST, self._part / 2)

    def spent(self) -> bool:
        """Whether nothing may leave before `renews`."""
        return self.budget is not None and self.budget <= 0

    def free_at(self, load: Load, now: float) -> float:
        """The earliest moment at which a request may leave; infinity while only an answer can free it."""
        return max((window.free_at(load.weight(window.rate.unit), now, self._part) for window in self._windows),
                   default=now)

    def remembered(self, now: float) -> list[list[tuple[float, int]]]:
        """For each limit, what still counts against it: seconds until it does no more, and how much."""
        return [window.remembered(now) for window in self._windows]

    def recall(self, found: Sequence[Sequence[tuple[float, int]]] | None, now: float) -> None:
        """Count what an earlier process sent; where that is not known (None), as if it had used every limit up."""
        for index, window in enumerate(self._windows):
            if found is None:
                window.spend(now + window.rate.seconds, window.rate.limit)
            else:
                for seconds, weight in found[index]:
                    if seconds > 0:
                        window.spend(now + seconds, weight)


class _Window:
    """One limit, what of it is under way, and what was spent until when it counts, in steps of its window."""

    def __init__(self, rate: RateLimit) -> None:
        self.rate, self.flying, self.total = rate, 0, 0
        self.spent: deque[tuple[float, int]] = deque()

    def answered(self, weight: int, now: float) -> None:
        self.flying -= weight
        self.spend(now + self.rate.seconds, weight)

    def spend(self, free: float, weight: int) -> None:
        """Count it until then; with what counts to nearly the same moment, which is late rather than early."""
        step = self.rate.seconds * STEP
        self.total += weight
        if self.spent and self.spent[-1][0] // step == free // step:
            weight += self.spent.pop()[1]
        self.spent.append((free, weight))

    def free_at(self, weight: int, now: float, part: float) -> float:
        while self.spent and self.spent[0][0] <= now:
            self.total -= self.spent.popleft()[1]
        limit = max(1, int(self.rate.limit * part))
        room = limit - self.flying - min(weight, limit)
        moment, left = now, self.total
        for free, one in self.spent:
            if left <= room:
                break
            left, moment = left - one, free
        return moment if left <= room else float("inf")

    def remembered(self, now: float) -> list[tuple[float, int]]:
        flying = [(self.rate.seconds, self.flying)] if self.flying else []
        return [*((free - now, weight) for free, weight in self.spent if free > now), *flying]


class Crowd:
    """How many requests at once: twice as many as long as that has more answered, by what their latencies say.

    With `allowed` under way and a mean latency of L seconds, allowed / L are answered in a second (Little's law). A
    server that only lets more stand in line answers no more of them; then it is as many as before, for a while.
    """

    def __init__(self, most: int) -> None:
        self._most, self.allowed = most, min(most, 4)
        self._slower: tuple[int, float] | None = None
        self._rest = 0
        self._count, self._seconds = 0, 0.0

    def answered(self, seconds: float) -> None:
        """A request took so long."""
        self._count, self._seconds = self._count + 1, self._seconds + seconds
        if self._count >= 8 * self.allowed:
            self._judge(self.allowed * self._count / max(self._seconds, 1e-9))
            self._count, self._seconds = 0, 0.0

    def _judge(self, speed: float) -> None:
        """Take `speed`, the answers a second with as many as now."""
        if self._slower is not None:
            (fewer, before), self._slower = self._slower, None
            if speed < before * (1 + (self.allowed / fewer - 1) / 4):
                self.allowed, self._rest = fewer, REST
                return
        if self._rest:
            self._rest -= 1
        elif self.allowed < self._most:
            self._slower = self.allowed, speed
            self.allowed = min(self._most, 2 * self.allowed)

    def slow_down(self) -> None:
        """The destination says that this was too much."""
        self.allowed, self._slower, self._rest = max(1, self.allowed // 2), None, REST
        self._count, self._seconds = 0, 0.0


def page_size(page: int, limits: Sequence[RateLimit], spans: Sequence[object], quota: int | None = None) -> int:
    """Calls to a page: no more than one window of a limit lets through, or a part of a day; at least one user's."""
    least = min((limit.limit for limit in limits if limit.unit == "items"), default=page)
    return max(1, min(page, least, page if quota is None else quota // 4), len(spans))

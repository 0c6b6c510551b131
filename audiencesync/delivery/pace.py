"""How fast requests may leave, and how many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from audiencesync.model import Batch
from audiencesync.schedule import RateLimit

SLOWEST = 1 / 32
"""The least part of its limits that a destination's 429s bring us down to."""


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
                window.spent.append((now + window.rate.seconds, window.rate.limit))
            elif index < len(found):
                window.spent.extend((now + seconds, weight) for seconds, weight in found[index] if seconds > 0)


class _Window:
    """One limit, what of it is under way, and what was spent until when it counts."""

    def __init__(self, rate: RateLimit) -> None:
        self.rate, self.flying = rate, 0
        self.spent: deque[tuple[float, int]] = deque()

    def answered(self, weight: int, now: float) -> None:
        self.flying -= weight
        self.spent.append((now + self.rate.seconds, weight))

    def free_at(self, weight: int, now: float, part: float) -> float:
        while self.spent and self.spent[0][0] <= now:
            self.spent.popleft()
        limit = max(1, int(self.rate.limit * part))
        room = limit - self.flying - min(weight, limit)
        moment = now
        spent = sum(weight for _, weight in self.spent)
        for free, one in self.spent:
            if spent <= room:
                break
            spent, moment = spent - one, free
        return moment if spent <= room else float("inf")

    def remembered(self, now: float) -> list[tuple[float, int]]:
        found: dict[float, int] = {}
        for free, weight in self.spent:  # in steps of a hundredth, later rather than sooner
            step = self.rate.seconds / 100
            left = (int((free - now) / step) + 1) * step
            found[left] = found.get(left, 0) + weight
        return [*found.items(), *([(self.rate.seconds, self.flying)] if self.flying else [])]


class Crowd:
    """How many requests at once: more while answers come as fast as ever, fewer when they seem to wait in line.

    The rule is TCP Vegas': with `allowed` requests under way, allowed * (1 - fastest/latency) of them are waiting
    somewhere (Brakmo and Peterson 1995); two to four of those keep a server busy, more only make it slow.
    """

    def __init__(self, most: int) -> None:
        self._most, self._allowed = most, float(min(most, 4))
        self._fastest, self._starting = float("inf"), True

    @property
    def allowed(self) -> int:
        """Requests that may be under way now."""
        return int(self._allowed)

    def answered(self, seconds: float) -> None:
        """A request took so long."""
        self._fastest = min(self._fastest * 1.001, seconds)  # what was fastest long ago is forgotten
        waiting = self._allowed * (1 - self._fastest / seconds) if seconds > 0 else 0.0
        if waiting < 2:
            self._allowed += 1.0 if self._starting else 1 / self._allowed
        elif waiting > 4:
            self._starting = False
            self._allowed -= 1 / self._allowed
        self._allowed = max(1.0, min(self._most, self._allowed))

    def slow_down(self) -> None:
        """The destination says that this was too much."""
        self._starting = False
        self._allowed = max(1.0, self._allowed / 2)


def page_size(page: int, limits: Sequence[RateLimit], spans: Sequence[object]) -> int:
    """Calls to a page: no more than one window of a limit lets through, and at least one user's."""
    least = min((limit.limit for limit in limits if limit.unit == "items"), default=page)
    return max(1, min(page, least), len(spans))

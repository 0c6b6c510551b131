"""How fast requests may leave."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from audiencesync.schedule import RateLimit


class Pace:
    """A speed limit that holds in every window: what was sent counts until a window after its answer."""

    def __init__(self, rate: RateLimit | None) -> None:
        self._rate = rate
        self._flying = 0
        self._spent: deque[tuple[float, int]] = deque()

    def _weight(self, items: int) -> int:
        return items if self._rate and self._rate.unit == "items" else 1

    def sent(self, items: int) -> None:
        """A request of so many items leaves."""
        if self._rate:
            self._flying += self._weight(items)

    def answered(self, items: int, now: float) -> None:
        """The answer to a request of so many items is here; it arrived at the latest now."""
        if self._rate:
            self._flying -= self._weight(items)
            self._spent.append((now + self._rate.seconds, self._weight(items)))

    def free_at(self, items: int, now: float) -> float:
        """The earliest moment at which so many items may leave; infinity while only an answer can free them."""
        if self._rate is None:
            return now
        while self._spent and self._spent[0][0] <= now:
            self._spent.popleft()
        room = self._rate.limit - self._flying - min(self._weight(items), self._rate.limit)
        moment = now
        spent = sum(weight for _, weight in self._spent)
        for free, weight in self._spent:
            if spent <= room:
                break
            spent, moment = spent - weight, free
        return moment if spent <= room else float("inf")


def page_size(page: int, pace: RateLimit | None, spans: Sequence[object]) -> int:
    """Calls to a page: no more than one window of the pace lets through, and at least one user's."""
    limit = pace.limit if pace is not None and pace.unit == "items" else page
    return max(1, min(page, limit), len(spans))

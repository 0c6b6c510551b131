"""What to claim, what an answer means, what to do next: one sync's pages on their way, without any I/O.

The owner of the loop asks `next_step` and does what it says; answers come back through `answered`. The rules that make
a sync exact stand here: nothing is sent that is not claimed, and what is acknowledged is an unbroken answered prefix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from audiencesync.delivery.halves import halves
from audiencesync.delivery.pace import Crowd, Pace
from audiencesync.delivery.patience import ATTEMPTS, PATIENCE, Patience
from audiencesync.delivery.steps import Commit, Flight, PageUnderWay, Read, Send, Step, Stop, Wait
from audiencesync.errors import AccountRefused, CallsRefused, DeliveryError, NotTaken, Throttled, Unanswered
from audiencesync.model import Call, Packer, Page, Progress, Receipt, Refusal

__all__ = ["ATTEMPTS", "FINISHING", "HOPELESS", "PATIENCE", "SPENT", "Delivery"]

FINISHING = 10.0
"""Seconds in which a sync that is asked to end finishes the pages it began; what is left then goes again."""

HOPELESS = 1000
"""Refused calls with none accepted: then the fault is not the users'."""

STUCK = Refusal("no_way: nothing that was learned of this user says how to tell him")
UNCLEAR = Refusal("unclear_answer: the destination neither took it nor said why not")
SPENT = "the day's requests are used up; the rest follows when there are new ones"


class Delivery:
    """The decisions of one sync; times are seconds of whatever clock the caller uses throughout.

    `draw(limit)` gives the pause of a retry: full jitter draws it evenly from [0, limit).
    """

    def __init__(self, packer: Packer, *, claimed: str | None, acknowledged: str | None, concurrency: int,
                 pace: Pace, draw: Callable[[float], float], told: int = 0) -> None:
        self._packer, self._concurrency = packer, concurrency
        self._pace, self._crowd, self._patience = pace, Crowd(concurrency), Patience(draw)
        self._claimed, self._acknowledged = claimed, acknowledged
        self._ahead = concurrency
        self._pages: deque[PageUnderWay] = deque()
        self._unclaimed: deque[PageUnderWay] = deque()
        self._ended = self._closed = self._unresolved = False
        self._doubtful = claimed != acknowledged
        self._committed_at, self._finishing = 0.0, float("inf")
        self._accepted, self._refused, self._learned = told, 0, dict[str, str]()
        self._stop: Stop | None = None

    def offer(self, page: Page | None, known: Mapping[str, str] | None = None) -> None:
        """Take the next page of the content, or None where it ends; `known` is what the packer wants to know of it."""
        if page is None:
            self._ended = True
            return
        ready = PageUnderWay(page.end, known={**(known or {}), **self._learned})
        ready.waiting.extend(ready.pack(self._packer, page.calls))
        self._unclaimed.append(ready)
        self._next_wave(ready)

    def committed(self, step: Commit, now: float) -> None:
        """The commit is durable: forget what it acknowledged, and let what it claimed be sent."""
        self._committed_at = now
        while self._pages and self._pages[0].answered:
            self._pages.popleft()
        if self._stop is None:
            self._pages.extend(self._unclaimed)
            self._unclaimed.clear()
        self._claimed, self._acknowledged = step.progress.claimed, step.progress.acknowledged
        self._unresolved = False
        self._learned = dict(self._learned.items() - step.progress.learned.items())
        self._doubtful = self._doubtful and self._claimed != self._acknowledged
        self._closed = self._closed or step.finished

    def answered(self, flight: Flight, answer: Mapping[int, Refusal] | Receipt | DeliveryError, now: float) -> None:
        """Take the answer to a request: the refused calls by index, or what became of all of it."""
        page = flight.page
        page.flying -= 1
        page.requests += 1
        page.touched = page.touched or not (flight.batch.reads or isinstance(answer, NotTaken | AccountRefused))
        self._pace.answered(flight.load, now)
        if isinstance(answer, CallsRefused):
            self._patience.failures = 0
            self._bisect(flight, range(len(flight.batch.calls)), Refusal(str(answer), answer.status))
        elif isinstance(answer, DeliveryError):
            page.waiting.appendleft(flight)
            self._failed(flight, answer, now)
        else:
            self._patience.failures = 0
            self._crowd.answered(now - flight.left)
            self._taken(flight, answer if isinstance(answer, Receipt) else Receipt(answer), now)
        self._next_wave(page)

    def _next_wave(self, page: PageUnderWay) -> None:
        if page.later and page.paused:
            for call in page.next_wave(self._packer):
                self._refuse(page, call, STUCK)

    def _taken(self, flight: Flight, receipt: Receipt, now: float) -> None:
        page, calls = flight.page, flight.batch.calls
        page.known |= receipt.learned
        self._learned |= receipt.learned
        self._stop = self._stop or self._patience.asked(receipt.wait, now)
        for index, refusal in receipt.refused.items():
            self._refuse(page, calls[index], refusal, counts=not flight.batch.asks)
        page.later += [calls[index] for index in receipt.repack]
        open_ = {*receipt.refused, *receipt.again, *receipt.repack}
        taken = [call for index, call in enumerate(calls) if index not in open_]
        if flight.batch.asks:
            page.later += taken
        else:
            page.accepted += taken
            self._accepted += len(taken)
        if receipt.again:
            self._bisect(flight, sorted(receipt.again), UNCLEAR)

    def stop(self, reason: str) -> None:
        """Begin no other page; those begun are finished and acknowledged."""
        self._stop = self._stop or Stop(reason=reason, graceful=True)

    def next_step(self, now: float) -> Step:
        """The one thing to do now."""
        if self._closed:
            return Stop(finished=True)
        if self._stop is None and self._pace.spent() and self._next_flight() is not None:
            self._stop = Stop(reason=SPENT, until=self._pace.renews)
        if self._stop is not None:
            return self._winding_up(self._stop, now)
        if self._should_commit(now):
            return self._commit()
        if (flight := self._sendable(now)) is not None:
            return self._send(flight, now)
        if self._wants_page():
            return Read()
        return Wait(self._wake(now))

    def _winding_up(self, stop: Stop, now: float) -> Step:
        self._finishing = min(self._finishing, now + FINISHING)
        finishing = stop.graceful and now < self._finishing and not self._patience.failures and not self._pace.spent()
        if finishing and any(page.touched and page.waiting for page in self._pages):
            flight, wake = self._sendable(now), self._wake(now)
            return self._send(flight, now) if flight else Wait(wake and min(wake, self._finishing))
        if any(page.flying for page in self._pages):
            return Wait(None)
        if self._unresolved or self._learned or (self._pages and self._pages[0].answered):
            return self._commit()
        if self._claimed != self._acknowledged and not self._doubtful and not any(page.touched for page in self._pages):
            # certainly nothing between the cursors arrived, so nothing there is unresolved
            self._pages.clear()
            return Commit(Progress(self._acknowledged, self._acknowledged))
        return stop

    def _should_commit(self, now: float) -> bool:
        """Few commits: claim when enough pages wait for it or nothing else can be done, acknowledge once a second."""
        if self._unclaimed:
            waiting = any(page.waiting for page in self._pages)
            if len(self._unclaimed) >= self._ahead or not (waiting or self._wants_page()):
                return True
        elif self._ended and all(page.answered for page in self._pages):
            return True
        full, due = len(self._pages) >= 4 * self._concurrency, now >= self._committed_at + 1.0
        return (bool(self._pages) and self._pages[0].answered and (full or due)) or (bool(self._learned) and due)

    def _wants_page(self) -> bool:
        under_way = sum(not page.answered for page in self._pages) + len(self._unclaimed)
        most = 1 if self._packer.in_turn else self._concurrency + self._ahead
        return not self._ended and under_way < most and len(self._pages) < 4 * self._concurrency

    def _commit(self) -> Commit:
        accepted: list[Call] = []
        refused: list[tuple[Call, Refusal]] = []
        acknowledged, requests, left = self._acknowledged, 0, len(self._pages)
        for page in self._pages:
            if not page.answered:
                break
            accepted += page.accepted
            refused += page.refused
            acknowledged, requests, left = page.end, requests + page.requests, left - 1
        claimed = self._claimed
        if self._unclaimed and self._stop is None:
            claimed = max(claimed or "", self._unclaimed[-1].end)
        if acknowledged is not None:
            claimed = max(claimed or "", acknowledged)
        finished = self._ended and not left and not self._unclaimed
        return Commit(Progress(claimed, acknowledged, accepted, refused, requests, self._unresolved,
                               dict(self._learned)), finished)

    def _next_flight(self) -> Flight | None:
        return next((page.waiting[0] for page in self._pages
                     if page.waiting and (page.touched or self._stop is None)), None)

    def _sendable(self, now: float) -> Flight | None:
        flying = sum(page.flying for page in self._pages)
        if flying >= self._at_once() or now < self._patience.not_before:
            return None
        flight = self._next_flight()
        if flight is None or self._pace.spent() or self._pace.free_at(flight.load, now) > now:
            return None
        return flight

    def _at_once(self) -> int:
        return 1 if self._patience.failures else self._crowd.allowed  # after a failure one goes ahead to see

    def _send(self, flight: Flight, now: float) -> Send:
        flight.page.waiting.popleft()
        flight.page.flying += 1
        flight.attempts += 1
        flight.failures, flight.left = self._patience.failures, now
        self._pace.sent(flight.load)
        return Send(flight)

    def _wake(self, now: float) -> float | None:
        flight = self._next_flight()
        flying = sum(page.flying for page in self._pages)
        if flight is None or flying >= self._at_once():
            return None
        moment = max(self._patience.not_before, self._pace.free_at(flight.load, now))
        return None if moment == float("inf") else moment

    def _failed(self, flight: Flight, error: DeliveryError, now: float) -> None:
        if isinstance(error, AccountRefused):
            self._stop = Stop(reason=str(error), pause=True)
            return
        for limit in (self._pace, self._crowd) if isinstance(error, Throttled) else ():
            limit.slow_down()
        # what only reads may arrive as late as it likes
        landed = isinstance(error, Unanswered) and not flight.batch.reads
        self._unresolved, self._doubtful = self._unresolved or landed, self._doubtful or landed
        stop = self._patience.failed(flight, error, now)
        if stop is not None and not (self._stop and self._stop.pause):
            self._stop = stop

    def _bisect(self, flight: Flight, indexes: Sequence[int], refusal: Refusal) -> None:
        """Ask again with half as many calls, until it is known which are the guilty."""
        calls = [flight.batch.calls[index] for index in indexes]
        parts, rest = halves(calls)
        if len(flight.batch.calls) == 1 or (flight.batch.asks and rest):
            for call in calls:
                self._refuse(flight.page, call, refusal)
            return
        flight.page.later += rest
        for part in reversed(parts):
            flight.page.waiting.extendleft(reversed(flight.page.pack(self._packer, part)))

    def _refuse(self, page: PageUnderWay, call: Call, refusal: Refusal, *, counts: bool = True) -> None:
        page.refused.append((call, refusal))
        self._refused += counts
        if counts and self._refused >= HOPELESS and not self._accepted and not page.accepted:
            self._stop = Stop(reason=f"every one of {self._refused} calls was refused: {refusal.reason}", pause=True)

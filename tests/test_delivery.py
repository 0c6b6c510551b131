"""The machine that decides: whatever is answered, and whenever, nothing leaves unclaimed and nothing is acknowledged
that was not answered; it ends, and it has asked a bounded number of times.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiencesync.delivery import Commit, Delivery, Flight, Pace, Read, Send, Stop, Wait
from audiencesync.delivery.machine import ATTEMPTS, HOPELESS, PATIENCE
from audiencesync.errors import AccountRefused, CallsRefused, DeliveryError, NotTaken, Unanswered
from audiencesync.model import Batch, Call, Packed, Packer, Page, Refusal
from audiencesync.schedule import RateLimit

Answer = Mapping[int, Refusal] | DeliveryError
NO = Refusal("no", 400)


def name(number: int) -> str:
    return f"u{number:05}"


class Packs(Packer):
    """Batches of so many calls at most; the unfit are in none."""

    def __init__(self, most: int = 10, unfit: Sequence[str] = ()) -> None:
        self.most, self.unfit = most, unfit

    def pack(self, calls: Sequence[Call]) -> Packed:
        fit = [call for call in calls if call.user_id not in self.unfit]
        parts = [tuple(fit[start:start + self.most]) for start in range(0, len(fit), self.most)]
        return Packed(tuple(Batch(part, repr(part).encode()) for part in parts),
                      tuple((call, NO) for call in calls if call.user_id in self.unfit))


@dataclass
class Drive:
    """The owner of the loop under a made-up clock; every step is held to what the machine promises.

    `server` answers the n-th request; `delay` says how many seconds later. `claimed` and `acknowledged` are the
    cursors as they are committed, `sends` and `commits` what happened.
    """

    server: Callable[[int, Flight], Answer]
    users: int = 40
    page: int = 10
    packer: Packs = field(default_factory=Packs)
    concurrency: int = 4
    pace: RateLimit | None = None
    claimed: str | None = None
    acknowledged: str | None = None
    delay: Callable[[int], float] = lambda _: 0.1
    draw: Callable[[float], float] = lambda limit: limit / 2
    stop_at: int | None = None
    now: float = 1000.0
    sends: list[tuple[float, Flight]] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)
    unresolved: bool = False

    def play(self) -> Stop:
        """Drive it to its end."""
        rest = [Call(name(number), 0, True, None) for number in range(self.users)
                if self.acknowledged is None or name(number) > self.acknowledged]
        pages = iter([Page(part[-1].user_id, part) for start in range(0, len(rest), self.page)
                      if (part := rest[start:start + self.page])])
        if self.claimed is not None and self.claimed != self.acknowledged:
            self.arrived = {call.user_id for call in rest if call.user_id <= self.claimed}
        machine = Delivery(self.packer, claimed=self.claimed, acknowledged=self.acknowledged,
                           concurrency=self.concurrency, pace=Pace((self.pace,) if self.pace else ()), draw=self.draw)
        flying: list[tuple[float, int, Flight]] = []
        order = count()
        for turn in range(100_000):
            if turn == self.stop_at:
                machine.stop("asked")
            while flying and flying[0][0] <= self.now:
                self.take(machine, heapq.heappop(flying)[2])
            step = machine.next_step(self.now)
            if isinstance(step, Stop):
                assert not flying
                self.check_end(step, len(rest))
                return step
            if isinstance(step, Read):
                assert self.stop_at is None or turn < self.stop_at, "it began another page though asked to stop"
                machine.offer(next(pages, None))
            elif isinstance(step, Commit):
                self.commit(step, {call.user_id for *_, flight in flying for call in flight.batch.calls})
                machine.committed(step, self.now)
            elif isinstance(step, Send):
                assert len(flying) < self.concurrency
                self.check_send(step.flight, flying)
                self.sends.append((self.now, step.flight))
                number = next(order)
                heapq.heappush(flying, (self.now + self.delay(number), number, step.flight))
            else:
                assert isinstance(step, Wait)
                ends = [moment for moment in (step.until, flying[0][0] if flying else None) if moment is not None]
                assert ends, "it waits for nothing"
                assert min(ends) > self.now, "it would turn in a circle"
                self.now = min(ends)
        raise AssertionError("it never ends")

    def take(self, machine: Delivery, flight: Flight) -> None:
        answer = self.server(len(self.sends), flight)
        users = [call.user_id for call in flight.batch.calls]
        if not isinstance(answer, NotTaken | AccountRefused):
            self.arrived.update(users)
        self.unresolved = self.unresolved or isinstance(answer, Unanswered)
        if not isinstance(answer, DeliveryError):
            for index, user in enumerate(users):
                if index in answer:
                    self.refused[user] = answer[index]
                else:
                    self.accepted[user] = self.accepted.get(user, 0) + 1
        elif isinstance(answer, CallsRefused) and len(users) == 1:
            self.refused[users[0]] = Refusal(str(answer), answer.status)
        machine.answered(flight, answer, self.now)

    def check_send(self, flight: Flight, flying: Sequence[tuple[float, int, Flight]]) -> None:
        users = {call.user_id for call in flight.batch.calls}
        assert self.claimed is not None
        assert max(users) <= self.claimed, "sent before it was claimed"
        assert self.acknowledged is None or min(users) > self.acknowledged, "sent again though it was acknowledged"
        assert not users & {call.user_id for *_, other in flying for call in other.batch.calls}, "in flight twice"
        assert not users & set(self.accepted), "sent again though it was accepted"

    def commit(self, step: Commit, flying: set[str]) -> None:
        said = step.progress
        before = self.acknowledged
        assert before is None or (said.acknowledged is not None and said.acknowledged >= before)
        part = {name(number) for number in range(self.users)
                if (before is None or name(number) > before) and said.acknowledged is not None
                and name(number) <= said.acknowledged}
        accepted, refused = [call.user_id for call in said.accepted], [call.user_id for call, _ in said.refused]
        assert sorted(accepted + refused) == sorted(part), "acknowledged is an unbroken answered prefix, told once"
        assert all(user in self.accepted for user in accepted)
        assert all(user in self.refused or user in self.packer.unfit for user in refused)
        assert said.acknowledged is None or (said.claimed is not None and said.claimed >= said.acknowledged)
        open_ = {user for user in self.arrived | flying if said.acknowledged is None or user > said.acknowledged}
        assert not open_ or (said.claimed is not None and max(open_) <= said.claimed), "it may have arrived"
        assert said.unresolved == self.unresolved, "the settle time starts with the commit after the attempt"
        assert not step.finished or said.acknowledged == (name(self.users - 1) if self.users else None)
        self.unresolved = False
        self.claimed, self.acknowledged = said.claimed, said.acknowledged
        self.commits.append(step)

    def check_end(self, stop: Stop, calls: int) -> None:
        assert not self.unresolved, "an unresolved attempt was never committed"
        assert len(self.sends) <= ATTEMPTS * 2 * calls, "asked without bound"
        assert all(flight.attempts <= ATTEMPTS for _, flight in self.sends)
        whole = self.acknowledged == (name(self.users - 1) if self.users else None)
        assert stop.finished == (whole and bool(self.commits) and self.commits[-1].finished)

    def requests(self) -> int:
        return len(self.sends)


def fine(_number: int, _flight: Flight) -> Answer:
    return {}


def guilty(*users: str) -> Callable[[int, Flight], Answer]:
    """Refuses every body that has one of them."""
    def answer(_number: int, flight: Flight) -> Answer:
        bad = any(call.user_id in users for call in flight.batch.calls)
        return CallsRefused("no", status=400) if bad else {}
    return answer


def script(*answers: Answer) -> Callable[[int, Flight], Answer]:
    """These answers, then only good ones."""
    rest = iter(answers)
    return lambda _number, _flight: next(rest, {})


KINDS: dict[str, Callable[[], Answer]] = {
    "ok": dict, "ok again": dict, "item": lambda: {0: NO}, "400": lambda: CallsRefused("no", status=400),
    "cut": lambda: Unanswered("cut"), "503": lambda: Unanswered("503", status=503, wait=7.0),
    "refused": lambda: NotTaken("nobody there"), "429": lambda: NotTaken("429", status=429, wait=3.0),
    "later": lambda: NotTaken("429", status=429, wait=900.0), "401": lambda: AccountRefused("401", status=401),
}


@settings(max_examples=600, deadline=None, derandomize=True)
@given(users=st.integers(0, 45), page=st.integers(1, 12), most=st.integers(1, 12), concurrency=st.integers(1, 6),
       answers=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=14), repeat=st.booleans(),
       delays=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=7), stop_at=st.none() | st.integers(0, 60),
       limit=st.none() | st.integers(1, 30), resumed=st.none() | st.tuples(st.integers(0, 20), st.integers(0, 20)),
       unfit=st.lists(st.integers(0, 45), max_size=4))
def test_whatever_is_answered_it_keeps_its_promises_and_ends(
        users: int, page: int, most: int, concurrency: int, answers: list[str], repeat: bool, delays: list[float],
        stop_at: int | None, limit: int | None, resumed: tuple[int, int] | None, unfit: list[int]) -> None:
    def server(number: int, flight: Flight) -> Answer:
        return KINDS[answers[number % len(answers)]]() if repeat or number < len(answers) else {}

    claimed = acknowledged = None
    if resumed is not None and users:
        low, high = sorted(min(one, users - 1) for one in resumed)
        claimed, acknowledged = name(high), name(low) if low % 3 else None
    drive = Drive(server, users, page, Packs(most, [name(number) for number in unfit]), concurrency, stop_at=stop_at,
                  pace=RateLimit(limit, 1.0, "items") if limit else None, claimed=claimed, acknowledged=acknowledged,
                  delay=lambda number: delays[number % len(delays)])
    drive.play()


def test_everything_is_told_once_when_nothing_goes_wrong() -> None:
    drive = Drive(fine, users=95)
    assert drive.play() == Stop(finished=True)
    assert drive.accepted == {name(number): 1 for number in range(95)}
    assert drive.requests() == 10
    assert [step.progress.requests for step in drive.commits if step.finished] != []
    assert sum(step.progress.requests for step in drive.commits) == 10


def test_an_empty_rest_is_closed_with_one_commit() -> None:
    drive = Drive(fine, users=20, claimed=name(19), acknowledged=name(19))
    assert drive.play() == Stop(finished=True)
    assert (len(drive.commits), drive.requests()) == (1, 0)


@pytest.mark.parametrize("bad", [[0], [99], [0, 99], [31, 32, 33], list(range(0, 100, 20)), list(range(100))])
def test_bisection_finds_exactly_the_guilty_with_few_requests(bad: list[int]) -> None:
    names = [name(number) for number in bad]
    drive = Drive(guilty(*names), users=100, page=100, packer=Packs(100))
    assert drive.play() == Stop(finished=True)
    assert sorted(drive.refused) == names
    assert len(drive.accepted) == 100 - len(bad)
    assert drive.requests() <= min(2 * 100, 1 + 2 * len(bad) * (log2(100) + 1))


def test_a_call_that_no_request_may_carry_is_refused_unsent_and_stops_nobody() -> None:
    drive = Drive(fine, users=30, packer=Packs(10, [name(0), name(15), name(29)]))
    assert drive.play() == Stop(finished=True)
    assert len(drive.accepted) == 27
    assert [call.user_id for step in drive.commits for call, _ in step.progress.refused] == [
        name(0), name(15), name(29)]


def test_after_a_failure_one_request_goes_ahead_to_see() -> None:
    drive = Drive(script(*[Unanswered("cut")] * 5), users=400, concurrency=4)
    assert drive.play() == Stop(finished=True)
    moments = [moment for moment, _ in drive.sends]
    assert moments[:4] == [1000.0] * 4
    assert moments[4] > moments[3]
    assert moments[5] > moments[4] + 0.1, "not before the answer to the one that went ahead"
    assert moments[6:8] == [moments[6]] * 2, "and when that one is answered the others follow"


def test_requests_that_fail_together_are_one_failure() -> None:
    """A server that restarts cuts all that is under way; that alone must not end a sync of hours."""
    drive = Drive(script(*[Unanswered("cut")] * 4), users=400, concurrency=4)
    assert drive.play() == Stop(finished=True)


@pytest.mark.parametrize("kind", ["cut", "refused"])
def test_it_gives_up_after_so_many_failures_in_a_row(kind: str) -> None:
    drive = Drive(lambda *_: KINDS[kind](), users=400, concurrency=8, draw=lambda limit: limit)
    stop = drive.play()
    assert not stop.finished
    assert not stop.pause
    assert drive.requests() == 4 + ATTEMPTS - 1
    assert drive.now - 1000.0 < ATTEMPTS * PATIENCE
    certain = kind == "refused"
    assert (drive.claimed == drive.acknowledged) == certain, "only what certainly was not sent is not claimed any more"


def test_a_single_request_is_tried_only_so_often_though_others_go_through() -> None:
    def server(_number: int, flight: Flight) -> Answer:
        return Unanswered("cut") if flight.batch.calls[0].user_id == name(0) else {}

    drive = Drive(server, users=2000, concurrency=4)
    assert not drive.play().finished
    assert max(flight.attempts for _, flight in drive.sends) == ATTEMPTS


def test_pauses_grow_are_drawn_and_never_longer_than_patience() -> None:
    limits: list[float] = []
    Drive(lambda *_: Unanswered("cut"), concurrency=1, draw=lambda limit: limits.append(limit) or 0.0).play()
    assert limits == [min(PATIENCE, 0.5 * 2**number) for number in range(1, ATTEMPTS + 1)]


@pytest.mark.parametrize("kind", [NotTaken, Unanswered])
def test_a_wait_that_is_asked_for_is_kept(kind: type[DeliveryError]) -> None:
    drive = Drive(script(kind("slow down", status=429, wait=12.0)), concurrency=1, draw=lambda _: 0.0)
    assert drive.play() == Stop(finished=True)
    assert drive.sends[1][0] == 1000.1 + 12.0


def test_a_longer_wait_ends_the_sync_and_says_until_when() -> None:
    drive = Drive(script(NotTaken("slow down", status=429, wait=PATIENCE + 1)), concurrency=1)
    stop = drive.play()
    assert (stop.finished, stop.pause, stop.until) == (False, False, 1000.1 + PATIENCE + 1)
    assert drive.requests() == 1


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_refused_account_ends_everything_at_once_and_keeps_everything(concurrency: int) -> None:
    drive = Drive(lambda *_: AccountRefused("check the key", status=401), users=400, concurrency=concurrency)
    stop = drive.play()
    assert stop == Stop(reason="check the key", pause=True)
    assert drive.requests() == concurrency
    assert (drive.claimed, drive.acknowledged, drive.refused) == (None, None, {})


def test_a_refused_account_keeps_what_was_answered_before() -> None:
    drive = Drive(script({}, {}, AccountRefused("check the key", status=403)), users=50, concurrency=1)
    assert drive.play().pause
    assert drive.acknowledged == drive.claimed == name(19)


@pytest.mark.parametrize("after", ["later", "cut", "400", "ok"])
def test_a_refused_account_is_the_reason_whatever_comes_in_after_it(after: str) -> None:
    drive = Drive(script(AccountRefused("check the key", status=401), KINDS[after]()), users=400, concurrency=2)
    assert drive.play() == Stop(reason="check the key", pause=True)


def test_asked_to_end_it_finishes_the_pages_it_began_and_claims_no_others() -> None:
    drive = Drive(fine, users=400, page=40, concurrency=2, stop_at=12)
    stop = drive.play()
    assert (stop.reason, stop.graceful, stop.finished) == ("asked", True, False)
    assert drive.claimed == drive.acknowledged
    assert drive.acknowledged is not None
    assert int(drive.acknowledged[1:]) % 40 == 39
    assert len(drive.accepted) == int(drive.acknowledged[1:]) + 1, "nothing was sent for nothing"


def test_asked_to_end_before_anything_left_it_claims_nothing() -> None:
    drive = Drive(fine, users=400, stop_at=0)
    assert not drive.play().finished
    assert (drive.claimed, drive.requests(), drive.commits) == (None, 0, [])


def test_what_a_crash_left_unresolved_stays_claimed_until_it_is_answered() -> None:
    drive = Drive(lambda *_: NotTaken("nobody there"), users=40, claimed=name(25), acknowledged=name(9))
    assert not drive.play().finished
    assert drive.claimed is not None
    assert drive.claimed >= name(25)
    assert drive.acknowledged == name(9)


def test_where_everybody_is_refused_the_fault_is_not_the_users() -> None:
    drive = Drive(lambda *_: CallsRefused("unknown field", status=400), users=3 * HOPELESS, page=100,
                  packer=Packs(100))
    stop = drive.play()
    assert stop.pause
    assert "unknown field" in stop.reason
    assert drive.requests() < 3 * HOPELESS
    assert len(drive.refused) < 2 * HOPELESS


def test_where_anybody_is_taken_the_others_are_to_blame() -> None:
    bad = [name(number) for number in range(1, HOPELESS + 200)]
    drive = Drive(guilty(*bad), users=HOPELESS + 300, page=100, packer=Packs(100), concurrency=1)
    assert drive.play() == Stop(finished=True)
    assert sorted(drive.refused) == bad


def test_commits_are_few_when_all_goes_well() -> None:
    drive = Drive(fine, users=5000, page=10, concurrency=8, delay=lambda _: 0.01)
    drive.play()
    assert len(drive.commits) < 500 / 4

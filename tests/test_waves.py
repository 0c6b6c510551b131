"""Pages whose requests are made of the answers to others: whatever is answered, every call ends once, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiencesync.delivery import Commit, Delivery, Flight, Pace, Read, Send, Stop, machine, rehearse
from audiencesync.delivery.machine import FINISHING
from audiencesync.errors import AccountRefused, CallsRefused, DeliveryError, NotTaken, Throttled, Unanswered
from audiencesync.model import Batch, Call, Packed, Packer, Page, Receipt, Refusal

Answer = Receipt | DeliveryError
SPANS = 3


def user(number: int) -> str:
    return f"u{number:04}"


class ColumnPacker(Packer):
    """Finds people first, then tells many of one trait; `false` for somebody it never met needs no request."""

    def __init__(self, most: int) -> None:
        self.most = most

    def pack(self, calls: Sequence[Call]) -> Packed:
        return self.pack_known(calls, {})

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        asked: list[Batch] = []
        tell: dict[tuple[int, bool], list[Call]] = {}
        done, later, seen = [], [], set()
        for call in calls:
            if call.user_id in seen:
                later.append(call)
            elif call.user_id in known:
                tell.setdefault((call.span, call.value), []).append(call)
                seen.add(call.user_id)
            elif call.value:
                asked.append(Batch((call,), b"?", "GET /person", asks=True))
                seen.add(call.user_id)
            else:
                done.append(call)
        batches = [Batch(tuple(part := group[at:at + self.most]), repr(part).encode(), "PUT /many")
                   for group in tell.values() for at in range(0, len(group), self.most)]
        return Packed((*asked, *batches), (), tuple(done), tuple(later))

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        return {call.user_id: "?" for call in batch.calls} if batch.asks else {}


class Play:
    """Drives the machine with a made-up clock, and holds every send to its promises."""

    def __init__(self, users: int, page: int, most: int, server: Callable[[int, Flight], Answer],
                 budget: int | None = None) -> None:
        self.calls = [Call(user(number), span, (number + span) % 3 > 0, None)
                      for number in range(users) for span in range(SPANS)]
        self.packer, self.server, self.size = ColumnPacker(most), server, page * SPANS
        self.told: dict[tuple[str, int], int] = {}
        self.settled: dict[tuple[str, int], str] = {}
        self.known: dict[str, str] = {}
        self.acknowledged: str | None = None
        self.pace = Pace(budget=budget, renews=5000.0)
        self.sent: list[Flight] = []
        self.now = 0.0

    def play(self) -> Stop:
        made = Delivery(self.packer, claimed=None, acknowledged=None, concurrency=3, pace=self.pace,
                           draw=lambda limit: limit / 2)
        parts = [self.calls[start:start + self.size] for start in range(0, len(self.calls), self.size)]
        pages = iter([Page(part[-1].user_id, part) for part in parts])
        flying: list[tuple[float, int, Flight]] = []
        now, order = 0.0, count()
        for _ in range(200_000):
            step = made.next_step(now)
            if isinstance(step, Read):
                page = next(pages, None)
                made.offer(page, self.known if page else None)
            elif isinstance(step, Commit):
                self.commit(step)
                made.committed(step, now)
            elif isinstance(step, Send):
                mine = {call.user_id for call in step.flight.batch.calls}
                assert not mine & {call.user_id for *_, other in flying for call in other.batch.calls}, "twice at once"
                self.sent.append(step.flight)
                heapq.heappush(flying, (now + 0.1 + 0.01 * (len(self.sent) % 7), next(order), step.flight))
            elif isinstance(step, Stop):
                assert not flying
                return step
            elif flying and (step.until is None or flying[0][0] <= step.until):
                now, _, flight = heapq.heappop(flying)
                made.answered(flight, self.judge(flight), now)
            else:
                assert step.until is not None
                assert step.until > now
                now = step.until
        raise AssertionError("it never ends")

    def judge(self, flight: Flight) -> Answer:
        answer = self.server(len(self.sent), flight)
        if isinstance(answer, Receipt) and not flight.batch.asks:
            for index, call in enumerate(flight.batch.calls):
                if index not in answer.refused and index not in answer.again:
                    self.told[call[:2]] = self.told.get(call[:2], 0) + 1
        return answer

    def commit(self, step: Commit) -> None:
        said = step.progress
        assert said.acknowledged is None or said.acknowledged <= (said.claimed or "")
        for call in said.accepted:
            assert call[:2] not in self.settled
            assert self.told.get(call[:2]) == 1 or not call.value, "only a false may need no request"
            self.settled[call[:2]] = "accepted"
        for call, refusal in said.refused:
            assert call[:2] not in self.settled
            self.settled[call[:2]] = refusal.reason
        mine = {call[:2] for call in self.calls if said.acknowledged is not None and call.user_id <= said.acknowledged}
        assert set(self.settled) == mine, "an unbroken prefix, every call of it settled once"
        self.acknowledged = said.acknowledged
        self.known |= said.learned


def healthy(_number: int, flight: Flight) -> Receipt:
    return Receipt(learned={call.user_id: "1" for call in flight.batch.calls}) if flight.batch.asks else Receipt()


FAULTS: dict[str, Callable[[], DeliveryError]] = {
    "cut": lambda: Unanswered("cut"), "busy": lambda: Throttled("429", status=429, wait=1.0),
    "nobody": lambda: NotTaken("nobody there"), "400": lambda: CallsRefused("no", status=400),
    "stop": lambda: AccountRefused("401", status=401)}


@settings(max_examples=250, deadline=None, derandomize=True)
@given(users=st.integers(0, 30), page=st.integers(1, 9), most=st.integers(1, 6),
       answers=st.lists(st.sampled_from(["ok", "ok", "again", "some", *FAULTS]), min_size=1, max_size=9))
def test_whatever_is_answered_every_call_is_settled_once_and_told_once(
        users: int, page: int, most: int, answers: list[str]) -> None:
    def server(number: int, flight: Flight) -> Answer:
        kind = answers[number % len(answers)] if number < 3 * len(answers) else "ok"
        if kind in FAULTS:
            return FAULTS[kind]()
        receipt = healthy(number, flight)
        odd = range(0, len(flight.batch.calls), 2)
        if kind == "again":
            return Receipt(again=odd, learned=receipt.learned)
        if kind == "some":
            return Receipt({index: Refusal("bad: no") for index in odd}, learned=receipt.learned)
        return receipt

    Play(users, page, most, server).play()


def test_people_are_found_once_and_told_in_groups() -> None:
    play = Play(60, 20, 50, healthy)
    assert play.play() == Stop(finished=True)
    routes = [flight.batch.route for flight in play.sent]
    true = {call.user_id for call in play.calls if call.value}
    assert routes.count("GET /person") == len(true)
    assert routes.count("PUT /many") < 30
    assert set(play.settled.values()) == {"accepted"}
    again = Play(60, 20, 50, healthy)
    again.known = dict(play.known)
    again.play()
    assert "GET /person" not in [flight.batch.route for flight in again.sent], "what was learned is remembered"


def test_a_plan_counts_the_requests_of_all_waves() -> None:
    play = Play(20, 20, 50, healthy)
    play.play()
    cost = rehearse(play.packer, play.calls, {})
    assert (cost.requests, cost.refused) == (len(play.sent), 0)
    assert cost.seconds((), 10) == cost.requests / 10 * 86_400


def test_a_question_whose_answer_teaches_nothing_is_not_asked_for_ever() -> None:
    play = Play(4, 4, 5, lambda _number, flight: Receipt() if flight.batch.asks else healthy(0, flight))
    assert play.play() == Stop(finished=True)
    assert len(play.sent) <= 8
    assert {reason.partition(":")[0] for reason in play.settled.values()} == {"no_way", "accepted"}


def test_what_no_request_comes_of_is_refused() -> None:
    class Stuck(ColumnPacker):
        def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
            return Packed((), later=tuple(calls)) if known else super().pack_known(calls, known)

    play = Play(3, 3, 5, healthy)
    play.packer = Stuck(5)
    assert play.play() == Stop(finished=True)
    assert {reason.partition(":")[0] for reason in play.settled.values()} == {"no_way", "accepted"}


def test_a_wait_that_a_good_answer_asks_for_is_kept() -> None:
    moments: list[float] = []

    class Watched(Play):
        def judge(self, flight: Flight) -> Answer:
            moments.append(flight.left)
            answer = super().judge(flight)
            assert isinstance(answer, Receipt)
            return replace(answer, wait=7.0)

    Watched(3, 1, 1, healthy).play()
    assert max(moments) >= 7.0 * 3


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_days_requests_are_never_exceeded_and_end_the_sync_cleanly(budget: int) -> None:
    play = Play(20, 5, 3, healthy, budget=budget)
    stop = play.play()
    assert len(play.sent) == budget
    assert not stop.finished
    assert not stop.pause
    assert stop.until == 5000.0
    assert "day" in stop.reason


class RowPacker(Packer):
    """All of a user's calls in one request."""

    def pack(self, calls: Sequence[Call]) -> Packed:
        users = dict.fromkeys(call.user_id for call in calls)
        rows = [tuple(call for call in calls if call.user_id == name) for name in users]
        return Packed(tuple(Batch(row, repr(row).encode(), "POST /row") for row in rows))


def test_of_a_refused_row_it_is_found_which_trait_is_the_guilty_one() -> None:
    def server(_number: int, flight: Flight) -> Answer:
        bad = any(call.span == 1 and call.user_id == user(2) for call in flight.batch.calls)
        return CallsRefused("no such field", status=400) if bad else Receipt()

    play = Play(6, 2, 5, server)
    play.packer = RowPacker()  # type: ignore[assignment]
    assert play.play() == Stop(finished=True)
    assert {pair for pair, word in play.settled.items() if word != "accepted"} == {(user(2), 1)}


class Sharing(ColumnPacker):
    """Two users share each person: the first one told is the one who counts."""

    in_turn = True

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        mine = [call for call in calls if known.get(self.person(call), call.user_id) == call.user_id]
        other = tuple((call, Refusal("shared: no")) for call in calls if call not in mine)
        return Packed(tuple(Batch((call,), b"!", "PUT /one") for call in mine[:1]), other, later=tuple(mine[1:]))

    def person(self, call: Call) -> str:
        return str(int(call.user_id[1:]) // 2)


@pytest.mark.parametrize("page", [1, 2, 3, 8])
def test_a_page_in_turn_knows_what_the_answers_to_the_one_before_it_taught(page: int) -> None:
    packer = Sharing(5)
    play = Play(8, page, 5, lambda _number, flight: Receipt(
        learned={packer.person(call): call.user_id for call in flight.batch.calls}))
    play.packer = packer
    assert play.play() == Stop(finished=True)
    assert {name for (name, _), word in play.settled.items() if word == "accepted"} == {user(at) for at in (0, 2, 4, 6)}


def test_one_of_many_that_is_neither_taken_nor_refused_goes_alone_before_it_is_given_up() -> None:
    def server(_number: int, flight: Flight) -> Answer:
        receipt = healthy(0, flight)
        unclear = [at for at, call in enumerate(flight.batch.calls) if call.user_id == user(1) and call.span]
        return Receipt(again=unclear if len(flight.batch.calls) > 1 else (), learned=receipt.learned)

    play = Play(9, 9, 50, server)
    assert play.play() == Stop(finished=True)
    assert set(play.settled.values()) == {"accepted"}


def asked_to_stop(play: Play, after: int, budget: int | None = None) -> tuple[Stop, float]:
    """End a sync gracefully after so many requests; how it ended and when, by the made-up clock."""
    machine_stop, began = Delivery.next_step, []

    def next_step(machine: Delivery, now: float) -> object:
        if len(play.sent) >= after and not began:
            began.append(now)
            machine.stop("asked to end")
        play.now = now
        return machine_stop(machine, now)

    play.pace = Pace(budget=budget, renews=5000.0)
    try:
        Delivery.next_step = next_step  # type: ignore[assignment, method-assign]
        stop = play.play()
    finally:
        Delivery.next_step = machine_stop  # type: ignore[method-assign]
    return stop, play.now - began[0]


def test_who_is_asked_to_end_while_the_days_requests_run_out_ends() -> None:
    play = Play(20, 20, 3, healthy)
    stop, _ = asked_to_stop(play, 5, budget=8)
    assert stop.graceful
    assert len(play.sent) <= 8


def test_who_is_asked_to_end_finishes_what_he_began_only_for_a_while() -> None:
    class Slow(RowPacker):
        pass

    play = Play(400, 400, 3, healthy)
    play.packer = Slow()  # type: ignore[assignment]
    stop, took = asked_to_stop(play, 5)
    assert stop.graceful
    assert took <= FINISHING + 1
    assert play.acknowledged is None, "the page goes again as a whole"


def test_a_wait_of_an_hour_ends_the_sync_in_place_of_being_sat_out() -> None:
    play = Play(20, 5, 3, lambda number, flight: replace(healthy(number, flight), wait=3600.0))
    stop = play.play()
    assert not stop.finished
    assert stop.until is not None
    assert stop.until > 3000


def test_answers_that_swing_for_ever_are_not_asked_for_ever() -> None:
    class Swinging(ColumnPacker):
        def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
            return Packed((Batch(tuple(calls), b"?", "GET /people", asks=True),))

    turns = count()
    play = Play(2, 2, 5, lambda _number, flight: Receipt(learned={flight.batch.calls[0].user_id: str(next(turns))}))
    play.packer = Swinging(5)
    assert play.play() == Stop(finished=True)
    assert len(play.sent) < 200


def test_a_page_that_begins_with_nothing_but_later_does_not_hang() -> None:
    class Later(ColumnPacker):
        def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
            return Packed((), later=tuple(calls))

    play = Play(2, 2, 5, healthy)
    play.packer = Later(5)
    assert play.play() == Stop(finished=True)
    assert set(play.settled.values()) == {"no_way: nothing that was learned of this user says how to tell him"}


def test_whom_a_question_does_not_find_is_no_sign_that_all_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "HOPELESS", 5)
    play = Play(30, 3, 5, lambda number, flight: Receipt({0: Refusal("unknown_user: no")}) if flight.batch.asks
                else healthy(number, flight))
    assert play.play() == Stop(finished=True)


def test_a_question_that_was_never_answered_needs_no_settling() -> None:
    seen: list[bool] = []

    class Watched(Play):
        def commit(self, step: Commit) -> None:
            seen.append(step.progress.unresolved)
            super().commit(step)

    cut = {2, 3}
    play = Watched(9, 3, 5, lambda number, flight: Unanswered("cut") if flight.batch.asks and number in cut
                   else healthy(number, flight))
    assert play.play() == Stop(finished=True)
    assert not any(seen)

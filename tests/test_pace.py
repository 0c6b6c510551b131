"""A speed limit holds in every window, whether requests are counted as they leave or as they arrive."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiencesync.delivery import Crowd, Load, Pace, page_size
from audiencesync.schedule import RateLimit

weights = st.lists(st.integers(1, 60), min_size=1, max_size=60)
latencies = st.lists(st.floats(0.0, 5.0), min_size=60, max_size=60)
limits = st.builds(RateLimit, st.integers(1, 100), st.sampled_from((1.0, 0.5, 3.0)),
                   st.sampled_from(("items", "requests")))


def run(rate: RateLimit | None, items: list[int], delays: list[float],
        concurrency: int) -> list[tuple[float, float, int]]:
    """Send everything as soon as the pace allows; (left, arrived, items) of each request."""
    pace, now, order = Pace((rate,) if rate else ()), 100.0, count()
    flying: list[tuple[float, int, int]] = []
    seen: list[tuple[float, float, int]] = []
    waiting = list(zip(items, delays, strict=False))
    while waiting or flying:
        free = pace.free_at(Load(waiting[0][0]), now) if waiting and len(flying) < concurrency else float("inf")
        if free <= now:
            weight, delay = waiting.pop(0)
            pace.sent(Load(weight))
            # it arrives somewhere on the way: at once, or when the answer is about to come
            seen.append((now, now + delay * (len(seen) % 3) / 2, weight))
            heapq.heappush(flying, (now + delay, next(order), weight))
        elif flying and flying[0][0] <= free:
            now, _, weight = heapq.heappop(flying)
            pace.answered(Load(weight), now)
        else:
            assert free < float("inf"), "it would never send again"
            now = free
    return seen


def most_in_a_window(moments: list[tuple[float, int]], seconds: float) -> int:
    """The most that any window of so many seconds has; its end no longer belongs to it."""
    return max(sum(weight for moment, weight in moments if start <= moment < start + seconds - 1e-9)
               for start, _ in moments)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(limits, weights, latencies, st.integers(1, 8))
def test_no_window_ever_has_more_than_the_limit(rate: RateLimit, items: list[int], delays: list[float],
                                                concurrency: int) -> None:
    capped = [min(weight, rate.limit) if rate.unit == "items" else weight for weight in items]
    seen = run(rate, capped, delays, concurrency)
    assert [weight for *_, weight in seen] == capped
    for which in (0, 1):
        moments = [(one[which], one[2] if rate.unit == "items" else 1) for one in seen]
        assert most_in_a_window(moments, rate.seconds) <= rate.limit


def test_an_answer_frees_what_its_own_request_weighed_and_not_what_another_did() -> None:
    """The large one is still on its way; its room must not be given away before it arrives."""
    pace = Pace([RateLimit(1000, 1.0, "items")])
    pace.sent(Load(900))
    pace.sent(Load(100))
    pace.answered(Load(100), 1.0)
    assert pace.free_at(Load(900), 2.0) == float("inf")
    assert pace.free_at(Load(100), 2.0) == 2.0


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    pace = Pace([RateLimit(10, 1.0, "items")])
    assert pace.free_at(Load(25), 0.0) == 0.0
    pace.sent(Load(25))
    assert pace.free_at(Load(1), 5.0) == float("inf")
    pace.answered(Load(25), 6.0)
    assert pace.free_at(Load(1), 6.0) == 7.0
    assert pace.free_at(Load(1), 7.0) == 7.0


def test_requests_in_a_window_are_counted_as_one_whatever_they_hold() -> None:
    pace = Pace([RateLimit(2, 30.0, "requests")])
    for moment in (0.0, 1.0):
        assert pace.free_at(Load(900), moment) == moment
        pace.sent(Load(900))
        pace.answered(Load(900), moment)
    assert pace.free_at(Load(1), 2.0) == 30.0
    assert pace.free_at(Load(1), 30.0) == 30.0


def test_without_a_limit_everything_may_leave() -> None:
    assert len(run(None, [1000] * 50, [1.0] * 50, 50)) == 50
    assert Pace().free_at(Load(10**9), 3.0) == 3.0


def test_at_full_speed_the_limit_is_used_and_not_only_kept() -> None:
    seen = run(RateLimit(100, 1.0, "items"), [10] * 60, [0.0] * 60, 8)
    assert seen[-1][0] - 100.0 == 5.0


def test_a_page_is_never_larger_than_a_window_and_holds_one_user_at_least() -> None:
    assert page_size(900, (), [1]) == 900
    assert page_size(900, [RateLimit(50, 30.0, "requests")], [1]) == 900
    assert page_size(900, [RateLimit(20, 1.0, "items")], [1]) == 20
    assert page_size(900, [RateLimit(2, 1.0, "items")], [1, 2, 3]) == 3


def test_several_limits_hold_at_once_and_bytes_are_counted_too() -> None:
    pace = Pace([RateLimit(3, 10.0, "requests"), RateLimit(1000, 1.0, "bytes")])
    pace.sent(Load(5, 900))
    assert pace.free_at(Load(5, 200), 0.0) == float("inf")
    pace.answered(Load(5, 900), 0.0)
    assert pace.free_at(Load(5, 200), 0.0) == 1.0
    for moment in (1.0, 2.0):
        pace.sent(Load(1, 10))
        pace.answered(Load(1, 10), moment)
    assert pace.free_at(Load(1, 10), 3.0) == 10.0


def test_after_a_429_a_part_of_the_limit_is_used_that_grows_again() -> None:
    pace = Pace([RateLimit(8, 10.0, "requests")])
    pace.slow_down()
    pace.slow_down()
    sent = 0
    while pace.free_at(Load(1), 0.0) == 0.0:
        pace.sent(Load(1))
        sent += 1
    assert sent == 2
    for _ in range(sent):
        pace.answered(Load(1), 0.0)
    for _ in range(40):
        pace.sent(Load(1))
        pace.answered(Load(1), 0.0)
    sent = 0
    while pace.free_at(Load(1), 20.0) == 20.0:
        pace.sent(Load(1))
        sent += 1
    assert sent == 8, "the whole limit again"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.0, 29.0), max_size=50), st.floats(0.0, 60.0))
def test_what_one_process_sent_counts_for_the_next(moments: list[float], later: float) -> None:
    limit = RateLimit(50, 30.0, "requests")
    first = Pace([limit])
    for moment in sorted(moments):
        first.sent(Load(1))
        first.answered(Load(1), moment)
    second, now = Pace([limit]), 29.0 + later
    second.recall([[(left - later, weight) for left, weight in window] for window in first.remembered(29.0)], now)
    free = 0
    while second.free_at(Load(1), now) <= now:
        second.sent(Load(1))
        free += 1
    still, rounded = (sum(moment + 30.0 + more > now for moment in moments) for more in (0.0, 0.31))
    assert 50 - rounded <= free <= 50 - still


def test_what_a_dead_process_sent_is_not_known_so_a_window_passes() -> None:
    pace = Pace([RateLimit(50, 30.0, "requests")])
    pace.recall(None, 100.0)
    assert pace.free_at(Load(1), 100.0) == 130.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 16), st.lists(st.sampled_from(["fast", "slow", "no"]), max_size=200))
def test_requests_at_once_stay_within_their_bound(most: int, answers: list[str]) -> None:
    crowd = Crowd(most)
    for answer in answers:
        if answer == "no":
            crowd.slow_down()
        else:
            crowd.answered(0.05 if answer == "fast" else 2.0)
        assert 1 <= crowd.allowed <= most


def answers(crowd: Crowd, count: int, latency: Callable[[int], float]) -> float:
    """So many answers; the mean of how many were allowed."""
    allowed = []
    for _ in range(count):
        crowd.answered(latency(crowd.allowed))
        allowed.append(crowd.allowed)
    return sum(allowed) / count


def test_a_server_that_keeps_up_gets_as_many_at_once_as_may_be() -> None:
    crowd = Crowd(32)
    answers(crowd, 500, lambda _: 0.05)
    assert crowd.allowed == 32


@pytest.mark.parametrize("jitter", [lambda draw: draw.expovariate(20), lambda draw: draw.lognormvariate(-3, 1),
                                    lambda draw: 0.5 if draw.random() < 0.1 else 0.01])
def test_jitter_alone_does_not_make_it_slow(jitter: Callable[[random.Random], float]) -> None:
    means = []
    for seed in range(20):
        draw = random.Random(seed)
        crowd = Crowd(16)
        answers(crowd, 1000, lambda _, draw=draw: jitter(draw))
        means.append(answers(crowd, 4000, lambda _, draw=draw: jitter(draw)))
    assert sum(means) / len(means) > 12


@pytest.mark.parametrize("works", [1, 4, 6])
def test_a_server_whose_requests_stand_in_line_gets_no_more_than_help(works: int) -> None:
    crowd = Crowd(64)
    assert answers(crowd, 5000, lambda allowed: 0.05 * max(1.0, allowed / works)) < 2.2 * max(4, works)

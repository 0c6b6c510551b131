"""When slots are: alike on every host, right when the clock is changed, and quickly found after years."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audiencesync.schedule import after, check_schedule, longest_interval, newest_due, parse_duration
from audiencesync.schedule.slots import STEPS

BERLIN, NEW_YORK, LORD_HOWE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")
HAVANA = ZoneInfo("America/Havana")
"""Where the clock goes back at one to midnight, so that a date begins twice."""
START = datetime(2026, 11, 22, 6, tzinfo=UTC)


def walked(schedule, last, zone, count):
    """So many slots after `last`, one from the other, as that zone's clocks show them."""
    slots = []
    for _ in range(count):
        last = after(schedule, last, zone)
        assert last.tzinfo is UTC
        slots.append(last.astimezone(zone).strftime("%a %d. %H:%M %Z"))
    return slots


def walked_until(schedule, last, now, zone):
    """The newest slot by `now`, found by going through all of them."""
    newest = None
    while (last := after(schedule, last, zone)) and last <= now:
        newest = last
    return newest


def output(program, *arguments, **environment):
    """What another process prints that runs this program."""
    return subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True,
                          cwd=Path(__file__).parents[1], env=environment).stdout.strip()


def cron(expression):
    """The schedule by this expression."""
    return check_schedule(f'cron "{expression}"')


@pytest.mark.parametrize(("expression", "days"), [
    ("0 9 * * 0", ["Sun 22.", "Sun 29.", "Sun 06."]),
    ("0 9 * * 7", ["Sun 22.", "Sun 29.", "Sun 06."]),
    ("0 9 * * SUN", ["Sun 22.", "Sun 29.", "Sun 06."]),
    ("0 9 * * 1-5", ["Mon 23.", "Tue 24.", "Wed 25.", "Thu 26.", "Fri 27.", "Mon 30."]),
    ("0 9 1 * 1", ["Mon 23.", "Mon 30.", "Tue 01.", "Mon 07."]),
    ("0 9 L * *", ["Mon 30.", "Thu 31."]),
])
def test_an_expression_means_what_it_means_to_cron(expression, days):
    assert walked(cron(expression), START, UTC, len(days)) == [f"{day} 09:00 UTC" for day in days]


@pytest.mark.parametrize(("alias", "slots"), [
    ("@hourly", ["Sun 22. 07:00 UTC", "Sun 22. 08:00 UTC"]), ("@daily", ["Mon 23. 00:00 UTC", "Tue 24. 00:00 UTC"]),
    ("@weekly", ["Sun 29. 00:00 UTC", "Sun 06. 00:00 UTC"]), ("@monthly", ["Tue 01. 00:00 UTC", "Fri 01. 00:00 UTC"]),
])
def test_an_alias_means_what_it_says(alias, slots):
    assert walked(cron(alias), START, UTC, 2) == slots


@pytest.mark.parametrize(("zone", "evening", "expected"), [
    (BERLIN, datetime(2026, 10, 24, 12, tzinfo=UTC), ["Sun 25. 02:30 CEST", "Mon 26. 02:30 CET"]),
    (BERLIN, datetime(2026, 3, 28, 12, tzinfo=UTC), ["Sun 29. 03:00 CEST", "Mon 30. 02:30 CEST"]),
    (NEW_YORK, datetime(2026, 10, 31, 12, tzinfo=UTC), ["Sun 01. 02:30 EST", "Mon 02. 02:30 EST"]),
    (NEW_YORK, datetime(2026, 3, 7, 12, tzinfo=UTC), ["Sun 08. 03:00 EDT", "Mon 09. 02:30 EDT"]),
])
def test_half_past_two_comes_once_a_night_also_when_the_clock_is_changed(zone, evening, expected):
    assert walked(cron("30 2 * * *"), evening, zone, 2) == expected


def test_half_past_one_comes_once_in_the_night_that_new_york_passes_it_twice():
    assert walked(cron("30 1 * * *"), datetime(2026, 10, 31, 12, tzinfo=UTC), NEW_YORK, 2) == [
        "Sun 01. 01:30 EDT", "Mon 02. 01:30 EST"]


@pytest.mark.parametrize("expression", ["0 * * * *", "*/20 * * * *", "* * * * *"])
@pytest.mark.parametrize(("zone", "evening"), [
    (BERLIN, datetime(2026, 10, 24, 22, tzinfo=UTC)), (BERLIN, datetime(2026, 3, 28, 22, tzinfo=UTC)),
    (NEW_YORK, datetime(2026, 11, 1, 3, tzinfo=UTC)), (NEW_YORK, datetime(2026, 3, 8, 4, tzinfo=UTC)),
])
def test_what_goes_on_all_day_goes_on_evenly_over_both_changes_of_the_clock(expression, zone, evening):
    step = {"0": 60, "*/20": 20, "*": 1}[expression.split()[0]]
    last = evening
    for number in range(1, 6 * 60 // step):
        last = after(cron(expression), last, zone)
        assert last == evening + number * timedelta(minutes=step)


def test_from_within_the_second_pass_of_an_hour_the_first_one_is_over():
    second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert second.astimezone(BERLIN).strftime("%H:%M %Z") == "02:10 CET"
    assert after(cron("30 2 * * *"), second, BERLIN) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert newest_due(cron("30 2 * * *"), second - timedelta(days=3), second, BERLIN) == datetime(
        2026, 10, 25, 0, 30, tzinfo=UTC)


def test_the_slots_of_an_interval_lie_on_the_grid_of_the_last_one():
    assert after("every 90m", START, BERLIN) == START + timedelta(minutes=90)
    assert after("every 50ms", START, UTC) == START + timedelta(milliseconds=50)
    night = datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert newest_due("every 2h", night, night + timedelta(hours=7), BERLIN) == night + timedelta(hours=6)


def test_manual_has_no_slots():
    assert after("manual", START, UTC) is None
    assert newest_due("manual", START, START + timedelta(days=999), UTC) is None
    assert longest_interval("manual", START, UTC) is None


def test_nothing_is_due_before_its_time_nor_when_the_clock_went_back():
    for schedule in ("every 2h", "every 2h to 3h", cron("0 9 * * *")):
        first = after(schedule, START, UTC)
        for now in (START, START - timedelta(hours=30), first - timedelta(microseconds=1)):
            assert newest_due(schedule, START, now, UTC) is None
        assert newest_due(schedule, START, first, UTC) == first


@pytest.mark.parametrize(("schedule", "longest"), [
    ("every 90m", timedelta(minutes=90)), ("every 2h to 3h", timedelta(hours=3)),
    (cron("0 9 * * 1-5"), timedelta(hours=27)), (cron("0 6 * * *"), timedelta(hours=24)),
])
def test_the_longest_interval_is_what_may_lie_before_the_next_slot(schedule, longest):
    assert longest_interval(schedule, START, UTC) == longest


instants = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
units = st.sampled_from(["ms", "s", "m", "h", "d"])
durations = st.tuples(st.integers(1, 500), units).map(lambda two: f"{two[0]}{two[1]}")
ranges = st.tuples(durations, durations).map(lambda two: sorted(two, key=parse_duration))


@given(ranges, instants)
def test_a_drawn_interval_lies_within_its_range_in_whole_milliseconds(spans, last):
    low, high = map(parse_duration, spans)
    schedule = check_schedule(f"every {spans[0]} to {spans[1]}")
    interval = after(schedule, last, UTC) - last
    assert low <= interval <= high
    assert interval.microseconds % 1000 == 0
    assert after(schedule, last.astimezone(BERLIN), BERLIN) - last == interval


def test_drawn_intervals_are_spread_evenly():
    last, tenths = START, [0] * 10
    for _ in range(5000):
        following = after("every 2h to 3h", last, UTC)
        tenths[min(9, (following - last - timedelta(hours=2)) // timedelta(minutes=6))] += 1
        last = following
    assert all(400 < count < 600 for count in tenths), tenths


def test_another_schedule_or_another_slot_draws_another_interval():
    drawn = {after(schedule, START + timedelta(seconds=delay), UTC) - START - timedelta(seconds=delay)
             for schedule in ("every 2h to 3h", "every 120m to 180m") for delay in range(50)}
    assert len(drawn) > 95


def test_another_process_draws_the_same():
    program = ("import sys; from datetime import UTC, datetime; from audiencesync.schedule import after; "
               "print(after('every 2h to 3h', datetime.fromisoformat(sys.argv[1]), UTC).isoformat())")
    told = {output(program, START.isoformat(), PYTHONHASHSEED=seed, TZ=zone)
            for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))}
    assert told == {after("every 2h to 3h", START, UTC).isoformat()}
    assert told == {"2026-11-22T08:18:43.035000+00:00"}, "the slots of those who have used it so far would move"


expressions = st.sampled_from([
    "0 * * * *", "*/7 * * * *", "30 2 * * *", "0,30 1-2 * * *", "0-59/9 0-23/3 * * *", "30 0 * * *", "0 0 * * *",
    "15 23 * * *", "* 1 * * *", "0 9 1 * 1", "45 */2 * * *",
])
zones = st.sampled_from([UTC, BERLIN, NEW_YORK, HAVANA, LORD_HOWE])
changes = st.sampled_from([datetime(2026, 3, 29, 1), datetime(2026, 10, 25, 1), datetime(2026, 3, 8, 7),
                           datetime(2026, 11, 1, 6), datetime(2026, 3, 8, 5), datetime(2026, 11, 1, 5),
                           datetime(2026, 4, 4, 15), datetime(2026, 10, 3, 15, 30)])
near_changes = st.tuples(changes, st.integers(-4 * 3600, 4 * 3600)).map(
    lambda two: two[0].replace(tzinfo=UTC) + timedelta(seconds=two[1]))


@settings(max_examples=400, deadline=None)
@given(expressions, zones, near_changes, st.integers(0, 30 * 3600))
@example("30 2 * * *", BERLIN, datetime(2026, 10, 24, 1, tzinfo=UTC), 24 * 3600)
def test_the_newest_cron_slot_is_the_one_that_walking_finds(expression, zone, last, seconds):
    schedule, now = cron(expression), last + timedelta(seconds=seconds, microseconds=seconds % 3)
    newest = newest_due(schedule, last, now, zone)
    assert newest == walked_until(schedule, last, now, zone)
    assert newest == newest_due(schedule, last.astimezone(zone), now.astimezone(BERLIN), zone)


@settings(deadline=None)
@given(ranges, instants, st.floats(0, STEPS))
def test_the_newest_slot_of_an_interval_is_the_one_that_walking_finds(spans, last, intervals):
    now = last + parse_duration(spans[0]) * intervals
    for schedule in (f"every {spans[0]}", f"every {spans[0]} to {spans[1]}"):
        newest = newest_due(schedule, last, now, UTC)
        assert newest == walked_until(schedule, last, now, UTC)


@pytest.mark.parametrize("schedule", ["every 1s", "every 50ms", "every 1s to 2s", "every 50ms to 1h", "every 1ms to 9d",
                                      "every 2h to 3h", cron("* * * * *"), cron("0 9 29 2 *")])
def test_after_years_the_newest_slot_is_found_at_once(schedule):
    now = START + timedelta(days=365 * 12)
    began = time.perf_counter()
    newest = newest_due(schedule, START, now, BERLIN)
    assert time.perf_counter() - began < 1
    assert START < newest <= now < after(schedule, newest, BERLIN)


@settings(max_examples=300, deadline=None)
@given(st.integers(450_000, 550_000), st.integers(0, 3000))
def test_hosts_whose_clocks_differ_find_the_same_slot_unless_one_sees_a_later_one(late, skew):
    first, second = (START + timedelta(seconds=1000, milliseconds=ms) for ms in (late, late + skew))
    one, other = (newest_due("every 1s to 2s", START, now, UTC) for now in (first, second))
    assert one == other or first < other <= second


def test_only_cron_schedules_need_cronsim():
    program = ("import sys; from datetime import UTC, datetime; from audiencesync.schedule import *; "
               "after(check_schedule('every 2h to 3h'), datetime.now(UTC), UTC); print('cronsim' in sys.modules)")
    assert output(program) == "False"

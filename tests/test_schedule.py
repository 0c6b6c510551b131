"""Durations, rates and schedules are read as people write them, and anything else is refused with an example."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiencesync.schedule import (
    RateLimit,
    after,
    check_schedule,
    parse_duration,
    parse_rate,
    show_duration,
    show_rate,
)


@pytest.mark.parametrize(("text", "seconds"), [
    ("5s", 5), ("15m", 900), ("2h", 7200), ("30d", 2592000), ("1w", 604800), ("250ms", 0.25), (" 1.5h ", 5400),
    ("0s", 0),
])
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", [
    "", "5", 5, None, "h", "-1h", "1 hour", "1h30m", "5 S", "1e3s", "999999999w", "1h\n1h",
])
def test_anything_else_is_no_duration(text):
    with pytest.raises(ValueError, match=r"duration|years"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["5s", "15m", "2h", "30d", "90s", "0s"])
def test_a_duration_is_shown_as_it_was_written(text):
    assert show_duration(parse_duration(text)) == text


@pytest.mark.parametrize(("text", "rate"), [
    (800, RateLimit(800, 1.0, "items")), ("800", RateLimit(800, 1.0, "items")),
    ("50/30s", RateLimit(50, 30.0, "requests")), ("100/m", RateLimit(100, 60.0, "requests")),
])
def test_a_rate_is_items_a_second_or_requests_in_a_window(text, rate):
    assert parse_rate(text) == rate
    assert parse_rate(show_rate(rate)) == rate


@pytest.mark.parametrize("text", [0, -1, True, 1.5, "", "0", "fast", "50/", "50/0s", "0/30s", "/30s", "50/30"])
def test_anything_else_is_no_rate(text):
    with pytest.raises(ValueError, match=r"rate|duration"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "shown"), [
    ("manual", "manual"), ("every 2h", "every 2h"), ("every  2h to 3h", "every 2h to 3h"),
    ('cron "0 */3 * * *"', 'cron "0 */3 * * *"'), ("cron 0 9 * * 1-5", 'cron "0 9 * * 1-5"'),
    ("cron '0 9 1,15 * MON'", 'cron "0 9 1,15 * MON"'), ('cron "0 9 LW * *"', 'cron "0 9 LW * *"'),
    ('cron "@hourly"', 'cron "0 * * * *"'), ("cron @daily", 'cron "0 0 * * *"'),
    ("cron '@weekly'", 'cron "0 0 * * 0"'), ("cron @Monthly", 'cron "0 0 1 * *"'),
    ('cron "0 0 29 2 *"', 'cron "0 0 29 2 *"'), ('cron "0 0 31 2 MON"', 'cron "0 0 31 2 MON"'),
])
def test_a_schedule_is_an_interval_a_cron_expression_or_manual(text, shown):
    assert check_schedule(text) == shown


@pytest.mark.parametrize("text", [
    "", "hourly", "every", "every 2", "every 0s", "every 3h to 2h", "every 2h or 3h", "every 2h to",
    "cron", 'cron "* * * *"', 'cron "a;b * * * *"', "0 3 * * *", 5, None, "@daily", "cron @reboot",
    'cron "0 0 * * * *"', "cron @daily @daily", f'cron "{"9" * 5000} * * * *"', 'cron "\u0663 * * * *"',
])
def test_anything_else_is_no_schedule(text):
    with pytest.raises(ValueError, match=r"schedule|duration|interval"):
        check_schedule(text)


@pytest.mark.parametrize(("text", "words"), [
    ('cron "61 * * * *"', "'61' is no minute: write * or 0-59"),
    ('cron "0 24 * * *"', "'24' is no hour: write * or 0-23"),
    ('cron "0 0 0 * *"', "'0' is no day of the month: write * or 1-31"),
    ('cron "0 0 * 13 *"', "'13' is no month: write * or 1-12 or JAN-DEC"),
    ('cron "0 0 * * 8"', "'8' is no day of the week: write * or 0-7 or SUN-SAT"),
    ('cron "0 0 * * MON#6"', "'MON#6' is no day of the week"), ('cron "*/0 * * * *"', "'*/0' is no minute"),
    ('cron "0 5-3 * * *"', "'5-3' is no hour"),
    ('cron "0 0 31 2 *"', "there is never such a day"), ('cron "0 0 31 4,6 *"', "there is never such a day"),
    ('cron "0 0 30 2 *"', "there is never such a day"), ("cron @reboot", "write one of @hourly, @daily"),
    ('cron "0 0 * *"', "cron has five fields: minute, hour, day of the month, month, day of the week"),
])
def test_what_cron_would_not_take_is_refused_with_what_it_takes(text, words):
    with pytest.raises(ValueError, match="is not a schedule") as caught:
        check_schedule(text)
    assert words in str(caught.value)


fields = st.text("0123456789*/,-#LWMONJAN", min_size=1, max_size=7)


@settings(max_examples=300, deadline=None)
@given(st.lists(fields, min_size=5, max_size=5))
def test_a_cron_expression_that_is_taken_has_a_next_time(parts):
    with contextlib.suppress(ValueError):
        schedule = check_schedule(f'cron "{" ".join(parts)}"')
        assert check_schedule(schedule) == schedule
        now = datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC)
        assert after(schedule, now, UTC) > now

"""Durations, rates and schedules are read as people write them, and anything else is refused with an example."""

from __future__ import annotations

from datetime import timedelta

import pytest

from audiencesync.schedule import RateLimit, check_schedule, parse_duration, parse_rate, show_duration, show_rate


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
    ("cron '0 9 1,15 * MON'", 'cron "0 9 1,15 * MON"'),
])
def test_a_schedule_is_an_interval_a_cron_expression_or_manual(text, shown):
    assert check_schedule(text) == shown


@pytest.mark.parametrize("text", [
    "", "hourly", "every", "every 2", "every 0s", "every 3h to 2h", "every 2h or 3h", "every 2h to",
    "cron", 'cron "* * * *"', 'cron "a;b * * * *"', "0 3 * * *", 5, None,
])
def test_anything_else_is_no_schedule(text):
    with pytest.raises(ValueError, match=r"schedule|duration|interval"):
        check_schedule(text)

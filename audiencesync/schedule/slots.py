"""When a schedule's slots are: pure functions of the schedule and the last slot, so that all hosts find the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import blake2b

from audiencesync.schedule.cron import newest_time, next_time
from audiencesync.schedule.words import parse_duration

STEPS = 1000
"""How many missed slots of `every A to B` are walked through one by one."""

_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def after(schedule: str, last: datetime, zone: tzinfo) -> datetime | None:
    """The slot that follows the slot `last`; None for `manual`.

    The interval of `every 2h to 3h` is drawn from a hash of the schedule and `last`: every host and every restart
    draws the same, and so do all audiences that share the schedule.
    """
    if expression := _cron(schedule):
        return next_time(expression, last, zone)
    spans = _spans(schedule)
    return _step(schedule, spans, last.astimezone(UTC)) if spans else None


def newest_due(schedule: str, last: datetime, now: datetime, zone: tzinfo) -> datetime | None:
    """The newest slot after `last` that has come by `now`, or None when none has: what was missed is made up for once.

    It takes no longer for `last` being years ago. The slots of `every A to B` are walked through for STEPS slots; those
    that follow are of a calendar that depends on the schedule alone: one each STEPS times B since 1970, and from each
    the usual walk to the next. So hosts whose clocks differ find the same slot, unless a later one lies between them.
    """
    last, now = last.astimezone(UTC), now.astimezone(UTC)
    newest = _newest(schedule, last, now, zone)
    return newest if newest and newest > last else None


def longest_interval(schedule: str, last: datetime, zone: tzinfo) -> timedelta | None:
    """What may at most lie between the slot `last` and the next one; None for `manual`."""
    if spans := _spans(schedule):
        return spans[1]
    following = after(schedule, last, zone)
    return following - last if following else None


def _newest(schedule: str, last: datetime, now: datetime, zone: tzinfo) -> datetime | None:
    if expression := _cron(schedule):
        return newest_time(expression, now, zone)
    spans = _spans(schedule)
    if spans is None or now <= last:
        return None
    low, high = spans
    if low == high:
        return last + (now - last) // low * low
    newest, missed = last, 0
    while (following := _step(schedule, spans, newest)) <= now:
        newest, missed = following, missed + 1
        if missed == STEPS:
            return max(newest, _of_calendar(schedule, spans, now))
    return newest


def _of_calendar(schedule: str, spans: tuple[timedelta, timedelta], now: datetime) -> datetime:
    page = STEPS * spans[1]
    newest = _EPOCH + (now - _EPOCH) // page * page
    while (following := _step(schedule, spans, newest)) <= now:
        newest = following
    return newest


def _step(schedule: str, spans: tuple[timedelta, timedelta], last: datetime) -> datetime:
    """The slot after `last`; a drawn interval is longer than the shortest one by whole milliseconds."""
    low, high = spans
    choices = (high - low) // _MILLISECOND + 1
    if choices == 1:
        return last + low
    drawn = blake2b(f"{schedule} {last.isoformat()}".encode(), digest_size=8).digest()
    return last + low + int.from_bytes(drawn, "big") % choices * _MILLISECOND


@lru_cache(maxsize=512)
def _spans(schedule: str) -> tuple[timedelta, timedelta] | None:
    """The shortest and the longest interval of `every A` or `every A to B`."""
    words = schedule.split()
    if words[0] != "every":
        return None
    return parse_duration(words[1]), parse_duration(words[-1])


def _cron(schedule: str) -> str:
    """The expression of a schedule by cron, or nothing."""
    return schedule[4:].strip().strip('"') if schedule.startswith("cron") else ""

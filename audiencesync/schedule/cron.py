"""What a cron expression means: crontab(5) in the project's time zone, with Debian's rules where the clock is changed.

A time that the clock skips in spring comes at once after the gap, one that it passes twice in autumn comes the first
time only; an expression whose minutes or hours begin with a star goes on through both. Sunday is 0 and 7, and where
neither begins with a star, a day of the month and a day of the week are alternatives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo

ALIASES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
           "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}
_FIELDS = {"minute": "0-59", "hour": "0-23", "day of the month": "1-31", "month": "1-12 or JAN-DEC",
           "day of the week": "0-7 or SUN-SAT"}
_FIELD = re.compile(r"[0-9A-Za-z*/,#L-]{1,250}")
_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def check_cron(fields: Sequence[str], text: str) -> str:
    """The five fields of a cron expression in one line, or ValueError, which speaks of the schedule as `text`."""
    if len(fields) == 1 and fields[0].startswith("@"):
        if fields[0].lower() not in ALIASES:
            raise ValueError(f"{text!r} is not a schedule; write one of {', '.join(ALIASES)} or five fields after cron")
        return ALIASES[fields[0].lower()]
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{text!r} is not a schedule; cron has five fields: {', '.join(_FIELDS)}")
    for index, (field, (name, values)) in enumerate(zip(fields, _FIELDS.items(), strict=True)):
        alone = " ".join(["*"] * index + [field] + ["*"] * (len(_FIELDS) - index - 1))
        if not _FIELD.fullmatch(field) or not _comes(alone):
            raise ValueError(f"{text!r} is not a schedule; {field!r} is no {name}: write * or {values}")
    expression = " ".join(fields)
    if not _comes(expression):
        raise ValueError(f"{text!r} is not a schedule; there is never such a day")
    return expression


def _comes(expression: str) -> bool:
    """Whether there is any such time, within fifty years."""
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(expression, _SOME_DAY), None) is not None
    except (CronSimError, ValueError):  # ValueError: a number of thousands of digits
        return False


def next_time(expression: str, last: datetime, zone: tzinfo) -> datetime | None:
    """The first time after `last`, in UTC; None when there is none for fifty years.

    Compared in UTC, because cronsim goes by the wall clock: from within the hour that autumn repeats, it names times
    of the first pass, which are over.
    """
    from cronsim import CronSim

    times = (time.astimezone(UTC) for time in CronSim(expression, last.astimezone(zone)))
    return next((time for time in times if time > last), None)


def newest_time(expression: str, now: datetime, zone: tzinfo) -> datetime | None:
    """The last time at or before `now`, in UTC.

    Backwards cronsim may pass over times of a repeated hour, so from what it finds the way leads forward again.
    """
    from cronsim import CronSim

    second = (now.astimezone(UTC) + timedelta(seconds=1)).replace(microsecond=0)
    times = (time.astimezone(UTC) for time in CronSim(expression, second.astimezone(zone), reverse=True))
    newest = next((time for time in times if time <= now), None)
    while newest and (following := next_time(expression, newest, zone)) and following <= now:
        newest = following
    return newest

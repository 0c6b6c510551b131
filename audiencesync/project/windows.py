"""When the events of a declared trait count: windows and moments as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from audiencesync.declared import Window
from audiencesync.model import Ago, Variable
from audiencesync.project.values import parse_variable

_LAST = re.compile(r"\s*last\s+([1-9]\d{0,5})\s+(hour|day)s?\s*")
_BETWEEN = re.compile(r"\s*between\s+(\S.*?)\s+and\s+(\S.*?)\s*")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DAY = timedelta(days=1)


class Moment(NamedTuple):
    """A moment as it is bound; one that stands for a whole day has its end, too."""

    begin: Variable
    end: str | None = None


def parse_moment(text: object) -> Moment:
    """Read `2026-01-31`, which is a day in UTC, `2026-01-31T10:00:00Z` or `now - 30d`; else ValueError."""
    if text is None:
        raise ValueError("it is empty; write 2026-01-31, 2026-01-31T10:00:00Z or now - 30d")
    if isinstance(text, str) and text.strip().startswith("now"):
        return Moment(parse_variable(text))
    written = text.strip() if isinstance(text, str) else ""
    try:
        moment = datetime.fromisoformat(written if _DATE.match(written) else "")
        begin = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return Moment(_bound(begin), _bound(begin + _DAY) if _DATE.fullmatch(written) else None)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no moment; write 2026-01-31, 2026-01-31T10:00:00Z or now - 30d") from None


def parse_window(text: object) -> Window:
    """Read `last 30 days`, `last 12 hours` or `between 2026-01-01 and 2026-02-01`, whose last day counts whole."""
    last = _LAST.fullmatch(text) if isinstance(text, str) else None
    if last:
        return Window(after=Ago(timedelta(**{f"{last[2]}s": int(last[1])})))
    between = _BETWEEN.fullmatch(text) if isinstance(text, str) else None
    if between is None:
        what = "it is empty" if text is None else f"{text!r} is no window"
        raise ValueError(f"{what}; write  last 30 days,  last 12 hours  or  between 2026-01-01 and 2026-02-01")
    begin, end = parse_moment(between[1]), parse_moment(between[2])
    if _reversed(begin.begin, end.end or end.begin):
        raise ValueError(f"the window ends before it begins; write  between {between[2]} and {between[1]}")
    return Window(since=begin.begin, before=end.end) if end.end else Window(since=begin.begin, until=end.begin)


def _bound(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")


def _reversed(begin: Variable, end: Variable) -> bool:
    """Whether it is sure to be; a date and a moment before the run's cannot be compared."""
    if isinstance(begin, Ago) and isinstance(end, Ago):
        return begin.before < end.before
    return isinstance(begin, str) and isinstance(end, str) and begin > end

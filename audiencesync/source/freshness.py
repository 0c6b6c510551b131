"""How old the source's data is: late loads look like exits, so a stale source is not asked who is a member."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path

from audiencesync.errors import QueryError
from audiencesync.model import Audience, Freshness
from audiencesync.schedule import show_duration
from audiencesync.source.base import Source

PLACE = "source.fresh.sql"
EXAMPLE = "write one such as SELECT max(loaded_at) FROM orders"


def why_stale(source: Source, fresh: Freshness, as_of: datetime, *, interrupted: Callable[[], bool]) -> str:
    """Why the source's data is too old at `as_of`, in words; empty while it is fresh.

    Raises QueryError for SQL that does not give one instant, SourceUnavailable where the source cannot be asked.
    """
    newest = _instant(source.value(Audience("fresh", PLACE, fresh.sql, Path(PLACE)), as_of, interrupted=interrupted))
    limit = show_duration(fresh.max_age)
    if newest is None:
        return f"the source says that it has loaded nothing yet ({PLACE})"
    if as_of - newest <= fresh.max_age:
        return ""
    return f"the source's newest data is from {newest:%Y-%m-%d %H:%M:%S}Z, older than {limit} (source.fresh.max_age)"


def _instant(value: object) -> datetime | None:
    """A moment as databases give it: a time, a day, or a text in ISO 8601; one without a zone is UTC."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise QueryError(f"{PLACE}: it gives a text that is no moment; {EXAMPLE}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise QueryError(f"{PLACE}: it gives a value of type {type(value).__name__} in place of a moment; {EXAMPLE}")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise QueryError(f"{PLACE}: it gives a moment outside of the calendar; {EXAMPLE}") from None

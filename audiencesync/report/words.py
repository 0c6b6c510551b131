"""How tables, numbers and times are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from math import ceil

_VALUE = re.compile(r"(row [\d,]+ of the result: [^:]+|a user has several rows with different values):.*")


def stamp(at: datetime | None) -> str | None:
    """A moment for programs: ISO 8601 in UTC with Z; a fraction of a second only where there is one."""
    if at is None:
        return None
    utc = at.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond else "seconds").replace("+00:00", "Z")


def moment(at: datetime | None, zone: tzinfo = UTC) -> str:
    """A moment for people, in their zone."""
    return "-" if at is None else f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"


def number(value: int, *, sign: str = "") -> str:
    """A count with thousands apart; `sign` stands before any but 0."""
    return f"{sign if value else ''}{value:,}"


def counted(value: int, thing: str) -> str:
    """A count with its noun: 1 audience, 2 audiences."""
    return f"{number(value)} {thing}{'' if value == 1 else 's'}"


def cause(error: str | None) -> str:
    """Why a run failed, for logs and alerts: on one line, without a picture of the place and without a row's value."""
    return _VALUE.sub(r"\1", (error or "").partition("\n")[0])


def plain(text: str) -> str:
    """One line without characters that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Columns side by side, two spaces between; those named in `right` hold numbers."""
    cells = [list(header), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    lines = ("  ".join(cell.rjust(width) if name in right else cell.ljust(width)
                       for name, cell, width in zip(header, row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)


def lasting(seconds: float) -> str:
    """About how long so many seconds are, in words."""
    if seconds < 60:
        return "less than a minute"
    for unit, size, most in (("minute", 60, 120 * 60), ("hour", 3600, 48 * 3600)):
        if seconds < most:
            return f"about {counted(ceil(seconds / size), unit)}"
    return f"about {seconds / 86400:.1f} days"

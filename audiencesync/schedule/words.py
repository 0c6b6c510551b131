"""Durations and rates as people write them: `15m`, `50/30s`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*\Z")


def parse_duration(text: object) -> timedelta:
    """Read `5s`, `15m`, `2h`, `30d`; raise ValueError for anything else."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 5s, 15m, 2h or 30d")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > 366_000 * 86400:
        raise ValueError(f"{text!r} is longer than a thousand years")
    return timedelta(seconds=seconds)


def show_duration(span: timedelta) -> str:
    """The shortest way to write a duration: `15m` for 900 seconds."""
    seconds = span.total_seconds()
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:g}s"


class RateLimit(NamedTuple):
    """At most `limit` of `unit` ("items" or "requests") in any window of `seconds`."""

    limit: int
    seconds: float
    unit: str


def parse_rate(text: object) -> RateLimit:
    """Read `800` (items a second) or `50/30s` (requests in a window); raise ValueError for anything else."""
    if isinstance(text, RateLimit):
        return text
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return RateLimit(text, 1.0, "items")
    if isinstance(text, str):
        count, slash, window = text.partition("/")
        if count.strip().isdecimal() and int(count) > 0:
            if not slash:
                return RateLimit(int(count), 1.0, "items")
            seconds = parse_duration(window if window.strip()[:1].isdigit() else f"1{window.strip()}").total_seconds()
            if seconds > 0:
                return RateLimit(int(count), seconds, "requests")
    raise ValueError(f"{text!r} is not a rate; write 800 (items a second) or 50/30s (requests in a window)")


def show_rate(rate: RateLimit) -> str:
    """The rate as it is written in a project file."""
    return str(rate.limit) if rate.unit == "items" else f"{rate.limit}/{show_duration(timedelta(seconds=rate.seconds))}"


def _written(parse: Callable[[object], Any], show: Callable[[Any], str], schema: dict[str, Any]) -> tuple[Any, ...]:
    return BeforeValidator(parse), PlainSerializer(show, return_type=str), WithJsonSchema(schema)


Duration = Annotated[timedelta, *_written(parse_duration, show_duration, {"type": "string", "examples": ["15m"]})]
Rate = Annotated[RateLimit, *_written(
    parse_rate, show_rate, {"type": ["string", "integer"], "examples": [800, "50/30s"]})]

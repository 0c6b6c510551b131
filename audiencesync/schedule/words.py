"""Durations and rates as people write them: `15m`, `50/30s`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_RATE = re.compile(r"\s*(\d+)\s*(B|KB|MB)?\s*(?:/\s*([^\s/].*?))?\s*", re.IGNORECASE)
_SIZES = {"B": 1, "KB": 1000, "MB": 1_000_000}
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
    """At most `limit` of `unit` ("items", "requests" or "bytes") in any window of `seconds`."""

    limit: int
    seconds: float
    unit: str

    def part(self, share: float) -> RateLimit:
        """The same limit where only a part of it is ours; at least one, in a longer window if it must be."""
        ours = self.limit * share
        return RateLimit(int(ours), self.seconds, self.unit) if ours >= 1 else \
            RateLimit(1, self.seconds / ours, self.unit)


def parse_rate(text: object) -> RateLimit:
    """Read `800` (items a second), `50/30s` (requests in a window) or `500KB/1s`; raise ValueError for others."""
    if isinstance(text, RateLimit):
        return text
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return RateLimit(text, 1.0, "items")
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if match and int(match[1]) > 0:
        count, size, window = int(match[1]), match[2], match[3]
        if window is None and not size:
            return RateLimit(count, 1.0, "items")
        if window is not None:
            seconds = parse_duration(window if window[:1].isdigit() else f"1{window}").total_seconds()
            if seconds > 0:
                return RateLimit(count * _SIZES[size.upper()] if size else count, seconds,
                                 "bytes" if size else "requests")
    raise ValueError(f"{text!r} is not a rate; write 800 (items a second), 50/30s (requests in a window) or 500KB/1s")


def parse_rates(found: object) -> RateLimit | tuple[RateLimit, ...]:
    """Read one rate, or a list of rates that all hold; raise ValueError for anything else."""
    if isinstance(found, list | tuple) and not isinstance(found, RateLimit):
        if not found:
            raise ValueError("it is empty; leave it out for what the destination publishes")
        return tuple(parse_rate(one) for one in found)
    return parse_rate(found)


def show_rate(rate: RateLimit) -> str:
    """The rate as it is written in a project file."""
    if rate.unit == "items" and rate.seconds == 1.0:
        return str(rate.limit)
    unit = {"bytes": "B", "items": " items"}.get(rate.unit, "")
    return f"{rate.limit}{unit}/{show_duration(timedelta(seconds=rate.seconds))}"


def show_rates(rates: RateLimit | tuple[RateLimit, ...]) -> str:
    """One rate or several as people read them."""
    return show_rate(rates) if isinstance(rates, RateLimit) else ", ".join(map(show_rate, rates))


LEAST = 0.001
"""The least part of a limit that can be ours."""


def parse_part(text: object) -> float:
    """Read `50%` as 0.5; raise ValueError unless it is from 0.1 % to 100 %."""
    if isinstance(text, float | int) and not isinstance(text, bool) and LEAST <= text <= 1:
        return float(text)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text) if isinstance(text, str) else None
    if match is None or not LEAST <= float(match[1]) / 100 <= 1:
        raise ValueError(f"{text!r} is no part; write 50%")
    return float(match[1]) / 100


def _written(parse: Callable[[object], Any], show: Callable[[Any], str], schema: dict[str, Any]) -> tuple[Any, ...]:
    return BeforeValidator(parse), PlainSerializer(show, return_type=str), WithJsonSchema(schema)


Duration = Annotated[timedelta, *_written(parse_duration, show_duration, {"type": "string", "examples": ["15m"]})]
Rate = Annotated[RateLimit | tuple[RateLimit, ...], *_written(parse_rates, show_rates, {
    "type": ["string", "integer", "array"], "items": {"type": ["string", "integer"]},
    "examples": [800, "50/30s", ["50/30s", "1MB/1s"]]})]
Part = Annotated[float, *_written(parse_part, lambda part: f"{part * 100:g}%", {"type": "string", "examples": ["50%"]})]

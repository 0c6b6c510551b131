"""Times as people write them, `15m`, `50/30s`, `every 2h to 3h`, and when a schedule's slots are."""

from audiencesync.schedule.check import check_schedule
from audiencesync.schedule.slots import after, longest_interval, newest_due
from audiencesync.schedule.words import (
    Duration,
    Part,
    Rate,
    RateLimit,
    parse_duration,
    parse_rate,
    show_duration,
    show_rate,
    show_rates,
)

__all__ = [
    "Duration",
    "Part",
    "Rate",
    "RateLimit",
    "after",
    "check_schedule",
    "longest_interval",
    "newest_due",
    "parse_duration",
    "parse_rate",
    "show_duration",
    "show_rate",
    "show_rates",
]

"""The clock by which a process knows how long it may still send."""

from __future__ import annotations

import time

_KIND = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic() -> float:
    """Seconds that never go back, and go on while the machine sleeps where the system can say so.

    A laptop or a virtual machine that wakes after hours must know at once that its lease is over; Linux's monotonic
    clock stands still meanwhile, its boot-time clock does not.
    """
    return time.clock_gettime(_KIND)

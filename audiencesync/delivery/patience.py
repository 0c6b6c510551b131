"""What failures come to: a pause before the same is tried again, and an end when that was enough."""

from __future__ import annotations

from collections.abc import Callable

from audiencesync.delivery.steps import Flight, Stop
from audiencesync.errors import DeliveryError

ATTEMPTS = 5
"""Failures in a row after which a sync gives up until the next command."""

PATIENCE = 60.0
"""The longest pause, in seconds, that a sync sits out itself; a longer one ends it."""

ASKED = "the destination asked to wait"


class Patience:
    """Counts the failures in a row; nothing is sent before `not_before`."""

    def __init__(self, draw: Callable[[float], float]) -> None:
        self._draw = draw
        self.failures, self.not_before = 0, 0.0

    def failed(self, flight: Flight, error: DeliveryError, now: float) -> Stop | None:
        """Take a failure that may pass; how the sync ends, when it was one too many or asks for too long a pause."""
        # requests that left together and fail together are one failure: the server was away once
        self.failures = max(self.failures, flight.failures + 1)
        pause = max(error.wait or 0.0, self._draw(min(PATIENCE, 0.5 * 2**self.failures)))
        self.not_before = max(self.not_before, now + pause)
        if pause > PATIENCE or max(self.failures, flight.attempts) >= ATTEMPTS:
            return Stop(reason=str(error), until=self.not_before if error.wait else None)
        return None

    def asked(self, wait: float | None, now: float) -> Stop | None:
        """Take the wait that a good answer asks for; how the sync ends, when that is too long to sit out."""
        if wait:
            self.not_before = max(self.not_before, now + wait)
        return Stop(reason=ASKED, until=self.not_before) if wait and wait > PATIENCE else None

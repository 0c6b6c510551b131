"""Threads that do one thing again and again: when they are woken, and when their own pause is over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from audiencesync.errors import AudiencesyncError, StateUnavailable

LOGGER = logging.getLogger(__name__)

SHORTEST, LONGEST = 0.05, 300.0
"""Seconds between two looks of a worker: at least, and at most while it fails."""


class Worker:
    """Calls `work`, which gives the seconds until it wants to look again by itself, until it is stopped.

    No failure ends it: `away` hears of a state that cannot be used, of anything else the log does, until it is over.
    """

    def __init__(self, name: str, work: Callable[[], float], away: Callable[[StateUnavailable], None]) -> None:
        self.name = name
        self._work, self._away = work, away
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._said = ""
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with a look."""
        self._thread.start()

    def wake(self) -> None:
        """Look now, or once more if it is looking already."""
        self._woken.set()

    def stop(self) -> None:
        """Look no more; `interrupted` is what ends the look at hand."""
        self._stopping.set()
        self._woken.set()

    def join(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            if self._stopping.is_set():  # between the two lines above
                return
            pause = self._look()
            self._woken.wait(min(LONGEST, max(SHORTEST, pause)))

    def _look(self) -> float:
        try:
            pause = self._work()
        except StateUnavailable as error:
            self._away(error)
            self._failures += 1
            return min(15.0, 2.0 ** min(self._failures, 10) / 2)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in one look, the service goes on
            return self._surprised(error)
        if self._said:
            LOGGER.info("%s is well again", self.name)
        self._said, self._failures = "", 0
        return pause

    def _surprised(self, error: Exception) -> float:
        self._failures += 1
        words = str(error) if isinstance(error, AudiencesyncError) else type(error).__name__
        if words != self._said:
            LOGGER.error("%s failed and is tried again", self.name, exc_info=error)
            self._said = words
        return min(LONGEST, 2.0 ** min(self._failures, 10))

"""A deadline for a whole request: no timeout of httpx ends a server that sends a byte a second for ever."""

from __future__ import annotations

import math
import socket
import threading

from audiencesync.clock import monotonic


class Deadline:
    """The end of one request, `seconds` from now; when it comes, the request's socket is shut under it.

    Shutting, unlike closing, wakes the thread that waits on the socket and never touches a socket of somebody else.
    """

    def __init__(self, seconds: float, connection: socket.socket | None) -> None:
        self.at = monotonic() + seconds
        self.passed = False
        self._connection = connection

    def covers(self, connection: socket.socket) -> bool:
        """Take over a connection just made; False when it comes too late to be used."""
        self._connection = connection
        return not self.over()

    def over(self) -> bool:
        """Ask the clock itself: in a process that wakes from a freeze this thread may run before the watching one."""
        self.passed = self.passed or monotonic() >= self.at
        return self.passed

    def expire(self) -> None:
        """End the request now."""
        self.passed = True
        if self._connection is not None:
            try:
                # The plain socket's way also for TLS: the TLS way would let later bytes out in the clear.
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already


class Watch:
    """One thread for all deadlines of the process, which sleeps until the nearest of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: set[Deadline] = set()
        self._wakes = math.inf
        self._thread: threading.Thread | None = None

    def add(self, deadline: Deadline) -> None:
        """See to it that `deadline` is expired in time."""
        with self._changed:
            self._deadlines.add(deadline)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            elif deadline.at < self._wakes:
                self._changed.notify()

    def remove(self, deadline: Deadline) -> None:
        """Forget `deadline`: its request is over."""
        with self._changed:
            self._deadlines.discard(deadline)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = monotonic()
                for late in [deadline for deadline in self._deadlines if deadline.at <= now]:
                    self._deadlines.discard(late)
                    late.expire()
                self._wakes = min((deadline.at for deadline in self._deadlines), default=math.inf)
                self._changed.wait(None if self._wakes == math.inf else self._wakes - now)


watch = Watch()

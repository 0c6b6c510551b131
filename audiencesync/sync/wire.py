"""A bounded pool of threads around a destination's channels; started at the first request, not before."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Protocol

from audiencesync import clock, failpoints
from audiencesync.delivery import Flight
from audiencesync.errors import DeliveryError, NotTaken, Unanswered
from audiencesync.model import Channel, Destination, Receipt, Refusal

Answer = Mapping[int, Refusal] | Receipt | DeliveryError


class Wire(Protocol):
    """How requests leave and answers come back; a simulator has its own."""

    def send(self, flight: Flight, *, seconds: float) -> None:
        """Let the bytes leave now; no byte may leave after `seconds`."""

    def answers(self, timeout: float) -> list[tuple[Flight, Answer]]:
        """The answers that are here, waiting up to `timeout` seconds for the first."""

    def close(self) -> bool:
        """Let go of threads and connections; say whether nothing is under way any more."""


class Threads:
    """The real wire."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._requests: SimpleQueue[tuple[Flight, float] | None] = SimpleQueue()  # with its deadline
        self._answers: SimpleQueue[tuple[Flight, Answer]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._flying = 0

    def send(self, flight: Flight, *, seconds: float) -> None:
        """Hand the request to a thread of its own."""
        self._flying += 1
        if len(self._threads) < min(self._flying, self._destination.concurrency):
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._requests.put((flight, clock.monotonic() + seconds))

    def answers(self, timeout: float) -> list[tuple[Flight, Answer]]:
        """The answers that are here, waiting up to `timeout` seconds for the first."""
        found = []
        try:
            found.append(self._answers.get(timeout=timeout) if timeout > 0 else self._answers.get_nowait())
            while True:
                found.append(self._answers.get_nowait())
        except Empty:
            self._flying -= len(found)
            return found

    def _work(self) -> None:
        channel: Channel | None = None
        while (task := self._requests.get()) is not None:
            flight, deadline = task
            failpoints.reach("request.sending")
            try:
                channel = channel or self._destination.channel()
                answer: Answer = channel.send(flight.batch, seconds=_left(deadline))
            except DeliveryError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - a destination's own fault must not leave the loop waiting
                answer = Unanswered(f"the destination failed in itself: {type(error).__name__}")
            failpoints.reach("request.answered")
            self._answers.put((flight, answer))
        if channel is not None:
            channel.close()

    def close(self) -> bool:
        """End the threads; requests under way have their own deadline, and a second is all they are waited for."""
        for _ in self._threads:
            self._requests.put(None)
        until = clock.monotonic() + 1.0
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - clock.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _left(deadline: float) -> float:
    """Seconds until `deadline`; a process that slept past it must not let a byte leave."""
    left = deadline - clock.monotonic()
    if left <= 0:
        raise NotTaken("this process slept past its deadline, so the request was not sent")
    return left

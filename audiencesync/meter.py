"""Counts what leaves, for whoever listens: a service with its metrics, and nobody in a single command."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Takes note of what a process does; called from several threads."""

    def calls(self, destination: str, key: str, outcome: str, count: int) -> None:
        """So many calls of an audience were `accepted` or `rejected`."""

    def request(self, destination: str, outcome: str, seconds: float) -> None:
        """One request took so long; `answered`, or the name of the error it ended with."""

    def run(self, key: str, status: str, seconds: float, *, entered: int = 0, exited: int = 0) -> None:
        """One run ended, in which so many users entered and exited."""


_meter: Meter | None = None


def install(meter: Meter | None) -> None:
    """Tell `meter` of everything from now on; None puts the silence back."""
    global _meter  # noqa: PLW0603 - one listener a process is the point of it
    _meter = meter


def calls(destination: str, key: str, outcome: str, count: int) -> None:
    """So many calls of an audience were `accepted` or `rejected`."""
    if _meter is not None and count:
        _meter.calls(destination, key, outcome, count)


def request(destination: str, outcome: str, seconds: float) -> None:
    """One request took so long; `answered`, or the name of the error it ended with."""
    if _meter is not None:
        _meter.request(destination, outcome, seconds)


def run(key: str, status: str, seconds: float, *, entered: int = 0, exited: int = 0) -> None:
    """One run ended with this status; so many users entered and exited in it."""
    if _meter is not None:
        _meter.run(key, status, seconds, entered=entered, exited=exited)

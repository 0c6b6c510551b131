"""A signal asks a command to end between two pages; a second one ends it at once, which loses nothing either."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[Callable[[], str]]:
    """While this lasts SIGTERM and SIGINT only set what the callable returns: the reason to end, or nothing."""
    reason = ""

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal reason
        reason = f"asked to end ({signal.Signals(number).name})"
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: ""
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: reason
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A line a destination on a terminal, while a sync runs; nothing at all where nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from audiencesync.sync.deliver import Tick

GLANCE = 0.1
"""Seconds between two looks at one destination's ticks, which come thousands a second."""


@contextmanager
def watching() -> Iterator[Callable[[Tick], None]]:
    """What is to be told of each tick; rich is imported on a terminal only, and honours NO_COLOR itself."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24),
               TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[done]}"),
               TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as progress:
        yield _Lines(progress).tick


class _Lines:
    """The lines of one command, drawn from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._seen: dict[str, float] = {}

    def tick(self, tick: Tick) -> None:
        """Take one tick, or leave it when the last is just gone."""
        now = time.monotonic()
        if now - self._seen.get(tick.destination, 0.0) < GLANCE and tick.told < tick.total:
            return
        self._seen[tick.destination] = now
        task = self._tasks.get((tick.destination, tick.mode))
        if task is None:
            task = self._begin(tick)
        speed = self._progress.tasks[task].speed if tick.destination else None
        self._progress.update(task, total=tick.total, completed=tick.told,
                              speed=f"{speed:,.0f} calls/s" if speed else "")

    def _begin(self, tick: Tick) -> TaskID:
        words, done = (f"{tick.destination} {tick.mode}", "told") if tick.destination else ("audiences", "computed")
        task = self._progress.add_task(words, total=tick.total, completed=tick.told, done=done, speed="")
        self._tasks[tick.destination, tick.mode] = task
        return task

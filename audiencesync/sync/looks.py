"""What one look at a schedule finds in the state, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from audiencesync.model import Run
from audiencesync.store import runs, slots
from audiencesync.sync.compute import Errors


@dataclass(slots=True)
class Done:
    """What came of one look: the runs made, what went wrong, and when at the latest to look again."""

    runs: list[Run] = field(default_factory=list)
    errors: Errors = field(default_factory=list)
    again: datetime | None = None
    failed: dict[str, int] = field(default_factory=dict)
    """The exit codes of those whose newest run failed, by key."""

    def later(self, moment: datetime | None) -> None:
        """Look again at this moment, if not sooner."""
        if moment is not None and (self.again is None or moment < self.again):
            self.again = moment


class Seen(NamedTuple):
    """What the state knows of some audiences, by key, and how their newest runs stand."""

    known: Mapping[str, runs.Due]
    latest: Mapping[str, slots.Latest]

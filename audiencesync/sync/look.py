"""How a destination stands when it is asked which sync comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from audiencesync.model import Sync
from audiencesync.store import runs
from audiencesync.store.positions import NOWHERE, Position
from audiencesync.sync.brakes import Target
from audiencesync.sync.fields import Unfit


@dataclass(frozen=True, slots=True)
class Ready:
    """An audience that may have a next sync: where the destination stands and goes, whether refused users are due.

    One that `leaves` goes back to run 0, as of which nobody is a member.
    """

    known: runs.Due
    position: int
    again: bool
    now: datetime
    target: Target
    leaves: bool = False


class Waiting(NamedTuple):
    """Why an audience has no next sync now: a status of an outcome, the reason, until when, and what helps."""

    status: str
    reason: str
    until: datetime | None
    help: str


class Look(NamedTuple):
    """How a destination stands: the open syncs that concern the command, who is stopped, who has no open sync.

    `unfit` says for a key why its field there takes no value.
    """

    open: list[Sync]
    stopped: dict[int, runs.Due]
    free: list[runs.Due]
    positions: Mapping[int, Position]
    unfit: Mapping[str, Unfit]


def stopped(known: runs.Due, positions: Mapping[int, Position]) -> bool:
    """Whether a sync under way does not go on: its audience is paused, or retired here without being cleared."""
    position = positions.get(known.computation_id, NOWHERE)
    return known.paused or ((known.retired or position.retired_at is not None) and position.clear_as_of is None)

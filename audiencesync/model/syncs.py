"""What a command works on and what it reports: runs, syncs with their spans and pages, outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from audiencesync.model.calls import Call, Content, Envelope, Refusal


@dataclass(frozen=True, slots=True)
class Run:
    """One computation at one instant; `updated` counts members of a computed trait whose values changed."""

    key: str
    number: int
    as_of: datetime
    status: str
    members: int = 0
    entered: int = 0
    exited: int = 0
    duplicates: int = 0
    error: str | None = None
    updated: int = 0

    @property
    def changed(self) -> int:
        """Of how many users something changed that a destination is told."""
        return self.entered + self.exited + self.updated


@dataclass(frozen=True, slots=True)
class Span:
    """One computation's part of a sync: from one run (0 lies before everything) to a newer one."""

    computation_id: int
    key: str
    from_run: int
    to_run: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Sync:
    """Bringing one destination from one run to a newer one; a row that its content is a pure function of."""

    id: int
    destination: str
    mode: str
    secret: bytes
    retries_due: datetime
    claimed: str | None
    acknowledged: str | None
    total: int
    sent: int
    rejected: int
    requests: int
    opened_at: datetime
    spans: tuple[Span, ...] = ()

    @property
    def content(self) -> Content:
        """What its calls have in common."""
        return Content(self.secret, tuple(span.envelope for span in self.spans))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did to one sync; `sent` are the calls accepted meanwhile, `remaining` those it still owes.

    `status` is done, waiting, paused (the destination), skipped (an audience is paused), held, interrupted or yielded;
    `reason`, `until` and `help` say why it is not done.
    """

    destination: str
    mode: str
    status: str
    sent: int = 0
    rejected: int = 0
    remaining: int = 0
    total: int = 0
    requests: int = 0
    keys: tuple[str, ...] = ()
    reason: str = ""
    until: datetime | None = None
    help: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a command did: runs, syncs, what went wrong (with the exit code each asks for), who is still rejected."""

    runs: tuple[Run, ...] = ()
    syncs: tuple[Outcome, ...] = ()
    errors: tuple[tuple[int, str], ...] = ()
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """The calls of some users, in order; `end` is the last of them, and no user is split between two pages."""

    end: str
    calls: list[Call]


@dataclass(frozen=True, slots=True)
class Progress:
    """What one commit says of a sync: cursors as they shall be, and what became of the calls acknowledged by it."""

    claimed: str | None
    acknowledged: str | None
    accepted: Sequence[Call] = ()
    refused: Sequence[tuple[Call, Refusal]] = ()
    requests: int = 0
    unresolved: bool = False
    """Whether an attempt since the last commit may still arrive, so that a settle time must pass."""
    learned: Mapping[str, str] = field(default_factory=dict)
    """What answers since the last commit taught; an empty value is to be forgotten."""


@dataclass(frozen=True, slots=True)
class PlannedAudience:
    """What a run would find: how many are members now (None before the first run) and then.

    `updated` are members of a computed trait with other values; `missing` is what those who dropped out are told, as
    JSON text, empty for nothing, None where it is an audience.
    """

    key: str
    before: int | None
    members: int
    entered: int
    exited: int
    duplicates: int = 0
    note: str = ""
    updated: int = 0
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedSync:
    """What one audience would cost one destination.

    `status` is ready, waiting, paused, held or discarded, for a `reason`; `seconds` is its part of the time that the
    destination's limits make of everything planned for it (None: no limit).
    """

    key: str
    destination: str
    mode: str
    status: str
    entered: int = 0
    exited: int = 0
    retried: int = 0
    reason: str = ""
    seconds: float | None = None
    updated: int = 0

    @property
    def calls(self) -> int:
        """Identify calls."""
        return self.entered + self.exited + self.updated + self.retried


@dataclass(frozen=True, slots=True)
class PlannedDelivery:
    """What one destination would be sent: `users` are distinct, `seconds` what its rate makes of it (None: no limit).

    `refused` calls are over its limits and would be rejected unsent.
    """

    destination: str
    calls: int
    users: int
    requests: int
    refused: int
    seconds: float | None
    rate: str


@dataclass(frozen=True, slots=True)
class Left:
    """So many members of an audience still hold its trait at a destination that it goes to no more."""

    key: str
    destination: str
    members: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Exactly what `sync` would send now; `left` are keys that the state knows and no file defines any more.

    `taken` says where people still hold a trait that nobody keeps in step any more.
    """

    as_of: datetime
    audiences: tuple[PlannedAudience, ...]
    syncs: tuple[PlannedSync, ...]
    deliveries: tuple[PlannedDelivery, ...]
    errors: tuple[tuple[int, str], ...] = ()
    left: tuple[str, ...] = ()
    taken: tuple[Left, ...] = ()

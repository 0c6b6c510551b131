"""What the machine says to do next, and what it remembers of requests and pages under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from audiencesync.delivery.pace import Load, load_of
from audiencesync.delivery.widest import pack
from audiencesync.model import Batch, Call, Packer, Progress, Refusal

IDLE = 100
"""Waves of a page that settle nobody, after which what is left is given up."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read and pack the next page, and `offer` it."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Write `progress`; close the sync with it when `finished`; then call `committed`."""

    progress: Progress
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Let this request's bytes leave; its answer comes back by `answered`."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for an answer, at most until this moment (None: as long as one is under way)."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Stop:
    """The sync ends here for now: it is whole (`finished`) or it waits for the reason given."""

    finished: bool = False
    reason: str = ""
    pause: bool = False
    until: float | None = None
    graceful: bool = False


Step = Read | Commit | Send | Wait | Stop


@dataclass(slots=True, eq=False)
class Flight:
    """One request, how often it was tried, how many failures in a row were known when it left, and when that was."""

    batch: Batch
    page: PageUnderWay
    attempts: int = 0
    failures: int = 0
    left: float = 0.0

    @property
    def load(self) -> Load:
        """What it weighs against speed limits."""
        return load_of(self.batch)


@dataclass(slots=True, eq=False)
class PageUnderWay:
    """A page and its requests: those waiting, those under way, and what became of its calls.

    Calls for `later` are packed again when the others are answered, with what is `known` by then.
    """

    end: str
    known: dict[str, str] = field(default_factory=dict)
    later: list[Call] = field(default_factory=list)
    settled: int = 0
    idle: int = 0
    before: dict[str, str] | None = None
    waiting: deque[Flight] = field(default_factory=deque)
    flying: int = 0
    touched: bool = False
    accepted: list[Call] = field(default_factory=list)
    refused: list[tuple[Call, Refusal]] = field(default_factory=list)
    requests: int = 0

    @property
    def answered(self) -> bool:
        """Whether every one of its calls has its answer."""
        return self.paused and not self.later

    @property
    def paused(self) -> bool:
        """Whether nothing of it waits or is under way, so that what is left may be packed."""
        return not self.waiting and not self.flying

    def pack(self, packer: Packer, calls: Sequence[Call]) -> list[Flight]:
        """The requests that these calls make now; what needs none is done, what none may carry refused."""
        packed = pack(packer, calls, self.known)
        self.refused += packed.refused
        self.accepted += packed.done
        self.later += packed.later
        return [Flight(batch, self) for batch in packed.batches]

    def next_wave(self, packer: Packer) -> Sequence[Call]:
        """Pack what waited for the answers that are here now; give back what no request comes of, and never will.

        A wave that settled nobody and taught nothing would be the same again, for ever; and so may be many of which
        each taught what the one before it had taken back.
        """
        calls, self.later = sorted(self.later, key=itemgetter(0, 1)), []
        settled = len(self.accepted) + len(self.refused)
        self.idle = self.idle + 1 if settled == self.settled else 0
        if self.idle > IDLE or (self.idle and self.known == self.before):
            return calls
        self.settled, self.before = settled, dict(self.known)
        self.waiting.extend(self.pack(packer, calls))
        if self.waiting:
            return ()
        stuck, self.later = self.later, []
        return stuck

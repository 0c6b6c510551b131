"""The data that travels between the rooms, all of it frozen, and the base class of every destination."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from audiencesync.schedule import Duration, Rate

ID_COLUMNS = ("user_id", "anonymous_id", "email")
"""The columns that may name a user; the first that a result has is the one."""


@dataclass(frozen=True, slots=True)
class Ago:
    """A variable that is a moment: `now - 30d` is thirty days before the run's instant."""

    before: timedelta


Variable = str | int | float | bool | None | Ago


@dataclass(frozen=True, slots=True)
class Audience:
    """A definition: one .sql file. `line` is the file's line on which `sql` begins, for errors inside it."""

    key: str
    name: str
    sql: str
    path: Path
    line: int = 1
    kind: str = "audience"
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    integrations: tuple[str, ...] = ()
    schedule: str = "every 2h to 3h"
    guard: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, Variable] = field(default_factory=dict)

    def bindings(self, as_of: datetime) -> dict[str, object]:
        """The values of the query's parameters at `as_of`, which must know its time zone."""
        moments = {name: as_of - value.before if isinstance(value, Ago) else value
                   for name, value in self.variables.items()}
        return {**moments, "now": as_of}


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where audiences are asked; timeouts in seconds."""

    url: str
    statement_timeout: float = 600.0
    lock_timeout: float = 30.0
    allow_files: bool = False


@dataclass(frozen=True, slots=True)
class Project:
    """Everything audiencesync.yml and the .sql files say, checked."""

    root: Path
    name: str
    timezone: str
    source: SourceSettings
    state: str
    audiences: tuple[Audience, ...]
    destinations: Mapping[str, Destination]
    warnings: tuple[str, ...] = ()


class Chunk(NamedTuple):
    """Some rows of an audience's result: ids as text, and each row's included columns as the text of a JSON object."""

    ids: list[str]
    included: list[str] | None


@dataclass(frozen=True, slots=True)
class Run:
    """One computation of one audience at one instant; `changed` counts entered and exited."""

    key: str
    number: int
    as_of: datetime
    status: str
    members: int = 0
    entered: int = 0
    exited: int = 0
    duplicates: int = 0
    error: str | None = None

    @property
    def changed(self) -> int:
        """How many users' membership changed."""
        return self.entered + self.exited


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

    `status` is done, waiting, paused, held, leased or interrupted; `reason`, `until` and `help` say why it is not done.
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


class Call(NamedTuple):
    """One identify call to be: `span` is the index of its computation among the sync's spans."""

    user_id: str
    span: int
    value: bool
    included: str | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the bodies of one computation are made of, frozen when a sync opens, so that a retry repeats them."""

    key: str
    id_kind: str
    namespace: str
    version: str
    timestamp: str
    computation_class: str = "audience"
    computation_id: str = ""
    integrations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """What a sync's calls have in common: its secret (bytes, for messageIds) and an envelope for each span."""

    secret: bytes
    envelopes: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One request's worth of calls, rendered."""

    calls: tuple[Call, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a destination will not take one call: a reason people read, and the HTTP status if there was one."""

    reason: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """A page made ready: batches in the order of its calls, and the calls that no request may carry."""

    batches: tuple[Batch, ...]
    refused: tuple[tuple[Call, Refusal], ...] = ()


class Channel(Protocol):
    """One thread's way to a destination."""

    def send(self, batch: Batch, *, seconds: float) -> Mapping[int, Refusal]:
        """Deliver within `seconds`; the refused calls by their index in the batch, or a DeliveryError for all."""

    def close(self) -> None:
        """Let go of connections and files."""


class Packer(ABC):
    """How the calls of one sync become requests; made once a sync, so that templates are built once."""

    @abstractmethod
    def pack(self, calls: Sequence[Call]) -> Packed:
        """Render the calls of one page (ordered by user) into requests that keep every limit.

        The result depends on the content and the calls alone, so that after a crash the same bytes leave again.
        """


class Destination(BaseModel, ABC):
    """A tool that talks to customers. A subclass is one file: its fields are its settings.

    `type` is written in audiencesync.yml; `example` (settings) puts the class under the contract suite;
    `needs` are the columns that `include` must name; `id_kinds` the ids it understands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: ClassVar[str]
    example: ClassVar[Mapping[str, object]]
    needs: ClassVar[tuple[str, ...]] = ()
    id_kinds: ClassVar[tuple[str, ...]] = ID_COLUMNS
    page: ClassVar[int] = 1000
    """Calls that one claim covers at most; a rate of fewer items in its window makes it smaller."""

    settle: Duration = Field(timedelta(minutes=15), description="How long an unanswered request may still arrive.")
    rate: Rate | None = Field(None, description="Items a second (800) or requests in a window (50/30s).")
    concurrency: int = Field(8, ge=1, le=64, description="Requests under way at once.")
    timeout: Duration = Field(timedelta(seconds=15), description="The longest one request may take, all told.")

    def pace(self) -> Rate | None:
        """The speed limit in force: the setting, or what the destination publishes."""
        return self.rate

    def fingerprint(self) -> str | None:
        """A hash that tells one account from another, or None where there is no account."""
        return None

    def resolve(self, root: Path) -> Destination:
        """The same destination with paths taken from the project's folder."""
        del root
        return self

    @abstractmethod
    def packer(self, content: Content) -> Packer:
        """Make the renderer of one sync."""

    @abstractmethod
    def channel(self) -> Channel:
        """Open a way to the destination; each sending thread has its own."""

    def check(self) -> Iterator[str]:
        """What `doctor` can say of reachability without writing anything; raises a DeliveryError where it fails."""
        return iter(())

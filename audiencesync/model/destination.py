"""The base class of every destination: one file each, whose fields are its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from audiencesync.model.calls import Channel, Content, Packer
from audiencesync.model.definitions import ID_COLUMNS
from audiencesync.schedule import Duration, Part, Rate, RateLimit

NO_KINDS: Mapping[str, str] = MappingProxyType({})


class Trait(NamedTuple):
    """A field of a destination that a computation needs: its name, and how it stands there.

    `status` is ready, made (just now), missing, or wrong (of another type, so that values would be ignored).
    """

    name: str
    status: Literal["ready", "made", "missing", "wrong"]
    words: str


class Person(NamedTuple):
    """A user to be read back: his id, its kind, his included columns, what is remembered of him (`Packer.names`)."""

    user_id: str
    id_kind: str
    included: str | None
    known: Mapping[str, str]


class Destination(BaseModel, ABC):
    """A tool that talks to customers. A subclass is one file: its fields are its settings.

    `type` is written in audiencesync.yml; `example` (settings) puts the class under the contract suite;
    `needs` are the columns that `include` must name; `id_kinds` the ids it understands.
    `shape` says how calls become requests: each its own (call), all traits of a user together (row), one value for
    many users (column). `identifies`, `unknown` and `published` are words for people: what identifies a user, what
    becomes of one it does not know, which limits it publishes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: ClassVar[str]
    example: ClassVar[Mapping[str, object]]
    needs: ClassVar[tuple[str, ...]] = ()
    id_kinds: ClassVar[tuple[str, ...]] = ID_COLUMNS
    shape: ClassVar[Literal["call", "row", "column"]] = "call"
    identifies: ClassVar[str] = "the id"
    unknown: ClassVar[str] = "taken as they come"
    published: ClassVar[str] = "none"
    example_answer: ClassVar[bytes] = b""
    """What its API answers when all goes well, where that is JSON; the contract suite's server then says this."""
    sends: ClassVar[tuple[str, ...]] = ("identify",)
    """What it can be told by: identify calls; and, where `send` may say so, track events, or both."""
    reads_back: ClassVar[bool] = False
    """Whether `verify` can ask it what it holds."""
    page: ClassVar[int] = 1000
    """Calls that one claim covers at most; a rate of fewer items in its window makes it smaller."""

    settle: Duration = Field(timedelta(minutes=15), description="How long an unanswered request may still arrive.")
    rate: Rate | None = Field(
        None, description="Items a second (800), requests in a window (50/30s), bytes (1MB/1s), or a list of these.")
    share: Part = Field(1.0, description="The part of its limits that is ours, where others use them too: 50%.")
    concurrency: int = Field(8, ge=1, le=64, description="Requests under way at once, at most.")
    timeout: Duration = Field(timedelta(seconds=15), description="The longest one request may take, all told.")

    send: Literal["identify", "track", "both"] = Field(
        "identify", description="Whether users are told by identify calls, by track events, or by both.")
    events: dict[Literal["entered", "exited", "computed"], str] = Field(
        default={}, description="Names of its events other than Audience Entered, Audience Exited, Trait Computed.")

    @field_validator("send")
    @classmethod
    def _send_is_understood(cls, send: str) -> str:
        if send not in cls.sends:
            raise ValueError(f"a {cls.type} destination takes {' or '.join(cls.sends)}")
        return send

    def pace(self) -> Rate | None:
        """The speed limit in force: the setting, or what the destination publishes."""
        return self.rate

    def limits(self) -> tuple[RateLimit, ...]:
        """Every speed limit that holds, as far as it is ours."""
        pace = self.pace()
        found = () if pace is None else (pace,) if isinstance(pace, RateLimit) else pace
        return tuple(limit.part(self.share) for limit in found)

    def quota(self) -> int | None:
        """Requests that are ours in a day of UTC, or None where days are not counted."""
        return None

    def follows(self, id_kind: str) -> str:
        """The included column by which people are found, so that its change is told like one of membership."""
        del id_kind
        return ""

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

    def prepare(self, keys: Sequence[str], *, create: bool, kinds: Mapping[str, str] = NO_KINDS) -> Iterator[Trait]:
        """How the fields stand that these traits need; what is missing is made when asked to. Raises a DeliveryError.

        `kinds` says what kind of value a trait has: boolean, which it is unless told, number, string, timestamp, list;
        empty where it was NULL for everybody. Done before a trait is sent the first time, and by `doctor`. Nothing
        where fields need no declaring.
        """
        del keys, create, kinds
        return iter(())

    def read_back(self, people: Iterable[Person]) -> Iterator[tuple[Person, Mapping[str, object] | None]]:
        """The traits that each of them has there; None for one who is not known. Raises a DeliveryError."""
        raise NotImplementedError(f"{self.type} cannot be read back")

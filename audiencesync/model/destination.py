"""The base class of every destination: one file each, whose fields are its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from audiencesync.model.calls import Channel, Content, Packer
from audiencesync.model.definitions import ID_COLUMNS
from audiencesync.schedule import Duration, Rate


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

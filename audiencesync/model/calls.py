"""What travels to a destination: calls, what they are made of, and how they are packed into requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


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

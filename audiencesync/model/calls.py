"""What travels to a destination: calls, what they are made of, and how they are packed into requests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import orjson

from audiencesync.model.values import exact

TRAIT = "trait"
"""The kind of a computation that has values; how an envelope says so (context.personas.computation_class)."""
UNTOLD = "{}"
"""The value of a call about computed traits that tells nothing."""
EVENT_KINDS = ("entered", "exited", "computed")
EVENTS = ("Audience Entered", "Audience Exited", "Trait Computed")
"""What Segment's Engage calls its track events (using-engage-data); many receivers want just these names."""


class Call(NamedTuple):
    """What one user is told of one computation: `span` is its index among the sync's spans.

    `value` is an audience's boolean, or the text of a JSON object with the computed traits that he is told: null for
    one that he has no more. `over` says of the latter that he dropped out, whatever he is told then.
    """

    user_id: str
    span: int
    value: bool | str
    included: str | None
    over: bool = False

    @property
    def tells(self) -> bool:
        """Whether it says that something is so, and not only that it is over: just such a call may make a person."""
        return self.value if isinstance(self.value, bool) else not self.over and any(
            value is not None for value in orjson.loads(self.value).values())

    def traits(self, key: str) -> dict[str, Any]:
        """The traits that are told, by name; `key` is the audience's. Numbers keep every digit."""
        return {key: self.value} if isinstance(self.value, bool) else exact(self.value)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the bodies of one computation are made of, frozen when a sync opens, so that a retry repeats them.

    `follows` names an included column whose change is told like a change of membership, since it says who the user is.
    `traits` are the names of a computed trait's columns as of the newer run, `traits_before` as of the older one, and
    `traits_gone` those between that somebody who was refused may still hold;
    `missing` is what those are told to be who drop out of its result (JSON text, empty for nothing), `full_row` whether
    all are told when one changes. `send` is identify, track or both, and `events` the names of those events (entered,
    exited, computed).
    """

    key: str
    id_kind: str
    namespace: str
    version: str
    timestamp: str
    computation_class: str = "audience"
    computation_id: str = ""
    integrations: tuple[str, ...] = ()
    follows: str = ""
    traits: tuple[str, ...] = ()
    traits_before: tuple[str, ...] = ()
    traits_gone: tuple[str, ...] = ()
    missing: str = "null"
    full_row: bool = False
    send: str = "identify"
    events: tuple[str, str, str] = EVENTS


@dataclass(frozen=True, slots=True)
class Content:
    """What a sync's calls have in common: its secret (bytes, for messageIds) and an envelope for each span.

    `keys` are those of every computation the destination was ever told, for one who has to take back all of them.
    `anew` says that everybody is told again, as of a backfill, since people may have been lost there: who is remembered
    to be there is looked for again, or made again.
    """

    secret: bytes
    envelopes: tuple[Envelope, ...]
    keys: tuple[str, ...] = ()
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """One request's worth of calls, rendered; `route` is "PATCH /batch/data" where a destination has several.

    One that `asks` only finds something out: its calls are packed again with what its answer taught. `merged` is how
    many identify calls and events the destination counts, where these are fewer or more than our calls.
    """

    calls: tuple[Call, ...]
    body: bytes
    route: str = ""
    asks: bool = False
    merged: int | None = None

    @property
    def reads(self) -> bool:
        """Whether it only looks: what never arrived, and what arrived twice, are alike then."""
        return self.asks and self.route.startswith("GET ")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a destination will not take one call: a reason people read, and the HTTP status if there was one.

    A reason that programs may count on begins with its code: `missing_email: Crisp finds people by their email`.
    """

    reason: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """A page made ready: batches in the order of its calls, and the calls that no request may carry.

    Calls `done` need no request, such as a `false` for somebody whom the destination does not know. Those for `later`
    are packed again when these batches are answered; with every batch that asks, its own calls are, too. So a user is
    under way once, and a request can be made of the answer to another.
    """

    batches: tuple[Batch, ...]
    refused: tuple[tuple[Call, Refusal], ...] = ()
    done: tuple[Call, ...] = ()
    later: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a destination answered to one batch; calls are given by their index, and the others were accepted.

    Calls to send `again` were neither taken for sure nor refused by name: they go in smaller batches. Those to `repack`
    were not taken either, and are packed again with what was `learned`, when the page's other batches are answered;
    whoever asks for it teaches something, else it would never end. `learned` is what shall be remembered for later
    pages and syncs: names to values, an empty value to forget. `wait` are the seconds before anything else may be sent.
    """

    refused: Mapping[int, Refusal] = field(default_factory=dict)
    again: Collection[int] = ()
    learned: Mapping[str, str] = field(default_factory=dict)
    wait: float | None = None
    repack: Collection[int] = ()


class Channel(Protocol):
    """One thread's way to a destination."""

    def send(self, batch: Batch, *, seconds: float) -> Mapping[int, Refusal] | Receipt:
        """Deliver within `seconds`; the refused calls by their index in the batch, or a DeliveryError for all."""

    def close(self) -> None:
        """Let go of connections and files."""


class Packer(ABC):
    """How the calls of one sync become requests; made once a sync, so that templates are built once.

    With `in_turn` a page is packed when the one before it is answered, since its answers say how: of two users who
    share a name there, the second may be in a later page.
    """

    in_turn: ClassVar[bool] = False

    @abstractmethod
    def pack(self, calls: Sequence[Call]) -> Packed:
        """Render the calls of one page (ordered by user) into requests that keep every limit.

        The result depends on the content and the calls alone, so that after a crash the same bytes leave again.
        """

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """What this destination may have been taught, by names of its own choice, that packing these calls wants."""
        del calls
        return ()

    def more_names(self, calls: Sequence[Call], known: Mapping[str, str]) -> Iterable[str]:
        """What else it wants to know of these calls, now that it knows what stands under their names."""
        del calls, known
        return ()

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """As `pack`, with what is remembered under the names asked for and what this page's answers taught."""
        del known
        return self.pack(calls)

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """What the answer to a batch may teach, for a plan, which asks nobody."""
        del batch
        return {}

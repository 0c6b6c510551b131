"""What a plan comes to at one destination: the calls counted by packing them as they would be sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from audiencesync.delivery import page_size
from audiencesync.model import Destination, Outcome, Page, PlannedDelivery, PlannedSync, Span, Sync
from audiencesync.schedule import RateLimit, show_rate
from audiencesync.store import content, planning, syncs
from audiencesync.store.connect import Store
from audiencesync.store.decisions import Decision


@dataclass(slots=True)
class Desk:
    """What is planned for one destination, whose decisions are by computation id."""

    name: str
    settings: Destination
    blocked: Outcome | None
    open: Sequence[Sync]
    numbers: Iterator[int]
    decided: Mapping[int, Decision]
    slots: list[tuple[str, int, Span]] = field(default_factory=list)
    """What is planned: the mode, the open sync that it has to wait for, the span."""
    asides: list[tuple[Sync, str, str]] = field(default_factory=list)
    """What goes to another run than the newest: what was approved, who is cleared; with its status and the reason."""
    rows: list[PlannedSync] = field(default_factory=list)


def delivery(store: Store, thought: Store, desk: Desk) -> PlannedDelivery:
    """Count what goes on and what is planned, by packing it as it would be sent."""
    pace = desk.settings.pace()
    tally = _Tally()
    if desk.blocked is None:
        for sync in desk.open:
            _count(tally, desk, sync, content.pages(store, sync, size=page_size(desk.settings.page, pace, sync.spans)))
            desk.rows += [PlannedSync(span.key, desk.name, sync.mode, "goes on", tally.values[index, True],
                                      tally.values[index, False], 0, "an earlier command began it")
                          for index, span in enumerate(sync.spans)]
        desk.slots.sort(key=lambda slot: (*slot[:2], slot[2].envelope.id_kind, slot[2].key))
        for _, same in groupby(desk.slots, key=lambda slot: (*slot[:2], slot[2].envelope.id_kind)):
            thinking = draft(desk.name, [span for *_, span in same])
            size = page_size(desk.settings.page, pace, thinking.spans)
            _count(tally, desk, thinking, content.pages(thought, thinking, size=size, table=planning.planned,
                                                        retried=False))
        for sync, status, reason in desk.asides:
            _count(tally, desk, sync, content.pages(store, sync, size=page_size(desk.settings.page, pace, sync.spans)))
            desk.rows.append(PlannedSync(sync.spans[0].key, desk.name, sync.mode, status, tally.values[0, True],
                                         tally.values[0, False], 0, reason))
    going_on = (*desk.open, *(sync for sync, _, _ in desk.asides)) if desk.blocked is None else ()
    users = planning.distinct_users(thought, [span.computation_id for *_, span in desk.slots], going_on)
    return PlannedDelivery(desk.name, tally.calls, users, tally.requests, tally.refused,
                           _seconds(pace, tally.calls, tally.requests), show_rate(pace) if pace else "")


@dataclass(slots=True)
class _Tally:
    """What a destination would be sent; `values` counts the calls of one sync by span and value."""

    calls: int = 0
    requests: int = 0
    refused: int = 0
    values: Counter[tuple[int, bool]] = field(default_factory=Counter)


def _count(tally: _Tally, desk: Desk, sync: Sync, pages: Iterable[Page]) -> None:
    packer = desk.settings.packer(sync.content)
    tally.values = Counter()
    for page in pages:
        packed = packer.pack(page.calls)
        tally.calls += len(page.calls)
        tally.requests += len(packed.batches)
        tally.refused += len(packed.refused)
        tally.values.update((call.span, call.value) for call in page.calls)


def draft(name: str, spans: list[Span]) -> Sync:
    """A sync that is only thought of, newer than every other."""
    return Sync(syncs.NEWEST, name, "incremental", bytes(16), syncs.EVERYONE, None, None, 0, 0, 0, 0, syncs.EVERYONE,
                tuple(spans))


def _seconds(pace: RateLimit | None, calls: int, requests: int) -> float | None:
    if pace is None:
        return None
    return (calls if pace.unit == "items" else requests) / pace.limit * pace.seconds

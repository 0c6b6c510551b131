"""What a plan comes to at one destination: the calls counted by packing them as they would be sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from audiencesync.delivery import Cost, page_size, rehearse
from audiencesync.model import Destination, Outcome, Page, PlannedDelivery, PlannedSync, Span, Sync
from audiencesync.schedule import show_rates
from audiencesync.store import content, identities, planning, syncs
from audiencesync.store.connect import Store
from audiencesync.store.decisions import Decision
from audiencesync.store.positions import Position, full_content
from audiencesync.store.runs import Due
from audiencesync.sync.fields import Unfit


class Slot(NamedTuple):
    """A span of a planned sync, and which it is: spans of one mode, one open sync to wait for and one part share it.

    What goes to another run than the newest is a part of its own, and so is what comes after that.
    """

    mode: str
    behind: int
    part: str
    span: Span

    @property
    def sync(self) -> tuple[str, int, str, str]:
        """What is alike for all spans of a sync."""
        return self.mode, self.behind, self.part, self.span.envelope.id_kind


@dataclass(slots=True)
class Desk:
    """What is planned for one destination; decisions and positions are by computation id.

    `unfit` says for a key why nothing of it can be sent; `leaving` is cleared.
    """

    name: str
    settings: Destination
    blocked: Outcome | None
    open: Sequence[Sync]
    numbers: Iterator[int]
    decided: Mapping[int, Decision]
    stands: Mapping[int, Position]
    unfit: Mapping[str, Unfit] = field(default_factory=dict)
    leaving: Sequence[Due] = ()
    slots: list[Slot] = field(default_factory=list)
    approved: list[tuple[str, Span]] = field(default_factory=list)
    """What a person approved of the audience at hand: the mode, the span."""
    rows: list[PlannedSync] = field(default_factory=list)

    def plan(self, number: int, mode: str, part: str, identity: int, span: Span) -> None:
        """Note that the content thought of under this number is sent, behind open syncs that go first."""
        behind = max((sync.id for sync in self.open if sync.mode != "incremental"
                      and identity in {one.computation_id for one in sync.spans}), default=0)
        self.slots.append(Slot(mode, behind, part, replace(span, computation_id=number, from_run=planning.FROM,
                                                            to_run=planning.TO)))


def delivery(store: Store, thought: Store, desk: Desk) -> PlannedDelivery:
    """Count what goes on and what is planned, by packing it as it would be sent."""
    limits = desk.settings.limits()
    tally = _Tally()
    if desk.blocked is None:
        for sync in desk.open:
            size = page_size(desk.settings.page, limits, sync.spans, desk.settings.quota())
            _count(store, tally, desk, sync, content.pages(store, sync, size=size))
            desk.rows += [PlannedSync(span.key, desk.name, sync.mode, "goes on", tally.values[index, True],
                                      tally.values[index, False], 0, "an earlier command began it",
                                      updated=tally.values[index, None])
                          for index, span in enumerate(sync.spans)]
        desk.slots.sort(key=lambda slot: (*slot.sync, slot.span.key))
        for _, same in groupby(desk.slots, key=attrgetter("sync")):
            thinking = draft(desk.name, [slot.span for slot in same])
            size = page_size(desk.settings.page, limits, thinking.spans, desk.settings.quota())
            _count(store, tally, desk, thinking, content.pages(thought, thinking, size=size, table=planning.planned,
                                                               retried=False))
    going_on = desk.open if desk.blocked is None else ()
    users = planning.distinct_users(thought, [slot.span.computation_id for slot in desk.slots], going_on)
    quota, cost = desk.settings.quota(), tally.cost
    seconds, day = cost.seconds(limits, quota), "" if quota is None else f" and {quota:,} requests a day"
    desk.rows = [replace(row, seconds=seconds and seconds * row.calls / max(1, tally.calls))
                 if row.status in ("ready", "goes on") else row for row in desk.rows]
    return PlannedDelivery(desk.name, tally.calls, users, cost.requests, cost.refused, seconds,
                           show_rates(limits) + day)


@dataclass(slots=True)
class _Tally:
    """What a destination would be sent; `values` counts the calls of one sync by span and value, None for traits."""

    calls: int = 0
    cost: Cost = field(default=Cost())
    values: Counter[tuple[int, bool | None]] = field(default_factory=Counter)


def _count(store: Store, tally: _Tally, desk: Desk, sync: Sync, pages: Iterable[Page]) -> None:
    packer = desk.settings.packer(full_content(store, sync))
    tally.values = Counter()
    for page in pages:
        known = identities.of_page(store, desk.name, packer, page.calls)
        tally.cost = tally.cost.plus(rehearse(packer, page.calls, known))
        tally.calls += len(page.calls)
        tally.values.update((call.span, call.value if isinstance(call.value, bool) else None) for call in page.calls)


def draft(name: str, spans: list[Span]) -> Sync:
    """A sync that is only thought of, newer than every other."""
    return Sync(syncs.NEWEST, name, "incremental", bytes(16), syncs.EVERYONE, None, None, 0, 0, 0, 0, syncs.EVERYONE,
                tuple(spans))

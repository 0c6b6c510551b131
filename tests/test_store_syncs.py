"""The rows of a sync: opened with its content fixed, moved in one commit or not at all, closed with its positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from audiencesync import failpoints
from audiencesync.model import Call, Envelope, Progress, Refusal, Span, Sync
from audiencesync.store import content, leases, syncs
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from audiencesync.store.positions import known_positions
from audiencesync.store.tables import positions, rejections
from tests.histories import at, dump, identity, record, span

SETTLE = timedelta(minutes=15)
NO = Refusal("no such place", 400)


def draft(mode: str, *spans: Span, **other: object) -> Sync:
    """A sync that is in no table."""
    values = {"id": 2**62, "destination": "segment", "mode": mode, "secret": bytes(16), "retries_due": at(999),
              "claimed": None, "acknowledged": None, "total": 0, "sent": 0, "rejected": 0, "requests": 0,
              "opened_at": at(0), "spans": spans}
    return Sync(**{**values, **other})  # type: ignore[arg-type]


class World:
    """A state whose time stands still unless it is moved, two audiences, and the lease of one destination."""

    def __init__(self, url: str) -> None:
        self.hour = at(10)
        opened = Store.open(url)
        upgrade(opened)
        opened.close()
        self.store = Store(opened.engine, clock=lambda: self.hour)
        for hour, members in enumerate((["ann", "bob", "cid"], ["bob", "cid", "dan"])):
            for key in ("x", "y"):
                record(self.store, key, members, hour)
        self.lease = leases.acquire(self.store, "destination:segment", holder="test", life=timedelta(days=99))

    def open(self, mode: str, *parts: Span, retries_due: datetime = syncs.EVERYONE) -> Sync:
        opened = syncs.open_sync(self.store, self.lease, destination="segment", mode=mode, parts=parts,
                                 retries_due=retries_due)
        assert opened is not None
        return opened

    def span(self, key: str, low: int, high: int) -> Span:
        return span(self.store, key, low, high)

    def advance(self, sync: Sync, progress: Progress, *, finished: bool = False) -> None:
        syncs.advance(self.store, self.lease, sync, progress, settle=SETTLE, finished=finished)

    def finish(self, sync: Sync, *, refused: Sequence[str] = ()) -> list[Call]:
        """Acknowledge everything at once; the calls that were accepted."""
        calls = [call for page in content.pages(self.store, sync, size=99) for call in page.calls]
        accepted = [call for call in calls if call.user_id not in refused]
        end = calls[-1].user_id
        self.advance(sync, Progress(end, end, accepted, [(call, NO) for call in calls if call not in accepted], 1),
                     finished=True)
        return accepted

    def positions(self) -> dict[int, tuple[int, datetime | None]]:
        return {one: (row.run, row.settled_at) for one, row in known_positions(self.store, "segment").items()}

    def rejected(self) -> dict[tuple[int, str], tuple[int, datetime, datetime]]:
        with self.store.read() as connection:
            return {(row.computation_id, row.user_id): (row.tries, row.since, row.next_try)
                    for row in connection.execute(select(rejections))}


@pytest.fixture
def world(state_url: str) -> Iterator[World]:
    made = World(state_url)
    yield made
    made.store.close()


def test_a_sync_reads_back_as_it_was_opened(world: World) -> None:
    x, y = world.span("x", 0, 1), world.span("y", 0, 2)
    frozen = Envelope("y", "email", "shöp", "1.2", "2026-01-01T00:00:00.123Z", "audience", "aud_1", ("A", 'B"'))
    opened = world.open("initial", x, Span(y.computation_id, "y", 0, 2, frozen), retries_due=at(3))
    assert syncs.open_syncs(world.store, "segment") == [opened]
    assert syncs.reload(world.store, opened) == opened
    assert (opened.total, opened.sent, opened.claimed, opened.acknowledged) == (6, 0, None, None)
    assert opened.content.envelopes == (x.envelope, frozen)
    assert len(opened.secret) == 16
    assert world.open("initial", y).secret != opened.secret


def test_where_nothing_differs_only_the_positions_move(world: World) -> None:
    record(world.store, "x", ["dan", "cid", "bob"], 2)
    opened = syncs.open_sync(world.store, world.lease, destination="segment", mode="incremental",
                             parts=[world.span("x", 2, 3)], retries_due=at(3))
    assert opened is None
    assert dump(world.store)["syncs"] == dump(world.store)["spans"] == []
    assert world.positions() == {identity(world.store, "x"): (3, None)}


def test_a_backfill_of_nobody_moves_no_position(world: World) -> None:
    record(world.store, "empty", [], 0)
    assert syncs.open_sync(world.store, world.lease, destination="segment", mode="backfill",
                           parts=[world.span("empty", 1, 1)], retries_due=at(3)) is None
    assert world.positions() == {}


def test_positions_move_with_the_commit_that_closes_the_sync_and_not_before(world: World) -> None:
    x, y = world.span("x", 0, 1), world.span("y", 0, 2)
    sync = world.open("initial", x, y)
    first, *_ = content.pages(world.store, sync, size=2)
    world.advance(sync, Progress(first.end, None))
    world.advance(sync, Progress(first.end, first.end, first.calls, (), 1))
    now = syncs.reload(world.store, sync)
    assert (now.claimed, now.acknowledged, now.sent, now.rejected, now.requests) == (first.end, first.end,
                                                                                     len(first.calls), 0, 1)
    assert world.positions() == {}
    world.finish(now)
    assert world.positions() == {x.computation_id: (1, None), y.computation_id: (2, None)}
    assert syncs.open_syncs(world.store, "segment") == []
    done = syncs.reload(world.store, sync)
    assert (done.sent, done.requests) == (done.total, 2)


def test_a_backfill_moves_no_position(world: World) -> None:
    world.finish(world.open("initial", world.span("x", 0, 1)))
    before = world.positions()
    accepted = world.finish(world.open("backfill", world.span("x", 1, 1)))
    assert {call.user_id for call in accepted} == {"ann", "bob", "cid"}
    assert world.positions() == before


@pytest.mark.parametrize("finished", [False, True])
def test_a_commit_that_is_cut_off_leaves_nothing_of_itself(world: World, finished: bool) -> None:
    world.finish(world.open("initial", world.span("x", 0, 1)), refused=["ann"])
    sync = world.open("incremental", world.span("x", 1, 2))
    before = dump(world.store)
    calls = [call for page in content.pages(world.store, sync, size=9) for call in page.calls]

    def cut(name: str) -> None:
        if name in ("sync.closing", "page.acknowledging"):
            raise RuntimeError(name)

    failpoints.install(cut)
    try:
        with pytest.raises(RuntimeError):
            world.advance(sync, Progress("dan", "dan", calls[:1], [(calls[1], NO)], 1, unresolved=True),
                          finished=finished)
    finally:
        failpoints.install(None)
    assert dump(world.store) == before
    world.advance(sync, Progress("dan", "dan", calls[:1], [(calls[1], NO)], 1, unresolved=True), finished=finished)
    assert dump(world.store) != before


def test_an_opening_that_is_cut_off_leaves_nothing_of_itself(world: World) -> None:
    before = dump(world.store)

    def cut(name: str) -> None:
        raise RuntimeError(name)

    failpoints.install(cut)
    try:
        with pytest.raises(RuntimeError, match=r"sync\.opened"):
            world.open("initial", world.span("x", 0, 1))
    finally:
        failpoints.install(None)
    assert dump(world.store) == before


def test_who_is_accepted_is_no_longer_rejected_and_nobody_else_is_touched(world: World) -> None:
    x, y = identity(world.store, "x"), identity(world.store, "y")
    world.finish(world.open("initial", world.span("x", 0, 1), world.span("y", 0, 1)), refused=["ann", "bob"])
    assert set(world.rejected()) == {(x, "ann"), (x, "bob"), (y, "ann"), (y, "bob")}
    before = world.rejected()
    sync = world.open("incremental", world.span("x", 1, 2), world.span("y", 1, 2))
    world.advance(sync, Progress("ann", "ann", [Call("ann", 0, False, None)], (), 1))
    assert world.rejected() == {who: row for who, row in before.items() if who != (x, "ann")}
    world.advance(sync, Progress("dan", "dan"), finished=True)
    assert world.rejected() == {who: row for who, row in before.items() if who != (x, "ann")}
    accepted = world.finish(world.open("backfill", world.span("x", 2, 2)), refused=["bob"])
    assert [(call.user_id, call.value) for call in accepted] == [("ann", False), ("cid", True), ("dan", True)]
    assert set(world.rejected()) == {(x, "bob"), (y, "ann"), (y, "bob")}


def test_a_refused_user_is_tried_at_growing_intervals_and_at_last_daily_for_ever(world: World) -> None:
    x = identity(world.store, "x")
    world.finish(world.open("initial", world.span("x", 0, 1)), refused=["ann"])
    seen = []
    for number in range(1, 9):
        tries, since, next_try = world.rejected()[x, "ann"]
        assert (tries, since) == (number, at(10))
        seen.append((next_try - world.hour) / timedelta(hours=1))
        world.hour = next_try - timedelta(seconds=1)
        early = syncs.open_sync(world.store, world.lease, destination="segment", mode="incremental",
                                parts=[world.span("x", 1, 1)], retries_due=world.hour)
        assert early is None
        assert syncs.rejected_counts(world.store, "segment", due=True) == {}
        world.hour = next_try
        assert syncs.rejected_counts(world.store, "segment", due=True) == {x: 1}
        sync = world.open("incremental", world.span("x", 1, 1), retries_due=world.hour)
        assert sync.total == 1
        world.finish(sync, refused=["ann"])
    assert seen == sorted(seen)
    assert (seen[0], seen[-1], seen[-2]) == (2, 24, 24)
    world.finish(world.open("incremental", world.span("x", 1, 1)))
    assert world.rejected() == {}


def test_what_may_still_arrive_settles_from_the_last_attempt_and_never_sooner(world: World) -> None:
    x, y = world.span("x", 0, 1), world.span("y", 0, 1)
    sync = world.open("initial", x, y)
    world.advance(sync, Progress("bob", None, unresolved=True))
    assert set(world.positions().values()) == {(0, world.hour + SETTLE)}
    first = world.hour + SETTLE
    world.hour += timedelta(minutes=1)
    world.advance(sync, Progress("bob", "bob"))
    assert set(world.positions().values()) == {(0, first)}
    syncs.unsettle(world.store, world.lease, [syncs.reload(world.store, sync)], settle=SETTLE)
    assert set(world.positions().values()) == {(0, first)}, "nothing lies between the cursors"
    world.advance(sync, Progress("cid", "bob"))
    syncs.unsettle(world.store, world.lease, [syncs.reload(world.store, sync)], settle=SETTLE)
    later = world.hour + SETTLE
    assert set(world.positions().values()) == {(0, later)}, "a crash is an unresolved attempt"
    syncs.advance(world.store, world.lease, sync, Progress("cid", "bob", unresolved=True), settle=timedelta(0),
                  finished=False)
    assert set(world.positions().values()) == {(0, later)}, "a shorter time takes nothing back"
    world.advance(sync, Progress("cid", "cid"), finished=True)
    assert set(world.positions().values()) == {(1, later)}, "nor does the end of the sync"


def test_syncs_go_in_the_order_of_fairness_and_only_the_open_ones(world: World) -> None:
    initial = world.open("initial", world.span("x", 0, 1))
    backfill = world.open("backfill", world.span("y", 1, 1))
    record(world.store, "z", ["ann"], 0)
    record(world.store, "z", ["bob"], 1)
    incremental = world.open("incremental", world.span("z", 1, 2))
    assert syncs.open_syncs(world.store, "segment") == [incremental, backfill, initial]
    assert syncs.open_syncs(world.store, "elsewhere") == []
    world.finish(backfill)
    assert syncs.open_syncs(world.store, "segment") == [incremental, initial]


def test_a_sync_split_in_two_sends_together_what_it_sent_alone(world: World) -> None:
    x, y = world.span("x", 0, 1), world.span("y", 0, 2)
    sync = world.open("initial", x, y)
    whole = {(sync.spans[call.span].key, call.user_id, call.value)
             for page in content.pages(world.store, sync, size=9) for call in page.calls}
    world.advance(sync, Progress("bob", "ann", [Call("ann", 0, True, None)], (), 1))
    left = syncs.split(world.store, world.lease, syncs.reload(world.store, sync), {y.computation_id})
    halves = syncs.open_syncs(world.store, "segment")
    assert [[span.key for span in half.spans] for half in halves] == [["x"], ["y"]]
    assert left == halves[0]
    assert {(half.secret, half.claimed, half.acknowledged) for half in halves} == {(sync.secret, "bob", "ann")}
    rest = {(half.spans[call.span].key, call.user_id, call.value) for half in halves
            for page in content.pages(world.store, half, size=9) for call in page.calls}
    assert rest == {call for call in whole if call[1] > "ann"}
    assert sum(half.total for half in halves) == sync.total
    for half in halves:
        world.finish(half)
        assert syncs.reload(world.store, half).sent == half.total
    assert world.positions() == {x.computation_id: (1, None), y.computation_id: (2, None)}


def test_positions_are_of_one_destination_each(world: World) -> None:
    world.finish(world.open("initial", world.span("x", 0, 1)))
    assert known_positions(world.store, "elsewhere") == {}
    with world.store.read() as connection:
        assert len(connection.execute(select(positions)).all()) == 1

"""What a sync sends is a pure function of its row: compared with sets, from any point, however the audiences go on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import orjson
import pytest
from sqlalchemy import insert

from audiencesync.model import Call, Page, Span, Sync
from audiencesync.store import content, runs
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from audiencesync.store.stage import stage
from audiencesync.store.tables import rejections
from audiencesync.store.traits import traits_of
from tests.histories import AWKWARD, Past, an_audience, at, live, record, span
from tests.test_store_syncs import draft
from tests.valued import Table, Valued

Told = tuple[str, int, bool, str | None]
KEYS = ("x", "y", "z")
LENGTH = 9
SYNC, OTHER = 50, 70
"""The number of the sync under test, and of one that came later."""


@pytest.fixture
def store(state_url: str) -> Iterator[Store]:
    made = Store.open(state_url)
    upgrade(made)
    yield made
    made.close()


@pytest.fixture
def pasts(store: Store) -> dict[str, Past]:
    """Three audiences with nine runs each."""
    return {key: live(store, key, 3, length=LENGTH) for key in KEYS}


def refuse(store: Store, part: Span, users: Sequence[str], *, sync: int = 1, hour: float = 0,
           destination: str = "segment") -> None:
    """Users whom the destination refused, with the hour of their next try."""
    with store.write() as connection:
        connection.execute(insert(rejections), [
            {"destination": destination, "computation_id": part.computation_id, "user_id": user, "reason": "no",
             "status": 400, "tries": 1, "since": at(0), "next_try": at(hour), "sync_id": sync} for user in users])


def expected(pasts: dict[str, Past], sync: Sync, refused: dict[str, set[str]]) -> list[Told]:
    """The calls of a sync, by sets and dicts."""
    calls = []
    for index, part in enumerate(sync.spans):
        past = pasts[part.key]
        now = past.states[part.to_run]
        users = set(past.difference(sync.mode, part.from_run, part.to_run)) | refused.get(part.key, set())
        calls += [(user, index, user in now, now.get(user)) for user in users]
    return sorted(calls, key=lambda call: call[:2])


def flat(pages: Sequence[Page]) -> list[Told]:
    return [call[:4] for page in pages for call in page.calls]


def check_pages(pages: Sequence[Page], size: int) -> None:
    """Pages are in order, of about the size, and each ends between two users."""
    seen = ""
    for page in pages:
        users = [call.user_id for call in page.calls]
        assert page.end == users[-1]
        assert users == sorted(users)
        assert min(users) > seen or seen == ""
        assert len(users) <= size or len(set(users)) == 1
        seen = page.end
    assert all(type(call) is Call and type(call.value) is bool for page in pages for call in page.calls)


@pytest.mark.parametrize("seed", range(8))
def test_content_is_the_difference_that_sets_give_in_pages_that_end_between_users(
        store: Store, pasts: dict[str, Past], seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(8):
        mode = rng.choice(("initial", "incremental", "incremental", "backfill"))
        keys = rng.sample(KEYS, rng.randint(1, 3))
        runs = [sorted((rng.randint(0, LENGTH), rng.randint(0, LENGTH))) for _ in keys]
        parts = [span(store, key, 0 if mode == "initial" else low, high)
                 for key, (low, high) in zip(keys, runs, strict=True)]
        sync = draft(mode, *parts, id=SYNC)
        size = rng.choice((1, 2, 3, 7, 40, 1000))
        pages = list(content.pages(store, sync, size=size))
        check_pages(pages, size)
        assert flat(pages) == expected(pasts, sync, {})
        assert content.count(store, sync) == (len(flat(pages)), 0)
        assert flat(list(content.pages(store, sync, size=size, retried=False))) == flat(pages)


@pytest.mark.parametrize("mode", ["initial", "incremental", "backfill"])
def test_due_refusals_from_before_the_sync_belong_to_its_content(
        store: Store, pasts: dict[str, Past], mode: str) -> None:
    parts = [span(store, key, 0 if mode == "initial" else 3, 6) for key in KEYS]
    x, y, _ = parts
    refuse(store, x, AWKWARD[:9], hour=5)
    refuse(store, y, AWKWARD[5:20], hour=5)
    refuse(store, y, AWKWARD[20:], hour=7)
    refuse(store, x, AWKWARD[9:12], hour=5, sync=OTHER)
    refuse(store, x, AWKWARD[12:], hour=5, destination="another")
    due = {"x": set(AWKWARD[:9]), "y": set(AWKWARD[5:20])}
    for retries_due, refused in ((at(5), due), (at(4), {}), (at(99), {**due, "y": set(AWKWARD[5:])})):
        sync = draft(mode, *parts, id=SYNC, retries_due=retries_due)
        for size in (1, 3, 5, 100):
            pages = list(content.pages(store, sync, size=size))
            check_pages(pages, size)
            assert flat(pages) == expected(pasts, sync, refused)
        assert content.count(store, sync) == (len(flat(pages)), sum(len(users) for users in refused.values()))
        middle = sorted(AWKWARD)[len(AWKWARD) // 2]
        behind = len([call for call in flat(pages) if call[0] > middle])
        assert content.count(store, sync, after=middle)[0] == behind


@pytest.mark.parametrize("keys", [KEYS[:1], KEYS])
@pytest.mark.parametrize("mode", ["initial", "incremental", "backfill"])
def test_from_any_acknowledged_point_the_same_rest_is_read_while_newer_runs_come(
        store: Store, pasts: dict[str, Past], mode: str, keys: Sequence[str]) -> None:
    sync = draft(mode, *(span(store, key, 0 if mode == "initial" else 2, 5) for key in keys), id=SYNC)
    refuse(store, sync.spans[0], AWKWARD[::3], hour=1)
    whole = flat(list(content.pages(store, sync, size=2)))
    assert whole
    reading = content.pages(store, sync, size=1)
    read = [next(reading)]
    for number, (user, *_) in enumerate(whole[::3]):
        if number % 3 == 0:
            record(store, keys[number % len(keys)], AWKWARD[number % 7::2], LENGTH + number)
        rest = flat(list(content.pages(store, replace(sync, acknowledged=user), size=(2, 3, 50)[number % 3])))
        assert rest == [call for call in whole if call[0] > user]
    read += reading
    assert flat(read) == whole, "also by a reader that began before"


def test_pages_are_cut_alike_with_and_without_refusals(store: Store) -> None:
    """So that a plan, which reads what is to come without them, counts the same requests."""
    record(store, "x", [f"u{number:04}" for number in range(350)], 0)
    sync = draft("initial", span(store, "x", 0, 1), id=SYNC)
    for size in (1, 7, 30, 99, 100, 101):
        plain, merged = (list(content.pages(store, sync, size=size, retried=retried)) for retried in (False, True))
        assert [page.end for page in plain] == [page.end for page in merged]
        assert {len(page.calls) for page in plain[:-1]} <= {size}


def test_who_enters_and_exits_between_two_runs_is_no_difference(store: Store) -> None:
    for hour, users in enumerate((["ann"], ["ann", "bob"], ["ann"], ["cid"], ["ann"])):
        record(store, "x", users, hour)
    assert flat(list(content.pages(store, draft("incremental", span(store, "x", 1, 3)), size=9))) == []
    assert flat(list(content.pages(store, draft("incremental", span(store, "x", 1, 5)), size=9))) == []
    assert [call[0] for call in flat(list(content.pages(store, draft("incremental", span(store, "x", 3, 4)), size=9)))
            ] == ["ann", "cid"]


def test_columns_travel_as_of_the_run_that_is_told(store: Store) -> None:
    record(store, "x", [("ann", '{"n":1}')], 0)
    record(store, "x", [("ann", '{"n":2}'), ("bob", '{"n":2}')], 1)
    record(store, "x", [("ann", '{"n":3}'), ("bob", '{"n":3}')], 2)
    record(store, "x", [("bob", '{"n":4}')], 3)
    told = {(low, high): flat(list(content.pages(store, draft("incremental", span(store, "x", low, high)), size=9)))
            for low, high in ((1, 2), (1, 3), (1, 4))}
    assert told == {(1, 2): [("bob", 0, True, '{"n":2}')], (1, 3): [("bob", 0, True, '{"n":3}')],
                    (1, 4): [("ann", 0, False, None), ("bob", 0, True, '{"n":4}')]}
    assert flat(list(content.pages(store, draft("backfill", span(store, "x", 4, 4)), size=9))) == told[1, 4]


def record_values(store: Store, valued: Valued, table: Table, hour: float) -> None:
    with stage(store, [table.chunk()]) as held:
        run = runs.record(store, held, an_audience("v", kind="trait"), id_kind="user_id", as_of=at(hour),
                          started_at=at(hour), definition_hash="", traits=table.kinds())
    valued.tables[run.number] = table


def live_values(store: Store, seed: int) -> Valued:
    """A random past of a computed trait, recorded."""
    valued, rng = Valued(seed), random.Random(seed)
    valued.begin("v", AWKWARD)
    for hour in range(LENGTH):
        valued.change()
        share = rng.choice((0.0, 0.5, 1.0, 1.0, 1.0))
        record_values(store, valued, valued.table([user for user in AWKWARD if rng.random() < share]), hour)
    return valued


def values_span(store: Store, valued: Valued, low: int, high: int) -> Span:
    part = span(store, "v", low, high)
    names = [tuple(traits_of(store, part.computation_id, run)) for run in (high, low)]
    shape = replace(part.envelope, computation_class="trait", traits=names[0], traits_before=names[1],
                    missing=valued.missing if high else "null",
                    full_row=valued.full_row if high else valued.missing != "null")
    return replace(part, envelope=shape)


@pytest.mark.parametrize("seed", range(6))
def test_values_are_told_where_dicts_say_that_they_differ(store: Store, seed: int) -> None:
    valued, rng = live_values(store, seed), random.Random(seed)
    refused = set(rng.sample(AWKWARD, 9))
    refuse(store, values_span(store, valued, 0, 1), sorted(refused))
    for _ in range(10):
        mode = rng.choice(("initial", "incremental", "incremental", "incremental", "backfill", "farewell"))
        low, high = sorted(rng.choices(range(LENGTH + 1), k=2))
        low, high = {"initial": (0, high), "backfill": (high, high), "farewell": (high, 0)}.get(mode, (low, high))
        mode = "incremental" if mode == "farewell" else mode
        due = rng.choice((False, True))
        part = values_span(store, valued, low, high)
        sync = draft(mode, part, id=SYNC, retries_due=at(9 if due else -9))
        with store.read() as connection:
            touched = {row.user_id for row in connection.execute(content.changes(mode, part))}
        again = refused if due else refused & touched
        told = {user: valued.told(mode, user, low, high) for user in AWKWARD}
        told |= {user: valued.whole(user, valued.tables[high], valued.tables[low], farewell=not high)
                 for user in again}
        size = rng.choice((1, 2, 7, 40))
        found = flat(list(content.pages(store, sync, size=size)))
        assert {user: orjson.loads(value) for user, _, value, _ in found} == {
            user: traits for user, traits in told.items() if traits is not None}
        assert content.count(store, sync) == (len(found), len(again))
        middle = sorted(AWKWARD)[len(AWKWARD) // 2]
        assert content.count(store, sync, after=middle)[0] == len([call for call in found if call[0] > middle])


def test_equal_texts_under_other_names_are_not_equal_values(store: Store) -> None:
    valued = Valued(0, "v", full_row=True)
    for hour, (columns, values) in enumerate(((("a", "b"), (1, 1)), (("b", "a"), (1, 1)), (("b", "c"), (1, 1)))):
        record_values(store, valued, Table(columns, {"ann": dict(zip(columns, values, strict=True))}), hour)
    sync = draft("incremental", values_span(store, valued, 1, 2), id=SYNC)
    assert (flat(list(content.pages(store, sync, size=9))), content.count(store, sync)) == ([], (0, 0))
    sync = draft("incremental", values_span(store, valued, 2, 3), id=SYNC)
    assert [orjson.loads(call[2]) for call in flat(list(content.pages(store, sync, size=9)))] == [
        {"b": 1, "c": 1, "a": None}]


def test_who_was_refused_is_told_all_though_only_one_value_differs_since(store: Store) -> None:
    valued = Valued(0, "v")
    for hour, values in enumerate(((1, 1), (2, 1), (2, 2))):
        record_values(store, valued, Table(("a", "b"), {"ann": dict(zip("ab", values, strict=True))}), hour)
    refuse(store, values_span(store, valued, 1, 2), ["ann"])
    sync = draft("incremental", values_span(store, valued, 2, 3), id=SYNC, retries_due=at(9))
    assert [orjson.loads(call[2]) for call in flat(list(content.pages(store, sync, size=9)))] == [{"a": 2, "b": 2}]
    assert content.count(store, sync) == (1, 1)

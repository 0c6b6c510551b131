"""A run compared with sets and dicts: who is a member as of every run, what is counted, and what changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from audiencesync import failpoints
from audiencesync.errors import OlderRun, QueryError, StateUnavailable, UsageError
from audiencesync.model import Chunk
from audiencesync.store import content, runs
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from audiencesync.store.stage import stage
from audiencesync.store.tables import computations, memberships
from tests.histories import (
    AWKWARD,
    an_audience,
    at,
    dump,
    identity,
    live,
    members_as_of,
    record,
    span,
    temporary_tables,
)
from tests.test_store_syncs import draft

names = (f"audience_{number}" for number in count(1))
small = settings(max_examples=25, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def store(state_url: str) -> Iterator[Store]:
    made = Store.open(state_url)
    upgrade(made)
    yield made
    made.close()


users = st.lists(st.sampled_from(AWKWARD), max_size=12)
columns = st.none() | st.lists(st.sampled_from(['{"n":1}', '{"n":2}', "{}"]), min_size=12, max_size=12)


@small
@given(st.lists(st.tuples(users, columns), min_size=1, max_size=7))
def test_every_run_of_any_history_is_what_sets_and_dicts_say(
        store: Store, history: list[tuple[list[str], list[str] | None]]) -> None:
    key = next(names)
    states: list[dict[str, str | None]] = [{}]
    rows = 0
    for hour, (found, included) in enumerate(history):
        values = {user: included[index] if included else None for index, user in enumerate(dict.fromkeys(found))}
        run = record(store, key, [(user, values[user]) for user in found], hour)
        before, now = set(states[-1]), set(values)
        renewed = {user for user in before & now if values[user] != states[-1][user]}
        rows += len(now - before) + len(renewed)
        assert (run.number, run.as_of, run.status, run.members) == (hour + 1, at(hour), "done", len(now))
        assert (run.entered, run.exited, run.changed) == (len(now - before), len(before - now), len(before ^ now))
        assert run.duplicates == len(found) - len(now)
        assert runs.latest(store, [key])[key].run == run
        states.append(values)
    for number, state in enumerate(states):
        assert members_as_of(store, key, number) == state
    with store.read() as connection:
        query = select(func.count()).where(memberships.c.computation_id == identity(store, key))
        assert connection.execute(query).scalar() == rows, "one row is one stretch in which nothing changed"


def test_a_changed_column_starts_a_new_row_and_is_no_change_of_membership(store: Store) -> None:
    record(store, "x", [("ann", '{"n":1}'), ("bob", '{"n":1}')], 0)
    run = record(store, "x", [("ann", '{"n":2}'), ("bob", '{"n":1}')], 1)
    assert (run.entered, run.exited, run.members) == (0, 0, 2)
    assert members_as_of(store, "x", 1) == {"ann": '{"n":1}', "bob": '{"n":1}'}
    assert members_as_of(store, "x", 2) == {"ann": '{"n":2}', "bob": '{"n":1}'}
    assert list(content.pages(store, draft("incremental", span(store, "x", 1, 2)), size=10)) == []


def test_include_dropped_forgets_the_columns_and_tells_nobody(store: Store) -> None:
    record(store, "x", [("ann", '{"n":1}')], 0, definition="with")
    run = record(store, "x", ["ann"], 1, definition="without")
    assert (run.entered, run.exited) == (0, 0)
    assert members_as_of(store, "x", 2) == {"ann": None}


def test_everyone_leaves_and_comes_back(store: Store) -> None:
    record(store, "x", ["ann", "bob"], 0)
    assert record(store, "x", [], 1).exited == 2
    assert record(store, "x", [], 2).changed == 0
    run = record(store, "x", ["bob", "ann", "cid"], 3)
    assert (run.entered, run.exited) == (3, 0)
    assert [set(members_as_of(store, "x", number)) for number in range(5)] == [
        set(), {"ann", "bob"}, set(), set(), {"ann", "bob", "cid"}]


def test_a_first_run_may_be_empty(store: Store) -> None:
    run = record(store, "x", [], 0)
    assert (run.number, run.members, run.changed) == (1, 0, 0)


def test_a_user_named_twice_with_other_columns_is_the_same_in_whatever_order_the_rows_come(store: Store) -> None:
    rows = [("ann", f'{{"n":{number}}}') for number in range(9)] + [(f"u{number}", "{}") for number in range(20)]
    kept = set()
    for hour in range(6):
        random.Random(hour).shuffle(rows)
        record(store, "x", rows, hour)
        kept.add(members_as_of(store, "x", hour + 1)["ann"])
    assert len(kept) == 1, "else every run would write a row for her"


def test_an_older_run_is_refused_and_changes_nothing(store: Store) -> None:
    record(store, "x", ["ann"], 5)
    before = dump(store)
    with pytest.raises(OlderRun, match="before its last run"):
        record(store, "x", ["bob"], 4)
    assert dump(store) == before
    assert record(store, "x", ["bob"], 5).changed == 2, "the same instant may be asked again"


def test_another_id_column_is_refused_and_changes_nothing(store: Store) -> None:
    record(store, "x", ["ann"], 0)
    before = dump(store)
    with pytest.raises(QueryError, match="the id column was user_id and is now email"):
        record(store, "x", ["a@b.co"], 1, id_kind="email")
    assert dump(store) == before


def test_the_key_of_a_retired_audience_is_refused_and_its_refusal_can_be_noted(store: Store) -> None:
    record(store, "x", ["ann"], 0)
    with store.write() as connection:
        connection.execute(computations.update().values(retired_at=at(1)))
    with pytest.raises(UsageError, match="retired"):
        record(store, "x", ["bob"], 2)
    failed = runs.record_failure(store, an_audience("x"), as_of=at(2), started_at=at(2), error="retired")
    assert failed.status == "failed"
    assert set(members_as_of(store, "x", 9)) == {"ann"}


def _breaks(error: BaseException) -> Iterator[Chunk]:
    yield Chunk(["bob", "cid"], None)
    yield Chunk(["dan"], None)
    raise error


@pytest.mark.parametrize("error", [QueryError("row 6"), KeyboardInterrupt(), MemoryError()])
def test_a_read_that_fails_in_the_middle_changes_nothing_and_leaves_nothing_behind(
        store: Store, error: BaseException) -> None:
    record(store, "x", ["ann"], 0)
    before = dump(store)
    with pytest.raises(type(error)), stage(store, _breaks(error)):
        raise AssertionError("a part of a result is none")
    assert dump(store) == before
    assert temporary_tables(store.engine) == []
    assert record(store, "x", ["bob"], 1).changed == 2


@pytest.mark.parametrize("point", ["run.staged", "run.written"])
def test_a_run_that_ends_at_any_step_changes_nothing_and_leaves_nothing_behind(store: Store, point: str) -> None:
    record(store, "x", [("ann", "{}"), ("bob", "{}")], 0)
    before = dump(store)

    def cut(name: str) -> None:
        if name == point:
            raise RuntimeError(name)

    failpoints.install(cut)
    try:
        with pytest.raises(RuntimeError):
            record(store, "x", [("bob", '{"n":1}'), ("cid", "{}")], 1)
    finally:
        failpoints.install(None)
    assert dump(store) == before
    assert temporary_tables(store.engine) == []
    run = record(store, "x", ["cid"], 1)
    assert (run.number, run.entered, run.exited) == (2, 1, 2)


def test_a_failed_run_has_a_number_and_changes_no_membership(store: Store) -> None:
    record(store, "x", ["ann"], 0)
    failed = runs.record_failure(store, an_audience("x"), as_of=at(1), started_at=at(1), error="no such table")
    assert (failed.number, failed.status, failed.error) == (2, "failed", "no such table")
    known = runs.latest(store, ["x"])["x"].run
    assert known is not None
    assert known.number == 1
    run = record(store, "x", ["bob"], 2)
    assert (run.number, run.entered, run.exited) == (3, 1, 1)
    assert [set(members_as_of(store, "x", number)) for number in (1, 2, 3)] == [{"ann"}, {"ann"}, {"bob"}]


def test_a_source_that_reads_while_another_audience_is_recorded_waits_for_nobody(store: Store) -> None:
    def slow() -> Iterator[Chunk]:
        yield Chunk(["ann"], None)
        record(store, "other", ["bob"], 0)
        yield Chunk(["cid"], None)

    with stage(store, slow()) as held:
        runs.record(store, held, an_audience("x"), id_kind="user_id", as_of=at(0), started_at=at(0),
                    definition_hash="")
    assert (set(members_as_of(store, "x", 1)), set(members_as_of(store, "other", 1))) == ({"ann", "cid"}, {"bob"})


def test_ids_are_ordered_by_code_point_in_the_database_as_in_python(store: Store) -> None:
    shuffled = sorted(AWKWARD, key=hash)
    record(store, "x", shuffled, 0)
    with store.read() as connection:
        found = connection.execute(select(memberships.c.user_id).order_by(memberships.c.user_id)).scalars().all()
        assert list(found) == sorted(AWKWARD)
        for bound in AWKWARD:
            behind = connection.execute(select(memberships.c.user_id).where(memberships.c.user_id > bound)).scalars()
            assert set(behind) == {user for user in AWKWARD if user > bound}
    for size in (1, 4):
        pages = list(content.pages(store, draft("initial", span(store, "x", 0, 1)), size=size))
        assert [call.user_id for page in pages for call in page.calls] == sorted(AWKWARD)


def test_the_longest_ids_there_may_be_are_kept(store: Store) -> None:
    rng = random.Random(7)
    wide = ["".join(chr(rng.randrange(0x4e00, 0x9fff)) for _ in range(850)) for _ in range(3)]
    record(store, "x", ["x" * 1000, *wide], 0)
    record(store, "x", wide, 1)
    assert set(members_as_of(store, "x", 2)) == set(wide)


def test_processes_that_record_the_same_audience_at_once_take_turns(store: Store, state_url: str) -> None:
    """Each has its own engine, as a process has; even the audience's first row is made by all of them at once."""
    results = [[f"u{user}" for user in range(30) if user % (number + 2)] for number in range(6)]

    def process(number: int) -> tuple[int, set[str]]:
        mine = Store.open(state_url)
        try:
            return record(mine, "x", results[number], 0).number, set(results[number])
        finally:
            mine.close()

    with ThreadPoolExecutor(6) as pool:
        found = dict(pool.map(process, range(6)))
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for number, members in found.items():
        assert set(members_as_of(store, "x", number)) == members


def test_a_state_that_is_away_is_named_without_its_password() -> None:
    gone = Store.open("postgresql+psycopg://someone:hunter2@127.0.0.1:9/none")
    with pytest.raises(StateUnavailable) as caught:
        record(gone, "x", ["ann"], 0)
    assert "hunter2" not in str(caught.value)
    gone.close()


def test_a_random_past_reads_back_as_it_was(store: Store) -> None:
    past = live(store, "x", 1, length=12)
    for number, state in enumerate(past.states):
        assert members_as_of(store, "x", number) == state

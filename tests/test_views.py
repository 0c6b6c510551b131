"""What the state says of a user when his rows are written by hand: each rule of `told` on its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from audiencesync.store import views, views_user
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from audiencesync.store.standings import standings
from audiencesync.store.tables import (
    acts,
    computations,
    memberships,
    positions,
    rejections,
    runs,
    spans,
    syncs,
)

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
GOES_TO = {"buyers": ("segment",)}


def _at(hours: float) -> datetime:
    return BEGIN + timedelta(hours=hours)


@pytest.fixture
def store(state_url: str) -> Iterator[Store]:
    """One audience with five runs, an hour apart."""
    made = Store.open(state_url)
    upgrade(made)
    with made.write() as connection:
        connection.execute(insert(computations).values(id=1, key="buyers", kind="audience", id_kind="user_id"))
        connection.execute(insert(runs), [
            {"computation_id": 1, "number": number, "as_of": _at(number), "status": "done", "members": 0, "entered": 0,
             "exited": 0, "changed": 0, "duplicates": 0, "started_at": _at(number), "ended_at": _at(number)}
            for number in range(1, 6)])
    yield made
    made.close()


def _member(store: Store, user: str, *stretches: tuple[int, int | None]) -> None:
    with store.write() as connection:
        connection.execute(insert(memberships), [
            {"computation_id": 1, "user_id": user, "since_run": since, "until_run": until, "included": None}
            for since, until in stretches])


def _sync(store: Store, mode: str, from_run: int, to_run: int, *, acknowledged: str | None = None,
          claimed: str | None = None, done: bool = True) -> None:
    """A sync, ten minutes after its `to`; `done` closes it and moves the position."""
    opened = _at(to_run + 0.2)
    with store.write() as connection:
        key = connection.execute(insert(syncs).values(
            destination="segment", mode=mode, status="done" if done else "open", secret=b"s", retries_due=opened,
            claimed=claimed, acknowledged=acknowledged, total=9, sent=0, rejected=0, requests=0, opened_at=opened,
            closed_at=opened + timedelta(minutes=5) if done else None)).inserted_primary_key
        assert key
        connection.execute(insert(spans).values(sync_id=key[0], ordinal=0, computation_id=1, from_run=from_run,
                                                to_run=to_run, envelope="{}"))


def _word(store: Store, user: str) -> views_user.Word:
    [membership] = views_user.user(store, user, GOES_TO)
    [word] = membership.words
    return word


def test_the_last_told_value_is_of_the_newest_sync_that_had_the_user(store: Store) -> None:
    _member(store, "u", (1, 3), (5, None))
    _sync(store, "initial", 0, 1)
    _sync(store, "incremental", 1, 2)
    _sync(store, "incremental", 2, 4)
    word = _word(store, "u")
    assert word.told is not None
    assert (word.told.value, word.told.run, word.told.as_of, word.told.at) == (
        False, 4, _at(4), _at(4.2) + timedelta(minutes=5))
    assert word.pending is True


def test_one_who_entered_and_exited_between_two_runs_was_told_nothing(store: Store) -> None:
    _member(store, "u", (2, 3))
    _sync(store, "initial", 0, 1)
    _sync(store, "incremental", 1, 4)
    assert _word(store, "u") == views_user.Word("segment")


def test_an_initial_sync_tells_only_members(store: Store) -> None:
    _member(store, "former", (1, 2))
    _member(store, "member", (1, None))
    _sync(store, "initial", 0, 5)
    assert _word(store, "former").told is None
    told = _word(store, "member").told
    assert told is not None
    assert told.value is True


def test_a_backfill_tells_former_members_too(store: Store) -> None:
    _member(store, "former", (1, 2))
    _sync(store, "backfill", 5, 5)
    told = _word(store, "former").told
    assert told is not None
    assert (told.value, told.mode) == (False, "backfill")


def test_an_open_sync_has_told_up_to_acknowledged_and_asked_up_to_claimed(store: Store) -> None:
    for user in ("a", "b", "c"):
        _member(store, user, (1, None))
    _sync(store, "initial", 0, 1, acknowledged="a", claimed="b", done=False)
    told, unresolved, pending = (_word(store, user) for user in ("a", "b", "c"))
    assert told.told is not None
    assert (told.unresolved, told.pending) == (None, None)
    assert (unresolved.told, unresolved.unresolved, unresolved.pending) == (None, True, None)
    assert (pending.told, pending.unresolved, pending.pending) == (None, None, True)


def test_before_an_open_sync_reaches_a_user_the_former_value_stands(store: Store) -> None:
    _member(store, "u", (1, 3))
    _sync(store, "initial", 0, 1)
    _sync(store, "incremental", 1, 3, acknowledged="a", claimed="b", done=False)
    word = _word(store, "u")
    assert word.told is not None
    assert (word.told.value, word.pending) == (True, False)


def test_a_refused_user_was_last_told_before_he_was_refused(store: Store) -> None:
    _member(store, "u", (1, 3))
    _sync(store, "initial", 0, 1)
    _sync(store, "incremental", 1, 3)
    with store.write() as connection:
        connection.execute(insert(rejections).values(
            destination="segment", computation_id=1, user_id="u", reason="no", status=400, tries=1,
            since=_at(3.2) + timedelta(minutes=4), next_try=_at(5), sync_id=2))
    word = _word(store, "u")
    assert word.told is not None
    assert (word.told.value, word.told.run) == (True, 1)
    assert word.rejected is not None
    assert word.rejected.reason == "no"


def test_what_another_account_was_told_does_not_count(store: Store) -> None:
    _member(store, "u", (1, None))
    _sync(store, "initial", 0, 1)
    with store.write() as connection:
        connection.execute(insert(acts).values(at=_at(4), who="me@here", command="new-account", subject="segment"))
    assert _word(store, "u") == views_user.Word("segment", pending=True)


def test_rows_that_follow_each_other_are_one_membership(store: Store) -> None:
    _member(store, "u", (1, 2), (2, 4), (5, None))
    [membership] = views_user.user(store, "u", GOES_TO)
    assert membership.stretches == (views_user.Stretch(1, _at(1), 4, _at(4)), views_user.Stretch(5, _at(5)))
    assert membership.member


def test_pending_counts_only_who_differs_between_position_and_now(store: Store) -> None:
    _member(store, "stays", (1, None))
    _member(store, "came", (3, None))
    _member(store, "left", (1, 3))
    _member(store, "came and left", (3, 4))
    _member(store, "renewed", (1, 3), (3, None))
    with store.write() as connection:
        connection.execute(insert(positions).values(destination="segment", computation_id=1, run=2))
    [standing] = standings(store, views.known(store), GOES_TO)
    assert (standing.position, standing.run, standing.mode, standing.pending) == (2, 5, "incremental", 2)


def test_who_moved_with_a_run_leaves_out_rows_that_were_only_renewed(store: Store) -> None:
    _member(store, "came", (3, None))
    _member(store, "left", (1, 3))
    _member(store, "renewed", (1, 3), (3, None))
    assert views.movers(store, 1, 3, entered=True) == ["came"]
    assert views.movers(store, 1, 3, entered=False) == ["left"]


def test_a_user_is_looked_up_and_not_searched_for(store: Store) -> None:
    """SQLite names the way it takes: no step of the plan walks all memberships."""
    if store.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite's planner decides the same on an empty table")
    with store.read() as connection:
        for query in (views_user._memberships([1], "u"), views_user._syncs([1], "u"),
                      views_user._refused(["segment"], [1], "u")):
            text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
            assert not [step for step in plan if step.startswith(("SCAN memberships", "SCAN rejections"))], plan
            assert any("user_id=?" in step for step in plan)

"""What the schedules say is due: once a slot, as of one instant, by whoever comes first, on a clock that tests move."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from audiencesync import failpoints
from audiencesync.errors import LeaseLost
from audiencesync.model import Freshness, SourceSettings
from audiencesync.schedule import after
from audiencesync.store import accounts, decisions, leases, runs, slots, tables
from audiencesync.store.connect import Store
from audiencesync.store.decisions import Act
from audiencesync.store.stage import stage
from audiencesync.sync import sync
from audiencesync.sync.due import LIFE, Done, _say_clock_went_back, desks
from tests.histories import BEGIN, an_audience, at, chunks, dump, identity
from tests.projects import Premises

DRAWN = "every 2h to 3h"
BERLIN = ZoneInfo("Europe/Berlin")


class Clock:
    """The state's time, which one test moves on and another sets back."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def hour(self, hour: float) -> None:
        self.now = at(hour)


class Office(Premises):
    """A project on a clock; `look` is what any process does now and then."""

    def __init__(self, root: Path, state_url: str, *keys: str, schedule: str = "every 2h") -> None:
        super().__init__(root, state_url, {}, *keys)
        self.clock = Clock(BEGIN)
        self.store = self.another()
        for key in keys:
            self.members(key, ["ann"])
            self.change(key, schedule=schedule)

    def another(self) -> Store:
        """The state as another process sees it, on the same clock."""
        self.store.close()
        return Store(Store.open(self.state_url).engine, clock=self.clock)

    def open(self, key: str, **other: Any) -> None:
        """Write one more file."""
        self.project = replace(self.project, audiences=(*self.project.audiences, self.audience(key, **other)))

    def look(self, hour: float | None = None, *, store: Store | None = None, host: str = "one",
             edited: Iterable[str] = (), interrupted: Callable[[], bool] = lambda: False) -> Done:
        """One look at each schedule, at this hour."""
        if hour is not None:
            self.clock.hour(hour)
        seen = Done()
        for desk in desks(self.project, store or self.store, self.project.audiences, interrupted=interrupted,
                          holder=f"host {host}/1/1"):
            done = replace(desk, edited=frozenset(edited)).work()
            seen.runs += done.runs
            seen.errors += done.errors
            seen.later(done.again)
        return seen

    def typed(self, *keys: str, hour: float | None = None, as_of: datetime | None = None) -> None:
        """The command `sync`."""
        if hour is not None:
            self.clock.hour(hour)
        sync(self.project, self.store, self.request(*keys, as_of=as_of))

    def all_runs(self, key: str) -> list[tuple[str, float]]:
        """What became of each run, and as of which hour, in their order."""
        query = (select(tables.runs.c.status, tables.runs.c.as_of)
                 .join(tables.computations, tables.computations.c.id == tables.runs.c.computation_id)
                 .where(tables.computations.c.key == key).order_by(tables.runs.c.number))
        with self.store.read() as connection:
            return [(row.status, hours(row.as_of)) for row in connection.execute(query)]

    def done(self, key: str) -> list[float]:
        """As of which hours it was computed well."""
        return [hour for status, hour in self.all_runs(key) if status == "done"]

    def begun(self) -> list[tuple[float, float]]:
        """When slots were, and as of when they were begun."""
        with self.store.read() as connection:
            rows = connection.execute(select(tables.slots).order_by(tables.slots.c.at)).all()
        return [(hours(row.at), hours(row.as_of)) for row in rows]

    @contextmanager
    def source_away(self) -> Iterator[None]:
        """The source's file is not there."""
        aside = self.file.rename(self.file.with_suffix(".away"))
        try:
            yield
        finally:
            aside.rename(self.file)


def hours(moment: datetime) -> float:
    """The hour of the story."""
    return round((moment - BEGIN) / timedelta(hours=1), 4)


@contextmanager
def once_while_computing(act: Callable[[], object]) -> Iterator[None]:
    """Something happens while the first audience's result is read."""
    left = [act]

    def hook(name: str) -> None:
        if name == "run.staged" and left:
            left.pop()()

    failpoints.install(hook)
    try:
        yield
    finally:
        failpoints.install(None)


@pytest.fixture
def office(tmp_path: Path, state_url: str) -> Iterator[Office]:
    made = Office(tmp_path, state_url, "x", "y")
    yield made
    made.store.close()


# slots


def test_a_new_audience_is_computed_at_once_and_audiences_of_one_schedule_share_slot_and_instant(
        office: Office) -> None:
    office.look(0)
    office.open("new", schedule="every 2h")
    office.members("new", ["bob"])
    assert [(run.key, hours(run.as_of), run.members) for run in office.look(0.5).runs] == [("new", 0.5, 1)]
    assert office.look(1.99).runs == []
    done = office.look(2.25)
    assert {(run.key, hours(run.as_of)) for run in done.runs} == {("x", 2.25), ("y", 2.25), ("new", 2.25)}
    assert hours(done.again or BEGIN) == 4
    assert office.begun() == [(2, 2.25)]
    office.open("late", schedule="every 2h")
    office.look(3)
    office.look(4)
    assert office.done("x") == office.done("y") == [0, 2.25, 4]
    assert office.done("late") == [3, 4]


def test_before_there_is_any_slot_nobody_waits_for_the_runs_of_others(office: Office) -> None:
    """However often one of them is asked for, the others keep the rhythm of their own last run."""
    office.look(0)
    for hour in (0.5, 1.0, 1.5):
        office.typed("x", hour=hour)
        office.look()
    office.look(2)
    assert office.done("y") == [0, 2]


def test_the_next_slot_is_counted_from_the_last_one_and_not_from_when_it_was_seen_to(office: Office) -> None:
    for hour in (0, 2.75, 4.5, 6):
        office.look(hour)
    assert office.begun() == [(2, 2.75), (4, 4.5), (6, 6)]


def test_a_restart_moves_nothing(office: Office) -> None:
    office.look(0)
    office.look(2.5)
    before = dump(office.store)
    office.store = office.another()
    done = office.look(3.9)
    assert (done.runs, hours(done.again or BEGIN)) == ([], 4)
    assert dump(office.store)["slots"] == before["slots"]
    assert dump(office.store)["runs"] == before["runs"]
    assert {hours(run.as_of) for run in office.look(4).runs} == {4}


def test_before_any_slot_the_next_one_is_counted_from_the_last_run_also_a_typed_one(office: Office) -> None:
    office.look(0)
    office.typed(hour=1.5)
    assert office.look(2).runs == []
    assert hours(office.look(3.49).again or BEGIN) == 3.5
    assert {hours(run.as_of) for run in office.look(3.5).runs} == {3.5}


def test_a_typed_sync_between_two_slots_moves_neither(office: Office) -> None:
    office.look(0)
    office.look(2)
    office.typed("x", hour=3)
    assert office.look(3.5).runs == []
    office.look(4)
    assert office.done("x") == [0, 2, 3, 4]
    assert office.done("y") == [0, 2, 4]


@pytest.mark.parametrize("begun", [True, False])
def test_a_typed_run_after_the_instant_of_a_slot_satisfies_it(office: Office, *, begun: bool) -> None:
    office.look(0)
    office.look(2)
    if begun:
        slots.claim(office.store, "every 2h", at(4), at(4))
    office.typed("x", hour=4.5)
    done = office.look(5)
    assert [(run.key, hours(run.as_of)) for run in done.runs] == [("y", 4 if begun else 5)]
    assert hours(done.again or BEGIN) == 6


def test_after_a_day_of_downtime_there_is_one_run_as_of_now_and_then_the_old_rhythm(office: Office) -> None:
    office.look(0)
    office.look(2)
    for hour in (27.25, 27.3, 27.9, 28, 29.9, 30):
        office.look(hour)
    assert office.done("x") == office.done("y") == [0, 2, 27.25, 28, 30]
    assert office.begun() == [(2, 2), (26, 27.25), (28, 28), (30, 30)]


def test_a_run_longer_than_its_interval_delays_the_next_once(office: Office) -> None:
    office.look(0)
    with once_while_computing(lambda: office.clock.hour(7)):
        office.look(2)
    for hour in (7, 7.1, 7.9, 8):
        office.look(hour)
    assert office.done("x") == office.done("y") == [0, 2, 7, 8]


def test_drawn_intervals_are_the_same_for_all_hosts_and_lie_within_their_range(tmp_path: Path, state_url: str) -> None:
    office = Office(tmp_path, state_url, "x", schedule=DRAWN)
    other = office.another()
    office.look(0)
    for number in range(12):
        one, two = office.look(), office.look(store=other, host="two")
        assert one.again == two.again
        assert one.again is not None
        assert timedelta(hours=2) <= one.again - office.clock.now <= timedelta(hours=3)
        assert one.runs == two.runs == []
        office.clock.now = one.again
        assert len(office.look(store=other if number % 2 else office.store).runs) == 1
    drawn = {round(later - earlier, 3) for earlier, later in zip(office.done("x"), office.done("x")[1:], strict=False)}
    assert len(drawn) > 6, "they differ from slot to slot"
    other.close()
    office.store.close()


@pytest.mark.parametrize(("schedule", "evening", "expected"), [
    ('cron "30 2 * * *"', datetime(2026, 10, 24, 12, tzinfo=BERLIN), ["Sun 02:30 CEST", "Mon 02:30 CET"]),
    ('cron "30 2 * * *"', datetime(2026, 3, 28, 12, tzinfo=BERLIN), ["Sun 03:00 CEST", "Mon 02:30 CEST"]),
    ('cron "0 * * * *"', datetime(2026, 10, 24, 23, 30, tzinfo=BERLIN), [
        "Sun 00:00 CEST", "Sun 01:00 CEST", "Sun 02:00 CEST", "Sun 02:00 CET", "Sun 03:00 CET", "Sun 04:00 CET"]),
    ('cron "0 * * * *"', datetime(2026, 3, 28, 23, 30, tzinfo=BERLIN), [
        "Sun 00:00 CET", "Sun 01:00 CET", "Sun 03:00 CEST", "Sun 04:00 CEST", "Sun 05:00 CEST"]),
    ('cron "0 */3 * * *"', datetime(2026, 10, 24, 22, tzinfo=BERLIN), [
        "Sun 00:00 CEST", "Sun 03:00 CET", "Sun 06:00 CET"]),
])
def test_cron_slots_come_once_each_over_both_changes_of_the_clock(
        tmp_path: Path, state_url: str, schedule: str, evening: datetime, expected: list[str]) -> None:
    office = Office(tmp_path, state_url, "x", schedule=schedule)
    office.project = replace(office.project, timezone="Europe/Berlin")
    office.clock.now = evening.astimezone(UTC)
    office.look()
    runs_: list[str] = []
    while len(runs_) < len(expected):
        office.clock.now += timedelta(minutes=30)
        runs_ += [f"{run.as_of.astimezone(BERLIN):%a %H:%M %Z}" for run in office.look().runs]
        assert office.clock.now < evening + timedelta(days=3)
    assert runs_ == expected
    office.store.close()


def test_a_changed_schedule_goes_on_from_the_last_run_and_leaves_the_others_alone(office: Office) -> None:
    office.look(0)
    office.look(2)
    office.change("x", schedule="every 6h")
    for hour in (3, 4, 6, 7.9, 8):
        office.look(hour)
    assert office.done("x") == [0, 2, 8]
    assert office.done("y") == [0, 2, 4, 6, 8]
    office.change("y", schedule="every 6h")
    office.look(9)
    office.look(14)
    assert office.done("x")[-1] == office.done("y")[-1] == 14, "who comes to a schedule joins its slots"
    assert office.done("y")[-2] == 8


def test_manual_is_never_due_and_comes_back_with_one_run(office: Office) -> None:
    office.look(0)
    office.look(2)
    office.change("x", schedule="manual")
    office.open("new", schedule="manual")
    for hour in (4, 6, 8):
        office.look(hour)
    assert (office.done("x"), office.done("new")) == ([0, 2], [])
    office.change("x", schedule="every 2h")
    office.look(9)
    office.look(10)
    assert office.done("x") == [0, 2, 8, 10]


# many hosts


def test_of_several_hosts_each_slot_is_computed_once_an_audience(tmp_path: Path, state_url: str) -> None:
    """Their clocks differ by some milliseconds, and all look as often as they can."""
    office = Office(tmp_path, state_url, "x", "y", schedule="every 1h to 2h")
    office.look(0)
    ended, hosts, failed = threading.Event(), range(4), []

    def host(number: int) -> None:
        mine = Store(Store.open(state_url).engine,
                     clock=lambda: office.clock.now + timedelta(milliseconds=3 * number))
        try:
            while not ended.is_set():
                office.look(store=mine, host=str(number))
        except BaseException as error:
            failed.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=host, args=(number,)) for number in hosts]
    for thread in threads:
        thread.start()
    for number in range(20):
        following = after("every 1h to 2h", slots.newest(office.store, "every 1h to 2h").at if number else BEGIN, UTC)
        office.clock.now = following
        until = threading.Event()
        for _ in range(600):
            if failed or min(len(office.done(key)) for key in ("x", "y")) >= number + 2:
                break
            until.wait(0.05)
    ended.set()
    for thread in threads:
        thread.join()
    assert failed == []
    begun = [as_of for _, as_of in office.begun()]
    assert len(begun) == 20
    assert office.all_runs("x") == office.all_runs("y") == [("done", hour) for hour in [0, *begun]]
    office.store.close()


def test_what_a_dead_host_left_of_a_slot_is_completed_as_of_the_same_instant(office: Office) -> None:
    office.look(0)
    office.look(2)
    slots.claim(office.store, "every 2h", at(4), at(4))
    office.clock.hour(4)
    with once_while_computing(lambda: (_ for _ in ()).throw(KeyboardInterrupt)), pytest.raises(KeyboardInterrupt):
        office.look(host="dying")
    assert office.done("x") == [0, 2]
    office.change("y", sql="SELECT nothing")
    office.look(host="dying")
    leases.acquire(office.store, "computation:x", holder="host gone/1/1", life=LIFE)
    office.look(4.5)
    assert office.done("x") == [0, 2, 4]
    assert office.all_runs("y") == [("done", 0), ("done", 2), ("failed", 4)], "what was tried is not missing"


def test_an_audience_that_another_host_computes_is_left_to_it_until_its_lease_is_over(office: Office) -> None:
    office.look(0)
    office.clock.hour(2)
    slots.claim(office.store, "every 2h", at(2), at(2))
    leases.acquire(office.store, "computation:x", holder="host far/1/1", life=LIFE)
    assert [run.key for run in office.look().runs] == ["y"]
    office.clock.now += LIFE
    assert [(run.key, hours(run.as_of)) for run in office.look().runs] == [("x", 2)]


@pytest.mark.parametrize("broken", [False, True])
def test_a_host_that_slept_past_its_lease_writes_nothing_late(office: Office, *, broken: bool) -> None:
    office.look(0)
    office.look(2)
    if broken:
        office.change("x", sql="SELECT user_id FROM members WHERE broken(user_id)")
    other = office.another()
    seen: list[dict[str, list[tuple[Any, ...]]]] = []

    def sleep_while_another_computes() -> None:
        office.clock.now += LIFE
        office.look(store=other, host="two")
        seen.append(dump(office.store))

    with once_while_computing(sleep_while_another_computes):
        done = office.look(4)
    assert (seen[0]["runs"], seen[0]["memberships"]) == (dump(office.store)["runs"], dump(office.store)["memberships"])
    assert done.errors == ([(2, done.errors[0][1])] if broken else [])
    assert office.all_runs("x")[2:] == [("failed" if broken else "done", 4)]
    assert office.done("y") == [0, 2, 4]
    other.close()


def test_a_run_under_a_lease_that_was_taken_changes_nothing(office: Office) -> None:
    office.look(0)
    audience, lease = an_audience("x"), leases.acquire(office.store, "computation:x", holder="host one/1/1", life=LIFE)
    office.clock.now += LIFE
    leases.acquire(office.store, "computation:x", holder="host two/1/1", life=LIFE)
    before = dump(office.store)
    with stage(office.store, chunks([("bob", None)], paired=False)) as held, pytest.raises(LeaseLost):
        runs.record(office.store, held, audience, id_kind="user_id", as_of=at(1), started_at=at(1),
                    definition_hash="", lease=lease)
    with pytest.raises(LeaseLost):
        runs.record_failure(office.store, audience, lease, as_of=at(1), started_at=at(1), error="too late")
    assert dump(office.store) == before


def test_a_look_that_is_asked_to_end_says_so_and_leaves_the_rest_to_the_next(office: Office) -> None:
    office.look(0)
    ending: list[bool] = []
    with once_while_computing(lambda: ending.append(True)):
        done = office.look(2, interrupted=lambda: bool(ending))
    assert [run.key for run in done.runs] == ["x"]
    assert [code for code, _ in done.errors] == [75]
    assert [(run.key, hours(run.as_of)) for run in office.look(2.5).runs] == [("y", 2)]


# what goes wrong


def test_a_source_that_is_away_is_asked_again_in_growing_pauses_and_fails_at_the_fifth(
        tmp_path: Path, state_url: str) -> None:
    office = Office(tmp_path, state_url, "x", schedule="every 100h")
    office.look(0)
    with office.source_away():
        tried, done = [], office.look(100)
        while office.clock.now < at(200):
            tried += [(hours(office.clock.now), run.status, hours(run.as_of)) for run in done.runs]
            assert {code for code, _ in done.errors} == ({75} if done.runs else set())
            office.clock.now = done.again
            done = office.look() if office.clock.now < at(200) else Done()
        assert tried == [(hour, "failed" if hour == 115 else "unavailable", 100) for hour in (100, 101, 103, 107, 115)]
        [run] = office.look(200).runs
        assert (run.status, hours(run.as_of)) == ("unavailable", 200)
        assert office.look(200.9).runs == []
    [run] = office.look(201).runs
    assert (run.status, hours(run.as_of)) == ("done", 200)
    office.store.close()


def test_success_in_between_begins_the_pauses_anew(tmp_path: Path, state_url: str) -> None:
    office = Office(tmp_path, state_url, "x", schedule="every 100h")
    office.look(0)
    for slot in (100, 200):
        with office.source_away():
            for hour in (slot, slot + 1, slot + 3, slot + 7):
                assert [run.status for run in office.look(hour).runs] == ["unavailable"]
                assert office.look(hour + 0.99).runs == []
        assert [run.status for run in office.look(slot + 15).runs] == ["done"]
    office.store.close()


def test_a_new_audience_waits_for_its_source_and_is_then_computed_as_of_now(tmp_path: Path, state_url: str) -> None:
    office = Office(tmp_path, state_url, "x", schedule="every 100h")
    with office.source_away():
        for hour in (0, 0.5, 1, 2.9):
            office.look(hour)
        assert office.all_runs("x") == [("unavailable", 0), ("unavailable", 1)]
    office.look(3)
    assert office.all_runs("x")[2:] == [("done", 3)]
    assert hours(office.look().again or BEGIN) == 103
    office.store.close()


def test_the_next_attempt_outlives_a_restart_and_is_shared_by_the_hosts(tmp_path: Path, state_url: str) -> None:
    office = Office(tmp_path, state_url, "x", schedule="every 100h")
    office.look(0)
    other = office.another()
    with office.source_away():
        office.look(100)
        assert office.look(100.9, store=other, host="two").runs == []
        assert [run.status for run in office.look(101, store=other, host="two").runs] == ["unavailable"]
        office.store = office.another()
        assert office.look(102.9).runs == []
    assert [run.status for run in office.look(103).runs] == ["done"]
    other.close()
    office.store.close()


def test_cron_pauses_are_measured_by_the_whole_interval_however_late_the_attempt(
        tmp_path: Path, state_url: str) -> None:
    office = Office(tmp_path, state_url, "x", schedule='cron "0 0 * * *"')
    office.look(0)
    with office.source_away():
        office.look(24 + 23)
        assert office.look(24 + 23.23).runs == []
    assert [run.status for run in office.look(24 + 23.25).runs] == ["done"]
    office.store.close()


def test_an_audience_whose_query_is_too_slow_keeps_no_other_waiting(office: Office) -> None:
    office.project = replace(office.project, source=SourceSettings(office.project.source.url, statement_timeout=2))
    office.look(0)
    office.change("x", sql="WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS user_id "
                           "FROM n")
    done = office.look(2)
    assert {run.key: run.status for run in done.runs} == {"x": "unavailable", "y": "done"}
    assert hours(done.again or BEGIN) == 2.02
    office.look(4)
    assert office.done("y") == [0, 2, 4]


def test_a_query_that_fails_is_not_repeated_before_the_next_slot_unless_it_is_edited(office: Office) -> None:
    office.look(0)
    office.change("x", sql="SELECT user_id FROM nowhere")
    for hour in (2, 2.5, 3, 3.9):
        office.look(hour)
    assert office.all_runs("x") == [("done", 0), ("failed", 2)]
    office.look(4)
    office.change("x", sql="SELECT user_id FROM members")
    assert [(run.key, run.status, hours(run.as_of)) for run in office.look(4.5, edited=["x"]).runs] == [
        ("x", "done", 4.5)]
    office.look(6)
    assert office.all_runs("x")[2:] == [("failed", 4), ("done", 4.5), ("done", 6)]


def test_an_edited_audience_is_computed_once_however_many_hosts_saw_it_edited(office: Office) -> None:
    office.look(0)
    office.change("x", sql="SELECT user_id FROM members")
    office.look(1, edited=["x"])
    office.look(1.01, edited=["x"], host="two")
    assert office.done("x") == [0, 1]


def test_what_was_broken_and_is_mended_by_taking_the_edit_back_is_computed_at_once(office: Office) -> None:
    office.look(0)
    good = office.project.audiences[0].sql
    office.change("x", sql="SELECT user_id FROM nowhere")
    office.look(1, edited=["x"])
    office.change("x", sql=good)
    office.look(1.5, edited=["x"])
    office.look(1.51, edited=["x"], host="two")
    assert office.all_runs("x") == [("done", 0), ("failed", 1), ("done", 1.5)]


def test_an_audience_edited_while_its_source_is_away_is_computed_when_it_is_back(office: Office) -> None:
    office.look(0)
    office.look(2)
    office.change("x", sql="SELECT user_id FROM members")
    with office.source_away():
        office.look(2.5, edited=["x"])
        office.look(2.51)
    office.look(2.52)
    assert office.all_runs("x")[2:] == [("unavailable", 2.5), ("done", 2.52)]
    office.look(3.9)
    assert office.done("y") == [0, 2]


def test_a_typed_run_that_failed_as_of_a_day_to_come_holds_up_nothing(office: Office) -> None:
    office.change("x", sql="SELECT user_id FROM nowhere")
    office.typed("x", hour=0, as_of=at(9000))
    office.change("x", sql="SELECT user_id FROM members")
    office.look(1)
    office.look(2)
    office.look(4)
    assert office.done("x") == [2, 4]


def test_a_typed_run_as_of_a_day_to_come_stands_until_then_and_nobody_fails(
        office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.look(0)
    office.look(2)
    office.typed("x", hour=3, as_of=at(9))
    for hour in (4, 6, 8, 10):
        assert office.look(hour).errors == []
    assert office.done("x") == [0, 2, 9, 10]
    assert office.done("y") == [0, 2, 4, 6, 8, 10]
    assert "given up" not in caplog.text


# brakes


def test_a_paused_audience_is_not_due_and_when_it_goes_on_it_is_due_at_once(office: Office) -> None:
    office.look(0)
    accounts.pause_computation(office.store, "x", kind="audience", reason="", who="ann")
    for hour in (2, 4):
        office.look(hour)
    assert (office.done("x"), office.done("y")) == ([0], [0, 2, 4])
    accounts.resume_computation(office.store, "x", who="ann", reason="")
    assert [(run.key, hours(run.as_of)) for run in office.look(4.5).runs] == [("x", 4)]
    office.look(6)
    assert office.done("x") == [0, 4, 6]


@pytest.mark.parametrize("by", ["file", "state"])
def test_while_everything_is_paused_nothing_is_due_and_nobody_looks_in_vain(office: Office, by: str) -> None:
    office.look(0)
    stop = office.project.root / "audiencesync.stop"
    if by == "file":
        stop.write_text("the load is broken")
    else:
        accounts.pause_destination(office.store, accounts.EVERYTHING, reason="", who="ann")
    for hour in (2, 5, 30):
        done = office.look(hour)
        assert (done.runs, done.errors, done.again) == ([], [], None)
    stop.unlink(missing_ok=True)
    accounts.resume_destination(office.store, accounts.EVERYTHING, who="ann", reason="")
    office.look(31)
    office.look(32)
    assert office.done("x") == [0, 31, 32]


def test_a_retired_audience_is_never_due(office: Office) -> None:
    office.look(0)
    decisions.retire(office.store, identity(office.store, "x"), "x", Act("ann", "retire", ""), names=[], clear=False,
                     whole=True)
    for hour in (2, 4):
        office.look(hour, edited=["x"])
    assert (office.all_runs("x"), office.done("y")) == ([("done", 0)], [0, 2, 4])


def test_a_stale_source_makes_one_stale_run_a_slot(office: Office) -> None:
    with closing(sqlite3.connect(office.file)) as source, source:
        source.execute("CREATE TABLE loads (at TEXT)")
        source.execute("INSERT INTO loads VALUES (?)", [at(0).isoformat()])
    office.project = replace(office.project, source=replace(
        office.project.source, fresh=Freshness("SELECT max(at) FROM loads", timedelta(hours=3))))
    for hour in (0, 2, 4, 4.5, 5.9, 6, 7):
        office.look(hour)
    assert office.all_runs("x") == [("done", 0), ("done", 2), ("stale", 4), ("stale", 6)]
    with closing(sqlite3.connect(office.file)) as source, source:
        source.execute("INSERT INTO loads VALUES (?)", [at(7).isoformat()])
    assert office.look(7.5).runs == []
    office.look(8)
    assert office.done("x") == [0, 2, 8]


# clocks


@pytest.mark.parametrize(("skew", "begins", "said"), [(1, 3.0, 1), (1, 3.75, 0), (-1, 3.0, 0), (-1, 4.25, 1)])
def test_a_clock_that_jumps_an_hour_and_back_delays_a_run_by_an_hour_at_most(  # beyond its interval
        office: Office, caplog: pytest.LogCaptureFixture, skew: int, begins: float, said: int) -> None:
    """It is wrong for two and a half hours; what is computed meanwhile is as of what it shows."""
    _say_clock_went_back.cache_clear()
    computed: dict[str, list[float]] = {"x": [], "y": []}
    for quarter in range(14 * 4):
        true = quarter / 4
        done = office.look(true + skew if begins <= true < begins + 2.5 else true)
        assert done.errors == []
        for run in done.runs:
            computed[run.key].append(true)
    for key, times in computed.items():
        assert max(later - earlier for earlier, later in zip(times, [*times[1:], 14], strict=True)) <= 2 + 1
        instants = office.done(key)
        assert instants == sorted(set(instants)), "no instant twice, and none before another"
        assert instants[-3:] == [8, 10, 12], "and then the old rhythm"
    assert [record.message for record in caplog.records] == [
        "the clock went back; the schedule waits until it has caught up"] * said, "it is said once"


def test_after_the_clock_went_back_a_new_audience_is_computed_as_of_now_and_never_as_of_what_lies_ahead(
        office: Office) -> None:
    office.look(0)
    office.look(3)
    office.open("new", schedule="every 2h")
    for hour in (2, 2.25, 2.75):
        assert office.look(hour, edited=["y"]).errors == []
    assert office.done("new") == [2]
    assert office.done("y") == [0, 3], "an edit waits, too"
    office.look(4)
    assert office.done("x") == office.done("y") == [0, 3, 4]
    assert office.done("new") == [2, 4]


def test_a_clock_set_back_while_it_computes_changes_nothing_but_the_wait(office: Office) -> None:
    office.look(0)
    with once_while_computing(lambda: office.clock.hour(1)):
        done = office.look(2)
    assert done.errors == []
    for hour in (1, 1.5, 2, 3, 4):
        assert office.look(hour).errors == []
    assert office.done("x") == [0, 2, 4]
    assert office.done("y") == [0, 2, 4]


def test_a_clock_set_back_while_the_source_is_away_repeats_no_attempt(tmp_path: Path, state_url: str) -> None:
    office = Office(tmp_path, state_url, "x", schedule="every 100h")
    office.look(0)
    with office.source_away():
        office.look(100)
        for hour in (99, 99.5, 100, 100.9):
            office.look(hour)
        assert office.all_runs("x") == [("done", 0), ("unavailable", 100)]
    office.look(101)
    assert office.all_runs("x")[2:] == [("done", 100)]
    office.store.close()

"""What is forgotten: all that is over, told and old, and nothing that any sync could still be made of."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select, update

from audiencesync.model import Progress, Span, Sync
from audiencesync.store import accounts, content, decisions, housekeeping, leases, slots, syncs, tables
from audiencesync.store.connect import Store
from audiencesync.store.decisions import APPROVED, DISCARDED, Act, Decision
from audiencesync.store.migrate import upgrade
from audiencesync.store.positions import last_envelope
from audiencesync.store.views_user import user
from tests.histories import AWKWARD, Past, an_audience, as_mapping, at, dump, identity, live, record, span, wipe

LENGTH = 9
DEADLY = 23
"""A story in which there is much to forget and much to keep."""
DAY = timedelta(days=1)
ACT = Act("somebody", "a test")
ALWAYS = at(10**6)


@pytest.fixture
def store(state_url: str) -> Iterator[Store]:
    """A state whose time is far behind all that is recorded, unless a test says otherwise."""
    opened = Store.open(state_url)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few users already make several transactions."""
    monkeypatch.setattr(housekeeping, "BATCH", 4)


def aged(store: Store) -> None:
    """Let every run have ended at its own instant, as if it had been made then."""
    with store.write() as connection:
        connection.execute(update(tables.runs).values(ended_at=tables.runs.c.as_of))


def place(store: Store, destination: str, key: str, run: int, **other: Any) -> None:
    """Put a destination at a run."""
    with store.write() as connection:
        connection.execute(insert(tables.positions).values(destination=destination, run=run,
                                                           computation_id=identity(store, key), **other))


@contextmanager
def holding(store: Store, destination: str) -> Iterator[leases.Lease]:
    """Work the destination alone."""
    lease = leases.acquire(store, f"destination:{destination}", holder="test")
    yield lease
    leases.release(store, lease)


def begin(store: Store, destination: str, mode: str, *parts: Span) -> Sync | None:
    """Open a sync, or only move the positions where it has nothing to send."""
    with holding(store, destination) as lease:
        return syncs.open_sync(store, lease, destination=destination, mode=mode, parts=parts,
                               retries_due=syncs.EVERYONE)


def finish(store: Store, sync: Sync) -> None:
    """Everybody was told."""
    with holding(store, sync.destination) as lease:
        syncs.advance(store, lease, sync, Progress("~", "~"), settle=timedelta(), finished=True)


def told_by(store: Store, mode: str, part: Span) -> dict[str, bool]:
    """Whom a sync of one span tells what."""
    draft = Sync(syncs.NEWEST, "nobody", mode, bytes(16), syncs.EVERYONE, None, None, 0, 0, 0, 0, at(0), (part,))
    calls = [call for page in content.pages(store, draft, size=3) for call in page.calls]
    return {who: value for (who, _), value in as_mapping(calls).items()}


# rule 10, against a model that remembers everything


@dataclass
class Stand:
    """Random standing of some destinations with one audience: all that may still be asked of its memberships."""

    store: Store
    past: Past
    rng: random.Random
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """The mode and runs of every sync that is open or can be opened."""
    floor: int = LENGTH
    told: set[int] = field(default_factory=set)

    def ask(self, mode: str, low: int, high: int) -> None:
        self.asked.append((mode, low, high))

    def some_run(self, least: int = 1) -> int:
        return self.rng.randint(least, LENGTH)

    def keep(self, run: int) -> None:
        self.floor = min(self.floor, run)

    def synced(self, name: str) -> None:
        """One that was told, and may be in the middle of an incremental sync or a backfill."""
        run = self.some_run()
        place(self.store, name, self.past.key, run)
        self.keep(run)
        self.ask("backfill", run, run)
        for later in range(run, LENGTH + 1):
            self.ask("incremental", run, later)
        if self.rng.random() < 0.4:
            mode = self.rng.choice(("incremental", "backfill"))
            to_run = run if mode == "backfill" else self.some_run(run)
            begin(self.store, name, mode, span(self.store, self.past.key, run, to_run))

    def new(self, name: str) -> None:
        """One that was told nothing yet: not begun, begun, or held before its first sync until somebody approves."""
        fate = self.rng.choice(("nothing", "begun", "approved", "discarded"))
        self.ask("initial", 0, LENGTH)
        if fate == "begun":
            run = self.some_run()
            if begin(self.store, name, "initial", span(self.store, self.past.key, 0, run)) is not None:
                self.keep(0)
                self.ask("initial", 0, run)
            else:
                self.keep(run)
        elif fate != "nothing":
            run = self.some_run()
            self.keep(run)
            self.ask("initial", 0, run)
            said = Decision(run, len(self.past.members(run)), 0, APPROVED if fate == "approved" else DISCARDED)
            decisions.decide(self.store, self.past.key, [(name, identity(self.store, self.past.key), said)], ACT)

    def left(self, name: str, *, cleared: bool) -> None:
        """One where the audience was retired: who was told `true` may have to be told that he left."""
        run = self.some_run()
        place(self.store, name, self.past.key, run, retired_at=at(0), clear_as_of=at(0) if cleared else None)
        self.told.add(run)
        self.ask("incremental", run, 0)
        if cleared and self.rng.random() < 0.5:
            if begin(self.store, name, "incremental", span(self.store, self.past.key, run, 0)) is not None:
                self.keep(run)
            else:
                self.told.discard(run)

    def gone(self, name: str) -> None:
        """One that was cleared: it stands at run 0 for ever."""
        place(self.store, name, self.past.key, 0, retired_at=at(0), clear_as_of=at(0))

    def content(self) -> list[dict[str, bool]]:
        """What each of these syncs tells."""
        key = self.past.key
        return [told_by(self.store, mode, span(self.store, key, low, high)) for mode, low, high in self.asked]

    def truth(self) -> list[dict[str, bool]]:
        """The same by the model; whoever leaves a destination goes back to before everything."""
        return [dict.fromkeys(self.past.members(low), False) if high < low else
                self.past.difference(mode, low, high) for mode, low, high in self.asked]

    def over(self, rows: list[Any], old: int) -> set[tuple[str, int]]:
        """The rows that rule 10 lets go: over, told everywhere, old, and not the newest that anybody asks for."""
        floor = min(self.floor, old)
        return {(row.user_id, row.since_run) for row in rows
                if row.until_run is not None and row.until_run <= floor
                and any(row.user_id == other.user_id and row.since_run < other.since_run <= floor for other in rows)
                and not any(row.since_run <= run < row.until_run for run in self.told)}


def stand(store: Store, seed: int) -> Stand:
    """A random past, and destinations that stand anywhere in it."""
    rng = random.Random(seed)
    made = Stand(store, live(store, "x", seed, length=LENGTH, users=rng.sample(AWKWARD, 9)), rng)
    aged(store)
    kinds: list[Callable[[str], None]] = [made.synced, made.new, made.gone, lambda name: made.left(name, cleared=False),
                                          lambda name: made.left(name, cleared=True)]
    for number in range(rng.randint(1, 4)):
        rng.choice([*kinds, made.synced])(f"d{number}")
    return made


def memberships(store: Store) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(select(tables.memberships)))


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_no_sync_that_could_ever_be_made_becomes_another(store: Store, first: int) -> None:
    gone = 0
    for seed in range(first, first + 10):
        wipe(store)
        made = stand(store, seed)
        before = made.content()
        assert before == made.truth(), seed
        for old in sorted(made.rng.sample(range(LENGTH + 1), 3)):
            rows = memberships(store)
            over = made.over(rows, old)
            forgotten = housekeeping.forget(store, at(old))  # runs 1 to `old` ended before
            assert made.content() == before, (seed, old)
            left = {(row.user_id, row.since_run) for row in memberships(store)}
            assert {(row.user_id, row.since_run) for row in rows} - left == over, (seed, old)
            assert forgotten["memberships"] == len(over), (seed, old)
            gone += len(over)
    assert gone > 20


def test_nobodys_newest_membership_goes_however_long_ago_it_ended(store: Store) -> None:
    past = live(store, "x", 3, length=LENGTH)
    record(store, "x", [], LENGTH)
    place(store, "a", "x", LENGTH + 1)
    newest = {}
    for row in memberships(store):
        newest[row.user_id] = max(row.since_run, newest.get(row.user_id, 0))

    assert housekeeping.forget(store, ALWAYS)["memberships"] > 40

    assert {row.user_id: row.since_run for row in memberships(store)} == newest
    again = told_by(store, "backfill", span(store, "x", LENGTH + 1, LENGTH + 1))
    assert again == dict.fromkeys(past.ever(LENGTH), False)  # former members are still told so


def test_someone_who_came_back_later_stays_a_former_member_of_a_destination_that_is_behind(store: Store) -> None:
    for hour, members in enumerate((["ann"], ["bob"], ["bob"], ["ann"])):
        record(store, "x", members, hour)
    place(store, "behind", "x", 3)
    behind = span(store, "x", 3, 3)
    assert told_by(store, "backfill", behind) == {"ann": False, "bob": True}

    housekeeping.forget(store, ALWAYS)

    assert told_by(store, "backfill", behind) == {"ann": False, "bob": True}


def test_what_was_retired_can_be_cleared_however_much_later(store: Store) -> None:
    for hour, members in enumerate((["ann", "bob"], ["bob"], ["ann"], [])):
        record(store, "x", members, hour)
    place(store, "behind", "x", 1)
    decisions.retire(store, identity(store, "x"), "x", ACT, names=["behind"], clear=False, whole=True)

    housekeeping.forget(store, ALWAYS)
    decisions.retire(store, identity(store, "x"), "x", ACT, names=["behind"], clear=True, whole=True)
    housekeeping.forget(store, ALWAYS)

    assert told_by(store, "incremental", span(store, "x", 1, 0)) == {"ann": False, "bob": False}


@pytest.mark.parametrize("verdict", [APPROVED, DISCARDED])
def test_what_was_decided_before_the_first_sync_stays_what_was_shown(store: Store, verdict: str) -> None:
    for hour, members in enumerate((["ann", "bob"], ["bob"], ["bob"], ["ann"])):
        record(store, "x", members, hour)
    place(store, "a", "x", 4)
    decisions.decide(store, "x", [("held", identity(store, "x"), Decision(1, 2, 0, verdict))], ACT)
    place(store, "told since", "x", 4)
    decisions.decide(store, "x", [("told since", identity(store, "x"), Decision(1, 2, 0, verdict))], ACT)

    assert housekeeping.forget(store, ALWAYS)["memberships"] == 0
    assert told_by(store, "initial", span(store, "x", 0, 1)) == {"ann": True, "bob": True}

    place(store, "held", "x", 4)
    assert housekeeping.forget(store, ALWAYS)["memberships"] == 1  # nobody asks for it any more


# everything else that is over


def test_runs_stay_as_long_as_anybody_asks_for_their_instant(store: Store) -> None:
    for hour, members in enumerate((["ann"], ["ann"], ["ann", "bob"], ["ann", "bob"], ["bob"], ["bob"], ["bob"])):
        record(store, "x", members, hour)
    aged(store)
    place(store, "a", "x", 6)

    assert housekeeping.forget(store, at(1))["runs"] == 0  # the first run began a membership
    assert housekeeping.forget(store, at(2))["runs"] == 1
    assert housekeeping.forget(store, ALWAYS)["runs"] == 1

    with store.read() as connection:
        assert set(connection.execute(select(tables.runs.c.number)).scalars()) == {1, 3, 5, 6, 7}
    assert record(store, "x", ["bob"], 10).number == 8


def test_attempts_that_failed_go_too_but_for_the_newest(store: Store) -> None:
    from audiencesync.store.runs import record_failure

    record(store, "x", ["ann"], 0)
    for hour in (1, 2, 3):
        record_failure(store, an_audience("x"), as_of=at(hour), started_at=at(hour), error="away")

    assert housekeeping.forget(store, ALWAYS)["runs"] == 2

    with store.read() as connection:
        assert set(connection.execute(select(tables.runs.c.number)).scalars()) == {1, 4}
    assert record(store, "x", ["ann"], 9).number == 5


def test_a_users_history_is_told_as_far_as_it_is_known(store: Store) -> None:
    for seed in range(5):
        wipe(store)
        made = stand(store, seed)
        before = {who: user(store, who, {"x": ["d0"]})[0] for who in {row.user_id for row in memberships(store)}}

        housekeeping.forget(store, ALWAYS)

        for who, known in before.items():
            now = user(store, who, {"x": ["d0"]})[0]
            assert now.member == known.member == (who in made.past.members(LENGTH))
            assert now.stretches[-1].until == known.stretches[-1].until
            assert all(one.since == at(one.since_run - 1) for one in now.stretches)
            assert all(one.until is None or one.until == at((one.until_run or 0) - 1) for one in now.stretches)
            assert all(any(old.covers(run) for old in known.stretches) for one in now.stretches
                       for run in range(LENGTH + 1) if one.covers(run))


def test_closed_syncs_go_but_for_the_newest_of_each_audience_at_each_destination(store: Store) -> None:
    for key in ("x", "y"):
        for hour in range(6):
            record(store, key, [f"u{hour}"], hour)
    x1 = begin(store, "a", "initial", span(store, "x", 0, 1))
    assert x1 is not None
    finish(store, x1)
    both = begin(store, "a", "incremental", span(store, "x", 1, 2), span(store, "y", 0, 2))
    assert both is not None
    finish(store, both)
    x3 = begin(store, "a", "incremental", span(store, "x", 2, 3))
    assert x3 is not None
    finish(store, x3)
    other = begin(store, "b", "initial", span(store, "x", 0, 3))
    open_ = begin(store, "a", "incremental", span(store, "x", 3, 4))
    assert other is not None
    assert open_ is not None

    assert housekeeping.forget(store, at(0))["syncs"] == 0  # all of them closed after that
    assert housekeeping.forget(store, ALWAYS)["syncs"] == 2

    with store.read() as connection:
        assert set(connection.execute(select(tables.syncs.c.id)).scalars()) == {both.id, other.id, open_.id}
        assert set(connection.execute(select(tables.spans.c.sync_id)).scalars()) == {both.id, other.id, open_.id}
    assert last_envelope(store, "a", identity(store, "y")).key == "y"


def test_the_number_of_a_sync_is_never_given_twice(store: Store) -> None:
    """Else a user refused by a former sync would belong to a later one of the same number."""
    known: set[int] = set()
    for hour in range(12):
        record(store, "x", [f"u{hour}"], hour)
        record(store, "y", [f"u{hour}"], hour)
        mode, from_run = ("incremental", hour) if hour else ("initial", 0)
        opened = begin(store, "a", mode, span(store, "x", from_run, hour + 1), span(store, "y", from_run, hour + 1))
        assert opened is not None
        assert opened.id > max(known, default=0)
        known.add(opened.id)
        if hour % 3 == 1:
            with holding(store, "a") as lease:
                syncs.split(store, lease, opened, {identity(store, "x")})
            half = max(one.id for one in syncs.open_syncs(store, "a"))
            assert half > opened.id
            known.add(half)
        if hour % 3 == 2:
            with holding(store, "a") as lease:
                accounts.new_account(store, lease, "a", fingerprint=None, who="test")
            put_back(store, hour + 1)
        for one in syncs.open_syncs(store, "a"):
            finish(store, one)
        housekeeping.forget(store, ALWAYS)


def put_back(store: Store, run: int) -> None:
    """As after the initial sync of a new account."""
    with store.write() as connection:
        connection.execute(update(tables.positions).values(run=run))


def test_slots_acts_and_leases_go_but_for_what_is_still_asked_for(store: Store) -> None:
    for hour in range(5):
        slots.claim(store, "every 2h", at(hour), at(hour))
        slots.claim(store, "every 90m", at(hour / 2), at(hour / 2))
    accounts.pause_destination(store, "a", reason="", who="test")
    taken = leases.acquire(store, "destination:a", holder="test")
    accounts.new_account(store, taken, "a", fingerprint=None, who="test")
    accounts.resume_destination(store, "a", reason="", who="test")

    gone = housekeeping.forget(store, at(3))
    assert (gone["slots"], gone["acts"], gone["leases"]) == (3 + 4, 0, 0)
    gone = housekeeping.forget(store, ALWAYS)
    assert (gone["slots"], gone["acts"], gone["leases"]) == (1, 2, 1)

    assert slots.newest(store, "every 2h") == (at(4), at(4))
    assert slots.newest(store, "every 90m") == (at(2), at(2))
    with store.read() as connection:  # what was told before does not count for ever
        assert list(connection.execute(select(tables.acts.c.command)).scalars()) == [accounts.NEW_ACCOUNT]
    with pytest.raises(leases.LeaseLost):
        leases.renew(store, taken)


# once a day, by whoever comes first, and whatever happens to him


class Clocked(Store):
    """A state whose time a test moves, and which dies at the n-th point: in its transactions, and right after each."""

    def __init__(self, store: Store, moment: datetime, *, dies: int = -1) -> None:
        super().__init__(store.engine, clock=lambda: moment)
        self.dies = dies

    def point(self) -> None:
        self.dies -= 1
        if self.dies == -1:
            raise Killed

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as connection:
            yield connection
            self.point()
        self.point()


class Killed(BaseException):
    """The process is dead."""


def test_of_many_who_come_on_one_day_one_keeps_house(store: Store) -> None:
    live(store, "x", 1, length=LENGTH)
    aged(store)
    place(store, "a", "x", LENGTH)
    morning = at(24 * 100)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda hours: housekeeping.tidy(Clocked(store, morning + hours * DAY / 24), 90 * DAY),
                              (0, 0, 1, 2, 5, 23)))
    assert sum(bool(gone) for gone in found) == 1
    assert max(gone.get("memberships", 0) for gone in found) > 0
    assert housekeeping.tidy(Clocked(store, morning + DAY), 90 * DAY)["memberships"] == 0  # done, and nothing to do


def put_down(store: Store, known: dict[str, list[tuple[Any, ...]]]) -> None:
    """Make the state as it was."""
    wipe(store)
    with store.write() as connection:
        for table in tables.metadata.sorted_tables:
            if known[table.name]:
                columns = [column.name for column in table.columns]
                connection.execute(insert(table), [dict(zip(columns, row, strict=True)) for row in known[table.name]])


def test_whoever_dies_at_it_has_done_no_harm_and_the_next_day_goes_on(store: Store) -> None:
    made = stand(store, DEADLY)
    for hour in range(6):
        slots.claim(store, "every 2h", at(hour), at(hour))
    story, content_ = dump(store), made.content()

    def without_today() -> dict[str, list[tuple[Any, ...]]]:
        known = dump(store)
        return {**known, "slots": [row for row in known["slots"] if row[0] != housekeeping.SLOT]}

    assert housekeeping.tidy(Clocked(store, at(24 * 100)), 90 * DAY)["memberships"] > 3
    whole = without_today()
    deaths = 0
    for dies in range(40):
        put_down(store, story)
        try:
            housekeeping.tidy(Clocked(store, at(24 * 100), dies=dies), 90 * DAY)
        except Killed:
            deaths += 1
        else:
            break
        assert made.content() == content_, dies
        housekeeping.tidy(Clocked(store, at(24 * 101)), 90 * DAY)
        assert without_today() == whole, dies
    assert 6 < deaths < 39


# as many as there may be


def test_many_memberships_cost_no_more_than_a_walk_along_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in SQLite's own steps and in bytes, since the time of a busy machine says nothing."""
    monkeypatch.setattr(housekeeping, "BATCH", 1000)
    cost = {users: _cost(f"sqlite:///{tmp_path / f'{users}.db'}", users) for users in (3_000, 12_000)}

    assert cost[12_000][0] < 5 * cost[3_000][0]
    assert cost[12_000][1] < 500_000


def _cost(url: str, users: int) -> tuple[int, int]:
    store, steps = Store.open(url), 0
    upgrade(store)
    store.close()

    def count() -> None:
        nonlocal steps
        steps += 1

    event.listen(store.engine, "connect", lambda connection, _: connection.set_progress_handler(count, 100))
    record(store, "x", [], 0)
    number = identity(store, "x")
    with store.write() as connection:
        connection.execute(insert(tables.runs), [
            {"computation_id": number, "number": run, "as_of": at(run), "status": "done", "members": users,
             "entered": 1, "exited": 1, "changed": 2, "duplicates": 0, "started_at": at(run), "ended_at": at(run)}
            for run in range(2, 201)])
        connection.execute(insert(tables.memberships), [
            {"computation_id": number, "user_id": f"u{index:09}", "since_run": since, "until_run": until}
            for index in range(users) for since, until in ((1 + index % 90, 100), (101 + index % 90, None))])
    place(store, "a", "x", 200)
    steps = 0
    tracemalloc.start()
    assert housekeeping.forget(store, ALWAYS)["memberships"] == users
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with store.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.memberships)).scalar() == users
    store.close()
    return steps, peak

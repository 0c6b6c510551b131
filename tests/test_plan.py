"""`plan` says exactly what `sync` then sends, whatever happened before, and writes and sends nothing itself."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from audiencesync.destinations.segment import Segment
from audiencesync.model import Plan
from audiencesync.store import accounts
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from tests.histories import dump, wipe
from tests.projects import Premises, Stopped, after, stopping_at
from tests.servers import Recorder, key_of, user_of

USERS = [f"u{number:02}" for number in range(45)]
KEYS = ("x", "y", "z")


@pytest.fixture
def servers() -> Iterator[Mapping[str, Recorder]]:
    with Recorder() as a, Recorder() as b:
        yield {"a": a, "b": b}


@pytest.fixture
def house(tmp_path: Path, state_url: str, servers: Mapping[str, Recorder]) -> Iterator[Premises]:
    made = Premises(tmp_path, state_url, servers, *KEYS)
    yield made
    made.store.close()


def agree(house: Premises, *keys: str) -> Plan:
    """Plan and then sync, with servers that take everything; both must speak of the same."""
    for server in house.servers.values():
        server.script, server.refuse, server.latency = (), set(), 0.0
    before = dump(house.store)
    seen = {name: (server.requests, len(server.calls)) for name, server in house.servers.items()}
    said = house.plan(*keys)
    assert dump(house.store) == before, "a plan writes nothing"
    assert {name: server.requests for name, server in house.servers.items()} == {
        name: requests for name, (requests, _) in seen.items()}, "a plan sends nothing"
    report = house.sync(*keys)
    assert not report.errors
    for one in said.deliveries:
        requests, calls = seen[one.destination]
        sent = house.servers[one.destination].calls[calls:]
        assert (one.calls, one.refused) == (len(sent), 0)
        assert one.users == len(set(map(user_of, sent))), "distinct users"
        assert one.requests == house.servers[one.destination].requests - requests
        planned: Counter[tuple[str, bool | None]] = Counter()
        for row in said.syncs:
            if row.destination == one.destination and row.status in ("ready", "goes on"):
                planned[row.key, True] += row.entered
                planned[row.key, False] += row.exited
                planned[row.key, None] += row.retried
        actual = Counter((key_of(call), call["traits"][key_of(call)]) for call in sent)
        for key in {key for key, _ in [*planned, *actual]}:
            retried = planned[key, None]
            assert planned[key, True] + planned[key, False] + retried == actual[key, True] + actual[key, False]
            assert 0 <= actual[key, True] - planned[key, True] <= retried
    ran = {run.key: run for run in report.runs if run.status == "done"}
    for found in said.audiences:
        if found.key in ran:
            run = ran[found.key]
            assert (found.members, found.entered, found.exited, found.duplicates) == (
                run.members, run.entered, run.exited, run.duplicates)
    return said


def one_life(house: Premises, rng: random.Random) -> None:
    """Some hours in which whatever may happen does."""
    for _ in range(rng.randint(0, 4)):
        for key in KEYS:
            house.members(key, [user for user in USERS if rng.random() < rng.choice((0.1, 0.5, 0.9))])
        for name, server in house.servers.items():
            server.refuse = {rng.choice(USERS) for _ in range(rng.choice((0, 0, 1, 3)))}
            if rng.random() < 0.3:
                accounts.pause_destination(house.store, name, reason="", who="test")
            else:
                accounts.resume_destination(house.store, name, who="test", reason="")
        chosen = rng.sample(KEYS, rng.randint(1, 3))
        what = rng.choice(("whole", "whole", "asked", "killed", "backfill"))
        with ExitStack() as stack:
            if what == "killed":
                stack.enter_context(pytest.raises(Stopped))
                point = rng.choice(("page.acknowledged", "page.claimed", "sync.opened", "page.read", "run.staged"))
                stack.enter_context(stopping_at(point, 1 if point != "page.read" else 2))
            if what == "backfill":
                server = house.servers["a"]
                house.backfill(*chosen, interrupted=after(server, server.requests + rng.randint(1, 4)))
            elif what == "asked":
                server = house.servers["a"]
                house.sync(*chosen, interrupted=after(server, server.requests + rng.randint(1, 4)))
            else:
                house.sync(*chosen, names=["a"] if what == "killed" else ())
                if what == "killed":
                    raise Stopped
    for name in house.servers:
        if rng.random() < 0.8:
            accounts.resume_destination(house.store, name, who="test", reason="")
    for key in KEYS:
        house.members(key, [user for user in USERS if rng.random() < 0.5])


@pytest.mark.parametrize("first", range(0, 12, 3))
def test_a_plan_is_exactly_what_sync_then_sends_after_any_past(house: Premises, first: int) -> None:
    """Destinations that lag behind, refused users, syncs and backfills left open by a signal or a kill."""
    for seed in range(first, first + 3):
        rng = random.Random(seed)
        wipe(house.store)
        for server in house.servers.values():
            server.clear()
        house.hour = 0
        try:
            one_life(house, rng)
            agree(house, *rng.choice(((), ("x",), ("x", "z"))))
            again = agree(house)
            paused = {one for one in house.servers if accounts.account(house.store, one)[0].paused_at is not None}
            nothing = house.plan()
            assert all(one.calls == one.requests == 0 for one in nothing.deliveries)
            assert again.errors == ()
            assert {row.destination for row in again.syncs if row.status == "paused"} == paused
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_a_plan_counts_the_users_of_an_open_sync_and_of_the_next_one_once(house: Premises) -> None:
    server = house.servers["a"]
    house.members("x", USERS)
    house.sync("x", names=["a"], interrupted=after(server, 2))
    house.members("x", USERS[:-3])
    said = agree(house, "x")
    [delivery] = [one for one in said.deliveries if one.destination == "a"]
    assert delivery.calls == delivery.users + 3


def test_a_plan_does_not_count_a_refused_user_twice_whom_an_open_sync_will_tell(house: Premises) -> None:
    server = house.servers["a"]
    server.refuse = {USERS[2], USERS[40]}
    house.members("x", USERS)
    house.sync("x", names=["a"])
    house.backfill("x", names=["a"], interrupted=after(server, server.requests + 2))
    agree(house, "x")


def test_a_plan_groups_calls_into_requests_as_the_order_of_the_syncs_does(house: Premises) -> None:
    """What waits behind an initial sync is not sent together with what goes before it."""
    server = house.servers["a"]
    house.members("x", USERS[:4])
    house.sync("x", names=["a"])
    house.members("y", USERS)
    house.sync("y", names=["a"], interrupted=after(server, server.requests + 2))
    house.members("x", USERS[4:6])
    house.members("y", USERS[1:])
    agree(house, "x", "y")


def test_a_plan_leaves_out_what_is_paused_also_in_an_open_sync(house: Premises) -> None:
    server = house.servers["a"]
    for key in KEYS[:2]:
        house.members(key, USERS)
    house.sync(*KEYS[:2], names=["a"], interrupted=after(server, 2))
    accounts.pause_computation(house.store, "y", kind="audience", reason="", who="test")
    agree(house, "x")


def test_a_plan_leaves_out_the_open_sync_of_an_audience_that_is_not_asked_for(house: Premises) -> None:
    server = house.servers["a"]
    house.members("x", USERS)
    house.members("y", USERS)
    house.sync("y", names=["a"], interrupted=after(server, 2))
    said = agree(house, "x")
    assert {row.key for row in said.syncs} == {"x"}


def test_calls_over_a_limit_are_planned_as_refused_and_bodies_are_cut_as_they_will_be(
        tmp_path: Path, state_url: str, servers: Mapping[str, Recorder]) -> None:
    server = servers["a"]
    house = Premises(tmp_path, state_url, {"a": server}, kind=Segment)
    house.project = replace(house.project, audiences=(house.audience("x", include=("email",)),))
    house.members("x", USERS, email="e" * 30_000)
    said = house.plan()
    house.sync()
    assert (said.deliveries[0].calls, said.deliveries[0].requests, said.deliveries[0].refused) == (45, 3, 0)
    assert (len(server.calls), server.requests) == (45, 3)
    house.members("x", ["new"], email="e" * 33_000)
    said = house.plan()
    report = house.sync()
    assert (said.deliveries[0].refused, report.rejected) == (1, 1)
    assert (said.deliveries[0].calls, said.deliveries[0].requests) == (46, server.requests - 3)
    house.store.close()


def test_a_plan_waits_where_sync_would(tmp_path: Path, state_url: str, servers: Mapping[str, Recorder]) -> None:
    house = Premises(tmp_path, state_url, {"a": servers["a"]}, "x", "y", settle=timedelta(hours=1))
    house.members("x", ["ann"])
    servers["a"].script = ["accept_then_drop"]
    house.sync("x")
    house.members("x", ["bob"])
    house.members("y", ["cid"])
    said = agree(house)
    assert {(row.key, row.status) for row in said.syncs} == {("x", "waiting"), ("y", "ready")}
    assert said.deliveries[0].calls == 1
    house.store.close()


def test_a_plan_of_an_audience_that_fails_still_has_what_its_destination_is_owed(house: Premises) -> None:
    house.members("x", ["ann"])
    house.sync("x")
    accounts.pause_destination(house.store, "b", reason="", who="test")
    house.members("x", ["bob"])
    house.sync("x")
    accounts.resume_destination(house.store, "b", who="test", reason="")
    house.change("x", sql="SELECT user_id FROM nowhere")
    said = house.plan("x")
    before = len(house.servers["b"].calls)
    house.sync("x")
    [delivery] = [one for one in said.deliveries if one.destination == "b"]
    assert delivery.calls == len(house.servers["b"].calls) - before == 2
    assert [code for code, _ in said.errors] == [2]


def test_planning_leaves_every_byte_of_a_state_in_a_file_alone(
        tmp_path: Path, servers: Mapping[str, Recorder]) -> None:
    house = Premises(tmp_path, f"sqlite:///{tmp_path / 'state.db'}", servers, "x")
    house.members("x", USERS)
    house.sync()
    house.members("x", USERS[3:])
    house.store.close()
    file = tmp_path / "state.db"
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    house.store = Store.open(house.state_url, create=False)
    house.plan()
    house.store.close()
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_plan_takes_no_lock_that_others_wait_for(house: Premises) -> None:
    house.members("x", USERS)
    house.sync()
    with house.other_process() as other:
        upgrade(other)
        with other.write():
            house.plan()

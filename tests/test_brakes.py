"""What is too large is held until a person allows it: which changes, of whom, what goes on, what an answer moves."""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from audiencesync.errors import UsageError
from audiencesync.project.values import parse_share
from audiencesync.report import exit_code
from audiencesync.store import accounts, positions, runs, tables
from audiencesync.sync import Request, due
from audiencesync.sync.brakes import Net, why_held
from tests.commands import Said, Shop
from tests.persons import approve, discard, holds, recorded, retire, seen
from tests.projects import Premises, Stopped, after, by_status, outcomes, stopping_at
from tests.servers import Recorder, key_of, user_of
from tests.test_plan import agree

CROWD = [f"u{number:03}" for number in range(100)]
SMALL = {"max_exit": 0.3, "min_exits": 10}
"""A guard for which a hundred users make a story."""


# which changes are too large


@pytest.mark.parametrize(("guard", "net", "held"), [
    # a share of the members, and the least number of exits for which it counts
    ({}, Net(0, 300, 1000), ""),
    ({}, Net(0, 301, 1000), "301 of 1,000 members would exit, more than max_exit 30%"),
    ({}, Net(0, 49, 100), ""),
    ({}, Net(0, 50, 100), "50 of 100 members would exit, more than max_exit 30%"),
    ({}, Net(0, 50, 167), ""),
    ({}, Net(0, 50, 166), "50 of 166 members would exit, more than max_exit 30%"),
    ({}, Net(10**7, 0, 10), ""),
    # all of them
    ({}, Net(0, 50, 50), "all 50 members would exit"),
    ({}, Net(0, 49, 49), ""),
    ({}, Net(900, 50, 50), "all 50 members would exit"),
    ({"max_exit": 1.0}, Net(0, 5000, 5000), "all 5,000 members would exit"),
    ({"max_exit": 10**9, "min_exits": 10**9}, Net(0, 50, 50), "all 50 members would exit"),
    ({"max_exit": 1.0}, Net(0, 4999, 5000), ""),
    # another share, another least number, a number in place of a share
    ({"max_exit": 0.29}, Net(0, 58, 200), ""),
    ({"max_exit": 0.29}, Net(0, 59, 200), "59 of 200 members would exit, more than max_exit 29%"),
    ({"max_exit": 0.001}, Net(0, 51, 50_000), "51 of 50,000 members would exit, more than max_exit 0.1%"),
    ({"max_exit": 0.3, "min_exits": 10}, Net(0, 9, 10), ""),
    ({"max_exit": 0.3, "min_exits": 10}, Net(0, 10, 33), "10 of 33 members would exit, more than max_exit 30%"),
    ({"max_exit": 0.3, "min_exits": 10}, Net(0, 10, 34), ""),
    ({"max_exit": 500}, Net(0, 500, 600), ""),
    ({"max_exit": 500}, Net(0, 501, 600), "501 of 600 members would exit, more than max_exit 500"),
    ({"max_exit": 5}, Net(0, 49, 60), ""),
    ({"max_exit": 0, "min_exits": 0}, Net(0, 0, 60), ""),
    ({"max_exit": 0, "min_exits": 0}, Net(0, 1, 60), "1 of 60 members would exit, more than max_exit 0"),
    ({"max_exit": 0, "min_exits": 0}, Net(0, 0, 0), ""),
    # who enters
    ({"max_enter": 0.5}, Net(50, 0, 100), ""),
    ({"max_enter": 0.5}, Net(51, 0, 100), "51 users would enter 100, more than max_enter 50%"),
    ({"max_enter": 0.5}, Net(10**6, 0, 0), ""),
    ({"max_enter": 0.5}, Net(1, 0, 1), "1 user would enter 1, more than max_enter 50%"),
    ({"max_enter": 1000}, Net(1000, 0, 0), ""),
    ({"max_enter": 1000}, Net(1001, 0, 0), "1,001 users would enter 0, more than max_enter 1,000"),
    ({"max_enter": 0}, Net(1, 0, 50), "1 user would enter 50, more than max_enter 0"),
    ({"max_initial": 5}, Net(6, 0, 10), ""),
])
def test_a_change_is_held_when_it_is_over_a_limit_and_not_when_it_is_at_it(
        guard: Mapping[str, object], net: Net, held: str) -> None:
    assert why_held(guard, net) == held


@pytest.mark.parametrize(("guard", "members", "held"), [
    ({}, 10**9, ""),
    ({"max_enter": 5, "max_exit": 0}, 10, ""),
    ({"max_initial": 1000}, 1000, ""),
    ({"max_initial": 1000}, 1001, "1,001 members would be told, more than max_initial 1,000"),
    ({"max_initial": 0}, 1, "1 member would be told, more than max_initial 0"),
])
def test_an_initial_sync_is_held_by_its_own_limit_only(guard: Mapping[str, object], members: int, held: str) -> None:
    assert why_held(guard, Net(members, 0, 0), initial=True) == held


def test_exactly_the_share_is_not_over_it_whatever_the_share() -> None:
    for percent, hundreds in product(range(1, 100), (1, 3, 7, 1000, 123_457)):
        guard, exited = {"max_exit": parse_share(f"{percent}%"), "min_exits": 1}, percent * hundreds
        assert why_held(guard, Net(0, exited, 100 * hundreds)) == "", (percent, hundreds)
        assert why_held(guard, Net(0, exited + 1, 100 * hundreds)) != "", (percent, hundreds)


# what a project does


Make = Callable[..., Premises]


@pytest.fixture
def make(tmp_path: Path, state_url: str) -> Iterator[Make]:
    """A project with these audiences, all of them sent to `a` (and to `b`, when asked)."""
    made: list[Premises] = []
    servers = {"a": Recorder(), "b": Recorder()}

    def build(*keys: str, names: str = "a", guard: Mapping[str, object] | None = None, **settings: Any) -> Premises:
        house = Premises(tmp_path, state_url, {name: servers[name] for name in names}, *keys, **settings)
        for key in keys:
            house.change(key, guard=guard or {})
        made.append(house)
        return house

    with servers["a"], servers["b"]:
        yield build
    made[0].store.close()


def position(house: Premises, key: str, name: str = "a") -> int:
    identity = runs.latest(house.store, [key])[key].computation_id
    return positions.known_positions(house.store, name)[identity].run


def told(server: Recorder, since: int = 0) -> list[tuple[str, str, bool]]:
    return sorted((key_of(call), user_of(call), call["traits"][key_of(call)]) for call in server.calls[since:])


def exits(key: str, *users: str) -> list[tuple[str, str, bool]]:
    return sorted((key, user, False) for user in users)


def entries(key: str, *users: str) -> list[tuple[str, str, bool]]:
    return sorted((key, user, True) for user in users)


def test_what_is_held_is_held_there_and_for_this_audience_while_all_the_rest_goes_on(make: Make) -> None:
    """A destination that lags behind has more to be told at once than one that does not."""
    house = make("x", "y", names="ab", guard=SMALL)
    a, b = house.servers["a"], house.servers["b"]
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    accounts.pause_destination(house.store, "a", reason="", who="test")
    house.members("x", CROWD[20:])
    assert by_status(house.sync(), "held") == []
    accounts.resume_destination(house.store, "a", who="test", reason="")
    house.members("x", CROWD[40:])
    house.members("y", CROWD[1:])
    seen_a, seen_b = len(a.calls), len(b.calls)
    report = house.sync()
    [held] = by_status(report, "held")
    assert (held.destination, held.keys, held.sent, held.requests) == ("a", ("x",), 0, 0)
    assert held.reason == "40 of 100 members would exit, more than max_exit 30% (+0 -40 up to run 3)"
    assert told(a, seen_a) == exits("y", CROWD[0]), "I8: nothing of x, and y is not kept waiting"
    assert told(b, seen_b) == sorted([*exits("y", CROWD[0]), *exits("x", *CROWD[20:40])])
    assert (position(house, "x", "a"), position(house, "x", "b")) == (1, 3)
    assert exit_code(report) == 4
    assert exit_code(report, {"held"}) == 0


def test_where_nothing_but_what_is_held_is_to_be_told_no_request_is_made(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    requests, connections = house.servers["a"].requests, house.servers["a"].connections
    house.members("x", [])
    for _ in range(3):
        report = house.sync()
        assert [one.status for one in report.syncs] == ["held"]
    assert (house.servers["a"].requests, house.servers["a"].connections) == (requests, connections)
    assert house.servers["a"].told() == {("x", user): True for user in CROWD}


def test_a_newer_run_whose_net_change_is_small_frees_it_by_itself_and_only_that_is_told(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    house.sync()
    house.members("x", CROWD[5:99])
    since = len(house.servers["a"].calls)
    assert outcomes(house.sync()) == [("a", "incremental", "done", 6)]
    assert told(house.servers["a"], since) == exits("x", *CROWD[:5], CROWD[99])
    assert holds(house) == {}


def test_changes_that_are_small_by_themselves_are_held_together_where_nobody_was_told_of_them(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    accounts.pause_destination(house.store, "a", reason="", who="test")
    for left in (20, 40, 60):
        house.members("x", CROWD[left:])
        house.sync()
    accounts.resume_destination(house.store, "a", who="test", reason="")
    assert [one.status for one in house.sync().syncs] == ["held"]
    house.members("x", CROWD[45:])
    assert outcomes(house.sync()) == [("a", "incremental", "done", 45)], "49 or fewer exits are not held"


def test_who_leaves_and_comes_back_meanwhile_counts_for_nothing(make: Make) -> None:
    house = make("x", guard={"max_enter": 10})
    house.members("x", CROWD)
    house.sync()
    accounts.pause_destination(house.store, "a", reason="", who="test")
    for members in (CROWD[50:], CROWD[:50], CROWD[1:]):
        house.members("x", members)
        house.sync()
    accounts.resume_destination(house.store, "a", who="test", reason="")
    assert outcomes(house.sync()) == [("a", "incremental", "done", 1)]


def test_a_large_initial_sync_is_held_where_a_limit_is_set_and_nowhere_else(make: Make) -> None:
    house = make("x", "y")
    house.change("x", guard={"max_initial": 99})
    for key in "xy":
        house.members(key, CROWD)
    report = house.sync()
    [held] = by_status(report, "held")
    assert held.keys == ("x",)
    assert told(house.servers["a"]) == entries("y", *CROWD)
    approve(house, "x")
    report = house.sync()
    assert [(one.mode, one.status, one.sent) for one in report.syncs if one.mode == "initial"] == [
        ("initial", "done", 100)]
    assert house.servers["a"].told() == {(key, user): True for key in "xy" for user in CROWD}


def test_many_who_enter_are_held_where_a_limit_is_set(make: Make) -> None:
    house = make("x", guard={"max_enter": 0.5})
    house.members("x", CROWD[:20])
    house.sync()
    house.members("x", CROWD[:31])
    [held] = by_status(house.sync(), "held")
    assert held.reason.startswith("11 users would enter 20, more than max_enter 50%")
    house.members("x", CROWD[:30])
    assert outcomes(house.sync()) == [("a", "incremental", "done", 10)]


def test_an_open_sync_goes_on_whatever_limits_are_set_afterwards(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    for key in "xy":
        house.members(key, CROWD)
    house.sync("y")
    house.sync("x", interrupted=after(server, server.requests + 3))
    house.members("y", CROWD[45:])
    house.sync("y", interrupted=after(server, server.requests + 2))
    strict = {"max_exit": 0, "min_exits": 0, "max_enter": 0, "max_initial": 0}
    for key in "xy":
        house.change(key, guard=strict)
    assert by_status(house.sync(), "held") == []
    assert server.told() == {**{(key, user): True for key in "xy" for user in CROWD},
                             **{("y", user): False for user in CROWD[:45]}}
    assert len(server.calls) == 245, "and nobody was told twice"


def test_a_backfill_tells_again_what_was_told_and_nothing_of_what_is_held(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", CROWD)
    house.sync()
    house.members("x", ["new"])
    house.sync()
    since = len(server.calls)
    report = house.backfill("x")
    assert told(server, since) == entries("x", *CROWD)
    assert [(one.mode, one.status) for one in report.syncs] == [("backfill", "done"), ("", "held")]
    assert exit_code(report) == 4
    assert position(house, "x") == 1
    discard(house, "x")
    report = house.backfill("x")
    assert len(server.calls) == since + 200
    assert exit_code(report) == 0
    assert position(house, "x") == 1


def test_a_backfill_is_no_way_around_a_held_initial_sync(make: Make) -> None:
    house = make("x", guard={"max_initial": 10})
    house.members("x", CROWD)
    house.sync()
    report = house.backfill("x")
    assert exit_code(report) == 4
    assert house.servers["a"].connections == 0, "I8"


def test_refused_users_of_what_is_held_are_left_alone_and_tried_when_it_goes_on(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    server.refuse = {CROWD[99]}
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    requests, since = server.requests, len(server.calls)
    house.sync()
    server.refuse = set()
    house.sync()
    house.backfill("y")
    assert server.requests == requests, "I8"
    approve(house, "x")
    report = house.sync()
    assert told(server, since) == sorted([*exits("x", *CROWD[:60]), *entries("x", CROWD[99])])
    assert (report.rejected, exit_code(report)) == (0, 0)


# what a person answers


def test_an_approval_sends_exactly_the_change_that_was_shown(make: Make) -> None:
    house = make("x", names="ab")
    a, b = house.servers["a"], house.servers["b"]
    house.members("x", CROWD)
    house.sync()
    house.members("x", [*CROWD[60:], "new"])
    house.sync()
    with pytest.raises(UsageError, match=r"up to run 2, not 1.*audiencesync approve x --destination a --run 2"):
        approve(house, "x", run=1)
    approve(house, "x", "a", run=2)
    assert list(holds(house)) == [("x", "b")]
    seen_a, seen_b = len(a.calls), len(b.calls)
    report = house.sync()
    assert told(a, seen_a) == sorted([*exits("x", *CROWD[:60]), *entries("x", "new")])
    assert len(b.calls) == seen_b, "it was approved for one destination"
    assert [one.destination for one in by_status(report, "held")] == ["b"]
    approve(house, "x")
    house.sync()
    assert told(b, seen_b) == told(a, seen_a)
    assert exit_code(house.sync()) == 0


def test_what_is_approved_is_sent_and_no_more_when_the_next_run_is_larger_still(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    many = [f"v{number:03}" for number in range(300)]
    house.members("x", many)
    house.sync()
    house.members("x", many[100:])
    house.sync()
    approve(house, "x")
    house.members("x", many[200:])
    since = len(server.calls)
    report = house.sync()
    assert told(server, since) == exits("x", *many[:100])
    assert {call["timestamp"] for call in server.calls[since:]} == {"2026-01-01T02:00:00.000Z"}, "as of what was shown"
    [held] = by_status(report, "held")
    assert held.reason == "100 of 200 members would exit, more than max_exit 30% (+0 -100 up to run 3)"
    assert (position(house, "x"), exit_code(report)) == (2, 4)
    house.members("x", many[250:])
    since = len(server.calls)
    house.sync()
    assert len(server.calls) == since, "the approval is used up"


def test_what_is_left_after_an_approved_change_is_told_at_once_where_it_is_small(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    house.sync()
    approve(house, "x")
    house.members("x", CROWD[62:])
    since = len(server.calls)
    report = house.sync()
    assert outcomes(report) == [("a", "incremental", "done", 60), ("a", "incremental", "done", 2)]
    assert told(server, since) == exits("x", *CROWD[:62])
    assert exit_code(report) == 0


def test_an_approval_is_moot_where_the_next_run_is_harmless(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", CROWD)
    house.sync()
    house.members("x", [])
    house.sync()
    approve(house, "x")
    house.members("x", CROWD[1:])
    since = len(server.calls)
    assert outcomes(house.sync()) == [("a", "incremental", "done", 1)]
    assert told(server, since) == exits("x", CROWD[0]), "nobody is told what was shown and is true no more"
    house.members("x", [])
    assert [one.status for one in house.sync().syncs] == ["held"], "and it died with the position"


def test_an_approval_is_of_the_very_counts(make: Make) -> None:
    """Whatever else moved the position, the next change of the same run is another one."""
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    house.sync()
    approve(house, "x")
    with house.store.write() as connection:
        connection.execute(update(tables.decisions).values(exited=59))
    assert [one.status for one in house.sync().syncs] == ["held"]


def test_a_discarded_change_is_not_sent_and_nobody_is_asked_until_a_newer_run_is_harmless(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    house.sync()
    discard(house, "x")
    assert holds(house) == {}
    requests = server.requests
    for members in (CROWD[60:], CROWD[66:], [*CROWD[63:], "new"]):
        house.members("x", members)
        report = house.sync("x")
        assert exit_code(report) == 0
        assert [(one.status, one.requests) for one in report.syncs] == [("skipped", 0)]
        assert "discarded" in report.syncs[0].reason
    assert server.requests == requests
    assert position(house, "x") == 1
    house.members("x", CROWD[67:])
    assert agree(house).syncs[0].status == "held", "what has grown by more than a tenth is asked of a person again"
    assert list(holds(house)) == [("x", "a")]
    house.members("x", CROWD[3:])
    since = len(server.calls)
    assert exit_code(house.sync()) == 0
    assert told(server, since) == exits("x", *CROWD[:3])
    house.members("x", [])
    assert [one.status for one in house.sync("x").syncs] == ["held"], "what comes after is another change"


def test_a_discarded_change_can_still_be_approved(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    house.sync()
    discard(house, "x")
    house.sync()
    approve(house, "x")
    since = len(house.servers["a"].calls)
    assert exit_code(house.sync()) == 0
    assert told(house.servers["a"], since) == exits("x", *CROWD[:60])


def test_an_answer_that_comes_too_late_is_refused(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    for answer in (approve, discard):
        with pytest.raises(UsageError, match="nothing of x is held now"):
            answer(house, "x")


def test_of_a_stopped_approved_sync_the_rest_is_sent_in_the_same_bytes(make: Make) -> None:
    house = make("x", concurrency=1)
    server = house.servers["a"]
    many = [f"v{number:03}" for number in range(150)]
    house.members("x", many)
    house.sync()
    house.members("x", many[60:])
    house.sync()
    approve(house, "x")
    house.members("x", [])
    since = len(server.calls)
    with stopping_at("page.acknowledged", 2), pytest.raises(Stopped):
        house.sync()
    assert 0 < len(server.calls) - since < 60
    report = house.sync()
    assert server.changed_message_ids() == []
    assert sorted({(key_of(call), user_of(call), call["traits"]["x"]) for call in server.calls[since:]}) == exits(
        "x", *many[:60])
    assert len(by_status(report, "held")) == 1


def test_a_scheduled_sync_is_held_as_a_typed_one_is(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync(typed=False)
    house.members("x", [])
    requests = house.servers["a"].requests
    report = house.sync(typed=False)
    assert exit_code(report) == 4
    assert house.servers["a"].requests == requests


# what plan says


def test_a_plan_says_what_will_be_held_with_its_counts_and_the_command(make: Make) -> None:
    house = make("x", "y", guard=SMALL)
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    house.members("x", CROWD[40:])
    house.members("y", CROWD[1:])
    said = agree(house)
    held, ready = sorted(said.syncs, key=lambda row: row.key)
    assert (held.status, held.exited) == ("held", 40)
    assert held.reason == ("40 of 100 members would exit, more than max_exit 30%; "
                           "after the run: audiencesync approve x --destination a")
    assert (ready.status, ready.exited) == ("ready", 1)
    assert said.deliveries[0].calls == 1


def test_a_plan_says_of_a_discarded_change_that_it_is_discarded(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[91:])
    house.sync()
    discard(house, "x")
    house.members("x", [])
    [row] = agree(house).syncs
    assert row.status == "discarded"
    assert "until a newer run is harmless" in row.reason


@pytest.mark.parametrize("left", [60, 62, 63, 90, 100])
def test_a_plan_has_what_was_approved_and_what_is_left_after_it(make: Make, left: int) -> None:
    house = make("x", "y", guard={"max_exit": 0.05, "min_exits": 1})
    house.servers["a"].refuse = {CROWD[99], CROWD[3], CROWD[61]}
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    house.sync()
    approve(house, "x")
    house.members("x", CROWD[left:])
    house.members("y", CROWD[1:])
    said = agree(house)
    rows = [row for row in said.syncs if row.key == "x"]
    approved, *rest = sorted(rows, key=lambda row: "approved" not in row.reason)
    assert (approved.exited, approved.reason) == (60, "approved up to run 2")
    assert [(row.status, row.exited) for row in rest] == {
        60: [], 62: [("ready", 2)]}.get(left, [("held", left - 60)])


def test_a_plan_of_what_cannot_be_computed_has_what_was_approved_up_to_the_newest_run(make: Make) -> None:
    """The approved run is the newest, so it goes among the others and not in a sync of its own."""
    house = make("x", "y")
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    house.members("x", CROWD[60:])
    house.sync()
    approve(house, "x")
    accounts.pause_destination(house.store, "a", reason="", who="test")
    house.members("y", CROWD[3:])
    house.sync("y")
    accounts.resume_destination(house.store, "a", who="test", reason="")
    house.change("x", sql="SELECT user_id FROM nowhere")
    server = house.servers["a"]
    said = house.plan()
    seen_calls, seen_requests = len(server.calls), server.requests
    house.sync()
    assert said.deliveries[0].calls == len(server.calls) - seen_calls == 63
    assert said.deliveries[0].requests == server.requests - seen_requests


GUARDS = ({"max_exit": 0.3, "min_exits": 3}, {"max_exit": 0.2, "min_exits": 2, "max_enter": 0.4, "max_initial": 22},
          {"max_exit": 6, "min_exits": 0, "max_enter": 8})
KEYS = ("x", "y", "z")
USERS = [f"u{number:02}" for number in range(45)]


def _decides(house: Premises, rng: random.Random) -> None:
    """A person looks at what is held, and does this or that."""
    for (key, name), hold in seen(house).holds.items():
        answer = rng.choice((approve, approve, discard, None))
        if answer is not None:
            answer(house, key, name)
        assert hold.why
    key = rng.choice(KEYS)
    known = runs.latest(house.store, [key]).get(key)
    if rng.random() < 0.3 and known is not None and known.run is not None:
        names = rng.choice(((), ("a",), ("b",)))
        retire(house, key, *names, clear=rng.random() < 0.7)
        if not names:
            house.project = replace(house.project, audiences=tuple(
                one for one in house.project.audiences if one.key != key))


def _lives(house: Premises, rng: random.Random) -> None:
    """Some hours in which audiences jump about, people decide, and syncs are stopped."""
    crowd: dict[str, set[str]] = {key: set() for key in KEYS}
    for _ in range(rng.randint(2, 5)):
        for key in KEYS:
            restless = rng.choice((0.02, 0.1, 0.6))
            crowd[key] ^= {user for user in USERS if rng.random() < restless}
            house.members(key, sorted(crowd[key]))
        for server in house.servers.values():
            server.refuse = {rng.choice(USERS) for _ in range(rng.choice((0, 0, 2)))}
        name = rng.choice(tuple(house.servers))
        if rng.random() < 0.3:
            accounts.pause_destination(house.store, name, reason="", who="test")
        else:
            accounts.resume_destination(house.store, name, who="test", reason="")
        here = [one.key for one in house.project.audiences]
        chosen = rng.sample(here, rng.randint(0, len(here)))
        what = rng.choice(("whole", "whole", "asked", "killed", "backfill"))
        with ExitStack() as stack:
            names = tuple(house.servers)
            if what == "killed":
                point = rng.choice(("page.acknowledged", "page.claimed", "sync.opened"))
                stack.enter_context(stopping_at(point))
                names = ("a",)
            signal = after(house.servers["a"], house.servers["a"].requests + rng.randint(1, 4))
            try:
                if what == "backfill":
                    house.backfill(*chosen, names=names, interrupted=signal)
                else:
                    house.sync(*chosen, names=names, **({"interrupted": signal} if what == "asked" else {}))
            except Stopped:
                pass
        _decides(house, rng)
    for name in house.servers:
        accounts.resume_destination(house.store, name, who="test", reason="")
    for key in KEYS:
        crowd[key] ^= {user for user in USERS if rng.random() < rng.choice((0.0, 0.1, 0.5))}
        house.members(key, sorted(crowd[key]))


@pytest.mark.parametrize("seed", range(6))
def test_a_plan_is_exactly_what_sync_then_sends_with_holds_approvals_and_farewells_in_the_mix(
        make: Make, seed: int) -> None:
    rng = random.Random(seed)
    house = make(*KEYS, names="ab")
    for key in KEYS:
        house.change(key, guard=rng.choice(GUARDS))
    _lives(house, rng)
    agree(house)
    _decides(house, rng)
    agree(house)
    nothing = house.plan()
    assert all(one.calls == one.requests == 0 for one in nothing.deliveries)
    held = {(row.key, row.destination) for row in nothing.syncs if row.status in ("held", "discarded")}
    assert held == set(seen(house).holds)


# the commands


MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
defaults: {schedule: every 1s}
destinations:
  a: {type: segment, write_key: "${WRITE_KEY}", url: "${SEGMENT}", settle: 0s, timeout: 2s}
  b: {type: segment, write_key: "${WRITE_KEY}", url: "${OTHER}", settle: 0s, timeout: 2s}
"""
BUYERS = "SELECT user_id FROM orders WHERE user_id LIKE 'u%'\n"
OTHERS = "SELECT user_id FROM orders WHERE user_id LIKE 'v%'\n"


@pytest.fixture
def shop(tmp_path: Path, state_url: str) -> Iterator[Shop]:
    """A hundred buyers and a few others, told to two destinations."""
    with Recorder() as a, Recorder() as b:
        made = Shop(tmp_path / "shop", state_url, url=a.url, main=MAIN, buyers=BUYERS, others=OTHERS)
        made.environment["OTHER"] = b.url
        made.servers = (a, b)  # type: ignore[attr-defined]
        made.orders(*CROWD, "v1", "v2")
        assert made.run("sync").code == 0
        for server in (a, b):
            server.clear()
        yield made


def _servers(shop: Shop) -> tuple[Recorder, Recorder]:
    found: tuple[Recorder, Recorder] = shop.servers  # type: ignore[attr-defined]
    return found


def _requests(shop: Shop) -> list[int]:
    return [server.requests for server in _servers(shop)]


def _typed(shop: Shop, command: str) -> Said:
    """What a message says to type, typed."""
    program, *words = shlex.split(command)
    assert program == "audiencesync"
    return shop.run(*words)


def _waits(shop: Shop, kind: str) -> list[dict[str, Any]]:
    return [one for one in shop.run("status", "-o", "json").document["waits"] if one["kind"] == kind]


WHY = "60 of 100 members would exit, more than max_exit 30% (+0 -60 up to run 2)"


def test_whoever_looks_is_told_of_the_hold_with_its_counts_and_the_very_command(shop: Shop) -> None:
    shop.forget(*CROWD[:60])
    planned = shop.run("plan", "-o", "json")
    rows = [row for row in planned.document["syncs"] if row["key"] == "buyers"]
    assert [(row["status"], row["exited"]) for row in rows] == [("held", 60)] * 2
    assert planned.code == 0
    assert "approve buyers --destination b" in shop.run("plan").out
    before = _requests(shop)
    said = shop.run("sync", "-o", "json")
    assert (said.code, said.document["exit_code"]) == (4, 4)
    assert {(one["destination"], one["status"], one["reason"]) for one in said.document["syncs"]
            if one["keys"] == ["buyers"]} == {("a", "held", WHY), ("b", "held", WHY)}
    text = shop.run("sync", "--allow", "held")
    assert text.code == 0
    assert f"a (buyers) is held: {WHY.replace('run 2', 'run 3')}" in text.out
    assert _requests(shop) == before, "I8"
    assert shop.run("plan").code == 0
    first, second = _waits(shop, "held")
    assert (first["what"], first["destination"], second["destination"]) == ("buyers at a", "a", "b")
    assert first["since"] == first["oldest_unsent"] is not None
    approve_it, discard_it = first["help"].split("  or  ")
    assert approve_it == "audiencesync approve buyers --destination a --run 3"
    assert first["help"] in shop.run("status").out
    assert shop.run("status", "--check").code == 4
    assert _typed(shop, approve_it).code == 0
    assert _typed(shop, second["help"].split("  or  ")[1]).code == 0
    assert discard_it.startswith("audiencesync discard buyers ")
    assert _waits(shop, "held") == []
    [discarded] = _waits(shop, "discarded")
    assert discarded["destination"] == "b"
    assert shop.run("sync").code == 0
    a, b = _servers(shop)
    assert told(a) == exits("buyers", *CROWD[:60])
    assert told(b) == []
    assert _typed(shop, _waits(shop, "discarded")[0]["help"]).code == 0
    assert shop.run("sync").code == 0
    assert told(b) == exits("buyers", *CROWD[:60])
    assert recorded(shop) == [
        ("approve buyers --destination a --run 3", "buyers", None),
        ("discard buyers --destination b --run 3", "buyers", None),
        ("approve buyers --destination b --run 4", "buyers", None)]


def test_an_approval_names_what_it_is_of_and_why_and_another_run_is_refused(shop: Shop) -> None:
    shop.forget(*CROWD[:60])
    shop.run("sync")
    refused = shop.run("approve", "buyers", "--run", "1")
    assert refused.code == 2
    assert "up to run 2, not 1" in refused.err
    assert "audiencesync approve buyers --destination a --run 2" in refused.err
    said = shop.run("approve", "buyers", "--run", "2", "--reason", "the shop closed", "-o", "json")
    assert said.document["decisions"] == [
        {"destination": name, "run": 2, "entered": 0, "exited": 60} for name in "ab"]
    assert recorded(shop) == [
        ("approve buyers --destination a --destination b --run 2", "buyers", "the shop closed")]
    assert shop.run("approve", "buyers").code == 2, "nothing is held any more"


@pytest.mark.parametrize(("words", "meant"), [
    (("approve", "buyerz"), "did you mean 'buyers'?"),
    (("discard", "buyerz"), "did you mean 'buyers'?"),
    (("approve", "buyers"), "nothing of buyers is held now"),
    (("discard", "others"), "nothing of others is held now"),
    (("approve", "buyers", "--destination", "c"), "there is no destination 'c'"),
    (("approve", "a"), "--same-account or --new-account"),
    (("approve", "buyers", "--same-account"), "is an audience"),
    (("discard", "a"), "is a destination"),
    (("approve", "buyers", "--run", "0"), "--run"),
])
def test_an_answer_to_nothing_is_refused_and_not_recorded(shop: Shop, words: tuple[str, ...], meant: str) -> None:
    said = shop.run(*words)
    assert said.code == 2
    assert meant in said.err
    assert recorded(shop) == []


@pytest.mark.parametrize("broken", ["WHERE 1 = 0", "WHERE user_id LIKE 'nobody%'"])
def test_a_broken_query_that_returns_nobody_sends_nothing_and_mending_it_is_all_there_is_to_do(
        shop: Shop, broken: str) -> None:
    before = _requests(shop)
    shop.write("audiences/buyers.sql", f"SELECT user_id FROM orders {broken}\n")
    for words in (("sync",), ("sync", "--due"), ("sync", "--due")):
        time.sleep(1.1)
        said = shop.run(*words, "-o", "json")
        assert said.code == 4
        assert {run["members"] for run in said.document["runs"] if run["key"] == "buyers"} == {0}
        assert "all 100 members would exit" in said.out
    assert _requests(shop) == before, "I8"
    shop.write("audiences/buyers.sql", BUYERS)
    time.sleep(1.1)
    assert shop.run("sync", "--due").code == 0
    assert _requests(shop) == before
    assert _waits(shop, "held") == []


def test_due_and_a_service_look_at_the_same_brakes(make: Make) -> None:
    """`due` is what both are made of."""
    house = make("x")
    house.change("x", schedule="every 1s")
    house.members("x", CROWD)
    first = due(house.project, house.store, _request(house))
    assert exit_code(first) == 0
    house.members("x", [])
    time.sleep(1.1)
    requests = house.servers["a"].requests
    report = due(house.project, house.store, _request(house))
    assert (exit_code(report), house.servers["a"].requests) == (4, requests)


def _request(house: Premises) -> Request:
    return replace(house.request(), typed=False)


@pytest.mark.parametrize(("answer", "command"), [("discard", "approve"), ("discard", "resume"), ("approve", "resume")])
def test_nothing_that_was_said_counts_at_a_new_account(
        tmp_path: Path, state_url: str, answer: str, command: str) -> None:
    """The same number of people at another account is another matter."""
    main = MAIN.replace("every 1s", "manual, guard: {max_initial: 10}").replace(MAIN.splitlines()[-1], "")
    with Recorder() as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url, main=main, buyers=BUYERS)
        shop.orders(*CROWD)
        assert shop.run("sync").code == 4
        assert shop.run(answer, "buyers").code == 0
        assert shop.run(command, "a", "--new-account").code == 0
        assert shop.run("sync").code == 4
        assert server.connections == 0

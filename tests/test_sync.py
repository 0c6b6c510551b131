"""The story as people meet it: who is told what and when, what goes first, and what never stops the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, update

from audiencesync import failpoints
from audiencesync.report import exit_code
from audiencesync.store import accounts, positions, runs, syncs, tables
from audiencesync.sync.compute import compute
from tests.histories import at, dump
from tests.projects import Premises, Stopped, after, by_status, outcomes, stopping_at
from tests.servers import Fault, Recorder, key_of, user_of

MANY = [f"u{number:03}" for number in range(95)]
Make = Callable[..., Premises]


@pytest.fixture
def make(tmp_path: Path, state_url: str) -> Iterator[Make]:
    """A project with these audiences, all of them sent to `a` (and to `b`, when asked)."""
    made: list[Premises] = []
    servers = {"a": Recorder(), "b": Recorder()}

    def build(*keys: str, names: str = "a", **settings: Any) -> Premises:
        made.append(Premises(tmp_path, state_url, {name: servers[name] for name in names}, *keys, **settings))
        return made[0]

    with servers["a"], servers["b"]:
        yield build
    made[0].store.close()


def told(server: Recorder, since: int = 0) -> list[tuple[str, str, bool]]:
    """What arrived, in order: key, user, value."""
    return [(key_of(call), user_of(call), call["traits"][key_of(call)]) for call in server.calls[since:]]


# what is told


def test_members_are_told_first_and_then_only_who_entered_or_left(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    house.members("x", ["ann", "bob"])
    house.members("y", ["bob"])
    assert outcomes(house.sync()) == [("a", "initial", "done", 3)]
    assert told(server) == [("x", "ann", True), ("x", "bob", True), ("y", "bob", True)]
    house.members("x", ["bob", "cid"])
    assert outcomes(house.sync()) == [("a", "incremental", "done", 2)]
    assert told(server, 3) == [("x", "ann", False), ("x", "cid", True)]
    requests = server.requests
    assert outcomes(house.sync()) == [("a", "incremental", "done", 0)]
    assert server.requests == requests, "I5"


def test_true_false_true_in_a_day_are_three_calls_with_three_message_ids(make: Make) -> None:
    house = make("x")
    for members in (["ann"], [], ["ann"]):
        house.members("x", members)
        house.sync()
    server = house.servers["a"]
    assert [value for *_, value in told(server)] == [True, False, True]
    assert len({call["messageId"] for call in server.calls}) == 3
    assert sorted(call["timestamp"] for call in server.calls) == [call["timestamp"] for call in server.calls]


def test_who_enters_and_exits_between_two_syncs_of_a_destination_is_not_told(make: Make) -> None:
    house = make("x", names="ab")
    house.members("x", ["ann"])
    house.sync()
    accounts.pause_destination(house.store, "b", reason="", who="test")
    for members in (["ann", "bob"], ["bob", "cid"], ["ann", "cid"]):
        house.members("x", members)
        house.sync()
    accounts.resume_destination(house.store, "b", who="test", reason="")
    house.sync()
    assert told(house.servers["b"]) == [("x", "ann", True), ("x", "cid", True)]
    assert told(house.servers["a"])[1:] == [
        ("x", "bob", True), ("x", "ann", False), ("x", "cid", True), ("x", "ann", True), ("x", "bob", False)]


def test_included_columns_ride_along_and_send_nothing_by_themselves(make: Make) -> None:
    house = make()
    house.project = replace(house.project, audiences=(house.audience("x", include=("email",)),))
    house.members("x", ["ann"], email="a@old")
    house.sync()
    house.members("x", ["ann"], email="a@new")
    house.sync()
    server = house.servers["a"]
    assert len(server.calls) == 1
    house.backfill()
    house.members("x", [])
    house.sync()
    assert [call["traits"] for call in server.calls] == [
        {"x": True, "email": "a@old"}, {"x": True, "email": "a@new"}, {"x": False}]


def test_a_destination_added_later_is_told_everyone_who_is_a_member_then_and_nobody_else(make: Make) -> None:
    house = make("x", names="ab")
    both = house.project.destinations
    house.project = replace(house.project, destinations={"a": both["a"]})
    for members in (["ann", "bob"], ["bob", "cid"]):
        house.members("x", members)
        house.sync()
    house.project = replace(house.project, destinations=both)
    assert outcomes(house.sync()) == [("a", "incremental", "done", 0), ("b", "initial", "done", 2)]
    assert told(house.servers["b"]) == [("x", "bob", True), ("x", "cid", True)]


def test_an_audience_added_later_and_one_of_other_ids_have_syncs_of_their_own(make: Make) -> None:
    house = make("x")
    house.members("x", ["ann"])
    house.sync()
    other = house.audience("mail", sql="SELECT user_id AS email FROM members WHERE key = 'mail'")
    house.project = replace(house.project, audiences=(*house.project.audiences, house.audience("y"), other))
    house.members("y", ["ann"])
    house.members("mail", ["a@b.co"])
    report = house.sync()
    assert sorted(one.keys for one in report.syncs) == [("mail",), ("y",)]
    assert house.servers["a"].told()["mail", "a@b.co"] is True


# who goes first


def test_fresh_changes_of_another_audience_overtake_an_initial_sync_under_way(make: Make) -> None:
    house = make("big", "small", concurrency=1)
    server = house.servers["a"]
    house.members("small", ["ann"])
    house.sync("small")
    house.members("big", MANY * 2)
    house.members("big", [f"{user}{part}" for user in MANY for part in "xy"])

    def meanwhile(number: int, _request: object) -> None:
        if number == 4:
            house.members("small", ["bob"])
            with house.other_process() as store:
                small = [one for one in house.project.audiences if one.key == "small"]
                compute(house.project, store, small, as_of=at(house.hour), interrupted=lambda: False)

    server.script, server.latency = meanwhile, 0.15
    report = house.sync("big", "small")
    order = [key_of(call) for call in server.calls]
    place = order.index("small", 1)
    assert order[-1] == "big", "the initial sync went on afterwards"
    assert place < len(order) - 12
    assert server.told()["small", "bob"] is True
    assert server.told()["small", "ann"] is False
    assert exit_code(report) == 0
    assert len(server.calls) == 1 + 2 * len(MANY) + 2, "nobody was told twice"


def test_open_syncs_go_on_incremental_ones_first(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    house.members("x", ["ann"])
    house.sync("x")
    house.members("y", MANY)
    house.sync("y", interrupted=after(server, 4))
    house.members("x", ["bob"])
    since = len(server.calls)
    assert [(one.mode, one.status) for one in house.sync().syncs] == [("incremental", "done"), ("initial", "done")]
    order = [key for key, *_ in told(server, since)]
    assert order[:2] == ["x", "x"]
    assert server.told() == {("x", "ann"): False, ("x", "bob"): True, **{("y", user): True for user in MANY}}


# what never stops the others


def test_a_destination_that_fails_never_stops_another(make: Make) -> None:
    house = make("x", names="ab")
    house.servers["a"].script = lambda *_: 401
    house.members("x", MANY)
    report = house.sync()
    assert {(one.destination, one.status) for one in report.syncs} == {("a", "paused"), ("b", "done")}
    assert len(house.servers["b"].calls) == len(MANY)
    assert exit_code(report) == 75


def test_an_audience_that_fails_never_stops_another_and_is_not_told_as_empty(make: Make) -> None:
    house = make("x", "y")
    for key in "xy":
        house.members(key, ["ann"])
    house.sync()
    house.change("x", sql="SELECT user_id FROM nowhere")
    house.members("y", ["bob"])
    report = house.sync()
    assert [(run.key, run.status) for run in report.runs] == [("x", "failed"), ("y", "done")]
    assert told(house.servers["a"], 2) == [("y", "ann", False), ("y", "bob", True)]
    assert exit_code(report) == 2


def test_the_key_of_a_retired_audience_is_refused_and_stops_nobody(make: Make) -> None:
    house = make("x", "y")
    for key in "xy":
        house.members(key, ["ann"])
    house.sync("x")
    with house.store.write() as connection:
        connection.execute(update(tables.computations).values(retired_at=at(0)))
    house.members("x", ["bob"])
    report = house.sync()
    assert exit_code(report) == 2
    assert told(house.servers["a"], 1) == [("y", "ann", True)]


def test_a_refused_user_never_stops_another_and_is_told_when_he_is_taken_again(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    house.members("x", MANY)
    house.members("y", MANY[:20])
    server.refuse = {MANY[3], MANY[60]}
    report = house.sync()
    assert (report.rejected, exit_code(report)) == (3, 3)
    assert server.told() == {(key, user): True for key, users in (("x", MANY), ("y", MANY[:20])) for user in users
                             if user not in server.refuse}
    house.members("x", [user for user in MANY if user != MANY[60]])
    server.refuse = set()
    report = house.sync()
    assert (report.rejected, exit_code(report)) == (0, 0)
    assert server.told()["x", MANY[3]] is True
    assert server.told()["x", MANY[60]] is False
    assert server.told()["y", MANY[3]] is True
    requests = server.requests
    house.sync()
    assert server.requests == requests


def test_a_scheduled_sync_leaves_a_refused_user_alone_until_his_time(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", ["ann", "bob"])
    server.refuse = {"bob"}
    house.sync(typed=False)
    requests = server.requests
    house.sync(typed=False)
    assert server.requests == requests
    with house.store.write() as connection:
        connection.execute(update(tables.rejections).values(next_try=at(-9)))
    house.sync(typed=False)
    assert server.requests == requests + 1


# what is paused, held or waits


def test_a_paused_destination_is_sent_nothing_and_misses_nothing(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    accounts.pause_destination(house.store, "a", reason="holiday", who="test")
    house.members("x", ["ann"])
    report = house.sync()
    assert [(one.status, one.reason) for one in report.syncs] == [("paused", "holiday")]
    house.backfill()
    assert server.connections == 0, "I8"
    accounts.resume_destination(house.store, "a", who="test", reason="")
    house.sync()
    assert told(server) == [("x", "ann", True)]


def test_a_paused_audience_is_neither_computed_nor_told_and_the_others_are(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    for key in "xy":
        house.members(key, ["ann"])
    house.sync()
    accounts.pause_computation(house.store, "x", kind="audience", reason="", who="test")
    for key in "xy":
        house.members(key, ["bob"])
    report = house.sync()
    assert [(run.key, run.status) for run in report.runs] == [("x", "paused"), ("y", "done")]
    house.backfill("x")
    assert {key for key, *_ in told(server, 2)} == {"y"}
    accounts.resume_computation(house.store, "x", who="test", reason="")
    house.sync()
    assert server.told()["x", "ann"] is False


@pytest.mark.parametrize("selected", [("x",), ("y",), ()])
def test_a_paused_audience_is_not_told_by_an_open_sync_either_whoever_goes_on_with_it(
        make: Make, selected: tuple[str, ...]) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    for key in "xy":
        house.members(key, MANY)
    house.sync(interrupted=after(server, 4))
    [opened] = syncs.open_syncs(house.store, "a")
    assert len(opened.spans) == 2
    accounts.pause_computation(house.store, "y", kind="audience", reason="", who="test")
    before = len(server.calls)
    house.sync(*selected)
    rest = told(server, before)
    assert {key for key, *_ in rest} <= {"x"}, "I8"
    accounts.resume_computation(house.store, "y", who="test", reason="")
    house.sync()
    assert server.told() == {(key, user): True for key in "xy" for user in MANY}
    assert server.changed_message_ids() == []


def test_another_account_is_held_until_somebody_says_what_it_is(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", ["ann"])
    house.sync()
    house.settle_on("a", write_key=SecretStr("other"))
    house.members("x", ["ann", "bob"])
    requests = server.requests
    report = house.sync()
    assert [one.status for one in report.syncs] == ["held"]
    assert "--same-account" in report.syncs[0].help
    assert exit_code(report) == 4
    assert server.requests == requests


def test_another_account_is_held_also_when_the_first_sync_never_ended(make: Make) -> None:
    """Half an initial sync lies at the former account; the other half alone would be all that the new one gets."""
    house = make("x")
    server = house.servers["a"]
    house.members("x", MANY)
    with stopping_at("page.acknowledged", 1), pytest.raises(Stopped):
        house.sync()
    house.settle_on("a", write_key=SecretStr("other"))
    requests = server.requests
    assert [one.status for one in house.sync().syncs] == ["held"]
    assert server.requests == requests


def test_a_mistyped_key_that_was_never_accepted_holds_nothing(make: Make) -> None:
    house = make("x")
    house.servers["a"].write_key = "other"
    house.members("x", ["ann"])
    assert [one.status for one in house.sync().syncs] == ["paused"]
    accounts.resume_destination(house.store, "a", who="test", reason="")
    house.settle_on("a", write_key=SecretStr("other"))
    assert [one.status for one in house.sync().syncs] == ["done"]


def test_after_an_unanswered_request_the_next_sync_of_these_audiences_waits(make: Make) -> None:
    house = make("x", "y", settle=timedelta(hours=1))
    server = house.servers["a"]
    house.members("x", ["ann"])
    server.script = ["accept_then_drop"]
    assert outcomes(house.sync("x")) == [("a", "initial", "done", 1)]
    house.members("x", ["bob"])
    house.members("y", ["cid"])
    report = house.sync()
    [waiting] = by_status(report, "waiting")
    assert (waiting.keys, waiting.until is not None, "settle" in waiting.reason) == (("x",), True, True)
    assert server.told() == {("x", "ann"): True, ("y", "cid"): True}
    assert exit_code(report) == 75
    with house.store.write() as connection:
        connection.execute(update(tables.positions).values(settled_at=at(-9)))
    house.sync()
    assert server.told() == {("x", "ann"): False, ("x", "bob"): True, ("y", "cid"): True}


def test_a_wait_that_a_destination_asks_for_is_kept_by_the_next_command_too(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", ["ann"])
    server.script = lambda number, _: _slow_down() if number == 0 else None
    report = house.sync()
    assert [(one.status, one.until is not None) for one in report.syncs] == [("waiting", True)]
    report = house.sync()
    assert [(one.status, one.until is not None) for one in report.syncs] == [("waiting", True)]
    assert server.requests == 1
    with house.store.write() as connection:
        connection.execute(update(tables.destinations).values(retry_at=at(-9)))
    assert [one.status for one in house.sync().syncs] == ["done"]
    assert accounts.account(house.store, "a")[0].retry_at is None


def _slow_down() -> Fault:
    return Fault(status=429, headers={"Retry-After": "600"}, taken=False)


# what is open goes on as it was


def test_what_was_begun_is_finished_in_the_same_bytes_whatever_is_edited_meanwhile(
        make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    house = make("x")
    server = house.servers["a"]
    house.change("x", integrations=("Richpanel",))
    house.members("x", MANY)
    with stopping_at("page.acknowledged", 1), pytest.raises(Stopped):
        house.sync()
    first = len(server.calls)
    assert 0 < first < len(MANY)
    monkeypatch.setattr("audiencesync.sync.envelopes.__version__", "99.0")
    house.change("x", integrations=("Other",))
    house.project = replace(house.project, name="renamed")
    house.members("x", MANY[10:])
    house.sync()
    assert server.changed_message_ids() == []
    initial = [call for call in server.unique_calls if call["traits"]["x"]]
    assert sorted(map(user_of, initial)) == MANY
    assert {call["integrations"].get("Richpanel") for call in initial} == {True}
    assert {call["context"]["personas"]["namespace"] for call in initial} == {"shop"}
    assert {call["timestamp"] for call in initial} == {"2026-01-01T01:00:00.000Z"}
    exits = [call for call in server.unique_calls if not call["traits"]["x"]]
    assert sorted(map(user_of, exits)) == MANY[:10]
    assert {call["context"]["personas"]["namespace"] for call in exits} == {"renamed"}


def test_an_open_sync_goes_on_though_one_of_its_audiences_is_defined_no_more(make: Make) -> None:
    """Its bytes were fixed when it opened, and the others' calls lie among them."""
    house = make("x", "y")
    server = house.servers["a"]
    for key in "xy":
        house.members(key, MANY)
    house.sync(interrupted=after(server, 4))
    house.project = replace(house.project, audiences=house.project.audiences[:1])
    report = house.sync()
    assert exit_code(report) == 0
    assert server.told() == {(key, user): True for key in "xy" for user in MANY}
    assert server.changed_message_ids() == []
    assert len(server.calls) == len(server.unique_calls)


def test_an_open_sync_of_an_audience_that_is_defined_no_more_waits_for_its_return(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    house.members("y", MANY)
    house.sync("y", interrupted=after(server, 4))
    whole = house.project
    house.project = replace(house.project, audiences=whole.audiences[:1])
    requests = server.requests
    house.sync()
    assert server.requests == requests
    assert [sync.spans[0].key for sync in syncs.open_syncs(house.store, "a")] == ["y"]
    house.project = whole
    house.sync()
    assert server.told() == {("y", user): True for user in MANY}
    assert len(server.calls) == len(MANY), "and nobody was told twice"


def test_asked_to_end_a_sync_ends_between_pages_and_the_next_goes_on_there(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", MANY)
    report = house.sync(interrupted=after(server, 4))
    [one] = report.syncs
    assert (one.status, one.reason) == ("interrupted", "asked to end")
    assert one.sent == len(server.calls)
    assert one.sent + one.remaining == len(MANY)
    assert exit_code(report) == 75
    [opened] = syncs.open_syncs(house.store, "a")
    assert opened.claimed == opened.acknowledged, "nothing is left in doubt"
    house.sync()
    assert len(server.calls) == len(MANY)


def test_a_worker_whose_lease_was_taken_sends_and_writes_no_more(make: Make) -> None:
    house = make("x", concurrency=1)
    server = house.servers["a"]
    house.members("x", MANY)

    def steal(number: int, _request: object) -> None:
        if number == 3:
            with house.other_process() as store, store.write() as connection:
                connection.execute(update(tables.leases).values(fence=tables.leases.c.fence + 1, holder="another/1/1"))
            seen.append(dump(house.store))

    seen: list[Any] = []
    server.script = steal
    report = house.sync()
    assert [code for code, _ in report.errors] == [75]
    assert dump(house.store) == seen[0], "I9: nothing was written after it, not even on the way out"
    assert exit_code(report) == 75
    assert server.requests < 10


# backfill


def test_a_backfill_tells_members_true_and_former_members_false_and_moves_nothing(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    for members in (["ann", "bob"], ["bob", "cid"]):
        for key in "xy":
            house.members(key, members)
        house.sync()
    before = list(positions.known_positions(house.store, "a").values())
    since = len(server.calls)
    assert outcomes(house.backfill("x")) == [("a", "backfill", "done", 3)]
    assert told(server, since) == [("x", "ann", False), ("x", "bob", True), ("x", "cid", True)]
    assert list(positions.known_positions(house.store, "a").values()) == before
    assert len({call["messageId"] for call in server.calls}) == len(server.calls)
    assert {call["timestamp"] for call in server.calls[since:]} == {"2026-01-01T02:00:00.000Z"}


def test_a_second_backfill_goes_on_with_the_first_and_a_third_begins_anew(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", MANY)
    house.sync()
    server.clear()
    with stopping_at("page.acknowledging", 2), pytest.raises(Stopped):
        house.backfill()
    [opened] = syncs.open_syncs(house.store, "a")
    assert opened.mode == "backfill"
    house.backfill()
    assert server.told() == {("x", user): True for user in MANY}
    assert len(server.unique_calls) == len(MANY)
    assert server.changed_message_ids() == []
    assert syncs.open_syncs(house.store, "a") == []
    house.backfill()
    assert len(server.unique_calls) == 2 * len(MANY)


def test_a_sync_goes_on_with_an_open_backfill_and_then_tells_what_changed_since(make: Make) -> None:
    house = make("x")
    server = house.servers["a"]
    house.members("x", MANY)
    house.sync()
    house.backfill(interrupted=after(server, server.requests + 3))
    house.members("x", MANY[1:])
    house.sync()
    assert told(server)[-1] == ("x", MANY[0], False)
    assert len(server.calls) == 2 * len(MANY) + 1


def test_a_backfill_brings_a_destination_up_to_date_before_it_tells_all_again(make: Make) -> None:
    house = make("x", names="ab")
    house.members("x", ["ann"])
    house.sync()
    accounts.pause_destination(house.store, "b", reason="", who="test")
    house.members("x", ["bob"])
    house.sync()
    accounts.resume_destination(house.store, "b", who="test", reason="")
    report = house.backfill(names=["b"])
    assert [one.mode for one in report.syncs] == ["incremental", "backfill"]
    assert house.servers["b"].told() == {("x", "ann"): False, ("x", "bob"): True}


# computing


def test_a_run_that_another_process_overtook_is_no_mistake(make: Make) -> None:
    """Without --as-of both mean now; the one that comes second has nothing to add."""
    house = make("x")
    house.members("x", ["ann"])

    def overtaken(name: str) -> None:
        if name == "run.staged" and not done:
            done.append(name)
            with house.other_process() as store:
                compute(house.project, store, house.project.audiences, as_of=None, interrupted=lambda: False)

    done: list[str] = []
    failpoints.install(overtaken)
    try:
        found, errors = compute(house.project, house.store, house.project.audiences, as_of=None,
                                interrupted=lambda: False)
    finally:
        failpoints.install(None)
    assert errors == []
    newest = runs.latest(house.store, ["x"])["x"].run
    assert newest is not None
    assert [run.number for run in found] == [newest.number] == [1]


def test_messageids_of_a_sync_come_from_its_stored_secret(make: Make) -> None:
    house = make("x")
    house.members("x", MANY)
    house.sync()
    with house.store.read() as connection:
        [secret] = connection.execute(select(tables.syncs.c.secret)).scalars()
    derived = {"as_" + blake2b(b"x\0" + user.encode(), key=secret, digest_size=16).hexdigest() for user in MANY}
    assert {call["messageId"] for call in house.servers["a"].calls} == derived

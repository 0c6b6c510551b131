"""How an audience ends: everywhere or at one destination, with everybody told that he left, or without a word."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update

from audiencesync.report import exit_code
from audiencesync.store import accounts, housekeeping, positions, runs, syncs, tables
from audiencesync.sync import due
from tests.commands import Shop
from tests.histories import at
from tests.persons import discard, recorded, retire, seen
from tests.projects import Premises, Stopped, after, by_status, stopping_at
from tests.servers import Recorder, key_of, user_of
from tests.test_plan import agree

CROWD = [f"u{number:03}" for number in range(95)]
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
    return sorted((key_of(call), user_of(call), call["traits"][key_of(call)]) for call in server.calls[since:])


def farewell(key: str, users: list[str]) -> list[tuple[str, str, bool]]:
    return sorted((key, user, False) for user in users)


def position(house: Premises, key: str, name: str = "a") -> int:
    identity = runs.latest(house.store, [key])[key].computation_id
    return positions.known_positions(house.store, name)[identity].run


def delete_file(house: Premises, key: str) -> None:
    house.project = replace(house.project, audiences=tuple(one for one in house.project.audiences if one.key != key))


def at_rest(house: Premises, *, code: int = 0) -> None:
    """Nothing more is to be said, however often the command runs, and plan and status agree."""
    requests = {name: server.requests for name, server in house.servers.items()}
    for _ in range(2):
        assert exit_code(house.sync()) == code
    if runs.latest(house.store, ["x"])["x"].retired:
        house.backfill("x")
    assert {name: server.requests for name, server in house.servers.items()} == requests
    assert all(one.calls == 0 for one in house.plan().deliveries)
    troubles = [one for one in seen(house).troubles if one.kind not in ("retired", "late")]
    assert troubles == [], "runs of long ago are late"


# without a word


@pytest.mark.parametrize("file", ["stays", "deleted"])
def test_a_retired_audience_is_computed_and_told_no_more_and_the_others_go_on(make: Make, file: str) -> None:
    house = make("x", "y", names="ab")
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    retire(house, "x")
    if file == "deleted":
        delete_file(house, "x")
    for key in "xy":
        house.members(key, CROWD[1:])
    before = [len(server.calls) for server in house.servers.values()]
    code = 2 if file == "stays" else 0
    said = house.plan()
    assert [error for error, _ in said.errors] == [2] * (file == "stays")
    report = house.sync()
    assert exit_code(report) == code
    assert {run.key for run in report.runs} - {"y"} == ({"x"} if file == "stays" else set())
    assert [run.status for run in report.runs if run.key == "y"] == ["done"]
    for server, since in zip(house.servers.values(), before, strict=True):
        assert told(server, since) == farewell("y", CROWD[:1])
    newest = runs.latest(house.store, ["x"])["x"].run
    assert newest is not None
    assert newest.number == 1
    assert (said.left, said.taken) == ((), ())
    at_rest(house, code=code)


def test_an_open_sync_of_a_retired_audience_goes_on_no_more(make: Make) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    for key in "xy":
        house.members(key, CROWD)
    house.sync(interrupted=after(server, 4))
    [opened] = syncs.open_syncs(house.store, "a")
    assert len(opened.spans) == 2
    retire(house, "x")
    delete_file(house, "x")
    since = len(server.calls)
    agree(house)
    assert {key for key, *_ in told(server, since)} == {"y"}
    assert {user for key, user, _ in told(server) if key == "y"} == set(CROWD)
    at_rest(house)


def test_a_sync_under_way_stops_before_its_next_page_when_its_audience_is_retired(make: Make) -> None:
    house = make("x", concurrency=1)
    server = house.servers["a"]
    house.members("x", [f"u{number:04}" for number in range(600)])

    def meanwhile(number: int, _request: object) -> None:
        if number == 2:
            with house.other_process() as store:
                other = replace_store(house, store)
                retire(other, "x")

    server.script, server.latency = meanwhile, 0.1
    began = time.monotonic()
    house.sync()
    assert time.monotonic() - began < 5
    assert server.requests < 30
    requests = server.requests
    house.sync()
    assert server.requests == requests


def replace_store(house: Premises, store: Any) -> Premises:
    """The same premises as another process sees them."""
    other = object.__new__(Premises)
    other.__dict__.update({**house.__dict__, "store": store})
    return other


# with everybody told that he left


@pytest.mark.parametrize("file", ["stays", "deleted"])
def test_with_clear_every_member_is_told_false_exactly_once_wherever_he_was_told(make: Make, file: str) -> None:
    house = make("x", "y", names="ab")
    house.change("x", integrations=("Richpanel",))
    for members in (CROWD, CROWD[5:]):
        for key in "xy":
            house.members(key, members)
        house.sync()
    before = {name: len(server.calls) for name, server in house.servers.items()}
    assert "everybody at a, b" in retire(house, "x", clear=True)
    if file == "deleted":
        delete_file(house, "x")
    house.project = replace(house.project, name="renamed")
    said = house.plan()
    code = 2 if file == "stays" else 0
    assert exit_code(house.sync()) == code
    for name, server in house.servers.items():
        assert told(server, before[name]) == farewell("x", CROWD[5:])
        first, last = server.calls[0], server.calls[-1]
        assert last["context"] == first["context"], "computation_id, namespace, ..."
        assert last["integrations"] == first["integrations"] == {"All": False, "Richpanel": True}
        assert last["timestamp"] > first["timestamp"]
        assert server.violations == []
        assert position(house, "x", name) == 0
        [planned] = [one for one in said.deliveries if one.destination == name]
        assert planned.calls == 90
    at_rest(house, code=code)


def test_to_clear_needs_no_further_word_however_many_leave(make: Make) -> None:
    house = make("x")
    house.change("x", guard={"max_exit": 0, "min_exits": 0})
    house.members("x", CROWD)
    house.sync()
    retire(house, "x", clear=True)
    assert by_status(house.sync(), "held") == []
    assert house.servers["a"].told() == {("x", user): False for user in CROWD}


def test_what_was_held_and_discarded_before_does_not_keep_anybody_from_being_cleared(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    house.members("x", [*CROWD[60:], "new"])
    house.sync()
    discard(house, "x")
    retire(house, "x", clear=True)
    delete_file(house, "x")
    house.sync()
    assert house.servers["a"].told() == {("x", user): False for user in CROWD}, "and whoever was never told is not told"
    at_rest(house)


@pytest.mark.parametrize("told_first", [5, 0])
def test_half_an_initial_sync_is_finished_and_then_everybody_is_cleared(make: Make, told_first: int) -> None:
    house = make("x", "y")
    server = house.servers["a"]
    if told_first:
        house.members("y", CROWD[:told_first])
        house.sync("y")
    for key in "xy":
        house.members(key, CROWD)
    house.sync(interrupted=after(server, server.requests + (14 if told_first else 4)))
    retire(house, "x", clear=True)
    delete_file(house, "x")
    agree(house)
    decisions = Counter((key_of(call), user_of(call), call["traits"][key_of(call)]) for call in server.calls)
    assert decisions == Counter({(key, user, value): 1 for key, value in (("x", True), ("x", False), ("y", True))
                                 for user in CROWD})
    assert server.told() == {(key, user): key == "y" for key in "xy" for user in CROWD}
    assert position(house, "x") == 0
    at_rest(house)


def test_half_an_initial_sync_to_a_destination_that_is_down_is_cleared_when_it_is_back(make: Make) -> None:
    house = make("x", names="ab")
    a, b = house.servers["a"], house.servers["b"]
    house.members("x", CROWD)
    b.script = lambda number, _request: 401 if number == 3 else None
    house.sync()
    accounts.pause_destination(house.store, "b", reason="it is away", who="test")
    assert 0 < len(b.calls) < len(CROWD)
    retire(house, "x", clear=True)
    delete_file(house, "x")
    for _ in range(3):
        house.sync()
    assert a.told() == {("x", user): False for user in CROWD}
    assert (position(house, "x", "a"), set(b.told().values())) == (0, {True})
    accounts.resume_destination(house.store, "b", who="test", reason="")
    agree(house)
    assert b.told() == {("x", user): False for user in CROWD}
    assert b.changed_message_ids() == []
    at_rest(house)


def test_a_destination_that_lags_behind_is_cleared_of_whom_it_was_told_and_of_nobody_else(make: Make) -> None:
    house = make("x", names="ab")
    house.members("x", CROWD[:50])
    house.sync()
    accounts.pause_destination(house.store, "b", reason="", who="test")
    house.members("x", CROWD[40:])
    house.sync()
    retire(house, "x", clear=True)
    delete_file(house, "x")
    house.sync()
    accounts.resume_destination(house.store, "b", who="test", reason="")
    before = len(house.servers["b"].calls)
    house.sync()
    assert told(house.servers["b"], before) == farewell("x", CROWD[:50])
    at_rest(house)


def test_a_destination_that_was_never_told_is_not_told_now_either(make: Make) -> None:
    house = make("x", names="ab")
    house.members("x", CROWD)
    house.sync(names=["a"])
    assert "everybody at a that" in retire(house, "x", clear=True)
    house.sync()
    assert house.servers["b"].connections == 0
    at_rest(house, code=2)


def test_an_audience_that_never_had_a_member_is_retired_without_a_request(make: Make) -> None:
    """It goes along with others, and comes before them."""
    house = make("empty", "mail", "x")
    server = house.servers["a"]
    for key in ("empty", "mail"):
        house.change(key, sql=f"SELECT user_id AS email FROM members WHERE key = '{key}'")
    house.members("mail", ["a@b.co"])
    for key in ("empty", "mail", "x"):
        house.sync(key)
    retire(house, "x", clear=True)
    delete_file(house, "x")
    requests = server.requests
    assert exit_code(house.sync()) == 0
    assert (server.requests, position(house, "x")) == (requests, 0)
    for key in ("empty", "mail"):
        retire(house, key, clear=True)
        delete_file(house, key)
    assert exit_code(house.sync()) == 0
    assert [call["traits"] for call in server.calls] == [{"mail": value, "email": "a@b.co"} for value in (True, False)]
    assert (position(house, "empty"), position(house, "mail")) == (0, 0)
    at_rest(house)


def test_refused_users_are_told_that_they_left_when_they_are_taken_again(make: Make) -> None:
    """One was never told, one was told and then refused as he left before, one is refused only now."""
    house = make("x", "y")
    server = house.servers["a"]
    never, left, now = CROWD[3], CROWD[60], CROWD[70]
    house.members("y", ["ann"])
    server.refuse = {never}
    house.members("x", CROWD)
    house.sync()
    server.refuse = {never, left}
    house.members("x", [user for user in CROWD if user != left])
    house.sync()
    server.refuse = {never, left, now}
    retire(house, "x", clear=True)
    delete_file(house, "x")
    house.sync()
    assert {user for (key, user), value in server.told().items() if key == "x" and value} == {left, now}
    assert position(house, "x") == 0
    server.refuse = set()
    said = agree(house)
    assert said.deliveries[0].calls == 3, "plan knows of them, too"
    assert server.told() == {**{("x", user): False for user in CROWD}, ("y", "ann"): True}
    assert syncs.rejected_counts(house.store, "a") == {}
    at_rest(house)


def test_where_an_audience_is_retired_its_refused_users_are_nobodys_business_any_more(make: Make) -> None:
    house = make("x", names="ab")
    for server in house.servers.values():
        server.refuse = {CROWD[3]}
    house.members("x", CROWD)
    assert house.sync().rejected == 2
    retire(house, "x", "a")
    assert house.sync().rejected == 1, "the other destination still tries him"
    retire(house, "x", "b", clear=True)
    assert house.sync().rejected == 1, "he is still to be told that he left"


def test_a_farewell_waits_for_what_may_still_arrive(make: Make) -> None:
    house = make("x", settle=timedelta(hours=1))
    server = house.servers["a"]
    house.members("x", ["ann", "bob"])
    server.script = ["accept_then_drop"]
    house.sync()
    retire(house, "x", clear=True)
    delete_file(house, "x")
    [row] = house.plan().syncs
    assert (row.status, row.exited) == ("waiting", 2)
    [waiting] = house.sync().syncs
    assert (waiting.status, waiting.keys, waiting.until is not None) == ("waiting", ("x",), True)
    assert server.told() == {("x", "ann"): True, ("x", "bob"): True}
    with house.store.write() as connection:
        connection.execute(update(tables.positions).values(settled_at=at(-9)))
    house.sync()
    assert server.told() == {("x", "ann"): False, ("x", "bob"): False}


@pytest.mark.parametrize("point", ["sync.opened", "page.claimed", "page.acknowledging", "page.acknowledged",
                                   "sync.closing", "sync.closed"])
def test_a_farewell_that_crashed_goes_on_in_the_same_bytes(make: Make, point: str) -> None:
    house = make("x", concurrency=1)
    server = house.servers["a"]
    house.members("x", CROWD)
    house.sync()
    retire(house, "x", clear=True)
    delete_file(house, "x")
    since = len(server.calls)
    with stopping_at(point), pytest.raises(Stopped):
        house.sync()
    retire(house, "x", clear=True)
    agree(house)
    sent = server.calls[since:]
    ids = {(user_of(call), call["messageId"]) for call in sent}
    assert sorted(user for user, _ in ids) == CROWD, "one user, one messageId"
    assert {call["traits"]["x"] for call in sent} == {False}
    assert server.changed_message_ids() == []
    assert position(house, "x") == 0
    at_rest(house)


def test_a_schedule_clears_as_a_person_does(make: Make) -> None:
    house = make("x", "y")
    house.members("x", CROWD)
    house.sync()
    retire(house, "x", clear=True)
    delete_file(house, "x")
    due(house.project, house.store, replace(house.request(), typed=False))
    assert house.servers["a"].told() == {("x", user): False for user in CROWD}


def test_a_sync_of_other_audiences_leaves_a_farewell_to_the_next_one_of_all(make: Make) -> None:
    house = make("x", "y")
    house.members("x", CROWD)
    house.sync()
    retire(house, "x", clear=True)
    delete_file(house, "x")
    house.sync("y", farewells=False)
    assert set(house.servers["a"].told().values()) == {True}
    house.sync()
    assert set(house.servers["a"].told().values()) == {False}


def test_no_new_account_is_told_of_a_retired_audience(make: Make) -> None:
    house = make("x", "y", names="ab")
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    retire(house, "x", clear=True)
    retire(house, "y", "a")
    house.sync()
    from audiencesync.store import leases

    house.settle_on("a", write_key=SecretStr("other"))
    lease = leases.acquire(house.store, "destination:a", holder=leases.this_process())
    accounts.new_account(house.store, lease, "a", fingerprint=house.project.destinations["a"].fingerprint(), who="test")
    leases.release(house.store, lease)
    requests = house.servers["a"].requests
    house.sync()
    assert house.servers["a"].requests == requests


def test_what_a_farewell_needs_is_not_forgotten_however_old_it_is(make: Make) -> None:
    """The destination was away for months, and everybody has come and gone since."""
    house = make("x", names="ab")
    house.members("x", CROWD)
    house.sync()
    accounts.pause_destination(house.store, "b", reason="", who="test")
    retire(house, "x", "b", clear=True)
    for members in (CROWD[50:], CROWD, CROWD[:50]):
        house.members("x", members)
        house.sync()
    housekeeping.forget(house.store, at(24 * 365 * 50))
    accounts.resume_destination(house.store, "b", who="test", reason="")
    house.sync()
    assert house.servers["b"].told() == {("x", user): False for user in CROWD}


# at one destination


def test_retired_at_one_destination_it_goes_on_at_the_others(make: Make) -> None:
    house = make("x", "y", names="ab")
    a, b = house.servers["a"], house.servers["b"]
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    retire(house, "x", "b")
    for key in "xy":
        house.members(key, CROWD[2:])
    seen_a, seen_b = len(a.calls), len(b.calls)
    agree(house)
    assert told(a, seen_a) == sorted([*farewell("x", CROWD[:2]), *farewell("y", CROWD[:2])])
    assert told(b, seen_b) == farewell("y", CROWD[:2])
    at_rest(house)


def test_cleared_at_one_destination_it_goes_on_at_the_others(make: Make) -> None:
    house = make("x", "y", names="ab")
    a, b = house.servers["a"], house.servers["b"]
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    retire(house, "x", "b", clear=True)
    house.members("x", CROWD[2:])
    seen_a, seen_b = len(a.calls), len(b.calls)
    agree(house)
    assert told(a, seen_a) == farewell("x", CROWD[:2])
    assert told(b, seen_b) == farewell("x", CROWD)
    assert (position(house, "x", "a"), position(house, "x", "b")) == (2, 0)
    at_rest(house)
    house.members("x", CROWD)
    house.sync()
    assert len(b.calls) == seen_b + len(CROWD), "and it is never told again"


@pytest.mark.parametrize("words", [("x",), ("x", "y")])
def test_a_selected_audience_is_cleared_where_it_was_retired(make: Make, words: tuple[str, ...]) -> None:
    house = make("x", "y", names="ab")
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    retire(house, "x", "b", clear=True)
    wanted = house.request(*words)
    from audiencesync.sync.plan import plan

    said = plan(house.project, house.store, wanted.audiences, wanted.destinations, as_of=at(house.hour + 1),
                interrupted=lambda: False, farewells=False)
    since = len(house.servers["b"].calls)
    house.sync(*words, farewells=False)
    assert told(house.servers["b"], since) == farewell("x", CROWD)
    assert [one.calls for one in said.deliveries] == [0, 95]


def test_clear_after_a_plain_retire_tells_them_after_all(make: Make) -> None:
    house = make("x", "y")
    house.members("x", CROWD)
    house.sync()
    retire(house, "x")
    delete_file(house, "x")
    house.sync()
    assert set(house.servers["a"].told().values()) == {True}
    retire(house, "x", clear=True)
    agree(house)
    assert house.servers["a"].told() == {("x", user): False for user in CROWD}
    assert position(house, "x") == 0
    at_rest(house)


def test_what_a_later_clear_needs_is_not_forgotten(make: Make) -> None:
    house = make("x", names="ab")
    house.members("x", CROWD)
    house.sync()
    retire(house, "x", "b")
    for members in (CROWD[50:], CROWD, CROWD[:50]):
        house.members("x", members)
        house.sync()
    housekeeping.forget(house.store, at(24 * 365 * 50))
    retire(house, "x", "b", clear=True)
    house.sync()
    assert house.servers["b"].told() == {("x", user): False for user in CROWD}


@pytest.mark.parametrize("second", [(), ("a",)])
@pytest.mark.parametrize("first", [(), ("a",)])
def test_to_retire_it_again_takes_no_farewell_back(make: Make, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    retire(house, "x", *first, clear=True)
    retire(house, "x", *second)
    house.sync()
    assert house.servers["a"].told() == {("x", user): False for user in CROWD}
    retire(house, "x", *first, clear=True)
    since = house.servers["a"].requests
    house.sync()
    assert house.servers["a"].requests == since


# taken from a destination in the header


def test_an_audience_taken_from_a_destination_is_reported_until_its_members_there_are_seen_to(make: Make) -> None:
    house = make("x", "y", names="ab")
    for key in "xy":
        house.members(key, CROWD)
    house.sync()
    house.change("x", destinations=("a",))
    house.members("x", CROWD[1:])
    house.sync()
    said = house.plan()
    assert [(one.key, one.destination, one.members) for one in said.taken] == [("x", "b", 95)]
    [trouble] = [one for one in seen(house).troubles if one.kind == "taken"]
    assert trouble.help == "audiencesync retire x --destination b --clear"
    assert "95 members still hold true" in trouble.why
    retire(house, "x", "b", clear=True)
    agree(house)
    assert {value for (key, _), value in house.servers["b"].told().items() if key == "x"} == {False}
    assert house.plan().taken == ()
    at_rest(house)


def test_an_open_sync_of_an_audience_taken_from_its_destination_is_no_part_of_a_plan(make: Make) -> None:
    house = make("x", "y", names="ab")
    server = house.servers["b"]
    house.members("x", CROWD)
    house.sync("x", interrupted=after(server, 3))
    house.change("x", destinations=("a",))
    agree(house)
    assert len(server.calls) < len(CROWD)
    retire(house, "x", "b", clear=True)
    agree(house)
    assert server.told() == {("x", user): False for user in CROWD}


# the commands


MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
defaults: {schedule: manual}
destinations:
  a: {type: segment, write_key: "${WRITE_KEY}", url: "${SEGMENT}", settle: 0s, timeout: 2s}
  b: {type: segment, write_key: "${WRITE_KEY}", url: "${OTHER}", settle: 0s, timeout: 2s}
"""
BUYERS = "SELECT user_id FROM orders WHERE user_id LIKE 'u%'\n"
OTHERS = "SELECT user_id FROM orders WHERE user_id LIKE 'v%'\n"


class Town(Shop):
    """A shop whose audiences go to two servers."""

    servers: tuple[Recorder, Recorder]

    def waits(self, *kinds: str) -> list[dict[str, Any]]:
        """What `status` says that waits."""
        return [one for one in self.run("status", "-o", "json").document["waits"] if one["kind"] in kinds]


@pytest.fixture
def town(tmp_path: Path, state_url: str) -> Iterator[Town]:
    with Recorder() as a, Recorder() as b:
        made = Town(tmp_path / "shop", state_url, url=a.url, main=MAIN, buyers=BUYERS, others=OTHERS)
        made.environment["OTHER"] = b.url
        made.servers = (a, b)
        made.orders("u1", "u2", "u3", "v1")
        yield made


def test_the_command_ends_an_audience_and_everything_that_shows_it_says_so(town: Town) -> None:
    assert town.run("sync").code == 0
    said = town.run("retire", "buyers", "--clear", "--reason", "nobody uses it")
    assert said.code == 0
    assert "everybody at a, b that it is over" in said.out
    assert "delete audiences/buyers.sql" in said.out
    assert [word["pending"] for word in _words(town, "u1")] == [False, False]
    (town.root / "audiences/buyers.sql").unlink()
    said = town.run("sync", "-o", "json")
    assert said.code == 0
    assert {(one["destination"], *one["keys"], one["sent"]) for one in said.document["syncs"]} == {
        ("a", "buyers", 3), ("b", "buyers", 3)}
    for server in town.servers:
        assert server.told() == {**{("buyers", user): False for user in ("u1", "u2", "u3")}, ("others", "v1"): True}
    for word in _words(town, "u1"):
        assert (word["told"]["value"], word["pending"], word["unresolved"]) == (False, None, None)
    assert "told false" in town.run("user", "u1").out
    status = town.run("status", "-o", "json").document
    assert {one["key"]: one["retired"] for one in status["audiences"]} == {"buyers": True, "others": False}
    assert [row["position"] for row in status["destinations"] if row["key"] == "buyers"] == [0, 0]
    assert status["waits"] == []
    assert "retired" in town.run("status").out
    [newest, *_] = town.run("runs", "buyers", "-o", "json").document["runs"]
    assert (newest["members"], newest["exited"], newest["status"]) == (0, 3, "done")
    shown = town.run("show", "buyers", "-o", "json").document
    assert shown["members"] == 0
    assert recorded(town) == [("retire buyers --clear", "buyers", "nobody uses it")]
    town.write("audiences/buyers.sql", BUYERS)
    for words in (("sync",), ("plan",)):
        again = town.run(*words)
        assert again.code == 2
        assert "belongs to a retired audience" in again.err
    assert [one["what"] for one in town.waits("retired")] == ["audience buyers"]


def _words(town: Town, user: str) -> list[dict[str, Any]]:
    [one] = [one for one in town.run("user", user, "-o", "json").document["audiences"] if one["key"] == "buyers"]
    found: list[dict[str, Any]] = one["destinations"]
    return found


def test_of_what_was_retired_without_a_word_nothing_is_pending(town: Town) -> None:
    town.run("sync")
    town.run("pause", "a")
    town.orders("u4")
    town.forget("u1")
    town.run("sync")
    assert "destinations keep what they were told" in town.run("retire", "buyers").out
    town.run("resume", "a")
    for user in ("u1", "u4"):
        assert [word["pending"] for word in _words(town, user)] == [None, None]
    assert [row["pending"] for row in town.run("status", "-o", "json").document["destinations"]
            if row["key"] == "buyers"] == [0, 0]
    assert town.waits("pending", "open", "late") == []


def test_where_a_retired_audience_was_never_told_nothing_waits(town: Town) -> None:
    town.run("pause", "b")
    town.run("sync")
    town.run("retire", "buyers")
    town.run("resume", "b")
    town.run("sync", "others")
    assert town.waits("pending", "open", "late") == []


@pytest.mark.parametrize(("words", "meant"), [
    (("retire", "buyerz"), "did you mean 'buyers'?"),
    (("retire", "buyers"), "buyers was never run"),
    (("retire", "buyers", "--clear"), "buyers was never run"),
    (("retire", "a"), "a is a destination"),
])
def test_what_cannot_be_retired_ends_with_2(town: Town, words: tuple[str, ...], meant: str) -> None:
    said = town.run(*words)
    assert said.code == 2
    assert meant in said.err
    assert recorded(town) == []


def test_an_unknown_destination_ends_with_2(town: Town) -> None:
    town.run("sync")
    said = town.run("retire", "buyers", "--destination", "c", "--clear")
    assert said.code == 2
    assert "never told to c" in said.err


def test_the_command_that_plan_and_status_name_is_the_one_that_helps(town: Town) -> None:
    town.run("sync")
    town.write("audiences/buyers.sql", f"/* audiencesync\ndestinations: [a]\n*/\n{BUYERS}")
    assert "3 members still hold true; audiencesync retire buyers --destination b --clear" in town.run("plan").out
    assert town.run("plan", "-o", "json").document["taken"] == [{"key": "buyers", "destination": "b", "members": 3}]
    [wait] = town.waits("taken")
    program, *words = shlex.split(wait["help"])
    assert program == "audiencesync"
    assert town.run(*words).code == 0
    assert town.run("sync").code == 0
    assert {value for (key, _), value in town.servers[1].told().items() if key == "buyers"} == {False}
    assert town.waits("taken", "pending") == []
    assert town.run("plan", "-o", "json").document["taken"] == []
    assert recorded(town) == [("retire buyers --clear --destination b", "buyers", None)]


def test_the_last_audience_of_a_destination_is_cleared_by_the_next_sync_too(town: Town) -> None:
    """Nobody goes to `b` any more, and then nobody goes anywhere."""
    town.write("audiences/others.sql", f"/* audiencesync\ndestinations: [a]\n*/\n{OTHERS}")
    assert town.run("sync").code == 0
    for key in ("buyers", "others"):
        assert town.run("retire", key, "--clear").code == 0
        (town.root / f"audiences/{key}.sql").unlink()
        planned = town.run("plan", "-o", "json").document["destinations"]
        before = [len(server.calls) for server in town.servers]
        assert town.run("sync").code == 0
        sent = {name: len(server.calls) - count for name, server, count in zip("ab", town.servers, before, strict=True)}
        assert {one["destination"]: one["calls"] for one in planned} == sent
        assert {value for server in town.servers for (of, _), value in server.told().items() if of == key} == {False}


def test_while_another_process_computes_it_clear_waits_its_turn(town: Town) -> None:
    from audiencesync.store import leases
    from audiencesync.store.connect import Store

    town.run("sync")
    store = Store.open(town.environment["STATE"])
    leases.acquire(store, "computation:buyers", holder="another host/1/1")
    store.close()
    assert town.run("retire", "buyers", "--clear").code == 99
    assert recorded(town) == []
    assert town.run("sync").code == 0

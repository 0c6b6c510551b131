"""Everything stopped with one command, also while the state is away; and whose account a destination is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from audiencesync.report import exit_code
from audiencesync.store import accounts, migrate, tables
from audiencesync.store.connect import Store
from audiencesync.sync import due
from audiencesync.sync.blocked import STOP_FILE
from tests.commands import BUYERS, MAIN, Shop
from tests.histories import dump
from tests.persons import recorded, seen
from tests.projects import Premises, stopping_at
from tests.servers import Recorder

CROWD = [f"u{number:03}" for number in range(95)]
TWO = MAIN + MAIN.splitlines()[-1].replace("segment:", "other:").replace("${SEGMENT}", "${OTHER}") + "\n"
AWAY = "postgresql+psycopg://nobody@127.0.0.1:9/none"


@pytest.fixture
def servers() -> Iterator[tuple[Recorder, Recorder]]:
    with Recorder() as first, Recorder() as second:
        yield first, second


@pytest.fixture
def shop(tmp_path: Path, state_url: str, servers: tuple[Recorder, Recorder]) -> Shop:
    made = Shop(tmp_path / "shop", state_url, url=servers[0].url, main=TWO, buyers=BUYERS, others=BUYERS)
    made.environment["OTHER"] = servers[1].url
    made.orders("u1", "u2")
    return made


def _requests(servers: tuple[Recorder, Recorder]) -> list[int]:
    return [server.connections for server in servers]


def _everything_stands_still(shop: Shop, servers: tuple[Recorder, Recorder], reason: str) -> None:
    """No command computes or sends anything, and each says why and what helps."""
    before = _requests(servers)
    for words in (("sync",), ("sync", "--due"), ("sync", "buyers", "--destination", "other"), ("backfill", "*")):
        said = shop.run(*words, "-o", "json")
        assert said.code == 75, words
        assert {run["status"] for run in said.document["runs"]} <= {"paused"}
        assert {(one["status"], one["help"]) for one in said.document["syncs"]} == {
            ("paused", "audiencesync resume --all")}
        assert all(reason in one["reason"] for one in said.document["syncs"])
    planned = shop.run("plan", "-o", "json").document
    assert {row["status"] for row in planned["syncs"]} <= {"paused"}
    assert [one["calls"] for one in planned["destinations"]] == [0, 0]
    assert _requests(servers) == before, "I8"
    [wait] = [one for one in shop.run("status", "-o", "json").document["waits"] if one["what"] == "everything"]
    assert (wait["kind"], wait["help"]) == ("paused", "audiencesync resume --all")
    assert reason in wait["why"]


def test_everything_is_paused_by_one_command_and_goes_on_by_one(
        shop: Shop, servers: tuple[Recorder, Recorder]) -> None:
    said = shop.run("pause", "--all", "--reason", "the warehouse burns")
    assert said.code == 0
    assert "audiencesync resume --all" in said.out
    _everything_stands_still(shop, servers, "the warehouse burns")
    assert shop.run("runs", "-o", "json").document["runs"] == [], "nothing was computed"
    assert not (shop.root / STOP_FILE).exists()
    assert shop.run("resume", "--all", "--reason", "it rained", "-o", "json").document["paused"] is False
    assert shop.run("sync").code == 0
    assert all(len(server.told()) == 4 for server in servers)
    assert recorded(shop) == [("pause", "*", "the warehouse burns"), ("resume", "*", "it rained")]


def test_what_was_paused_by_its_own_name_stays_so(shop: Shop, servers: tuple[Recorder, Recorder]) -> None:
    shop.run("pause", "other", "--reason", "moving house")
    shop.run("pause", "audience:others", "--reason", "wrong")
    shop.run("pause", "--all")
    assert "what was paused by its own name stays so" in shop.run("resume", "--all").out
    said = shop.run("sync", "-o", "json")
    assert said.code == 75
    assert {(one["destination"], one["status"], one["reason"]) for one in said.document["syncs"]} >= {
        ("other", "paused", "moving house")}
    assert {run["key"]: run["status"] for run in said.document["runs"]} == {"buyers": "done", "others": "paused"}
    assert set(servers[0].told()) == {("buyers", "u1"), ("buyers", "u2")}
    assert servers[1].connections == 0
    shop.run("resume", "other")
    assert shop.run("sync").code == 0
    assert set(servers[1].told()) == {("buyers", "u1"), ("buyers", "u2")}


def test_to_resume_one_destination_does_not_resume_everything(shop: Shop, servers: tuple[Recorder, Recorder]) -> None:
    shop.run("pause", "--all")
    shop.run("resume", "segment")
    shop.run("resume", "buyers")
    assert shop.run("sync").code == 75
    assert _requests(servers) == [0, 0]


@pytest.mark.parametrize("name", ["", "buyers --all", "segment --all"])
@pytest.mark.parametrize("command", ["pause", "resume"])
def test_either_a_name_or_everything_is_meant(shop: Shop, command: str, name: str) -> None:
    shop.run("db", "upgrade")
    said = shop.run(command, *name.split())
    assert said.code == 2
    assert "--all" in said.err
    assert recorded(shop) == []


# while the state is away


def _unreachable(shop: Shop) -> Callable[[], None]:
    state = shop.environment["STATE"]
    shop.environment["STATE"] = AWAY
    return lambda: shop.environment.update(STATE=state)


def _broken_file(shop: Shop) -> Callable[[], None]:
    shop.write("audiencesync.yml", TWO.replace("source:", "sauce:"))
    return lambda: shop.write("audiencesync.yml", TWO)


def _unset_variable(shop: Shop) -> Callable[[], None]:
    key = shop.environment.pop("WRITE_KEY")
    return lambda: shop.environment.update(WRITE_KEY=key)


def _newer_state(shop: Shop) -> Callable[[], None]:
    shop.run("db", "upgrade")
    store = Store.open(shop.environment["STATE"])
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()

    def mend() -> None:
        again = Store.open(shop.environment["STATE"])
        with again.write() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{migrate.known()[-1]}'")
        again.close()

    return mend


BREAK = (_unreachable, _broken_file, _unset_variable, _newer_state)


@pytest.mark.parametrize("how", BREAK)
def test_while_the_state_cannot_be_used_a_file_stops_everything(
        shop: Shop, servers: tuple[Recorder, Recorder], how: Callable[[Shop], Callable[[], None]]) -> None:
    shop.run("sync")
    shop.orders("u3")
    mend = how(shop)
    said = shop.run("pause", "--all", "--reason", "the state is gone")
    assert said.code == 0, said.err
    assert f"the file {shop.root / STOP_FILE} pauses everything" in said.out
    assert "the state is gone" in (shop.root / STOP_FILE).read_text()
    mend()
    _everything_stands_still(shop, servers, f"everything is paused by the file {STOP_FILE}: the state is gone")
    assert shop.run("resume", "--all").code == 0
    assert not (shop.root / STOP_FILE).exists()
    assert shop.run("sync").code == 0
    assert all(len(server.told()) == 6 for server in servers)
    assert recorded(shop) == [("resume", "*", None)]


@pytest.mark.parametrize("how", BREAK)
def test_a_file_can_be_taken_away_while_the_state_cannot_be_used(
        shop: Shop, servers: tuple[Recorder, Recorder], how: Callable[[Shop], Callable[[], None]]) -> None:
    (shop.root / STOP_FILE).touch()
    mend = how(shop)
    said = shop.run("resume", "--all")
    assert said.code in (2, 75), "whether the state says so, too, is not known"
    assert f"the file {shop.root / STOP_FILE} is gone" in said.err
    mend()
    assert shop.run("sync").code == 0
    assert all(len(server.told()) == 4 for server in servers)


def test_any_file_of_that_name_stops_everything_even_one_that_cannot_be_read(
        shop: Shop, servers: tuple[Recorder, Recorder]) -> None:
    for make in (lambda path: path.touch(), lambda path: path.write_bytes(b"\xff\x00"), lambda path: path.mkdir()):
        make(shop.root / STOP_FILE)
        assert shop.run("sync").code == 75
        (shop.root / STOP_FILE).rmdir() if (shop.root / STOP_FILE).is_dir() else (shop.root / STOP_FILE).unlink()
    assert _requests(servers) == [0, 0]


def test_where_there_is_no_project_no_file_is_written(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", AWAY)
    (shop.root / "audiencesync.yml").unlink()
    assert shop.run("pause", "--all").code == 2
    assert not (shop.root / STOP_FILE).exists()


def test_a_folder_that_cannot_be_written_is_said_to_be_so(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", AWAY)
    (shop.root / STOP_FILE).mkdir()
    said = shop.run("pause", "--all")
    assert said.code == 2
    assert "cannot be written" in said.err


# a sync under way


Make = Callable[..., Premises]


@pytest.fixture
def make(tmp_path: Path, state_url: str, servers: tuple[Recorder, Recorder]) -> Iterator[Make]:
    made: list[Premises] = []

    def build(*keys: str, names: str = "a", **settings: Any) -> Premises:
        every = dict(zip("ab", servers, strict=True))
        made.append(Premises(tmp_path, state_url, {name: every[name] for name in names}, *keys, **settings))
        return made[0]

    yield build
    made[0].store.close()


def _by_the_file(house: Premises) -> None:
    (house.project.root / STOP_FILE).write_text("stop")


def _by_the_state(house: Premises) -> None:
    with house.other_process() as store:
        accounts.pause_destination(store, accounts.EVERYTHING, reason="stop", who="me@here")


@pytest.mark.parametrize("how", [_by_the_file, _by_the_state])
def test_a_sync_under_way_stops_before_its_next_page_and_goes_on_there(
        make: Make, how: Callable[[Premises], None]) -> None:
    house = make("x", names="ab", concurrency=1)
    many = [f"u{number:04}" for number in range(400)]
    house.members("x", many)
    stopped: list[float] = []

    def meanwhile(number: int, _request: object) -> None:
        if number == 3:
            how(house)
            stopped.append(time.monotonic())

    first = house.servers["a"]
    first.script = meanwhile
    for server in house.servers.values():
        server.latency = 0.1
    report = house.sync()
    assert time.monotonic() - stopped[0] < 5, "within the second between two looks, and a request"
    assert {(one.destination, one.status) for one in report.syncs} == {("a", "paused"), ("b", "paused")}
    assert all("stop" in one.reason for one in report.syncs)
    assert {one.help for one in report.syncs} == {"audiencesync resume --all"}
    assert exit_code(report) == 75
    requests = [server.requests for server in house.servers.values()]
    assert max(requests) < 25
    assert exit_code(house.sync()) == 75
    assert [server.requests for server in house.servers.values()] == requests, "I8"
    (house.project.root / STOP_FILE).unlink(missing_ok=True)
    accounts.resume_destination(house.store, accounts.EVERYTHING, who="me@here", reason="")
    for server in house.servers.values():
        server.latency = 0.0
    house.sync()
    for server in house.servers.values():
        assert server.told() == {("x", user): True for user in many}
        assert len(server.calls) == len(many), "nobody was told twice"


def test_a_backfill_and_a_schedule_stand_still_too(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    house.members("x", CROWD[1:])
    requests, before = house.servers["a"].requests, dump(house.store)
    _by_the_file(house)
    for report in (house.sync(), house.backfill("x"), due(house.project, house.store, house.request(typed=False))):
        assert exit_code(report) == 75
    assert house.servers["a"].requests == requests
    after = dump(house.store)
    assert {name for name in after if after[name] != before[name]} <= {"slots"}, "nothing was computed or sent"
    assert [one.what for one in seen(house).troubles if one.kind == "paused"] == ["everything"]


# whose account it is


def _changed(shop: Shop, key: str = "renewed") -> None:
    shop.environment["WRITE_KEY"] = key


@pytest.mark.parametrize("command", ["approve", "resume"])
def test_a_changed_account_is_held_until_a_person_says_that_it_is_the_same(
        shop: Shop, servers: tuple[Recorder, Recorder], command: str) -> None:
    shop.run("sync")
    _changed(shop)
    shop.orders("u3")
    before = _requests(servers)
    said = shop.run("sync", "-o", "json")
    assert said.code == 4
    assert {one["status"] for one in said.document["syncs"]} == {"held"}
    assert all("audiencesync approve" in one["help"] and "--new-account" in one["help"]
               for one in said.document["syncs"])
    assert shop.run("sync", "--allow", "held").code == 0
    assert shop.run("backfill", "*").code == 4
    assert {row["status"] for row in shop.run("plan", "-o", "json").document["syncs"]} == {"held"}
    assert _requests(servers) == before, "I8"
    waits = [one for one in shop.run("status", "-o", "json").document["waits"] if one["kind"] == "account"]
    assert [one["destination"] for one in waits] == ["other", "segment"]
    assert shop.run("status", "--check").code == 4
    assert shop.run(command, "segment", "--same-account").code == 0
    assert shop.run(command, "other", "--same-account", "--reason", "a new key").code == 0
    for server in servers:
        server.clear()
    assert shop.run("sync").code == 0
    for server in servers:
        assert server.told() == {("buyers", "u3"): True, ("others", "u3"): True}, "from where it stood"
    typed = "resume" if command == "resume" else "approve {} --same-account"
    assert recorded(shop) == [(typed.format("segment"), "segment", "same account"),
                              (typed.format("other"), "other", "a new key")]


@pytest.mark.parametrize("command", ["approve", "resume"])
def test_a_new_account_is_told_every_member(shop: Shop, servers: tuple[Recorder, Recorder], command: str) -> None:
    shop.run("sync")
    shop.forget("u1")
    _changed(shop)
    assert shop.run("sync").code == 4
    servers[0].clear()
    assert shop.run(command, "segment", "--new-account", "--reason", "we moved").code == 0
    assert shop.run("sync").code == 4, "the other destination is still held"
    assert servers[0].told() == {("buyers", "u2"): True, ("others", "u2"): True}
    assert recorded(shop) == [("new-account", "segment", "we moved")]


@pytest.mark.parametrize("account", ["--same-account", "--new-account"])
def test_to_say_whose_account_it_is_lifts_no_pause_of_a_person(
        shop: Shop, servers: tuple[Recorder, Recorder], account: str) -> None:
    shop.run("sync")
    shop.run("pause", "segment", "--reason", "moving house")
    _changed(shop)
    before = servers[0].requests
    assert shop.run("approve", "segment", account).code == 0
    [said] = [one for one in shop.run("sync", "-o", "json").document["syncs"] if one["destination"] == "segment"]
    assert (said["status"], said["reason"]) == ("paused", "moving house")
    assert servers[0].requests == before
    assert shop.run("resume", "segment").code == 0
    assert shop.run("sync", "--destination", "segment").code == 0
    assert len(servers[0].calls) == (8 if account == "--new-account" else 4)


def test_a_new_account_that_somebody_works_for_is_waited_for(shop: Shop) -> None:
    from audiencesync.store import leases

    shop.run("sync")
    _changed(shop)
    store = Store.open(shop.environment["STATE"])
    leases.acquire(store, "destination:segment", holder="another host/1/1")
    store.close()
    assert shop.run("approve", "segment", "--new-account").code == 99
    assert recorded(shop) == []


def test_an_account_that_changes_during_a_sync_is_not_taken_for_the_former(make: Make) -> None:
    """Half of it lies at one account; the key is another when the command runs again."""
    from pydantic import SecretStr

    from tests.projects import Stopped

    house = make("x", concurrency=1)
    house.members("x", CROWD)
    with stopping_at("page.acknowledged", 2), pytest.raises(Stopped):
        house.sync()
    house.settle_on("a", write_key=SecretStr("other"))
    requests = house.servers["a"].requests
    assert exit_code(house.sync()) == 4
    assert house.servers["a"].requests == requests
    with house.store.read() as connection:
        assert connection.execute(select(tables.syncs.c.status)).scalars().all() == ["open"]

"""How old the source's data may be: late loads look like exits, so nobody is asked for while the data is stale."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audiencesync.errors import QueryError, SourceUnavailable
from audiencesync.model import Freshness, SourceSettings
from audiencesync.report import exit_code
from audiencesync.source import open_source, why_stale
from audiencesync.store import accounts
from tests.commands import MAIN, Shop
from tests.databases import fill
from tests.histories import dump
from tests.persons import seen
from tests.projects import Premises
from tests.servers import Recorder

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NEVER = "the source says that it has loaded nothing yet (source.fresh.sql)"


@pytest.fixture(params=["sqlite", "postgresql", "duckdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    address: str = request.getfixturevalue("postgres_url") if kind == "postgresql" else f"{kind}:///{tmp_path / 'shop'}"
    return address


def ask(url: str, sql: str, max_age: timedelta = timedelta(hours=6), at: datetime = NOON) -> str:
    with open_source(SourceSettings(url)) as source:
        return why_stale(source, Freshness(sql, max_age), at, interrupted=lambda: False)


@pytest.mark.parametrize(("loaded", "stale"), [
    ("2026-11-22 06:00:00", False), ("2026-11-22 05:59:59", True), ("2026-11-22 05:59:59.999", True),
    ("2026-11-22 23:00:00", False), ("2030-01-01 00:00:00", False), ("1999-01-02 00:00:00", True),
])
@pytest.mark.parametrize("form", ["{}", "{}Z", "{}+00:00"])
def test_a_text_is_a_moment_and_without_a_zone_it_is_utc(tmp_path: Path, loaded: str, stale: bool, form: str) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    fill(url, "CREATE TABLE loads (loaded TEXT)", f"INSERT INTO loads VALUES ('{form.format(loaded)}')")
    said = ask(url, "SELECT max(loaded) FROM loads")
    assert bool(said) is stale
    if stale:
        assert said == f"the source's newest data is from {loaded[:19]}Z, older than 6h (source.fresh.max_age)"


@pytest.mark.parametrize(("expression", "stale"), [
    ("CAST('2026-11-22 06:00:00' AS {naive})", False), ("CAST('2026-11-22 05:59:59' AS {naive})", True),
    ("'2026-11-22T11:00:00+05:00'", False), ("'2026-11-22T10:59:59+05:00'", True),
    ("'2026-11-22'", True), ("' 2026-11-22 06:00 '", False),
    ("CAST('2026-11-23' AS {day})", False), ("CAST('2026-11-22' AS {day})", True),
    ("CAST('2026-11-22 11:00:00+05' AS {aware})", False), ("CAST('2026-11-22 10:59:59+05' AS {aware})", True),
    ("CAST(:now AS {naive})", False),
])
def test_every_database_s_own_moments_are_understood(kind: str, url: str, expression: str, stale: bool) -> None:
    """SQLite has none, and casts to text."""
    types = {"naive": "TIMESTAMP", "day": "DATE", "aware": "TIMESTAMPTZ"} if kind != "sqlite" else dict.fromkeys(
        ("naive", "day", "aware"), "TEXT")
    fill(url, "CREATE TABLE loads (loaded TEXT)")
    assert bool(ask(url, f"SELECT {expression.format(**types)}")) is stale


def test_a_moment_without_a_zone_is_utc_wherever_the_process_lives(
        url: str, kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    fill(url, f"CREATE TABLE loads (loaded {'TEXT' if kind == 'sqlite' else 'TIMESTAMP'})",
         "INSERT INTO loads VALUES ('2026-11-22 06:00:00')")
    request.addfinalizer(time.tzset)
    for zone in ("Asia/Kolkata", "America/Lima"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert ask(url, "SELECT max(loaded) FROM loads") == ""
        assert ask(url, "SELECT max(loaded) FROM loads", at=NOON + timedelta(seconds=1)) != ""


@pytest.mark.parametrize("sql", ["SELECT max(loaded) FROM loads", "SELECT loaded FROM loads", "SELECT NULL"])
def test_where_nothing_was_ever_loaded_the_source_is_stale(url: str, sql: str) -> None:
    fill(url, "CREATE TABLE loads (loaded TIMESTAMP)")
    assert ask(url, sql) == NEVER


@pytest.mark.parametrize(("expression", "words"), [
    ("42", "a value of type int in place of a moment"), ("1764000000.5", "in place of a moment"),
    ("'yesterday'", "a text that is no moment"), ("''", "a text that is no moment"),
    ("'25:00'", "a text that is no moment"), ("'0001-01-01T00:00:00+05:00'", "outside of the calendar"),
])
def test_what_is_no_moment_is_refused_with_an_example(url: str, expression: str, words: str) -> None:
    fill(url, "CREATE TABLE loads (loaded TIMESTAMP)")
    with pytest.raises(QueryError, match=r"source\.fresh\.sql: .*SELECT max\(loaded_at\) FROM orders") as caught:
        ask(url, f"SELECT {expression}")
    assert words in str(caught.value)


@pytest.mark.parametrize("sql", ["SELECT max(loaded) FROM nowhere", "SELECT max(loadad) FROM loads", "SELEC 1",
                                 "DELETE FROM loads", "SELECT :whatever", "SELECT 1; SELECT 2"])
def test_sql_that_is_none_is_refused_and_the_setting_is_named(url: str, sql: str) -> None:
    fill(url, "CREATE TABLE loads (loaded TIMESTAMP)")
    with pytest.raises(QueryError, match=r"source\.fresh\.sql"):
        ask(url, sql)


def test_a_source_that_is_away_is_not_stale_but_away() -> None:
    with pytest.raises(SourceUnavailable):
        ask("postgresql+psycopg://nobody@127.0.0.1:9/none", "SELECT now()")


# what becomes of a sync


Make = Callable[..., Premises]
CROWD = [f"u{number:03}" for number in range(60)]


@pytest.fixture
def make(tmp_path: Path, state_url: str) -> Iterator[Make]:
    """A project whose source tells when it was loaded; it is loaded at the story's beginning, and fresh for 6 hours."""
    made: list[Premises] = []
    servers = {"a": Recorder(), "b": Recorder()}

    def build(*keys: str, names: str = "a", sql: str = "SELECT max(loaded) FROM loads") -> Premises:
        house = Premises(tmp_path, state_url, {name: servers[name] for name in names}, *keys)
        with closing(sqlite3.connect(house.file)) as source, source:
            source.execute("CREATE TABLE loads (loaded TEXT)")
        load(house, "2026-01-01 00:00:00")
        house.project = replace(house.project, source=replace(house.project.source,
                                                              fresh=Freshness(sql, timedelta(hours=6))))
        made.append(house)
        return house

    with servers["a"], servers["b"]:
        yield build
    made[0].store.close()


def load(house: Premises, at: str) -> None:
    with closing(sqlite3.connect(house.file)) as source, source:
        source.execute("INSERT INTO loads VALUES (?)", [at])


def held_by_the_state(house: Premises) -> dict[str, list[tuple[Any, ...]]]:
    """All that says who is a member and who was told."""
    return {name: rows for name, rows in dump(house.store).items() if name in ("memberships", "positions", "syncs")}


def test_a_stale_source_is_not_asked_and_nobody_is_told_until_it_is_fresh_again(make: Make) -> None:
    house = make("x", "y", names="ab")
    for key in "xy":
        house.members(key, CROWD)
    assert exit_code(house.sync()) == 0
    before, requests = held_by_the_state(house), [server.requests for server in house.servers.values()]
    for key in "xy":
        house.members(key, CROWD[:3])
    house.hour = 6
    for _ in range(2):
        report = house.sync()
        assert [(run.key, run.status) for run in report.runs] == [("x", "stale"), ("y", "stale")]
        assert exit_code(report) == 75
        assert exit_code(report, {"held", "rejected"}) == 75
        assert all("is not computed: the source's newest data is from 2026-01-01 00:00:00Z" in words
                   for _, words in report.errors)
    assert held_by_the_state(house) == before, "I6"
    assert [server.requests for server in house.servers.values()] == requests
    [trouble] = [one for one in seen(house).troubles if one.kind == "stale"]
    assert (trouble.what, trouble.calls_somebody) == ("the source", True)
    assert "2 audiences not computed" in trouble.why
    house.members("y", CROWD[1:])
    house.members("x", [*CROWD, "new"])
    load(house, "2026-01-01 08:00:00")
    report = house.sync()
    assert (exit_code(report), [run.status for run in report.runs]) == (0, ["done", "done"])
    assert house.servers["a"].told() == house.servers["b"].told() == {
        **{(key, user): (key, user) != ("y", CROWD[0]) for key in "xy" for user in CROWD}, ("x", "new"): True}
    assert [one for one in seen(house).troubles if one.kind == "stale"] == []


def test_what_a_destination_is_owed_it_is_told_though_the_source_is_stale(make: Make) -> None:
    house = make("x", names="ab")
    house.members("x", CROWD)
    accounts.pause_destination(house.store, "b", reason="", who="test")
    house.sync()
    accounts.resume_destination(house.store, "b", who="test", reason="")
    house.hour = 9
    said = house.plan()
    assert [one.calls for one in said.deliveries] == [0, 60]
    assert exit_code(house.sync()) == 75
    assert len(house.servers["b"].calls) == 60


def test_a_paused_audience_is_not_planned_though_the_source_is_stale(make: Make) -> None:
    house = make("x", "y", names="ab")
    house.members("x", CROWD)
    accounts.pause_destination(house.store, "b", reason="", who="test")
    house.sync()
    accounts.resume_destination(house.store, "b", who="test", reason="")
    accounts.pause_computation(house.store, "x", kind="audience", reason="", who="test")
    house.hour = 9
    said = house.plan()
    assert [one.calls for one in said.deliveries] == [0, 0]
    report = house.sync()
    assert [(run.key, run.status) for run in report.runs] == [("x", "paused"), ("y", "stale")]
    assert house.servers["b"].connections == 0


def test_a_plan_says_that_the_source_is_stale_and_writes_nothing(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    house.sync()
    house.members("x", [])
    house.hour = 6
    before = dump(house.store)
    said = house.plan()
    assert dump(house.store) == before
    assert said.audiences == ()
    [(code, words)] = said.errors
    assert code == 75
    assert words.startswith("nothing is computed: the source's newest data is from 2026-01-01 00:00:00Z")
    assert said.deliveries[0].calls == 0


@pytest.mark.parametrize("sql", ["SELECT max(loaded) FROM nowhere", "SELECT count(*) FROM loads", "DROP TABLE loads"])
def test_broken_freshness_sql_computes_nothing_and_says_so_once(make: Make, sql: str) -> None:
    house = make("x", "y", sql=sql)
    for key in "xy":
        house.members(key, CROWD)
    report = house.sync()
    assert exit_code(report) == 2
    assert [(run.key, run.status, run.members) for run in report.runs] == [("x", "failed", 0), ("y", "failed", 0)]
    [(code, words)] = report.errors
    assert (code, "source.fresh.sql" in words) == (2, True)
    assert house.servers["a"].connections == 0
    assert dump(house.store)["memberships"] == []
    assert house.plan().errors == report.errors
    house.project = replace(house.project, source=replace(house.project.source, fresh=None))
    assert exit_code(house.sync()) == 0


def test_whoever_is_asked_for_an_instant_of_the_past_has_data_that_was_fresh_then(make: Make) -> None:
    house = make("x")
    house.members("x", CROWD)
    load(house, "2026-01-04 00:00:00")
    assert exit_code(house.sync()) == 0, "as of an hour after the first load, with data that is newer still"


# the commands


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


SQL = "SELECT user_id FROM orders\n"


def _main(sql: str) -> str:
    return MAIN.replace('{url: "sqlite:///shop.db"}', f'{{url: "${{SOURCE}}", fresh: {{sql: "{sql}", max_age: 6h}}}}'
                        ).replace("destinations:", "defaults: {schedule: every 1s}\ndestinations:")


def test_the_commands_tell_of_a_stale_source_of_any_kind_and_end_with_75(
        tmp_path: Path, kind: str, url: str, server: Recorder) -> None:
    main = _main("SELECT max(loaded) FROM orders")
    shop = Shop(tmp_path / "project", "sqlite:///state.db", url=server.url, main=main, buyers=SQL, others=SQL)
    shop.environment["SOURCE"] = url
    at = "TEXT" if kind == "sqlite" else "TIMESTAMP"
    fill(url, f"CREATE TABLE orders (user_id TEXT, loaded {at})",
         "INSERT INTO orders VALUES ('u1', '2026-01-01 00:00:00')")
    said = shop.run("sync", "-o", "json", "--as-of", "2026-01-01T06:00:00.001Z")
    assert said.code == 75
    assert [run["status"] for run in said.document["runs"]] == ["stale", "stale"]
    assert "the source's newest data is from 2026-01-01 00:00:00Z, older than 6h" in said.err
    assert [run["status"] for run in shop.run("runs", "-o", "json").document["runs"]] == ["stale", "stale"]
    assert "run 1 of buyers is stale: " in shop.run("runs").out
    [wait] = [one for one in shop.run("status", "-o", "json").document["waits"] if one["kind"] == "stale"]
    assert wait["help"]
    planned = shop.run("plan", "--as-of", "2026-01-01T06:00:00.001Z")
    assert planned.code == 75
    assert planned.err.count("nothing is computed") == 1
    assert server.connections == 0
    for words in (("sync", "--due"), ("sync", "--due")):
        time.sleep(1.1)
        said = shop.run(*words, "-o", "json")
        assert (said.code, server.connections) == (75, 0), said.out
    said = shop.run("sync", "--as-of", "2026-01-01T06:00:00Z")
    assert said.code == 0, "the very limit is fresh"
    assert server.told() == {("buyers", "u1"): True, ("others", "u1"): True}


def test_a_mistake_in_the_setting_is_shown_with_its_place(tmp_path: Path, server: Recorder) -> None:
    for wrong, meant in (("max_age: 0h", "no data is that new"), ("max_age: soon", "is not a duration"),
                         ("max_aeg: 6h", "did you mean 'max_age'?")):
        main = _main("SELECT 1").replace("max_age: 6h", wrong).replace("${SOURCE}", "sqlite:///shop.db")
        said = Shop(tmp_path / "project", "sqlite:///state.db", url=server.url, main=main).run("validate")
        assert (said.code, meant in said.err + said.out) == (2, True)


def test_freshness_sql_that_fails_ends_with_2_and_one_message(tmp_path: Path, server: Recorder) -> None:
    main = _main("SELECT max(loaded) FROM nowhere")
    shop = Shop(tmp_path / "project", "sqlite:///state.db", url=server.url, main=main, buyers=SQL, others=SQL)
    shop.environment["SOURCE"] = "sqlite:///shop.db"
    shop.orders("u1")
    for words in (("sync",), ("plan",)):
        said = shop.run(*words)
        assert said.code == 2
        assert said.err.count("source.fresh.sql") == 1
        assert "nowhere" in said.err
    assert server.connections == 0

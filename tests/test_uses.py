"""Definitions that read what others computed: as tables of the source, in order, and never by old members."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url

from audiencesync.errors import QueryError
from audiencesync.model import Audience, Chunk, Plan, Shipped, SourceSettings
from audiencesync.project import survey
from audiencesync.source import Source, open_source
from audiencesync.source.generic import GenericSource
from audiencesync.store import accounts, decisions, members, runs
from audiencesync.sync.uses import in_order
from tests.commands import Shop
from tests.databases import PostgresServer, fill
from tests.project_files import write
from tests.projects import Premises
from tests.servers import Recorder, user_of
from tests.test_due import Office

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
READERS = "SELECT user_id FROM audience_vip WHERE user_id <> 'bob'"


# ---- a table in each kind of source

@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def source_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = (request.getfixturevalue("postgres_url") if request.param == "postgresql"
           else f"{request.param}:///{tmp_path / 'shop.db'}")
    fill(url, "CREATE TABLE users (user_id TEXT, score INTEGER)", "INSERT INTO users VALUES ('ann', 1), ('eve', 2)",
         "CREATE TABLE audience_taken (user_id TEXT)", "INSERT INTO audience_taken VALUES ('theirs')")
    return str(url)


@pytest.fixture
def source(source_url: str) -> Iterator[Source]:
    with open_source(SourceSettings(url=source_url)) as opened:
        yield opened


def table(name: str, *users: str, traits: Mapping[str, str] | None = None,
          values: Sequence[str] | None = None) -> Shipped:
    chunks = [Chunk(list(users), None, list(values) if values is not None else None)] if users else []
    return Shipped(name, traits or {}, iter(chunks))


def read(source: Source, sql: str, *given: Shipped, include: Sequence[str] = ()) -> list[str]:
    asked = Audience(key="big", name="Big", sql=sql, path=Path("audiences/big.sql"), include=tuple(include))
    return [text for chunk in source.read(asked, NOON, given=given).chunks for text in chunk.included or chunk.ids]


def test_an_audience_is_a_table_for_one_question_alone(source: Source) -> None:
    sql = "SELECT user_id FROM users WHERE user_id IN (SELECT user_id FROM audience_vip) ORDER BY user_id"
    assert read(source, sql, table("audience_vip", "ann", "zoë")) == ["ann"]
    assert read(source, sql, table("audience_vip", "eve")) == ["eve"]
    assert read(source, sql, table("audience_vip")) == []
    with pytest.raises(QueryError, match=r"big\.sql:1:.*audience_vip[\s\S]* uses: \[vip\] "):
        read(source, sql)


def test_two_tables_stand_side_by_side_and_hide_what_the_source_calls_alike(source: Source) -> None:
    both = "SELECT v.user_id FROM audience_vip v JOIN audience_taken t ON t.user_id = v.user_id"
    assert read(source, both, table("audience_vip", "ann", "eve"), table("audience_taken", "eve")) == ["eve"]
    assert read(source, "SELECT user_id FROM audience_taken") == ["theirs"]


KINDS = {"spent": "number", "vip": "boolean", "plan": "string", "since": "timestamp", "tags": "list", "empty": ""}
VALUES = ['{"spent":9.5,"vip":true,"plan":"gold \\"1\\": ü","since":"2026-11-01T10:00:00.000Z","tags":["a","b"]}',
          '{"spent":-1200000000000000000.25,"vip":false,"tags":[]}', "{}"]


def test_traits_are_columns_of_their_own_types(source: Source, source_url: str) -> None:
    def ask(where: str) -> list[str]:
        shipped = table("trait_facts", "ann", "bob", "eve", traits=KINDS, values=VALUES)
        return read(source, f"SELECT user_id FROM trait_facts WHERE {where} ORDER BY user_id", shipped)

    assert ask("spent * 2 = 19") == ["ann"]
    assert ask("spent < 0") == ["bob"]
    assert ask("vip") == ["ann"]
    assert ask("NOT vip") == ["bob"]
    assert ask("plan = 'gold \"1\": ü'") == ["ann"]
    assert ask("since <= :now") == ["ann"]
    assert ask("since > :now") == []
    assert ask("spent IS NULL AND vip IS NULL AND plan IS NULL AND since IS NULL AND tags IS NULL") == ["eve"]
    assert ask("empty IS NULL") == ["ann", "bob", "eve"]
    lists = {"sqlite": "EXISTS (SELECT 1 FROM json_each(tags) t WHERE t.value = 'b')",
             "duckdb": "list_contains(tags, 'b')"}
    assert ask(lists.get(make_url(source_url).get_backend_name(), "'b' = ANY (tags)")) == ["ann"]


def test_a_lone_trait_is_also_called_value_and_keeps_every_digit_where_the_source_can(
        source: Source, source_url: str) -> None:
    exact = ["9.5", "12345678901234567890.123456789", "1e-7"]

    def shipped() -> Shipped:
        return table("trait_spent", "ann", "bob", "eve", traits={"spent": "number"},
                     values=[f'{{"spent":{text}}}' for text in exact])

    same = "SELECT user_id FROM trait_spent WHERE value = spent AND value > 9"
    assert read(source, same, shipped()) == ["ann", "bob"]
    if make_url(source_url).get_backend_name() != "sqlite":
        found = read(source, "SELECT user_id, sum(value) AS total FROM trait_spent GROUP BY user_id ORDER BY user_id",
                     shipped(), include=["total"])
        assert [text.startswith('{"total":' + exact[n]) for n, text in enumerate(found[:2])] == [True, True], found
    huge = table("trait_spent", "ann", "bob", traits={"spent": "number"}, values=['{"spent":1e300}', '{"spent":1e-30}'])
    assert read(source, "SELECT user_id FROM trait_spent WHERE value > 1e299", huge) == ["ann"]
    longest = table("trait_spent", "ann", traits={"spent": "number"}, values=[f'{{"spent":{"9" * 300}}}'])
    assert read(source, "SELECT user_id FROM trait_spent WHERE value > 9e298", longest) == ["ann"]


def test_a_hundred_thousand_users_are_shipped_in_constant_memory(source: Source) -> None:
    def chunks(users: int) -> Iterator[Chunk]:
        for start in range(0, users, 5000):
            yield Chunk([f"user-{number:09}" for number in range(start, start + 5000)], None)

    def peak(users: int) -> int:
        tracemalloc.reset_peak()
        asked = Audience("big", "Big", "SELECT max(user_id) AS user_id FROM audience_all", Path("big.sql"))
        [only] = source.read(asked, NOON, given=[Shipped("audience_all", {}, chunks(users))]).chunks
        assert only.ids == [f"user-{users - 1:09}"]
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        peak(5000)
        small = peak(10_000)
        assert peak(100_000) < small + 1_000_000
    finally:
        tracemalloc.stop()


def test_a_read_that_is_asked_to_end_ends_while_members_are_shipped(source: Source) -> None:
    from audiencesync.errors import Interrupted

    stopped: list[int] = []

    def chunks() -> Iterator[Chunk]:
        yield Chunk(["ann"], None)
        stopped.append(1)
        yield Chunk(["eve"], None)

    asked = Audience("big", "Big", "SELECT user_id FROM audience_vip", Path("big.sql"))
    with pytest.raises(Interrupted):
        source.read(asked, NOON, given=[Shipped("audience_vip", {}, chunks())], interrupted=lambda: bool(stopped))
    assert read(source, "SELECT user_id FROM audience_vip", table("audience_vip", "bob")) == ["bob"]


def test_the_rest_of_the_source_stays_read_only(source: Source) -> None:
    for sql in ("SELECT user_id FROM audience_vip; DELETE FROM users", "DELETE FROM users",
                "INSERT INTO users SELECT user_id, 1 FROM audience_vip"):
        with pytest.raises(QueryError):
            read(source, sql, table("audience_vip", "ann"))
    assert read(source, "SELECT user_id FROM users ORDER BY 1") == ["ann", "eve"]


# ---- where a source takes no table

def test_a_role_without_the_right_is_told_which_one_it_needs(
        postgres_url: str, postgres_server: PostgresServer) -> None:
    url = make_url(postgres_url)
    fill(postgres_url, "CREATE TABLE users (user_id TEXT)", "INSERT INTO users VALUES ('ann')",
         "DROP ROLE IF EXISTS reader_only", "CREATE ROLE reader_only LOGIN", "GRANT SELECT ON users TO reader_only",
         f"REVOKE TEMPORARY ON DATABASE {url.database} FROM PUBLIC")
    sql = "SELECT user_id FROM users JOIN audience_vip USING (user_id)"
    reader = SourceSettings(url=postgres_server.url(str(url.database), role="reader_only"))
    try:
        with open_source(reader) as source:
            with pytest.raises(QueryError) as refused:
                read(source, sql, table("audience_vip", "ann"))
            assert f"GRANT TEMPORARY ON DATABASE {url.database} TO reader_only;" in str(refused.value)
            assert "audiences/big.sql:1:" in str(refused.value)
            assert read(source, "SELECT user_id FROM users") == ["ann"]
            fill(postgres_url, f"GRANT TEMPORARY ON DATABASE {url.database} TO reader_only",
                 "ALTER ROLE reader_only SET default_transaction_read_only = on")
        with open_source(reader) as source:
            assert read(source, sql, table("audience_vip", "ann")) == ["ann"], "also where the role begins read-only"
    finally:
        fill(postgres_url, "DROP OWNED BY reader_only", "DROP ROLE reader_only")


def test_another_database_says_that_it_takes_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    fill(url, "CREATE TABLE users (user_id TEXT)")
    with GenericSource(make_url(url), SourceSettings(url=url)) as source, pytest.raises(QueryError) as refused:
        read(source, "SELECT user_id FROM audience_vip", table("audience_vip", "ann"))
    assert str(refused.value).startswith("audiences/big.sql:1:1: error: uses: needs a table audience_vip, and no way")
    assert "a WITH" in str(refused.value)


# ---- what the files say

def header(*uses: str, sql: str = "") -> str:
    reads = " UNION ".join(f"SELECT user_id FROM audience_{key}" for key in uses)
    return f"/* audiencesync\nuses: [{', '.join(uses)}]\n*/\n{sql or reads}\n"


def validated(tmp_path: Path, **files: str) -> str:
    said = Shop(tmp_path / "shop", f"sqlite:///{tmp_path / 'state.db'}", **files).run("validate")
    return said.out + said.err


def test_a_cycle_is_an_error_with_the_way_round(tmp_path: Path) -> None:
    said = validated(tmp_path, vip=header("loyal"), loyal=header("big"), big=header("vip"), free=header("vip"),
                     own=header("own"))
    assert "audiences/vip.sql:2:8: error: vip uses loyal, loyal uses big, big uses vip" in said
    assert "audiences/loyal.sql:2:8: error: loyal uses big, big uses vip, vip uses loyal" in said
    assert "audiences/own.sql:2:8: error: 'own' uses itself" in said
    assert "free.sql" not in said


def test_an_unknown_one_is_an_error_and_one_that_is_never_read_a_warning(tmp_path: Path) -> None:
    said = validated(tmp_path, vip="SELECT user_id FROM orders\n", a=header("vpi", sql="SELECT user_id FROM orders"),
                     b=header("vip", sql="SELECT user_id FROM orders"), c=header("broken"),
                     broken="/* audiencesync\n[\n*/\nSELECT user_id FROM orders")
    assert "audiences/a.sql:2:8: error: unknown computation 'vpi'\n" in said
    assert "did you mean 'vip'?" in said
    assert "audiences/b.sql:2:8: warning: the SQL never reads the table audience_vip" in said
    assert "c.sql" not in said, "what is wrong is told where it is wrong"


def test_keys_that_are_no_names_are_read_by_names_that_are(tmp_path: Path) -> None:
    odd = "/* audiencesync\nkey: Gold-Plan.ü\n*/\nSELECT user_id FROM orders\n"
    said = validated(tmp_path, odd=odd, user=header("Gold-Plan.ü", sql="SELECT user_id FROM audience_gold_plan__"))
    assert "user.sql" not in said, said
    twin = "/* audiencesync\nkey: Gold.Plan.ü\n*/\nSELECT user_id FROM orders\n"
    said = validated(tmp_path, odd=odd, twin=twin, user=header("Gold-Plan.ü", "Gold.Plan.ü", sql="SELECT 1 AS user_id"))
    assert "'Gold.Plan.ü' and 'Gold-Plan.ü' would both be the table audience_gold_plan__" in said


def test_names_that_postgresql_cannot_tell_apart_are_the_same(tmp_path: Path) -> None:
    keys = "x" * 70, "x" * 70 + "y"
    files = {f"audiences/{key}.sql": "SELECT user_id FROM orders\n" for key in keys}
    files |= {"audiences/u.sql": header(*keys)}
    for url, wrong in (("postgresql+psycopg://host/shop", True), ("sqlite:///shop.db", False)):
        main = f"name: shop\nsource: {{url: {url!r}}}\n"
        found = survey(write(tmp_path, {"audiencesync.yml": main, **files}), registry={}, environment={})
        said = [problem.message for problem in found.problems]
        assert said == ([f"{keys[1]!r} and {keys[0]!r} would both be the table audience_{'x' * 54}"] if wrong else [])


def test_the_order_is_kept_but_for_what_goes_first() -> None:
    def one(key: str, *uses: str) -> Audience:
        return Audience(key, key, "", Path(key), uses=uses)

    found = in_order([one("a", "d"), one("b"), one("c", "b", "elsewhere"), one("d", "c"), one("e")])
    assert [audience.key for audience in found] == ["b", "c", "d", "a", "e"]
    found = in_order([one("a", "b"), one("b", "a")])
    assert sorted(audience.key for audience in found) == ["a", "b"], "a cycle, which files cannot have, hangs nobody"


# ---- plan and sync

@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        yield server


class Readers(Premises):
    """`readers` come first in the project, and read `vip`."""

    def __init__(self, root: Path, state_url: str, recorder: Recorder) -> None:
        super().__init__(root, state_url, {"segment": recorder}, "readers", "vip")
        self.change("readers", uses=("vip",), sql=READERS)

    def kinds(self, plan: Plan) -> dict[str, tuple[int, int, int]]:
        return {one.key: (one.members, one.entered, one.exited) for one in plan.audiences}


@pytest.fixture
def shop(tmp_path: Path, state_url: str, recorder: Recorder) -> Iterator[Readers]:
    made = Readers(tmp_path, state_url, recorder)
    yield made
    made.store.close()


def test_a_plan_is_what_sync_does_and_both_go_in_order(shop: Readers, recorder: Recorder) -> None:
    for users in (["ann", "bob", "eve"], ["bob", "eve", "zoe"], []):
        shop.members("vip", users)
        planned = shop.plan()
        assert not planned.errors
        report = shop.sync()
        assert shop.kinds(planned) == {one.key: (one.members, one.entered, one.exited) for one in report.runs}
        assert [one.key for one in report.runs] == ["vip", "readers"]
        assert {user for (key, user), told in recorder.told().items() if told and key == "readers"} \
            == set(users) - {"bob"}
    assert not shop.sync().errors


def test_every_source_takes_what_every_state_gives(tmp_path: Path, source_url: str, state_url: str) -> None:
    shop = Premises(tmp_path, state_url, {}, "last", "vip", "facts")
    shop.project = replace(shop.project, source=SourceSettings(source_url))
    shop.change("vip", sql="SELECT user_id FROM users WHERE score > 1")
    shop.change("facts", kind="trait", sql="SELECT user_id, score, upper(user_id) AS shouted FROM users")
    shop.change("last", uses=("vip", "facts"), sql="SELECT v.user_id FROM audience_vip v JOIN trait_facts f "
                "ON f.user_id = v.user_id WHERE f.score = 2 AND f.shouted = 'EVE'")
    report = shop.sync()
    assert [(one.key, one.members) for one in report.runs] == [("vip", 1), ("facts", 2), ("last", 1)], report.errors
    shop.store.close()


def test_alone_it_uses_the_members_as_they_are(shop: Readers) -> None:
    shop.members("vip", ["ann"])
    shop.sync("vip")
    shop.members("vip", ["ann", "eve"])
    assert shop.kinds(shop.plan("readers")) == {"readers": (1, 1, 0)}
    assert [(one.key, one.members) for one in shop.sync("readers").runs] == [("readers", 1)]
    assert shop.kinds(shop.plan()) == {"vip": (2, 1, 0), "readers": (2, 1, 0)}


def test_what_was_never_computed_or_is_retired_is_asked_for(shop: Readers) -> None:
    shop.members("vip", ["ann"])
    said = "readers.sql: it uses vip, which was never computed; first: audiencesync sync vip"
    assert shop.plan("readers").errors == ((2, said),)
    report = shop.sync("readers")
    assert (report.errors, report.runs[0].status) == (((2, said),), "failed")
    accounts.pause_computation(shop.store, "vip", kind="audience", reason="", who="me")
    assert "first: audiencesync resume vip; audiencesync sync vip" in shop.sync().errors[0][1]
    accounts.resume_computation(shop.store, "vip", who="me", reason="")
    assert not shop.sync().errors
    identity = runs.latest(shop.store, ["vip"])["vip"].computation_id
    decisions.retire(shop.store, identity, "vip", decisions.Act("me", "retire vip", ""), names=(), clear=False,
                     whole=True)
    assert "it uses vip, which is retired" in shop.sync("readers").errors[0][1]


def test_where_what_it_uses_fails_it_fails_and_nobody_exits(shop: Readers, recorder: Recorder) -> None:
    shop.members("vip", ["ann", "eve"])
    shop.sync()
    recorder.clear()
    shop.change("vip", sql="SELECT user_id FROM nowhere")
    words = "readers is not computed, since vip, which it uses, could not be"
    assert shop.plan().errors[1] == (2, words)
    report = shop.sync()
    assert [(one.key, one.status) for one in report.runs] == [("vip", "failed"), ("readers", "failed")]
    assert report.errors[1] == (2, words)
    assert not recorder.calls
    accounts.pause_computation(shop.store, "vip", kind="audience", reason="", who="me")
    report = shop.sync()
    assert [(one.key, one.status, one.members) for one in report.runs][1] == ("readers", "done", 2), "as it was"


def test_a_source_that_is_away_makes_both_be_tried_again(shop: Readers) -> None:
    shop.members("vip", ["ann"])
    shop.sync()
    shop.file.rename(shop.file.with_suffix(".away"))
    assert {code for code, _ in shop.sync().errors} == {75}


def test_members_are_those_of_one_run_while_another_is_made(shop: Readers) -> None:
    users = [f"u{number:05}" for number in range(members.CHUNK + 10)]
    shop.members("vip", users)
    shop.sync("vip")
    shipped = members.shipped(shop.store, runs.latest(shop.store, ["vip"])["vip"])
    chunks = iter(shipped.chunks)
    first = next(chunks)
    shop.members("vip", [*users[:5], "zoe"])
    shop.sync("vip")
    assert first.ids + [user for chunk in chunks for user in chunk.ids] == users


SPENT = "SELECT user_id, spent FROM money"
RICH = "SELECT user_id FROM trait_spent WHERE value >= 9.5"


def test_a_plan_feeds_planned_values_and_a_sync_the_new_ones(
        tmp_path: Path, state_url: str, recorder: Recorder) -> None:
    shop = Premises(tmp_path, state_url, {"segment": recorder}, "rich", "spent", "richest")
    shop.change("spent", kind="trait", sql=SPENT)
    shop.change("rich", uses=("spent",), sql=RICH)
    shop.change("richest", kind="trait", uses=("rich", "spent"),
                sql="SELECT r.user_id, s.spent * 2 AS twice FROM audience_rich r JOIN trait_spent s USING (user_id)")
    url = shop.project.source.url
    fill(url, "CREATE TABLE money (user_id TEXT, spent NUMERIC)",
         "INSERT INTO money VALUES ('ann', 9.5), ('bob', 9.25)")
    for change in ("UPDATE money SET spent = spent + 0.25", "DELETE FROM money WHERE user_id = 'ann'", "SELECT 1"):
        planned = shop.plan()
        assert not planned.errors
        report = shop.sync()
        assert not report.errors
        assert [one.key for one in report.runs] == ["spent", "rich", "richest"]
        assert {one.key: one.members for one in planned.audiences} == {one.key: one.members for one in report.runs}
        calls = {one.destination: one.calls for one in planned.deliveries}
        assert calls == {"segment": sum(one.sent for one in report.syncs)}
        fill(url, change)
    told = {(name, user_of(call)): value for call in recorder.unique_calls for name, value in call["traits"].items()}
    assert told == {("spent", "ann"): None, ("spent", "bob"): 9.5, ("rich", "ann"): False, ("rich", "bob"): True,
                    ("twice", "ann"): None, ("twice", "bob"): 19}
    shop.store.close()


# ---- by schedule

@pytest.fixture
def office(tmp_path: Path, state_url: str) -> Iterator[Office]:
    made = Office(tmp_path, state_url, "readers", "vip")
    made.change("readers", uses=("vip",), sql=READERS)
    yield made
    made.store.close()


def test_within_a_slot_it_goes_behind_what_it_uses(office: Office) -> None:
    assert [run.key for run in office.look(0).runs] == ["vip", "readers"]
    office.members("vip", ["ann", "eve"])
    found = office.look(2)
    assert [(run.key, run.members) for run in found.runs] == [("vip", 2), ("readers", 2)]
    assert not office.look(2.1).runs


def test_a_host_waits_for_what_another_host_computes(office: Office) -> None:
    from audiencesync.store import leases
    from audiencesync.sync.due import LIFE

    office.look(0)
    office.members("vip", ["ann", "eve"])
    office.clock.hour(2)
    lease = leases.acquire(office.store, "computation:vip", holder="host two/1/1", life=LIFE)
    assert not office.look(2).runs, "neither, though nobody holds the readers"
    leases.release(office.store, lease)
    assert [(run.key, run.members) for run in office.look(2).runs] == [("vip", 2), ("readers", 2)]


def test_what_fails_in_a_slot_takes_its_readers_along_until_it_is_mended(office: Office) -> None:
    office.look(0)
    good = office.project.audiences[1].sql
    office.change("vip", sql="SELECT user_id FROM nowhere")
    assert [(run.key, run.status) for run in office.look(2).runs] == [("vip", "failed"), ("readers", "failed")]
    assert not office.look(2.1).runs
    office.change("vip", sql=good)
    assert [(run.key, run.status) for run in office.look(2.2, edited=["vip"]).runs] == [("vip", "done")]
    assert [(run.key, run.status) for run in office.look(2.3).runs] == [("readers", "done")]
    assert not office.look(2.4).runs


def test_what_failed_at_another_host_is_known_here(office: Office) -> None:
    from audiencesync.store import leases
    from audiencesync.sync.due import LIFE

    office.look(0)
    office.change("vip", sql="SELECT user_id FROM nowhere")
    office.clock.hour(2)
    lease = leases.acquire(office.store, "computation:readers", holder="host two/1/1", life=LIFE)
    assert [run.key for run in office.look(2).runs] == ["vip"]
    leases.release(office.store, lease)
    [only] = office.look(2.01).runs
    assert (only.status, only.error) == ("failed", "readers is not computed, since vip, which it uses, could not be")


def test_of_another_schedule_only_the_first_run_is_waited_for(office: Office) -> None:
    office.change("vip", schedule="every 1d")
    assert [run.key for run in office.look(0).runs] == ["vip", "readers"]
    office.members("vip", ["ann", "eve"])
    assert [(run.key, run.members) for run in office.look(2).runs] == [("readers", 1)]
    office.open("late", uses=("rare",), sql="SELECT user_id FROM audience_rare", schedule="every 1h")
    office.open("rare", schedule="manual")
    assert ("late", "failed") in [(run.key, run.status) for run in office.look(2.1).runs], "nobody would ever run it"


def test_while_the_source_is_away_its_readers_wait_for_the_next_attempt(office: Office) -> None:
    office.look(0)
    with office.source_away():
        assert [(run.key, run.status) for run in office.look(2).runs] == [("vip", "unavailable")]
    assert [(run.key, run.status) for run in office.look(2.5).runs] == [("vip", "done"), ("readers", "done")]


def test_show_and_retire_say_what_uses_what(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path / 'state.db'}", vip="SELECT user_id FROM orders\n",
                readers=header("vip"))
    shop.orders("ann")
    shop.run("sync")
    assert re.search("^uses +vip$", shop.run("show", "readers").out, re.MULTILINE)
    assert re.search("^used by +readers$", shop.run("show", "vip").out, re.MULTILINE)
    assert shop.run("show", "vip", "-o", "json").document["used_by"] == ["readers"]
    assert "audiences/readers.sql uses it, and fails from now on" in shop.run("retire", "vip").out
    assert "it uses vip, which is retired" in shop.run("sync", "readers").err

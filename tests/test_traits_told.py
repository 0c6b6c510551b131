"""Nobody is left with a stale value: what is refused, renamed, retired, moved or said to be missing, by the command."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Said, Shop
from tests.servers import Recorder


class People(Shop):
    """A shop whose source is one table of people; `traits/facts.sql` says x and y of them."""

    def __init__(self, root: Path, state: str, server: Recorder) -> None:
        super().__init__(root, state, url=server.url)
        (root / "audiences/buyers.sql").unlink()
        self.server = server
        self.sql("CREATE TABLE people (user_id TEXT PRIMARY KEY, x, y)",
                 "INSERT INTO people VALUES ('ann', 1, 1), ('bob', 2, 2)")
        self.facts("SELECT user_id, x, y FROM people")

    def sql(self, *statements: str) -> None:
        """Change the people."""
        with closing(sqlite3.connect(self.root / "shop.db")) as source, source:
            for statement in statements:
                source.execute(statement)

    def facts(self, sql: str, header: str = "", name: str = "facts") -> None:
        """Say what is computed."""
        self.write(f"traits/{name}.sql", f"/* audiencesync\n{header}\n*/\n{sql}\n")

    def sync(self, code: int = 0, *words: str) -> Said:
        """A sync that ends so."""
        said = self.run("sync", *words)
        assert said.code == code, (said.out, said.err)
        return said

    def calls(self) -> list[dict[str, Any]]:
        """The traits of each call since this was asked last."""
        found = [{call["userId"]: call["traits"]} for call in self.server.calls if call["type"] == "identify"]
        self.server.clear()
        return found


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder(strict=False) as server:
        yield server


@pytest.fixture
def people(tmp_path: Path, state_url: str, server: Recorder) -> People:
    return People(tmp_path / "shop", state_url, server)


def test_a_refused_user_is_told_all_of_his_traits_when_one_of_them_changes(people: People, server: Recorder) -> None:
    people.facts("SELECT user_id, x, y FROM people", "schedule: every 1s")
    people.sync()
    server.refuse.add("ann")
    people.sql("UPDATE people SET x = 9 WHERE user_id = 'ann'")
    people.sync(3)
    server.refuse.clear()
    people.sql("UPDATE people SET y = 9 WHERE user_id = 'ann'")
    people.calls()
    time.sleep(1.1)
    people.sync(0, "--due")  # his next try is hours away
    assert people.calls() == [{"ann": {"x": 9, "y": 9}}]


def test_a_refused_user_is_told_that_a_column_is_gone(people: People, server: Recorder) -> None:
    people.sync()
    server.refuse.add("ann")
    people.facts("SELECT user_id, y FROM people")
    people.sync(3)
    server.refuse.clear()
    people.calls()
    people.sync()
    assert people.calls() == [{"ann": {"y": 1, "x": None}}]


@pytest.mark.parametrize(("missing", "told"), [("clear", None), ("keep", None), ("7", 7)])
def test_retired_with_clearing_everybody_is_told_null(people: People, missing: str, told: object) -> None:
    people.facts("SELECT user_id, x, y FROM people", f"when_missing: {missing}")
    people.sync()
    people.sql("DELETE FROM people WHERE user_id = 'ann'")
    people.calls()
    people.sync()
    assert people.calls() == ([] if missing == "keep" else [{"ann": {"x": told, "y": told}}])
    assert people.run("retire", "facts", "--clear").code == 0
    (people.root / "traits/facts.sql").unlink()
    people.sync()
    nothing = {"x": None, "y": None}
    assert people.calls() == [{user: nothing} for user in (["bob"] if missing == "clear" else ["ann", "bob"])]


def test_a_name_is_not_told_by_another_before_it_was_taken_back(people: People) -> None:
    people.sync()
    assert people.run("pause", "segment").code == 0
    people.facts("SELECT user_id, y FROM people")
    people.facts("SELECT user_id, x FROM people", name="other")
    people.sync(2)
    assert people.run("resume", "segment").code == 0
    refused = people.sync(2)
    assert "the trait x is told by facts, or still to be taken back by it" in refused.err
    people.calls()
    people.sync()
    assert people.calls() == [{"ann": {"x": 1}}, {"bob": {"x": 2}}]


def test_an_included_column_never_overwrites_a_trait(people: People) -> None:
    people.sync()
    people.write("audiences/all.sql", "/* audiencesync\ninclude: [x]\n*/\nSELECT user_id, 99 AS x FROM people\n")
    assert "the included column x would overwrite the trait of that name, which facts tells" in people.sync(2).err
    (people.root / "audiences/all.sql").unlink()
    people.write("audiences/all.sql", "/* audiencesync\ninclude: [z]\n*/\nSELECT user_id, 99 AS z FROM people\n")
    people.facts("SELECT user_id, x, y AS z FROM people")
    assert "the trait z would be overwritten by the column of that name that all includes" in people.sync(2).err


@pytest.mark.parametrize(("sql", "calls"), [
    ("SELECT user_id, x, y AS z FROM people", 3), ("SELECT user_id, x, y, NULL AS z FROM people", 0),
    ("SELECT user_id, y AS x, x AS y FROM people WHERE user_id <> 'bob'", 1)])
def test_a_plan_says_what_a_sync_sends_when_columns_change(people: People, sql: str, calls: int) -> None:
    people.sql("INSERT INTO people VALUES ('nil', NULL, NULL), ('cid', 3, 4)")
    people.sync()
    people.calls()
    people.facts(sql)
    planned = people.run("plan", "-o", "json").document
    people.sync(0)
    told = len(people.calls())
    assert [one["calls"] for one in planned["syncs"]] == [told] == [one["calls"] for one in planned["destinations"]]
    assert told >= calls


def test_a_refused_user_who_left_and_keeps_what_he_has_is_told_nothing(people: People, server: Recorder) -> None:
    people.facts("SELECT user_id, x, y FROM people", "when_missing: keep\nsend: both")
    server.refuse.add("ann")
    people.sync(3)
    server.refuse.clear()
    people.sql("DELETE FROM people WHERE user_id = 'ann'")
    requests = server.requests
    people.sync()
    assert server.requests == requests
    assert people.run("rejected", "-o", "json").document["total"] == 0


@pytest.mark.parametrize("missing", ["0.0", "1.0e+22", "-0.0"])
def test_what_is_missing_is_spelt_as_values_are(people: People, missing: str) -> None:
    people.facts("SELECT user_id, x FROM people", f"when_missing: {missing}")
    people.sql(f"UPDATE people SET x = {float(missing)!r} WHERE user_id = 'ann'")
    people.sync()
    people.sql("DELETE FROM people WHERE user_id = 'ann'")
    people.calls()
    people.sync()
    assert people.calls() == []


def test_a_log_holds_no_value_of_two_rows_that_differ(people: People) -> None:
    from audiencesync.report import cause

    people.facts("SELECT user_id, x FROM people UNION ALL SELECT user_id, 'secret' FROM people WHERE user_id = 'ann'")
    said = people.sync(2).err
    people.facts("SELECT user_id, x FROM people UNION ALL SELECT user_id, 31337 FROM people WHERE user_id = 'ann'")
    said = people.sync(2).err
    assert """'ann' has {"x":1} and {"x":31337}""" in said
    [error] = [run["error"] for run in people.run("runs", "--limit", "1", "-o", "json").document["runs"]]
    assert "ann" not in cause(error)
    assert "31337" not in cause(error)

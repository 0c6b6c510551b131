"""A sound project says exactly what its files say, with defaults where they are silent."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audiencesync.model import Ago
from audiencesync.project import load
from tests.project_files import ENVIRONMENT, MAIN, REGISTRY, SQL, Toy, project, write

FULL = """\
name: shop
timezone: Europe/Berlin
source:
  url: ${WAREHOUSE_URL}
  statement_timeout: 5m
  lock_timeout: 10s
  allow_files: true
state: ${AUDIENCESYNC_STATE:-sqlite:///state/audiencesync.db}
defaults:
  schedule: every 2h
  destinations: [toy]
  guard: {max_exit: 20%}
destinations:
  toy: {type: toy, write_key: "${TOY_KEY}", concurrency: 4, settle: 0s, path: out.jsonl}
  other-1: {type: toy, write_key: "${TOY_KEY}", rate: 50/30s}
vars: {high_value: 500, since: now - 7d, city: Berlin, share: 0.5, on: yes, code: 0123, at: 12:30}
"""
HEADED = """\
/* audiencesync
name: Order completed last 30days
description: Completed an order.
owner: growth
tags: [lifecycle, vip]
include: [email]
destinations: [other-1]
integrations: [Richpanel]
schedule: cron "0 0-23/3 * * *"
guard: {min_exits: 10}
vars: {since: now - 30d}
*/

  SELECT user_id, email
FROM orders WHERE at > :since;

"""


def test_a_full_project_is_read_whole(tmp_path):
    environment = ENVIRONMENT | {"WAREHOUSE_URL": "postgresql://h/db"}
    read = project(tmp_path, FULL, environment, order_completed_last_30days=HEADED)
    assert (read.name, read.timezone, read.source.url) == ("shop", "Europe/Berlin", "postgresql://h/db")
    assert (read.source.statement_timeout, read.source.lock_timeout, read.source.allow_files) == (300, 10, True)
    assert read.state == f"sqlite:///{tmp_path}/state/audiencesync.db"
    assert read.warnings == ()
    toy = read.destinations["toy"]
    assert isinstance(toy, Toy)
    assert (toy.write_key, toy.concurrency, toy.settle, toy.path) == (
        "very-secret-value", 4, timedelta(0), tmp_path / "out.jsonl")
    [audience] = read.audiences
    assert (audience.key, audience.name) == ("order_completed_last_30days", "Order completed last 30days")
    assert (audience.path, audience.line) == (Path("audiences/order_completed_last_30days.sql"), 14)
    assert audience.sql == "  SELECT user_id, email\nFROM orders WHERE at > :since;"
    assert (audience.tags, audience.include, audience.destinations) == (("lifecycle", "vip"), ("email",), ("other-1",))
    assert (audience.integrations, audience.schedule) == (("Richpanel",), 'cron "0 0-23/3 * * *"')
    assert audience.guard == {"max_exit": 0.2, "min_exits": 10}
    assert audience.variables == {"high_value": 500, "since": Ago(timedelta(days=30)), "city": "Berlin", "share": 0.5,
                                  "on": "yes", "code": "0123", "at": "12:30"}


def test_a_moment_before_now_is_bound_relative_to_the_run(tmp_path):
    [audience] = project(tmp_path, buyers="/* audiencesync\nvars: {a: now-1d, b: now, c: nowhere}\n*/" + SQL).audiences
    instant = datetime(2026, 1, 31, tzinfo=UTC)
    assert audience.bindings(instant) == {"a": datetime(2026, 1, 30, tzinfo=UTC), "b": instant, "c": "nowhere",
                                          "now": instant}


def test_what_files_do_not_say_has_defaults(tmp_path):
    read = project(tmp_path)
    [audience] = read.audiences
    assert (read.timezone, read.source.statement_timeout, read.source.lock_timeout) == ("UTC", 600, 30)
    assert read.state == f"sqlite:///{tmp_path}/audiencesync.db"
    assert read.source.url == f"sqlite:///{tmp_path}/shop.db"
    assert (audience.key, audience.name, audience.line, audience.sql) == ("buyers", "buyers", 1, SQL.strip())
    assert (audience.destinations, audience.schedule) == (("toy",), "every 2h to 3h")
    assert audience.guard == {"max_exit": 0.3, "min_exits": 50}
    assert (read.state_must_exist, read.retention, read.alerts) == (False, timedelta(days=90), ())
    assert read.source.fresh is None


@pytest.mark.parametrize(("url", "path"), [
    ("duckdb:///a/b.db", "duckdb:///{root}/a/b.db"), ("sqlite:///x.db?timeout=5", "sqlite:///{root}/x.db?timeout=5"),
    ("sqlite+pysqlite:///file:x.db?mode=ro&uri=true", "sqlite+pysqlite:///file:{root}/x.db?mode=ro&uri=true"),
    ("sqlite:////abs/x.db", "sqlite:////abs/x.db"), ("duckdb:///:memory:", "duckdb:///:memory:"),
    ("duckdb:///md:shop", "duckdb:///md:shop"), ("snowflake://u@acc/db", "snowflake://u@acc/db"),
])
def test_a_relative_database_file_lies_in_the_project(tmp_path, url, path):
    read = project(tmp_path, MAIN.replace("sqlite:///shop.db", url))
    assert read.source.url == path.format(root=tmp_path)


def test_the_environment_wins_over_dotenv_which_wins_over_a_default(tmp_path):
    main = MAIN.replace("${TOY_KEY}", "${TOY_KEY:-from-default}")
    keys = []
    for dotenv, environment in [("", {}), ("export TOY_KEY='from-$HOME-#file'  # a comment\n", {}),
                                ("TOY_KEY=x\n", {"TOY_KEY": "outside"}), ("TOY_KEY=\n", {})]:
        write(tmp_path, {".env": dotenv})
        keys.append(project(tmp_path, main, environment).destinations["toy"].write_key)
    assert keys == ["from-default", "from-$HOME-#file", "outside", "from-default"]


def test_without_an_environment_given_the_process_has_one(tmp_path, monkeypatch):
    write(tmp_path, {"audiencesync.yml": MAIN, "audiences/buyers.sql": SQL})
    monkeypatch.setenv("TOY_KEY", "of-the-process")
    assert load(tmp_path, registry=REGISTRY).destinations["toy"].write_key == "of-the-process"


def test_variables_stand_anywhere_in_a_text_and_two_dollars_are_one(tmp_path):
    main = MAIN.replace("${TOY_KEY}", "a$$b-${TOY_KEY}-${NONE:-x:y}$$${TOY_KEY}-$c")
    read = project(tmp_path, main, {"TOY_KEY": "${K}"})
    assert read.destinations["toy"].write_key == "a$b-${K}-x:y$${K}-$c"


def test_sql_is_never_searched_for_variables(tmp_path):
    [audience] = project(tmp_path, buyers="SELECT user_id FROM t WHERE a = '${TOY_KEY}' AND b = $$x$$").audiences
    assert "'${TOY_KEY}'" in audience.sql
    assert "$$x$$" in audience.sql


def test_a_header_may_follow_line_comments_and_share_its_lines(tmp_path):
    sql = "\ufeff-- owned by growth\r\n\r\n/* audiencesync {tags: [a]} */ SELECT user_id\r\nFROM t"
    [audience] = project(tmp_path, buyers=sql).audiences
    assert audience.tags == ("a",)
    assert audience.line == 3
    assert audience.sql == " " * 30 + " SELECT user_id\nFROM t"


def test_an_empty_header_is_a_header(tmp_path):
    [audience] = project(tmp_path, buyers="/* audiencesync */\nSELECT user_id FROM t").audiences
    assert (audience.key, audience.line, audience.sql) == ("buyers", 2, "SELECT user_id FROM t")


def test_other_comments_belong_to_the_sql(tmp_path):
    sql = "/* audiencesync-like, but none */\nSELECT user_id FROM t"
    assert project(tmp_path, buyers=sql).audiences[0].sql == sql


def test_audiences_come_from_all_folders_in_a_fixed_order(tmp_path):
    write(tmp_path, {"audiences/z/deep.sql": SQL, "audiences/a.SQL": SQL, "audiences/.hidden.sql": SQL,
                     "audiences/.2026/buyers.sql": SQL, "audiences/notes.md": "x", "other/x.sql": SQL})
    assert [audience.key for audience in project(tmp_path).audiences] == ["a", "buyers", "deep"]


def test_a_file_called_other_than_its_key_is_a_warning(tmp_path):
    read = project(tmp_path, big="/* audiencesync\nname: Big Spenders\n*/\n" + SQL)
    [warning] = read.warnings
    assert read.audiences[0].key == "big_spenders"
    assert warning.startswith("audiences/big.sql:2:7: warning: the key is 'big_spenders', but the file is called 'big'")
    assert "key: big" in warning


def test_a_project_without_audiences_is_a_warning(tmp_path):
    read = load(write(tmp_path, {"audiencesync.yml": MAIN}), registry=REGISTRY, environment=ENVIRONMENT)
    assert read.audiences == ()
    assert "there are no audiences yet" in read.warnings[0]


def test_loading_needs_neither_a_database_nor_a_parser_of_sql(tmp_path):
    write(tmp_path, {"audiencesync.yml": MAIN, "audiences/buyers.sql": SQL})
    program = ("import sys; from pathlib import Path; from audiencesync.project import load; "
               "from tests.project_files import REGISTRY; load(Path(sys.argv[1]), registry=REGISTRY); "
               "print(sorted({'sqlglot', 'sqlalchemy', 'httpx', 'alembic', 'dotenv'} & set(sys.modules)))")
    answer = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={"TOY_KEY": "abc"}, check=True,
                            capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert answer.stdout == "[]\n"

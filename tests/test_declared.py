"""Traits without SQL: what their files may say, where mistakes are, and that all else takes them for definitions."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audiencesync.errors import ProjectError, QueryError
from audiencesync.model import Ago, Audience
from audiencesync.project import check_sql, load, signature, survey
from audiencesync.source import open_source
from tests.commands import Shop
from tests.project_files import ENVIRONMENT, REGISTRY, places, write

MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
events: {table: events}
destinations:
  toy: {type: toy, write_key: "${TOY_KEY}"}
  other: {type: toy, write_key: "${TOY_KEY}"}
"""
COUNTER = "trait: event_counter\nevent: Order Completed\n"


def one(root: Path, declared: str, *, main: str = MAIN, file: str = "traits/x.yml") -> Audience:
    """The definition of one file."""
    found = load(write(root, {"audiencesync.yml": main, file: declared}), registry=REGISTRY, environment=ENVIRONMENT)
    assert found.warnings == ()
    return found.audiences[0]


def mistakes(root: Path, files: dict[str, str], *, main: str = MAIN) -> list[tuple[str, str]]:
    """What is wrong, by place and message, each with its hint."""
    with pytest.raises(ProjectError) as error:
        load(write(root, {"audiencesync.yml": main, **files}), registry=REGISTRY, environment=ENVIRONMENT)
    return [(place, problem.hint) for place, problem in
            zip(places(error.value.problems), error.value.problems, strict=True)]


def test_a_file_is_a_definition_as_if_its_sql_were_written_there(tmp_path: Path) -> None:
    found = one(tmp_path, """\
name: Revenue 90 days
description: What somebody spent.
owner: ann
tags: [money]
destinations: [toy]
schedule: every 4h
guard: {max_exit: 10%}
when_missing: 0
full_row: true
send: track
events: {computed: Revenue Computed}
trait: aggregation
event: Order Completed
property: revenue
function: sum
window: last 90 days
where:
  - {property: category, one_of: [shoes, hats]}
  - {property: total, greater: 50}
""", file="traits/revenue_90_days.yml")
    assert (found.key, found.kind, found.name, found.owner, found.tags) == (
        "revenue_90_days", "trait", "Revenue 90 days", "ann", ("money",))
    assert (found.destinations, found.schedule, found.guard["max_exit"]) == (("toy",), "every 4h", 0.1)
    assert (found.missing, found.full_row, found.send, found.events) == (
        "0", True, {"*": "track"}, {"computed": "Revenue Computed"})
    assert found.types == {"revenue_90_days": "number"}
    assert found.line == 12
    assert found.variables == {
        "event": "Order Completed", "property": "revenue", "after": Ago(timedelta(days=90)), "where_1": "category",
        "value_1": "shoes", "value_1_1": "hats", "where_2": "total", "value_2": 50}
    assert "shoes" not in found.sql
    assert "Order" not in found.sql
    assert list(check_sql(found, "sqlite")) == []


@pytest.mark.parametrize(("declared", "type_"), [
    ("trait: first", "timestamp"), ("trait: first\nproperty: size", "string"),
    ("trait: most_frequent\nproperty: size\ntype: number", "number"), ("trait: unique_list\nproperty: size", "list"),
    ("trait: unique_list_count\nproperty: size", "number"), ("trait: event_counter", "number"),
    ("trait: last\nproperty: paid\ntype: boolean", "boolean"),
    ("trait: aggregation\nproperty: size\nfunction: max\ntype: string", "string")])
def test_the_type_of_the_value_is_known(tmp_path: Path, declared: str, type_: str) -> None:
    assert one(tmp_path, f"event: Seen\n{declared}\n").types == {"x": type_}


@pytest.mark.parametrize(("window", "variables"), [
    ("last 12 hours", {"after": Ago(timedelta(hours=12))}), ("last 1 day", {"after": Ago(timedelta(days=1))}),
    ("between 2026-01-01 and 2026-01-31", {"since": "2026-01-01 00:00:00.000+00:00",
                                           "before": "2026-02-01 00:00:00.000+00:00"}),
    ("between 2026-01-01T10:00:00+02:00 and now - 2d", {"since": "2026-01-01 08:00:00.000+00:00",
                                                        "until": Ago(timedelta(days=2))}),
])
def test_windows(tmp_path: Path, window: str, variables: dict[str, object]) -> None:
    assert one(tmp_path, f"{COUNTER}window: {window}\n").variables == {"event": "Order Completed", **variables}


@pytest.mark.parametrize(("declared", "expected"), [
    (COUNTER + "window: last month", "3:9: 'last month' is no window; write  last 30 days,"),
    (COUNTER + "window: last 0 days", "3:9: 'last 0 days' is no window"),
    (COUNTER + "window: 30", "3:9: 'window': 30 is no window"),
    (COUNTER + "window: between 2026-02-01 and 2026-01-01", "3:9: the window ends before it begins; write  between 20"),
    (COUNTER + "window: between now - 1d and now - 2d", "3:9: the window ends before it begins"),
    (COUNTER + "window: between 2026-02-30 and 2026-03-01", "3:9: '2026-02-30' is no moment"),
    (COUNTER + "window: between 2026-01-01 and 9999-12-31", "3:9: '9999-12-31' is no moment"),
    ("trait: event_count\nevent: e", "1:8: 'trait' must be one of event_counter, aggregation, "),
    ("trait: [a]\nevent: e", "1:1: 'trait' should be 'event_counter', "),
    ("event: e", "1:1: the key 'trait' is missing"),
    ("trait: event_counter", "1:1: the key 'event' is missing"),
    ("trait: event_counter\nevent:", "2:1: 'event' is empty"),
    ("trait: aggregation\nevent: e\nproperty: p", "1:8: aggregation needs the key 'function'"),
    ("trait: aggregation\nevent: e\nfunction: sum", "1:8: aggregation needs the key 'property'"),
    ("trait: aggregation\nevent: e\nproperty: p\nfunction: median", "4:11: 'function' must be one of sum, avg, min"),
    ("trait: unique_list\nevent: e", "1:8: unique_list needs the key 'property'"),
    ("trait: most_frequent\nevent: e", "1:8: most_frequent needs the key 'property'"),
    ("trait: most_frequent\nevent: e\nproperty: p\nat_least: 0", "4:11: 'at_least' should be greater than or"),
    ("trait: most_frequent\nevent: e\nproperty: p\nat_least: two", "4:11: 'at_least' must be a whole number"),
    ("trait: most_frequent\nevent: e\nproperty: 5", "3:11: 'property': write the property's name, or a list"),
    ("trait: most_frequent\nevent: e\nproperty: []", "3:1: 'property': write the property's name"),
    (COUNTER + "property: p", "3:1: event_counter counts events, whatever their properties"),
    (COUNTER + "at_least: 2", "3:1: at_least belongs to most_frequent, not to event_counter"),
    (COUNTER + "function: sum", "3:1: function belongs to aggregation, not to event_counter"),
    (COUNTER + "type: string", "3:7: event_counter gives no string"),
    ("trait: aggregation\nevent: e\nproperty: p\nfunction: sum\ntype: string", "5:7: sum gives no string"),
    ("trait: first\nevent: e\ntype: number", "3:7: first gives no number"),
    (COUNTER + "where: [{property: p, equal: 5}]", "3:23: unknown key 'equal'"),
    (COUNTER + "where: [{equals: 5}]", "3:9: the key 'property' is missing"),
    (COUNTER + "where: [{property: p}]", "3:9: this condition does not say what the property must be"),
    (COUNTER + "where: {property: p, equals: 5}", "3:1: 'where' must be a list"),
    (COUNTER + "where: [{property: p, greater: abc}]", "3:32: 'abc' is not a number"),
    (COUNTER + "where: [{property: p, less: true}]", "3:29: 'less': True is not a number"),
    (COUNTER + "where: [{property: p, before: soon}]", "3:31: 'soon' is no moment; write 2026-01-31,"),
    (COUNTER + "where: [{property: p, after: now + 1d}]", "3:30: 'now + 1d' lies after the run"),
    (COUNTER + "where: [{property: p, equals: null}]", "3:31: 'equals': write a text, a number, true or false"),
    (COUNTER + "where: [{property: p, equals: [1]}]", "3:23: 'equals': write a text, a number, true or false"),
    (COUNTER + "where: [{property: p, one_of: []}]", "3:23: 'one_of': write a list, such as [shoes, hats]"),
    (COUNTER + "where: [{property: p, contains: ''}]", "3:33: 'contains' is empty"),
    (COUNTER + "where: [{property: p, exists: maybe}]", "3:31: 'exists' must be true or false"),
    ("trait:\nevent: e", "1:1: 'trait' is empty"), (COUNTER + "window:", "3:8: 'window' "),
    ("trait: first\nevent: e\nproperty:", "3:1: 'property' is empty"),
    (COUNTER + "where: [{property: p, contains: }]", "3:33: 'contains' is empty"),
    (COUNTER + "include: [email]", "3:1: include belongs to definitions in SQL"),
    (COUNTER + "vars: {a: 1}", "3:1: vars belongs to definitions in SQL"),
    (COUNTER + "key: Total-Revenue", "3:6: the key of a trait without SQL is the trait's name, and 'Total-Revenue' is"),
    (COUNTER + "destinations: [nowhere]", "3:16: unknown destination 'nowhere'"),
    (COUNTER + "events: {entered: In}", "3:10: a trait is computed, so entered never happens"),
    (COUNTER + "guards: {}", "3:1: unknown key 'guards'"),
    ("- a", "1:1: this is no mapping"), ("", "1:1: there is nothing in it"), ("trait: [", "2:1: this is not YAML"),
])
def test_each_mistake_has_its_place(tmp_path: Path, declared: str, expected: str) -> None:
    [place] = [place for place, _ in mistakes(tmp_path, {"traits/x.yml": declared + "\n"})
               if "but the file is called" not in place]
    assert place.startswith(f"traits/x.yml:{expected}")


@pytest.mark.parametrize(("file", "declared", "at"), [
    ("k" * 64, COUNTER, "1:1"), ("k" * 60, COUNTER + f"key: {'k' * 64}\n", "3:6"), ("k" * 63, COUNTER, "")])
def test_a_key_of_which_postgresql_keeps_the_beginning_is_a_mistake(
        tmp_path: Path, file: str, declared: str, at: str) -> None:
    main = MAIN.replace("sqlite:///shop.db", "postgresql+psycopg://host/shop")
    files = write(tmp_path, {"audiencesync.yml": main, f"traits/{file}.yml": declared})
    problems = survey(files, registry=REGISTRY, environment=ENVIRONMENT).problems
    found = [one for one in problems if one.severity == "error"]
    assert [place.partition(": the key")[0] for place in places(found)] == [f"traits/{file}.yml:{at}"] * bool(at)


def test_a_source_of_another_kind_and_a_project_without_events_are_mistakes(tmp_path: Path) -> None:
    mysql = MAIN.replace("sqlite:///shop.db", "mysql+pymysql://host/shop")
    [(place, hint)] = mistakes(tmp_path, {"traits/x.yml": COUNTER}, main=mysql)
    assert place == ("traits/x.yml:1:8: traits without SQL are computed in SQLite, PostgreSQL and DuckDB, not in mysql")
    assert "in SQL" in hint
    [(place, hint)] = mistakes(tmp_path, {"traits/x.yml": COUNTER}, main=MAIN.replace("events: {table: events}\n", ""))
    assert place == "traits/x.yml:1:8: audiencesync.yml does not say where events lie"
    assert "events: {table: events}" in hint
    [(place, _)] = mistakes(tmp_path, {"traits/x.yml": COUNTER}, main=MAIN.replace("table: events", "table: a.b.c"))
    assert place == "audiencesync.yml:3:17: 'a.b.c' is no table; write events or analytics.events"


def test_what_the_table_does_not_have_cannot_be_asked(tmp_path: Path) -> None:
    plain = MAIN.replace("table: events", "table: orders, event: null, properties: null")
    declared = "trait: first\nevent: e\nproperty: [a, b]\nwhere: [{property: [c, d], equals: 5}]\n"
    assert [place for place, _ in mistakes(tmp_path, {"traits/x.yml": declared}, main=plain)] == [
        "traits/x.yml:2:1: events: in audiencesync.yml names no column for events",
        "traits/x.yml:3:1: properties are columns here, and a column has no properties of its own",
        "traits/x.yml:4:10: properties are columns here, and a column has no properties of its own"]


def test_files_elsewhere_and_tests_are_no_traits(tmp_path: Path) -> None:
    assert one(tmp_path, COUNTER, file="traits/deep/x.YAML").path == Path("traits/deep/x.YAML")
    before = signature(tmp_path)
    write(tmp_path, {"traits/x.test.yml": "?", "traits/deep/x.test.yaml": "?", "audiences/x.test.yml": "?"})
    assert signature(tmp_path) == before
    assert mistakes(tmp_path, {"audiences/y.yml": COUNTER}) == [
        ("audiences/y.yml:1:1: a trait without SQL lies in the folder traits",
         "move it there; an audience is a .sql file, and its tests are a .test.yml")]
    found = survey(tmp_path, registry=REGISTRY, environment=ENVIRONMENT)
    assert found.broken == {Path("audiences/y.yml")}
    assert found.project is not None
    assert [audience.key for audience in found.project.audiences] == ["x"]


def test_keys_are_unique_with_and_without_sql(tmp_path: Path) -> None:
    sql = "SELECT user_id, 1 AS n FROM orders"
    assert [place for place, _ in mistakes(tmp_path, {"traits/x.yml": COUNTER, "traits/x.sql": sql})] == [
        "traits/x.yml:1:1: the key 'x' is taken by traits/x.sql"]


def test_a_name_that_is_not_the_files_is_a_warning_that_knows_its_ending(tmp_path: Path) -> None:
    files = {"audiencesync.yml": MAIN, "traits/x.yml": f"name: Orders ever\n{COUNTER}"}
    [warning] = load(write(tmp_path, files), registry=REGISTRY, environment=ENVIRONMENT).warnings
    assert "rename the file to orders_ever.yml" in warning


def test_a_destination_that_needs_more_than_ids_is_told_of(tmp_path: Path) -> None:
    main = MAIN.replace("other: {type: toy", "other: {type: mailer")
    [(place, hint)] = mistakes(tmp_path, {"traits/x.yml": COUNTER}, main=main)
    assert place == "traits/x.yml:1:1: destination 'other' needs the column 'email'"
    assert hint == "write the trait in SQL, or name other destinations"


@pytest.mark.parametrize(("columns", "said"), [
    ("user_id, event, properties", "no such column: events.at"),
    ("user_id, at, properties", "no such column: events.event"),
    ("user, event, at, properties", "no such column: events.user_id"), ("user_id, event, at", "events.properties")])
def test_a_table_without_a_needed_column_is_the_databases_error_with_our_hint(
        tmp_path: Path, columns: str, said: str) -> None:
    trait = one(tmp_path, "# a line\n" + "trait: first\nevent: e\nproperty: p\n")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute(f"CREATE TABLE events ({columns})")
    project = load(tmp_path, registry=REGISTRY, environment=ENVIRONMENT)
    with open_source(project.source) as source, pytest.raises(QueryError) as error:
        source.read(trait, datetime.now(UTC))
    assert str(error.value).startswith("traits/x.yml:2:1: error: ")
    assert said in str(error.value)
    assert "events:  in audiencesync.yml" in str(error.value)


def test_a_trait_is_checked_synced_and_shown_like_any_other(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path}/state.db")
    shop.write("audiencesync.yml", 'name: shop\nsource: {url: "sqlite:///shop.db"}\nstate: ${STATE}\n'
               "events: {table: orders, event: null, properties: null}\n"
               "destinations: {out: {type: file, path: out.jsonl}}\n")
    shop.write("traits/first_order_at.yml", "trait: first\n")
    with closing(sqlite3.connect(shop.root / "shop.db", isolation_level=None)) as source:
        source.execute("INSERT INTO orders VALUES ('u1', '2026-01-01 10:00:00')")
    assert "all well" in shop.run("validate").out
    assert shop.run("doctor").code == 0
    assert shop.run("sync", "first_order_at").code == 0
    assert '"traits":{"first_order_at":"2026-01-01T10:00:00Z"}' in (shop.root / "out.jsonl").read_text()
    assert "SELECT" not in shop.run("show", "first_order_at").out
    said = shop.run("show", "buyers", "--sql").out
    assert said == "SELECT user_id FROM orders WHERE at <= :now GROUP BY user_id\n"
    said = shop.run("show", "first_order_at", "--sql").out
    assert "FROM orders" in said
    document = shop.run("show", "first_order_at", "--sql", "-o", "json").document
    assert document == {"key": "first_order_at", "sql": said.removesuffix("\n"), "vars": {}}
    assert shop.run("show", "nobody", "--sql").code == 2


def test_what_parameters_are_is_shown_before_the_sql(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path}/state.db")
    shop.write("audiencesync.yml", 'name: shop\nsource: {url: "sqlite:///shop.db"}\nevents: {table: events}\n')
    shop.write("traits/x.yml", "trait: event_counter\nevent: \"it's\"\nwindow: last 30 days\n")
    lines = shop.run("show", "x", "--sql").out.splitlines()
    assert lines[:2] == ['-- :after = "now - 30d"', '-- :event = "it\'s"']


def test_a_project_in_sql_alone_pays_nothing_for_traits_without(tmp_path: Path) -> None:
    write(tmp_path, {"audiencesync.yml": 'name: shop\nsource: {url: "sqlite:///shop.db"}\n',
                     "traits/x.sql": "SELECT user_id, 1 AS n FROM orders"})
    script = ("import sys; from pathlib import Path; from audiencesync.project import load; "
              "load(Path(sys.argv[1]), registry={}, environment={}); assert 'sqlalchemy' not in sys.modules")
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)

"""Traits without SQL give the same values on SQLite, PostgreSQL and DuckDB: each case is asked of all three."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from sqlalchemy import create_engine, text

from audiencesync.model import Audience, SourceSettings
from audiencesync.project import load
from audiencesync.source import Source, open_source
from tests.project_files import write

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
MAY, JUNE = "2026-05-15T10:00:00Z", "2026-06-15T10:00:00Z"

Event = tuple[str | None, str, str | None]
"""Whose it is, when it happened, and its properties as JSON."""


class Case:
    """Events, what is declared over them, and what users get, as JSON text."""

    def __init__(self, name: str, events: list[Event], declared: str, /, **expected: str) -> None:
        self.name, self.events, self.declared, self.expected = name, events, declared, expected


def of(user: str | None, *values: Any, at: str = JUNE) -> list[Event]:
    """One event for each value of the property p, at one instant."""
    return [(user, at, json.dumps({"p": value})) for value in values]


def totals(function: str, events: list[Event], declared: str = "", /, **expected: str) -> Case:
    """A case of an aggregation of the property p."""
    return Case(f"{function} {declared} {expected}", events,
                f"trait: aggregation\nfunction: {function}\nproperty: p\n{declared}", **expected)


def within(window: str, *users: str) -> Case:
    """A case of who has an event in a window."""
    return Case(window or "ever", EDGES, f"trait: event_counter\n{window and f'window: {window}'}",
                **dict.fromkeys(users, "1"))


def where(condition: str, events: list[Event], *users: str) -> Case:
    """A case of who fulfils a condition on the property p."""
    return Case(f"where {condition}", events, f"trait: event_counter\nwhere: [{{property: p, {condition}}}]",
                **{user: str(users.count(user)) for user in users})


def named(path: str, value: int) -> Case:
    """A case that finds one of NAMES."""
    return Case(f"name {path}", NAMES, f"trait: aggregation\nfunction: max\nproperty: {path}", a=str(value))


EDGES: list[Event] = [
    ("begins", "2026-05-31T12:00:00Z", "{}"), ("soon", "2026-05-31T12:00:01Z", "{}"),
    ("ends", "2026-06-30T12:00:00Z", "{}"), ("later", "2026-06-30T12:00:01Z", "{}"),
    ("fraction", "2026-06-30T12:00:00.250Z", "{}"), ("zone", "2026-06-30T14:00:00+02:00", "{}"),
    ("zone_later", "2026-06-30T12:30:00+00:00", "{}"), ("leap", "2020-02-29T00:00:00Z", "{}")]
NUMBERS = [
    *of("a", "9.50", 9.5, " 9.5 "), ("a", JUNE, '{"p": 9.50}'),
    *of("b", "abc", "12abc", "0x10", "", "1_000", "inf", "NaN", "1e999", "1 2", "--1"),
    *of("c", True, None, [1], {"x": 1}), *of("d", 1e2, "1e2", ".5", "5.", -3), *of("e", "9.25"), ("f", JUNE, None)]
TEXTS = [
    *of("a", "é", "z", "Z", "a", "ä", "z", "日本", "😀"), *of("b", "", " "), *of("c", None),
    *of("d", True, False, 1.0, "1"), *of("e", 9.50, "9.5", 10, 1e3, 0.1, -2.5, 2**53), *of("f", ["x"], {"y": 1}),
    ("g", JUNE, "{}"), ("h", JUNE, None), ("h", JUNE, "[1]"), ("h", JUNE, "3"),
    *of("i", 'say "hi"', "it's", "back\\slash", "a:b", "line\nbreak", ":now")]
ODD = json.dumps(sorted(['say "hi"', "it's", "back\\slash", "a:b", "line\nbreak", ":now"]), separators=(",", ":"))
MONEY = [
    *of("a", 0.1, 0.2), *of("b", 19.99, 0.01, 5), *of("c", 12345678.9, 0.01), *of("d", 1, 2), *of("e", "9.50", "0.50"),
    *of("f", "x"), *of(None, 5), *of("g", 0.01, *[0] * 31), *of("h", 1, 2, 2), *of("i", -1.5, 1.5)]
SIZES = [
    *of("a", "M", "M", "L"), *of("b", "M", "L", "M", "L"), *of("c", "M"), *of("d", "é", "é", "z", "z"),
    *of("e", 5, "5", 6), *of("f", 10, 10, 9, 9)]
HISTORY = [
    *of("a", "x", at="2026-01-01T00:00:00Z"), *of("a", "y", at="2026-01-02T00:00:00Z"),
    *of("a", None, at="2026-01-03T00:00:00.5Z"), *of("b", "q", "p", at=MAY), *of("c", "10", "9", at=MAY),
    *of("d", "late", at="2026-07-01T00:00:00Z")]
DATES = [
    *of("a", "2026-01-31"), *of("b", "2026-01-31T23:59:59Z"), *of("c", "2026-02-01T00:30:00+01:00"),
    *of("d", "2026-02-01"), *of("e", "2026-02-30"), *of("f", "now"), *of("g", "2026"), *of("h", 20260131),
    *of("i", "2026-13-01"), *of("j", None), *of("k", "2026-02-01T00:00:00.001Z"), *of("l", "0000-01-01"),
    *of("m", "2026-01-31 25:00:00"), *of("n", "2024-02-29 10:00")]
NAMES: list[Event] = [("a", JUNE, json.dumps({
    "a.b": 1, "a": {"b": 2, "c.d": {"e": 3}}, 'q"q': 4, "it's": 5, "back\\slash": 6, "$x": 7, "[0]": 8, "sla/sh": 9,
    "ti~lde": 10, "naïve": 11, " ": 12, "x'; DROP TABLE events --": 13, "list": [15], ":now": 16, "A": 17}))]

CASES = [
    Case("counter", [*of("a", 1, 2), *of("b", 1), *of(None, 1)], "trait: event_counter", a="2", b="1"),
    within("", "begins", "soon", "ends", "zone", "leap"),
    within("last 30 days", "soon", "ends", "zone"),
    within("last 720 hours", "soon", "ends", "zone"),
    within("last 1 day", "ends", "zone"),
    within("between 2026-05-31 and 2026-06-29", "begins", "soon"),
    within("between 2026-06-30 and 2026-06-30", "ends", "zone"),
    within("between 2026-05-31T12:00:00Z and 2026-05-31T14:00:01+02:00", "begins", "soon"),
    within("between now - 30d and now - 1h", "begins", "soon"),
    within("between 2021-01-01 and 2021-12-31"),
    totals("sum", NUMBERS, "# what spells a number", a="38", d="202.5", e="9.25"),
    totals("sum", MONEY, a="0.3", b="25", c="12345678.91", d="3", e="10", g="0.01", h="5", i="0"),
    totals("avg", MONEY, a="0.15", b="8.333333", c="6172839.455", d="1.5", e="5", g="0.000313", h="1.666667", i="0"),
    totals("min", MONEY, a="0.1", b="0.01", c="0.01", d="1", e="0.5", g="0", h="1", i="-1.5"),
    totals("max", MONEY, a="0.2", b="19.99", c="12345678.9", d="2", e="9.5", g="0.01", h="2", i="1.5"),
    totals("max", SIZES, "type: string", a='"M"', b='"M"', c='"M"', d='"é"', e='"6"', f='"9"'),
    totals("min", DATES, "type: timestamp", a='"2026-01-31T00:00:00Z"', b='"2026-01-31T23:59:59Z"',
           c='"2026-01-31T23:30:00Z"', d='"2026-02-01T00:00:00Z"', k='"2026-02-01T00:00:00.001000Z"',
           n='"2024-02-29T10:00:00Z"'),
    Case("list", TEXTS, "trait: unique_list\nproperty: p", a='["Z","a","z","ä","é","日本","😀"]', b='[""," "]',
         d='["1","false","true"]', e='["-2.5","0.1","10","1000","9.5","9007199254740992"]', i=ODD),
    Case("list count", TEXTS, "trait: unique_list_count\nproperty: p", a="7", b="2", d="3", e="6", i="6"),
    Case("most frequent", SIZES, "trait: most_frequent\nproperty: p",
         a='"M"', b='"L"', c='"M"', d='"z"', e='"5"', f='"10"'),
    Case("most frequent number", SIZES, "trait: most_frequent\nproperty: p\ntype: number", e="5", f="9"),
    Case("at least", SIZES, "trait: most_frequent\nproperty: p\nat_least: 2",
         a='"M"', b='"L"', d='"z"', e='"5"', f='"10"'),
    Case("first", HISTORY, "trait: first\nproperty: p", a='"x"', b='"p"', c='"10"'),
    Case("last", HISTORY, "trait: last\nproperty: p", a='"y"', b='"p"', c='"10"'),
    Case("last number", HISTORY, "trait: last\nproperty: p\ntype: number", c="9"),
    Case("first truth", TEXTS, "trait: first\nproperty: p\ntype: boolean", d="false"),
    Case("when first", HISTORY, "trait: first",
         a='"2026-01-01T00:00:00Z"', b='"2026-05-15T10:00:00Z"', c='"2026-05-15T10:00:00Z"'),
    Case("when last", HISTORY, "trait: last",
         a='"2026-01-03T00:00:00.500000Z"', b='"2026-05-15T10:00:00Z"', c='"2026-05-15T10:00:00Z"'),
    where("equals: M", SIZES, "a", "a", "b", "b", "c"),
    where("equals: é", SIZES, "d", "d"),
    where("equals: 9.5", TEXTS, "e", "e"),
    where('equals: "9.5"', TEXTS, "e", "e"),
    where("equals: true", TEXTS, "d"),
    where("equals: ':now'", TEXTS, "i"),
    where('equals: "x\'; DROP TABLE events --"', TEXTS),
    where("not_equals: M", SIZES, "a", "b", "b", *"dddd", *"eee", *"ffff"),
    where("not_equals: 9", MONEY, *"aabbbccddeef", *["g"] * 32, *"hhhii"),
    where("not_equals: x", [*of("n", None), ("n", JUNE, "{}"), ("n", JUNE, None), *of("y", 1, [1])], "y", "y"),
    where("contains: 'a'", [*of("a", "banana", "A", "é", ["a"], None)], "a"),
    where("contains: '%'", [*of("a", "5 %", "5"), *of("b", 5)], "a"),
    where("one_of: [M, é, 10]", SIZES, "a", "a", "b", "b", "c", "d", "d", "f", "f"),
    where("less: 0.02", MONEY, "b", "c", *["g"] * 32, "i"),
    where("greater: 9.5", NUMBERS, "d", "d"),
    where("greater: 9.4, less: 9.6", NUMBERS, *"aaaa"),
    where("before: 2026-02-01", DATES, "a", "b", "c", "n"),
    where("after: 2026-01-31", DATES, "d", "k"),
    where("after: '2026-01-31T23:30:00Z'", DATES, "b", "d", "k"),
    where("after: now - 150d", DATES, "b", "c", "d", "k"),
    where("exists: true", TEXTS, *"aaaaaaaabbddddeeeeeeeffiiiiii"),
    where("exists: false", TEXTS, *"cghhh"),
    named("a.b", 1), named("[a, b]", 2), named("[a, c.d, e]", 3), named("'q\"q'", 4), named("it's", 5),
    named("back\\slash", 6), named("$x", 7), named("'[0]'", 8), named("sla/sh", 9), named("ti~lde", 10),
    named("naïve", 11), named("' '", 12), named('"x\'; DROP TABLE events --"', 13), named("':now'", 16), named("A", 17),
    Case("name in a list", NAMES, "trait: aggregation\nfunction: max\nproperty: [list, '0']"),
    Case("both", [*of("a", 5, 15), ("b", JUNE, '{"p": 5, "q": "x"}')],
         "trait: event_counter\nwhere: [{property: p, less: 9}, {property: q, equals: x}]", b="1"),
]
MAIN = """
name: shop
source: {url: "%s"}
events: {table: events}
"""


def fill_sqlite(path: str, rows: list[tuple[object, ...]]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE events (user_id TEXT, event TEXT, at TEXT, properties TEXT)")
        database.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)


def fill_duckdb(path: str, rows: list[tuple[object, ...]]) -> None:
    with closing(duckdb.connect(path)) as database:
        database.execute('CREATE TABLE events (user_id TEXT, event TEXT, "at" TIMESTAMPTZ, properties JSON)')
        database.execute("INSERT INTO events VALUES " + ", ".join(["(?, ?, ?, ?)"] * len(rows)),
                         [value for row in rows for value in row])


def fill_postgresql(url: str, rows: list[tuple[object, ...]]) -> None:
    engine = create_engine(url)
    with engine.begin() as database:
        database.execute(text("CREATE TABLE events (user_id text, event text, at timestamptz, properties jsonb)"))
        database.execute(text("INSERT INTO events VALUES (:u, :e, :a, CAST(:p AS jsonb))"),
                         [dict(zip("ueap", row, strict=True)) for row in rows])
    engine.dispose()


def values(source: Source, audience: Audience) -> dict[str, str]:
    """Each user's value as JSON text; a user without one must not be there at all."""
    result = source.read(audience, NOW)
    return {user: text.removeprefix("[").removesuffix("]")
            for chunk in result.chunks for user, text in zip(chunk.ids, chunk.values or (), strict=True)}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "duckdb"])
def test_every_engine_gives_the_same_values(tmp_path: Path, request: pytest.FixtureRequest, engine: str) -> None:
    path = str(tmp_path / "shop.db")
    url = request.getfixturevalue("postgres_url") if engine == "postgresql" else f"{engine}:///{path}"
    fill = {"sqlite": fill_sqlite, "postgresql": fill_postgresql, "duckdb": fill_duckdb}[engine]
    fill(url if engine == "postgresql" else path,
         [(user, f"event {number}", at, properties) for number, case in enumerate(CASES)
          for user, at, properties in case.events])
    files = {f"traits/t{number}.yml": f"event: event {number}\n{case.declared}" for number, case in enumerate(CASES)}
    project = load(write(tmp_path, {"audiencesync.yml": MAIN % url, **files}), registry={}, environment={})
    with open_source(project.source) as source:
        found = {audience.key: values(source, audience) for audience in project.audiences}
    assert {case.name: found[f"t{number}"] for number, case in enumerate(CASES)} == {
        case.name: case.expected for case in CASES}


PLAIN = """
name: shop
source: {url: "%s"}
events: {table: %s, user: Customer, event: null, at: ordered, properties: null}
"""
TABLE = 'CREATE TABLE %s ("Customer" integer, ordered %s, "Revenue" numeric(20, 2), size %s, paid boolean, due %s)'
ORDERS = [
    (1, "2026-06-01 00:00:00", "9.50", "M", True, "2026-07-01 00:00:00"),
    (1, "2026-06-02 00:00:00", "9.50", "L", False, None),
    (2, "2026-06-03 10:00:00", "123456789012.34", None, None, None),
    (None, "2026-06-03 10:00:00", "5.00", "S", True, None)]
TRAITS = {
    "orders": "trait: event_counter", "revenue": "trait: aggregation\nfunction: sum\nproperty: Revenue",
    "paid": "trait: event_counter\nwhere: [{property: paid, equals: true}]", "first_at": "trait: first",
    "was_paid": "trait: last\nproperty: paid\ntype: boolean", "sizes": "trait: unique_list\nproperty: size",
    "due": "trait: last\nproperty: due\ntype: timestamp",
    "no_size": "trait: event_counter\nwhere: [{property: size, exists: false}]",
}


def fill_orders(engine: str, path: str, url: str) -> str:
    """The orders in a database of that kind; gives the name of the table."""
    times = {"sqlite": "text", "duckdb": "timestamp", "postgresql": "timestamp"}[engine]
    name = "orders" if engine == "sqlite" else "sales.orders"
    words = [TABLE % (name, times, "text", times)]
    words += [f"INSERT INTO {name} VALUES ({', '.join('NULL' if one is None else repr(one) for one in row)})"
              for row in ORDERS]
    if engine == "sqlite":
        with closing(sqlite3.connect(path)) as database:
            database.executescript(";".join(words))
    elif engine == "duckdb":
        with closing(duckdb.connect(path)) as opened:
            opened.execute(";".join(["CREATE SCHEMA sales", *words]))
    else:
        server = create_engine(url)
        with server.begin() as connection:
            for word in ("CREATE SCHEMA sales", *words):
                connection.execute(text(word.replace(":", "\\:")))
        server.dispose()
    return name


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "duckdb"])
def test_properties_may_be_columns_of_a_table_of_one_event(
        tmp_path: Path, request: pytest.FixtureRequest, engine: str) -> None:
    path = str(tmp_path / "shop.db")
    url = request.getfixturevalue("postgres_url") if engine == "postgresql" else f"{engine}:///{path}"
    table = fill_orders(engine, path, url)
    files = {f"traits/{key}.yml": declared for key, declared in TRAITS.items()}
    project = load(write(tmp_path, {"audiencesync.yml": PLAIN % (url, table), **files}), registry={}, environment={})
    with open_source(SourceSettings(url)) as source:
        found = {audience.key: values(source, audience) for audience in project.audiences}
    assert found == {
        "orders": {"1": "2", "2": "1"}, "revenue": {"1": "19", "2": "123456789012.34"}, "paid": {"1": "1"},
        "first_at": {"1": '"2026-06-01T00:00:00Z"', "2": '"2026-06-03T10:00:00Z"'}, "was_paid": {"1": "false"},
        "sizes": {"1": '["L","M"]'}, "due": {"1": '"2026-07-01T00:00:00Z"'}, "no_size": {"2": "1"}}


def test_sqlite_reads_times_as_text_as_seconds_and_as_milliseconds(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE events (user_id, event, at, properties)")
        times = {"a": NOW.timestamp(), "b": int(NOW.timestamp() * 1000), "c": int(NOW.timestamp()) + 1, "g": None,
                 "d": "2026-06-30 12:00", "e": "2026-06-30T12:00:00.001", "f": "2026-06-30", "h": "?"}
        database.executemany("INSERT INTO events VALUES (?, 'seen', ?, NULL)", times.items())
    main = MAIN % f"sqlite:///{tmp_path}/shop.db"
    declared = {"traits/n.yml": "trait: event_counter\nevent: seen\nwindow: last 1 hour"}
    project = load(write(tmp_path, {"audiencesync.yml": main, **declared}), registry={}, environment={})
    with open_source(project.source) as source:
        assert values(source, project.audiences[0]) == {"a": "1", "b": "1", "d": "1"}


@pytest.mark.parametrize("kind", ["text", "json"])
def test_postgresql_reads_properties_of_every_type(postgres_url: str, tmp_path: Path, kind: str) -> None:
    server = create_engine(postgres_url)
    with server.begin() as connection:
        connection.execute(text(f"CREATE TABLE events (user_id uuid, event text, at date, properties {kind})"))
        connection.execute(text(r"""INSERT INTO events VALUES
            ('00000000-0000-0000-0000-00000000000a', 'seen', '2026-06-30', '{"p"\: 12.50}'),
            ('00000000-0000-0000-0000-00000000000b', 'seen', '2026-06-30', '{"q"\: "\u0000", "p"\: "x\u0000\u0000y"}'),
            ('00000000-0000-0000-0000-00000000000c', 'seen', '2026-06-30', '{"p"\: "\\u0000\\\u0000"}')"""))
    server.dispose()
    declared = {"traits/n.yml": "trait: last\nevent: seen\nproperty: p"}
    project = load(write(tmp_path, {"audiencesync.yml": MAIN % postgres_url, **declared}), registry={}, environment={})
    with open_source(project.source) as source:
        assert values(source, project.audiences[0]) == {
            f"00000000-0000-0000-0000-00000000000{end}": value
            for end, value in (("a", '"12.5"'), ("b", '"xy"'), ("c", r'"\\u0000\\"'))}

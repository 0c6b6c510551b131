"""Values of computed traits: every digit whatever database they come from, and what cannot be told named by its row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import Said, Shop
from tests.databases import PostgresServer, fill
from tests.servers import Recorder, key_of, user_of

MAIN = """\
name: shop
source: {{url: "{url}"}}
state: ${{STATE}}
defaults: {{guard: {{max_exit: 100%}}}}
destinations:
  segment: {{type: segment, write_key: "${{WRITE_KEY}}", url: "${{SEGMENT}}", settle: 0s, timeout: 2s}}
"""
USERS = "CREATE TABLE people (user_id TEXT)", "INSERT INTO people VALUES ('u1'), ('u2')"
BUYERS = "SELECT user_id FROM people\n"


class Value(NamedTuple):
    """How each database spells one value, twice where it can, and the JSON that it is told as."""

    kind: str
    told: str
    sqlite: tuple[str, ...]
    postgresql: tuple[str, ...]
    duckdb: tuple[str, ...]


def alike(kind: str, told: str, *spellings: str) -> Value:
    """A value that all of them spell so."""
    return Value(kind, told, spellings, spellings, spellings)


LONG = "12345678901234567890.123456789"
VALUES: Mapping[str, Value] = {
    "revenue": Value("number", "9.5", ("9.50", "'9.50'"), ("9.50::numeric(10,2)", "9.5::float8"),
                     ("9.50::DECIMAL(10,2)", "9.5::DOUBLE")),
    "nine": Value("number", "9", ("9", "9.0"), ("9", "9.000::numeric"), ("9", "9.0::DOUBLE")),
    "thousand": Value("number", "1000", ("1e3", "1000"), ("1e3::numeric", "1000::float8"),
                      ("1000::DECIMAL(8,4)", "1e3::DOUBLE")),
    "tiny": Value("number", "0.0000001", ("1e-7", "'0.0000001'"), ("1e-7::numeric", "1e-7::float8"),
                  ("1e-7::DECIMAL(18,9)", "1e-7::DOUBLE")),
    "googol": Value("number", f"1{'0' * 22}", ("1e22", f"'1{'0' * 22}'"), ("1e22::numeric", "1e22::float8"),
                    ("1e22::HUGEINT", "1e22::DOUBLE")),
    "exact": Value("number", LONG, (f"'{LONG}'",), (f"{LONG}::numeric(38,9)", f"{LONG}000::numeric(38,12)"),
                   (f"{LONG}::DECIMAL(38,9)", f"{LONG}0::DECIMAL(38,10)")),
    "summed": Value("number", "0.30000000000000004", ("0.1 + 0.2",), ("0.1::float8 + 0.2::float8",),
                 ("0.1::DOUBLE + 0.2::DOUBLE",)),
    "zero": Value("number", "0", ("-0.0", "0"), ("'-0.0'::float8", "0.00::numeric"),
                     ("'-0.0'::DOUBLE", "0.00::DECIMAL(4,2)")),
    "over53": alike("number", "9007199254740993", "9007199254740993"),
    "over64": Value("number", "-123456789012345678901234567890", ("'-123456789012345678901234567890'",),
                    ("-123456789012345678901234567890",), ("-123456789012345678901234567890::HUGEINT",)),
    "is_on": Value("boolean", "true", ("1", "'t'"), ("true",), ("true",)),
    "is_off": Value("boolean", "false", ("0", "'false'"), ("1 > 2",), ("1 > 2",)),
    "words": alike("string", r'"say \"it' "'s" r'\" \\ é 日本 😀, null, 9.50"',
                   "'say \"it''s\" \\ é 日本 😀, null, 9.50'"),
    "digits": alike("string", '"9.50"', "'9.50'"),
    "lines": Value("string", r'"a\nb"', ("'a' || char(10) || 'b'",), (r"E'a\nb'",), (r"E'a\nb'",)),
    "blank": alike("string", '""', "''"),
    "seen": Value("timestamp", '"2026-11-22T08:00:00Z"', ("'2026-11-22 10:00:00+02:00'", "'2026-11-22T08:00:00Z'"),
                  ("'2026-11-22 10:00:00+02'::timestamptz", "'2026-11-22 08:00:00'::timestamp"),
                  ("'2026-11-22 10:00:00+02'::TIMESTAMPTZ", "'2026-11-22 08:00:00'::TIMESTAMP")),
    "bought": Value("timestamp", '"2026-11-22T10:00:00.500000Z"',
                    ("'2026-11-22 10:00:00.5'", "'2026-11-22 10:00:00.500000'"),
                    ("'2026-11-22 10:00:00.5'::timestamp",), ("'2026-11-22 10:00:00.5'::TIMESTAMP",)),
    "born": Value("timestamp", '"2000-02-29"', ("'2000-02-29'",), ("'2000-02-29'::date",), ("'2000-02-29'::DATE",)),
    "sizes": Value("list", '["b","it\'s","é"]', ("'[\"b\", \"it''s\", \"é\"]'",), ("ARRAY['b', 'it''s', 'é']",),
                   ("['b', 'it''s', 'é']",)),
    "unlisted": Value("list", "[]", ("'[]'",), ("'{}'::text[]",), ("[]::VARCHAR[]",)),
    "void": alike("", "", "NULL"),
}
EXPECTED = "{" + ",".join(f'"{name}":{value.told}' for name, value in VALUES.items() if value.kind) + "}"
NEXT = ",\n"
KINDS = ", ".join(f"{name}: {value.kind}" for name, value in VALUES.items() if value.kind)


def select(engine: str, way: int) -> str:
    """All values of u1 in one of the ways this database spells them; u2 has one, so that all others are NULL, too."""
    columns = ["user_id"]
    for name, value in VALUES.items():
        spelt = getattr(value, engine)
        one = spelt[way % len(spelt)]
        columns.append(f"{one} AS {name}" if name == "nine" else f"CASE user_id WHEN 'u1' THEN {one} END AS {name}")
    header = f"/* audiencesync\ntypes: {{{KINDS}}}\n*/\n" if engine == "sqlite" else ""
    return f"{header}SELECT {NEXT.join(reversed(columns) if way else columns)} FROM people"


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder
        assert recorder.violations == []


@pytest.fixture
def urls(tmp_path: Path, postgres_url: str) -> Mapping[str, str]:
    """A database of each kind with the same people."""
    found = {"sqlite": f"sqlite:///{tmp_path / 'people.db'}", "postgresql": postgres_url,
             "duckdb": f"duckdb:///{tmp_path / 'people.duckdb'}"}
    for url in found.values():
        fill(url, *USERS)
    return found


def make(root: Path, server: Recorder, url: str, state: str = "") -> Shop:
    return Shop(root / "shop", state or f"sqlite:///{root / 'state.db'}", url=server.url, main=MAIN.format(url=url),
                buyers=BUYERS)


def synced(shop: Shop, day: int, code: int = 0) -> Said:
    done = shop.run("sync", "--as-of", f"2026-11-{day:02}", "-o", "json")
    assert done.code == code, done.err[:600] or done.out
    return done


def test_every_digit_is_told_and_no_database_and_no_spelling_changes_a_value(
        tmp_path: Path, server: Recorder, urls: Mapping[str, str], postgres_server: PostgresServer) -> None:
    """The source moves from one database to the next, and nobody is told anything again."""
    with postgres_server.database() as state:
        shop = make(tmp_path, server, urls["sqlite"], state)
        ways = [("sqlite", 0), ("sqlite", 0), ("sqlite", 1), ("postgresql", 0), ("postgresql", 1), ("duckdb", 0),
                ("duckdb", 1), ("sqlite", 1)]
        for number, (engine, way) in enumerate(ways):
            shop.write("audiencesync.yml", MAIN.format(url=urls[engine]))
            shop.write("traits/all.sql", select(engine, way))
            runs = synced(shop, number + 1).document["runs"]
            if number == 0:
                check_told(server)
                server.clear()
            assert server.calls == [], (engine, way)
            assert number == 0 or {(run["members"], run["changed"]) for run in runs} == {(2, 0)}, (engine, way)


def check_told(server: Recorder) -> None:
    """The bytes of the first sync hold every digit."""
    told = {user_of(call): call["traits"] for call in json.loads(server.bodies[0], parse_float=Decimal)["batch"]
            if key_of(call) == "all"}
    assert told == {"u1": json.loads(EXPECTED, parse_float=Decimal), "u2": {"nine": 9}}
    for digits in (LONG, VALUES["over64"].told, VALUES["summed"].told, '"revenue":9.5,', '"zero":0}'):
        assert digits.encode() in server.bodies[0]
    assert sorted((key_of(call), user_of(call)) for call in server.calls) == [
        ("all", "u1"), ("all", "u2"), ("buyers", "u1"), ("buyers", "u2")]


ROW = "SELECT user_id, {} AS value FROM people ORDER BY user_id"
TYPED = "/* audiencesync\ntypes: {{value: {}}}\n*/\n" + ROW
SECOND = "CASE user_id WHEN 'u1' THEN {} ELSE {} END"
NOT_FINITE = "row 1 of the result: the trait value is not a finite number"
BAD: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "sqlite": {
        "infinite": (ROW.format("9e999"), NOT_FINITE),
        "second": (ROW.format(SECOND.format("0.5", "-9e999")), NOT_FINITE.replace("row 1", "row 2")),
        "binary": (ROW.format("x'00ff'"), "row 1 of the result: the trait value is binary data"),
        "mixed": (ROW.format(SECOND.format("1", "'x'")),
                  "row 2 of the result: the trait value is text, and a number in a row before"),
        "zeros": (ROW.format("'a' || char(0)"), "row 1 of the result: the trait value is text with a NUL character"),
        "surrogate": (ROW.format("CAST(x'eda080' AS text)"), "the result holds text that is not UTF-8"),
        "boolean": (TYPED.format("boolean", "2"), "row 1 of the result: the trait value is no boolean, which types:"),
        "number": (TYPED.format("number", SECOND.format("'5'", "'5 EUR'")),
                   "row 2 of the result: the trait value is no number, which types: says it is"),
        "nan": (TYPED.format("number", "'NaN'"), NOT_FINITE),
        "enormous": (TYPED.format("number", "'1e5000'"), "the trait value is a number of more than 307 digits"),
        "instant": (TYPED.format("timestamp", "'yesterday'"), "row 1 of the result: the trait value is no instant"),
        "before": (TYPED.format("timestamp", "'0001-01-01 00:00:00+02:00'"), "the trait value is no instant"),
        "parted": (TYPED.format("number", "'1_000'"), "row 1 of the result: the trait value is no number"),
        "hidden": (TYPED.format("list", "json_array(char(0))"), "the trait value is a list with a NUL character"),
        "listed": (TYPED.format("list", "'a,b'"), "row 1 of the result: the trait value is no list"),
        "numbers": (TYPED.format("list", "'[1, 2]'"), "the trait value is a list of something else than text"),
        "nested": (TYPED.format("list", """'[["a"]]'"""), "the trait value is a list of something else than text"),
        "object": (TYPED.format("list", """'{"a": 1}'"""), "row 1 of the result: the trait value is no list"),
        "text": (TYPED.format("string", "x'00'"), "row 1 of the result: the trait value is binary data"),
        "unknown": ("/* audiencesync\ntypes: {nothing: number}\n*/\n" + ROW.format("1"),
                    "types: names nothing, and the result has no such column"),
        "many": (f"SELECT user_id, {', '.join(f'1 AS c{number}' for number in range(26))} FROM people",
                 "the result has 26 columns that are traits; at most 25 are told"),
        "several": ("SELECT user_id, 1 AS n, 'a' AS t FROM people UNION ALL SELECT user_id, 2, 'a' FROM people",
                    """a user has several rows with different values: 'u1' has {"n":1,"t":"a"} and {"n":2,"t":"a"}"""),
        "collides": ("SELECT user_id, 1 AS buyers FROM people", "the trait buyers is told by buyers"),
        "once_more": ('SELECT user_id, 1 AS "First Good" FROM people', "the trait first_good is told by first"),
        "reserved": ("SELECT user_id, 'x' AS First_Name FROM people", "the column 'First_Name' is no trait: "),
        "mail": ("SELECT user_id, 'x' AS email FROM people", "write  include: [email]  to send it along"),
        "japanese": ('SELECT user_id, 1 AS "日本" FROM people', "the column '日本' is no trait: "),
        "twice": ('SELECT user_id, 1 AS "A Sum", 2 AS a_sum FROM people', "two columns are the trait a_sum"),
        "alone": ("SELECT user_id FROM people", "the result has no column besides the id that could be a trait"),
    },
    "duckdb": {
        "nan": (ROW.format("'NaN'::DOUBLE"), NOT_FINITE),
        "infinite": (ROW.format("'-Infinity'::DOUBLE"), NOT_FINITE),
        "binary": (ROW.format("'a'::BLOB"), "row 1 of the result: the trait value is binary data"),
        "object": (ROW.format("{'a': 1}"), "the trait value is an object, and a trait is one value"),
        "mapped": (ROW.format("MAP {'a': 1}"), "the trait value is an object, and a trait is one value"),
        "numbers": (ROW.format("[1, 2]"), "the trait value is a list of something else than text"),
        "gap": (ROW.format("['a', NULL]"), "the trait value is a list of something else than text"),
        "while": (ROW.format("INTERVAL 1 DAY"), "row 1 of the result: the trait value is of the type timedelta"),
    },
    "postgresql": {
        "nan": (ROW.format("'NaN'::numeric"), NOT_FINITE),
        "infinite": (ROW.format("'-Infinity'::float8"), NOT_FINITE),
        "endless": (ROW.format("'Infinity'::numeric"), NOT_FINITE),
        "binary": (ROW.format(r"'\x00ff'::bytea"), "row 1 of the result: the trait value is binary data"),
        "object": (ROW.format("""'{"a": 1}'::jsonb"""), "the trait value is an object, and a trait is one value"),
        "numbers": (ROW.format("ARRAY[1, 2]"), "the trait value is a list of something else than text"),
        "gap": (ROW.format("ARRAY['a', NULL]"), "the trait value is a list of something else than text"),
        "while": (ROW.format("interval '1 day'"), "row 1 of the result: the trait value is of the type timedelta"),
        "forever": (ROW.format("'infinity'::timestamptz"), "timestamp too large"),
        "ancient": (ROW.format("'0044-03-15 BC'::date"), "date too small"),
    },
}


@pytest.mark.parametrize("engine", BAD)
def test_what_cannot_be_told_is_an_error_that_names_the_file_and_the_row(
        tmp_path: Path, server: Recorder, engine: str, request: pytest.FixtureRequest) -> None:
    """All of them in one project, whose other definitions are told all the same."""
    url = (request.getfixturevalue("postgres_url") if engine == "postgresql"
           else f"{engine}:///{tmp_path / 'people.db'}")
    fill(url, *USERS)
    shop = make(tmp_path, server, url)
    shop.write("traits/first.sql", "SELECT user_id, 1 AS first_good FROM people "
               "UNION ALL SELECT user_id, 1.0 FROM people")
    for name, (sql, _) in BAD[engine].items():
        shop.write(f"traits/{name}.sql", sql)
    shop.write("traits/last.sql", "SELECT user_id, 'x' AS last_good FROM people")
    done = synced(shop, 1, code=2)
    messages = {re.split(r"[/.:]", error["message"])[1]: error["message"] for error in done.document["errors"]}
    assert messages.keys() == BAD[engine].keys(), done.err[:800]
    assert [name for name, (_, said) in BAD[engine].items() if said not in messages[name]] == [], messages
    assert all(message.startswith(f"traits/{name}.sql:") for name, message in messages.items())
    assert len(messages) == len(done.document["errors"]) == len(BAD[engine])
    assert "Traceback" not in done.err
    assert server.told() == {(key, user): value for user in ("u1", "u2")
                             for key, value in (("buyers", True), ("first_good", 1), ("last_good", "x"))}


@pytest.mark.parametrize(("before", "after", "said"), [
    ("1", "'x'", "the trait value was a number and is a string now"),
    ("'x'", "1.5", "the trait value was a string and is a number now"),
    ("ARRAY['a']", "true", "the trait value was a list and is a boolean now"),
    ("now()", "'2026-11-22'", "the trait value was a timestamp and is a string now"),
])
def test_a_column_whose_kind_changes_between_runs_fails_until_it_is_cast(
        tmp_path: Path, server: Recorder, postgres_url: str, before: str, after: str, said: str) -> None:
    fill(postgres_url, *USERS)
    shop = make(tmp_path, server, postgres_url)
    shop.write("traits/changing.sql", f"SELECT user_id, {before} AS value FROM people")
    synced(shop, 1)
    shop.write("traits/changing.sql", "SELECT user_id, NULL AS value FROM people")
    synced(shop, 2)
    server.clear()
    shop.write("traits/changing.sql", f"SELECT user_id, {after} AS value FROM people")
    fill(postgres_url, "INSERT INTO people VALUES ('u3')")
    done = synced(shop, 3, code=2)
    [error] = done.document["errors"]
    assert error["message"].startswith("traits/changing.sql: ")
    assert said in error["message"]
    assert server.told() == {("buyers", "u3"): True}


def test_a_wide_row_is_warned_about_and_a_wider_one_is_refused_by_name(
        tmp_path: Path, server: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    fill(url, *USERS, "INSERT INTO people VALUES ('u3')")
    shop = make(tmp_path, server, url)
    shop.write("traits/wide.sql", "SELECT user_id, CASE user_id WHEN 'u1' THEN hex(zeroblob(8200)) "
               "WHEN 'u2' THEN hex(zeroblob(16000)) ELSE 'small' END AS essay FROM people ORDER BY user_id DESC")
    done = synced(shop, 1, code=3)
    assert "warning: traits/wide.sql: row 2 of the result: a user's traits take 32004 bytes" in done.err
    assert {user: len(str(value)) for (key, user), value in server.told().items() if key == "essay"} == {
        "u1": 16400, "u3": 5}
    [warning] = [vars(record) for record in caplog.records if "a user's traits take" in record.msg]
    assert (warning["computation"], warning["row"], warning["bytes"]) == ("wide", 2, 32004), "a log names no user"
    [rejected] = shop.run("rejected", "-o", "json").document["rejected"]
    assert (rejected["user_id"], rejected["key"]) == ("u2", "wide")
    assert re.match(r"too large: 32,\d\d\d bytes, Segment takes 32 KB", rejected["reason"])
    assert [one["rejected"] for one in done.document["syncs"]] == [1]
    fill(url, "DELETE FROM people WHERE user_id = 'u2'")
    server.clear()
    synced(shop, 2)
    assert server.told() == {("buyers", "u2"): False, ("essay", "u2"): None}

"""Tests of definitions: what a test file may say, what its cases are run on, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audiencesync.cases import open_bench, run_case
from audiencesync.cases.compare import same
from audiencesync.destinations import registry
from audiencesync.model.values import exact
from audiencesync.project import load
from audiencesync.project.cases import read_cases
from tests.commands import Said, Shop
from tests.databases import PostgresServer, fill

MAIN = """\
name: shop
source: {url: "%s"}
state: sqlite:///state.db
destinations: {trial: {type: file, path: calls.jsonl}}
vars: {high_value: 500}
"""
BUYERS = """\
/* audiencesync
include: [email]
vars: {since: now - 30d}
*/
SELECT user_id, max(email) AS email FROM orders
WHERE completed_at > :since AND completed_at <= :now GROUP BY user_id
"""
BIG = "SELECT user_id FROM orders GROUP BY user_id HAVING sum(total) >= :high_value\n"
SPENT = "SELECT user_id, sum(total) AS lifetime_revenue, max(city) AS city FROM orders GROUP BY user_id\n"

EDGES = """\
tests:
  - name: an order at the edge of the window still counts
    now: 2026-11-22T00:00:00Z
    given:
      orders:
        - {user_id: u1, completed_at: 2026-11-22 00:00:00, email: a@b.co}
        - {user_id: u2, completed_at: 2026-10-23 00:00:00}
        - {user_id: u3, completed_at: 2026-10-23 00:00:01}
    expect: [u1, u3]
  - name: the email travels
    now: 2026-11-22
    given:
      orders:
        - {user_id: u1, completed_at: 2026-11-01 10:00:00, email: a@b.co}
        - {user_id: u2, completed_at: 2026-11-01 10:00:00, email: null}
    expect:
      - {user_id: u1, email: a@b.co}
      - {user_id: u2}
"""


def shop(root: Path, source: str = "sqlite:///shop.db", **files: str) -> Shop:
    """A project of these files, whose names say `__` for `/` and `.`, such as audiences__buyers__sql."""
    made = Shop(root / "shop", "", main=MAIN % source, buyers=BUYERS)
    for name, text in files.items():
        folder, _, rest = name.partition("__")
        made.write(f"{folder}/{rest.replace('__', '.')}", text)
    return made


def case(text: str, **more: str) -> dict[str, str]:
    """A test file of the buyers."""
    return {"audiences__buyers__test__yml": text, **more}


def one(given: str, rest: str) -> str:
    """A test file of one case."""
    return f"tests:\n  - name: one\n    now: 2026-11-22T00:00:00Z\n    given: {{{given}}}\n    {rest}\n"


def statuses(said: Said) -> dict[str, str]:
    return {row["name"]: row["status"] for row in said.document["tests"]}


def test_cases_pass_on_sqlite_and_nothing_of_the_source_is_touched(tmp_path: Path) -> None:
    made = shop(tmp_path, **case(EDGES))
    before = (made.root / "shop.db").read_bytes()
    said = made.run("test")
    assert (said.code, said.err) == (0, "")
    assert said.out == ("passed      buyers: an order at the edge of the window still counts\n"
                        "passed      buyers: the email travels\n2 tests: 2 passed\n")
    assert (made.root / "shop.db").read_bytes() == before
    assert not (made.root / "state.db").exists()


@pytest.mark.parametrize("dialect", ["duckdb", "postgresql"])
def test_the_same_cases_pass_elsewhere(tmp_path: Path, dialect: str, request: pytest.FixtureRequest) -> None:
    url = "duckdb://" if dialect == "duckdb" else request.getfixturevalue("postgres_url")
    source = "duckdb:///away.duckdb" if dialect == "duckdb" else "postgresql+psycopg://away.invalid/db"
    made = shop(tmp_path, source, **case(EDGES))
    said = made.run("test", *(["--url", url] if dialect == "postgresql" else []))
    assert (said.code, said.err) == (0, ""), said.out


def test_a_wrong_definition_shows_who_is_different_and_how(tmp_path: Path) -> None:
    rows = "\n".join(f"        - {{user_id: x{number:02}, completed_at: 2026-11-01}}" for number in range(13))
    made = shop(tmp_path, **case(f"""\
tests:
  - name: all kinds
    now: 2026-11-22T00:00:00Z
    given:
      orders:
        - {{user_id: u1, completed_at: 2026-11-01, email: c@b.co}}
{rows}
    expect:
      - {{user_id: u1, email: a@b.co}}
      - {{user_id: u2, email: b@b.co}}
  - name: goes on
    now: 2026-11-22T00:00:00Z
    given: {{orders: {{columns: {{user_id: text, email: text, completed_at: timestamp}}}}}}
    expect: []
"""))
    said = made.run("test")
    assert said.code == 2
    assert said.out.splitlines()[:4] == [
        "failed      buyers: all kinds  (audiences/buyers.test.yml:2)",
        '    missing     u2 {"email": "b@b.co"}: expected, but not in the result',
        '    unexpected  x00 {"email": null}: in the result, but not expected',
        '    unexpected  x01 {"email": null}: in the result, but not expected']
    assert said.out.splitlines()[-4:] == [
        "    unexpected  and 3 more", '    different   u1 email: expected "a@b.co", found "c@b.co"',
        "passed      buyers: goes on", "2 tests: 1 passed, 1 failed"]
    document = made.run("test", "-o", "json").document
    assert (document["passed"], document["failed"], document["exit_code"]) == (1, 1, 2)
    assert len(document["tests"][0]["differences"]) == 15
    assert document["tests"][0]["differences"][-1] == {
        "kind": "different", "user_id": "u1", "column": "email", "expected": "a@b.co", "found": "c@b.co"}


def test_variables_are_those_of_the_project_unless_the_case_has_its_own(tmp_path: Path) -> None:
    text = """\
now: 2026-11-22
tests:
  - {name: as it is, given: {orders: [{user_id: u1, total: 499.99}, {user_id: 2, total: 500}]}, expect: [2]}
  - name: lower
    vars: {high_value: 100}
    given: {orders: [{user_id: u1, total: 99}, {user_id: u2, total: 100}]}
    expect: [u2]
"""
    made = shop(tmp_path, audiences__big__sql=BIG, audiences__big__test__yml=text.replace("user_id: 2", 'user_id: "2"'))
    said = made.run("test", "-o", "json")
    assert (said.code, statuses(said)) == (0, {"as it is": "passed", "lower": "passed"}), said.out


def test_only_the_chosen_are_tested(tmp_path: Path) -> None:
    fails = one("orders: [{user_id: u1, total: 9}]", "expect: [u1]")
    made = shop(tmp_path, audiences__big__sql=BIG, audiences__big__test__yml=fails,
                audiences__lost__test__yml=fails, **case(EDGES))
    assert made.run("test", "buyers").code == 0
    assert made.run("test", "big").code == 2
    everything = made.run("test")
    assert (everything.code, everything.out.count("passed  ")) == (2, 2)
    assert "audiences/lost.test.yml:1:1: error: there is no definition beside it" in everything.out
    assert made.run("test", "nobody").code == 2


def test_where_there_are_no_tests_it_says_how_to_begin(tmp_path: Path) -> None:
    said = shop(tmp_path).run("test")
    assert said.code == 0
    assert "audiences/NAME.test.yml" in said.out


@pytest.mark.parametrize(("given", "rest", "status"), [
    ("orders: [{user_id: null, email: a@b.co, completed_at: 2026-11-01}]", "error: user_id is NULL", "passed"),
    ("orders: [{user_id: u1, email: a@b.co, completed_at: 2026-11-01}]", "error: user_id is NULL", "failed"),
    ("orders: [{user_id: u1, completed_at: 2026-11-01}]", "error: user_id is NULL", "failed"),
    ("orders: [{user_id: u1, completed_at: 2026-11-01}]", "expect: [u1]", "error"),
    ("orders: [{user_id: u1, completed_at: 2026-11-01}]", "error: no such column", "passed"),
    ("other.orders: [{user_id: u1}]", "error: no schemas", "error"),
    ("orders: [{user_id: u1, email: a, completed_at: 0001-01-01T00:00:00+02:00}]", "expect: []", "passed"),
    ("orders: [{user_id: u1, email: [{a: 1}], completed_at: null}]", "expect: []\n    vars: {since: now - 300000d}",
     "passed"),
    ("main.orders: [{user_id: 1, email: null, completed_at: 2026-11-01}]", "expect: ['1']", "passed"),
    ("orders: [{user_id: u1, email: a, completed_at: 2026-11-01}]", "expect: [{email: a}]", "failed"),
])
def test_a_run_that_fails_is_expected_or_told(tmp_path: Path, given: str, rest: str, status: str) -> None:
    said = shop(tmp_path, **case(one(given, rest))).run("test", "-o", "json")
    assert statuses(said) == {"one": status}, said.out
    assert said.code == (0 if status == "passed" else 2)


def test_a_moment_before_the_calendar_is_an_error_of_its_case(tmp_path: Path) -> None:
    text = one("orders: [{user_id: u1}]", "expect: []").replace("2026-11-22", "0001-01-02")
    assert statuses(shop(tmp_path, **case(text)).run("test", "-o", "json")) == {"one": "error"}


def test_sql_that_does_not_fit_the_tables_is_told_with_its_place_and_them(tmp_path: Path) -> None:
    said = shop(tmp_path, **case(one("orders: [{user_id: u1, completed_at: 2026-11-01}]", "expect: [u1]"))).run("test")
    assert "audiences/buyers.sql:5:1: error: the source says: no such column: email" in said.out
    assert "tables given: orders" in said.out


MISTAKES = {
    "orders: {columns: {id: intger}}": "4:36: error: 'intger' is not a type of a column",
    "orders: {columns: {id: integer}, rows: [{id: u1}]}": "4:58: error: 'id' must be a whole number",
    "orders: {columns: {id: text}, rows: [{idd: u1}]}": "4:51: error: 'idd' is none of the table's columns",
    "orders: {rows: [{id: u1}]}": "4:13: error: 'columns' must be a mapping",
    "orders: []": "4:13: error: which columns the table 'orders' has is not said",
    "orders: [u1]": "4:22: error: a row is a mapping",
    "orders: [{id: u1}, {id: true}]": "4:37: error: 'id' is of another kind here",
    "orders: [{'': u1}]": "4:13: error: '' is not the name of a column",
    "a.b.c: [{id: u1}]": "4:13: error: 'a.b.c' is not the name of a table",
}


@pytest.mark.parametrize("given", MISTAKES)
def test_a_mistake_in_a_table_is_told_with_its_place(tmp_path: Path, given: str) -> None:
    made = shop(tmp_path, **case(one(given, "expect: []")))
    for command in ("test", "validate"):
        said = made.run(command)
        assert said.code == 2
        assert f"audiences/buyers.test.yml:{MISTAKES[given]}" in said.out


@pytest.mark.parametrize(("rest", "words"), [
    ("expct: []", "5:5: error: unknown key 'expct'"),
    ("description: x", "2:5: error: a test has either  expect:  or  error:"),
    ("expect: u1", "5:13: error: 'expect' is a list of users"),
    ("expect: [{name: u1}]", "5:14: error: this row names no user"),
    ("expect: [true]", "5:14: error: an id is text or a whole number"),
    ("expect: [u1, u1]", "5:18: error: 'u1' is expected twice"),
    ("expect: [{user_id: u1, emial: a}]", "5:28: error: 'emial' is no column that buyers includes"),
    ("vars: {sinc: now - 3d}\n    expect: []", "5:12: error: buyers has no variable 'sinc'"),
    ("expect: []\n  - {name: one, expect: [], now: never}", "6:34: error: 'now' is not a moment"),
    ("expect: []\n  - {name: two, expect: []}", "6:5: error: the key 'now' is missing"),
    ("expect: []\n  - {name: one, expect: [], now: 2026-01-01}", "6:12: error: another test of that name"),
])
def test_a_mistake_in_a_case_is_told_with_its_place(tmp_path: Path, rest: str, words: str) -> None:
    said = shop(tmp_path, **case(one("", rest))).run("test")
    assert said.code == 2
    assert f"audiences/buyers.test.yml:{words}" in said.out


def test_the_sound_cases_of_a_file_with_a_mistake_are_run(tmp_path: Path) -> None:
    text = EDGES + "  - {name: unfinished, now: 2026-11-22}\n  - 5\n"
    said = shop(tmp_path, **case(text)).run("test")
    assert said.code == 2
    assert "buyers.test.yml:" in said.out
    text = EDGES + "  - {name: unfinished, now: 2026-11-22}\n"
    said = shop(tmp_path / "b", **case(text)).run("test", "-o", "json") if (tmp_path / "b").mkdir() is None else said
    assert (said.code, len(said.document["tests"]), len(said.document["problems"])) == (2, 2, 1)


def test_other_dialects_and_missing_servers_are_said(tmp_path: Path) -> None:
    made = shop(tmp_path, "postgresql+psycopg://away.invalid/db", **case(EDGES))
    said = made.run("test")
    assert (said.code, "--url postgresql+psycopg://" in said.err) == (2, True)
    made.environment["AUDIENCESYNC_TESTS"] = "postgresql+psycopg://127.0.0.1:9/db"
    said = made.run("test", "-o", "json")
    assert (said.code, said.document["exit_code"]) == (75, 75)
    del made.environment["AUDIENCESYNC_TESTS"]
    made.write("audiencesync.yml", MAIN % "mysql://away.invalid/db")
    said = made.run("test")
    assert (said.code, "the dialect of mysql" in said.err) == (2, True)
    assert made.run("test", "--url", "sqlite://").code == 0
    assert made.run("test", "--url", "nonsense").code == 2


def traits(url: str, root: Path, text: str, sql: str = SPENT) -> tuple[Said, Shop]:
    made = shop(root, "sqlite:///shop.db", traits__spent__sql=sql, traits__spent__test__yml=text)
    return made.run("test", *(["--url", url] if url else []), "-o", "json"), made


VALUES = """\
now: 2026-11-22
tests:
  - name: rows
    given: &%
    expect: [{user_id: u1, lifetime_revenue: 9.50, city: Rome}, {user_id: u2, lifetime_revenue: 10}, {user_id: u3}]
  - name: by id
    given: &%
    expect: {u1: {lifetime_revenue: 9.5}, u2: {lifetime_revenue: 10.0}, u3: {lifetime_revenue: null}}
  - {name: ids alone, given: &%, expect: [u1, u2, u3]}
  - {name: a number is no text, given: &%, expect: {u1: {lifetime_revenue: "9.5"}, u2: {lifetime_revenue: 10}, u3: {}}}
  - {name: what one row names is null in the others, given: &%, expect: {u1: {city: Rome}, u2: {}, u3: {}}}
  - {name: no such trait, given: &%, expect: {u1: {country: Italy}, u2: {}, u3: {}}}
""".replace("&%", "{orders: [{user_id: u1, total: 4.25, city: Rome}, {user_id: u1, total: 5.25}, "
                  "{user_id: u2, total: 10}, {user_id: u3, total: null}]}")


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb", "postgresql"])
def test_traits_are_compared_by_value(tmp_path: Path, dialect: str, request: pytest.FixtureRequest) -> None:
    url = {"sqlite": "", "duckdb": "duckdb://"}.get(dialect)
    said, _ = traits(request.getfixturevalue("postgres_url") if url is None else url, tmp_path, VALUES)
    assert statuses(said) == {
        "rows": "passed", "by id": "passed", "ids alone": "passed", "a number is no text": "failed",
        "what one row names is null in the others": "passed", "no such trait": "failed"}, said.out
    assert said.document["tests"][3]["differences"] == [
        {"kind": "different", "user_id": "u1", "column": "lifetime_revenue", "expected": "9.5", "found": 9.5}]
    assert said.document["tests"][5]["message"] == "the result has no country; it has city, lifetime_revenue"


def test_two_rows_of_a_user_with_different_values_fail_as_in_a_run(tmp_path: Path) -> None:
    text = one("t: [{user_id: u1, n: 1}, {user_id: u1, n: 2}]", "error: several rows with different values")
    said, _ = traits("", tmp_path, text, "SELECT user_id, n FROM t\n")
    assert said.code == 0, said.out


KINDS = """\
now: 2026-11-22
tests:
  - name: every type
    given:
      t:
        columns: {user_id: text, whole: integer, part: number, flag: boolean, day: date, at: timestamp,
                  zoned: timestamptz, words: list, any: json, own: "varchar(5)"}
        rows:
          - {user_id: 7, whole: 3, part: "0.1", flag: true, day: 2026-01-02, at: 2026-01-02T03:04:05Z,
             zoned: 2026-01-02 05:04:05+02:00, words: [b, a], any: {x: [1]}, own: abc}
          - {user_id: u8}
      unused: [{"odd % name": 1, "a ""quoted""?": [1, 2], m: {a: 1}, n: [1.5]}]
    expect: ["7"]
""".replace('"a ""quoted""?"', "'a \"quoted\"?'")


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb", "postgresql"])
def test_every_type_of_column_is_there_in_every_dialect(tmp_path: Path, dialect: str,
                                                         request: pytest.FixtureRequest) -> None:
    url = {"sqlite": "", "duckdb": "duckdb://"}.get(dialect)
    url = request.getfixturevalue("postgres_url") if url is None else url
    element = {"": "json_extract(words, '$[0]')"}.get(url, "words[1]")
    flag = "flag = 1" if not url else "flag"
    sql = (f"SELECT user_id FROM t WHERE whole = 3 AND part > 0 AND {flag} AND {element} = 'b' AND own = 'abc' "
           "AND zoned = t.at AND day < :now AND t.at < :now AND t.any IS NOT NULL\n")
    made = shop(tmp_path, audiences__kinds__sql=sql, audiences__kinds__test__yml=KINDS)
    said = made.run("test", "kinds", *(["--url", url] if url else []))
    assert said.code == 0, said.out + said.err


def test_nothing_is_left_in_postgresql_and_its_own_tables_are_not_seen(tmp_path: Path, postgres_url: str) -> None:
    fill(postgres_url, "CREATE TABLE orders (user_id text, email text, completed_at timestamptz)",
         "INSERT INTO orders VALUES ('real', 'r@b.co', '2026-11-21')",
         "CREATE SCHEMA shop", "CREATE TABLE shop.users (id text)")
    text = """\
now: 2026-11-22
tests:
  - {name: mine, given: {orders: [{user_id: u1, email: a, completed_at: 2026-11-21}]}, expect: [u1]}
  - {name: forgotten, given: {}, error: relation "orders" does not exist}
  - {name: theirs, given: {shop.users: [{id: u1}]}, expect: []}
  - {name: taken, given: {shop.orders: [{id: u1}], public.orders: [{id: u1}]}, expect: []}
  - {name: a type that is none, given: {orders: {columns: {a: "nonsense(3)"}}}, expect: []}
  - {name: divided, given: {orders: [{user_id: u1, email: a, completed_at: x}]}, expect: []}
"""
    made = shop(tmp_path, **case(text))
    made.write("audiences/schemas.sql", "SELECT id AS user_id FROM shop.orders JOIN new.users USING (id)\n")
    made.write("audiences/schemas.test.yml", one("shop.orders: [{id: u1}], new.users: [{id: u1}]", "expect: [u1]"))
    made.write("audiences/real.sql", "SELECT user_id FROM PUBLIC.orders\n")
    made.write("audiences/real.test.yml", one("public.users: [{id: u1}]", "error: public.orders is not given")
               .replace("name: one", "name: real"))
    before = dump(postgres_url)
    said = made.run("test", "--url", postgres_url, "-o", "json")
    assert statuses(said) == {"mine": "passed", "forgotten": "passed", "theirs": "error", "taken": "error",
                              "a type that is none": "error", "divided": "error", "one": "passed",
                              "real": "passed"}, said.out
    messages = {row["name"]: row["message"] for row in said.document["tests"]}
    assert messages["theirs"].startswith("audiences/buyers.test.yml:5:1: error: the table shop.users cannot be made: ")
    assert 'relation "users" already exists' in messages["theirs"]
    assert dump(postgres_url) == before


def test_two_may_test_in_one_database_at_once(tmp_path: Path, postgres_url: str) -> None:
    made = shop(tmp_path, **case(EDGES))
    project = load(made.root, registry=registry(), environment={})
    [(audience, first), (_, second)] = read_cases(project, project.audiences).found
    bench = open_bench(project.source, postgres_url)
    with bench.open(first) as source:
        rows = source.read(audience, first.now).chunks
        assert run_case(audience, second, bench, lambda: False).status == "passed"
        assert [sorted(chunk.ids) for chunk in rows] == [["u1", "u3"]]


def test_what_another_computation_gives_is_a_table_like_any(tmp_path: Path) -> None:
    made = shop(tmp_path, audiences__vips__sql="/* audiencesync\nuses: [buyers]\n*/\n"
                "SELECT user_id FROM audience_buyers\n",
                audiences__vips__test__yml=one("audience_buyers: [{user_id: u1}]", "expect: [u1]"))
    assert made.run("test").code == 0


def test_a_trait_without_sql_is_tested_in_the_dialect_of_the_source(tmp_path: Path) -> None:
    made = shop(tmp_path)
    made.write("audiencesync.yml", MAIN % "sqlite:///shop.db" + "events: {table: events}\n")
    made.write("traits/orders_count.yml", "trait: event_counter\nevent: Order\nwindow: last 30 days\n")
    made.write("traits/orders_count.test.yml", one(
        "events: [{user_id: u1, event: Order, at: 2026-11-01 10:00:00, properties: {size: M}}]",
        "expect: {u1: {orders_count: 1}}"))
    said = made.run("test")
    assert said.code == 0, said.out + said.err
    assert "in the dialect of source.url alone" in made.run("test", "--url", "duckdb://").out


def dump(url: str) -> list[Any]:
    """Every schema, table and row count that sessions see."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        schemas = connection.execute("SELECT nspname FROM pg_namespace ORDER BY 1").fetchall()
        tables = connection.execute("SELECT relnamespace, relname FROM pg_class ORDER BY 1, 2").fetchall()
        return [schemas, tables, connection.execute("SELECT * FROM orders").fetchall()]


def test_a_role_that_may_make_no_schema_is_told(tmp_path: Path, postgres_server: PostgresServer,
                                                postgres_url: str) -> None:
    fill(postgres_url, "CREATE ROLE looker LOGIN")
    try:
        said = shop(tmp_path, **case(EDGES)).run("test", "--url", postgres_url.replace("postgres@", "looker@"))
        assert said.code == 2
        assert "its role needs the right CREATE on that database" in said.err
    finally:
        fill(postgres_url, "DROP ROLE looker")


@pytest.mark.parametrize(("expected", "found", "equal"), [
    (9.5, "9.50", True), (9, "9.0", True), (0.3, "0.30000000000000004", True), (0.3, "0.3000001", False),
    (12345678901234567, "12345678901234568", False), (1, "true", False), (True, "true", True), (None, "null", True),
    ("9", "9", False), (None, "0", False), (["a", "b"], '["a", "b"]', True), (["b", "a"], '["a", "b"]', False),
    ({"a": 1}, '{"a": 1.0}', True), ("2026-11-01 10:00:00", '"2026-11-01T10:00:00.000Z"', True),
    ("2026-11-01T10:00:00Z", '"2026-11-01 10:00:00"', False), ("x", '"Total"', False),
])
def test_what_is_the_same_value(expected: object, found: str, equal: bool) -> None:
    assert same(expected, exact(f'{{"v": {found}}}')["v"]) is equal

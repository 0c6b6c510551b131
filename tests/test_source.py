"""What every source promises, asked of SQLite, PostgreSQL and DuckDB alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from audiencesync.errors import Interrupted, QueryError, SourceUnavailable, UsageError
from audiencesync.model import Ago, Audience, SourceSettings, Variable
from audiencesync.source import Source, open_source
from tests.databases import fill

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS user_id FROM n",
    "postgresql": "SELECT pg_sleep(60)::text AS user_id",
    "duckdb": "SELECT count(*) AS user_id FROM range(1000000) a, range(1000000) b WHERE (a.range * b.range) % 7 = 3",
}

Ask = Callable[..., list[str]]


@pytest.fixture(params=["sqlite", "postgresql", "duckdb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    address = request.getfixturevalue("postgres_url") if kind == "postgresql" else f"{kind}:///{tmp_path / 'shop'}"
    at = "TEXT" if kind == "sqlite" else "TIMESTAMP"
    fill(address, f"CREATE TABLE orders (user_id TEXT, email TEXT, total INTEGER, completed {at})",
         "INSERT INTO orders VALUES ('u1', 'a@b.co', 10, '2026-11-22 11:59:59'),"
         " ('u2', NULL, 600, '2026-11-21 12:00:00'), ('u3', 'c%d?', 700, '2026-11-22 12:00:01')")
    return address


@pytest.fixture
def source(url: str) -> Iterator[Source]:
    with open_source(SourceSettings(url=url)) as opened:
        yield opened


def audience(sql: str, *, include: tuple[str, ...] = (), **variables: Variable) -> Audience:
    return Audience(key="big", name="Big", sql=sql, path=Path("audiences/big.sql"), line=3, include=include,
                    variables=variables)


def ids(source: Source, sql: str, *, at: datetime = NOON, **variables: Variable) -> list[str]:
    return [user for chunk in source.read(audience(sql, **variables), at).chunks for user in chunk.ids]


def included(source: Source, sql: str, *columns: str) -> list[dict[str, object]]:
    chunks = source.read(audience(sql, include=columns), NOON).chunks
    return [json.loads(text) for chunk in chunks for text in chunk.included or ()]


def refusal(source: Source, sql: str, *columns: str) -> str:
    with pytest.raises(QueryError) as caught:
        list(source.read(audience(sql, include=columns), NOON).chunks)
    said = str(caught.value)
    assert said.startswith("audiences/big.sql:")
    assert "Background on this error" not in said
    assert "DECLARE" not in said
    return said


def test_an_audience_is_read_as_of_its_instant(source: Source) -> None:
    assert ids(source, "SELECT user_id FROM orders WHERE completed <= :now ORDER BY 1") == ["u1", "u2"]
    later = NOON.astimezone(timezone(timedelta(hours=-5))) + timedelta(seconds=1)
    assert ids(source, "SELECT user_id FROM orders WHERE completed <= :now ORDER BY 1", at=later) == ["u1", "u2", "u3"]


def test_vars_are_bound_and_never_pasted(source: Source) -> None:
    assert ids(source, "SELECT user_id FROM orders WHERE total > :high_value AND completed > :since ORDER BY 1",
               high_value=500, since=Ago(timedelta(days=1))) == ["u3"]
    assert ids(source, "SELECT user_id FROM orders WHERE email = :mail", mail="x' OR '1'='1") == []
    assert ids(source, "SELECT user_id FROM orders WHERE email = :mail AND :yes", mail="a@b.co", yes=True) == ["u1"]


def test_percent_signs_question_marks_and_colons_in_literals_survive(source: Source) -> None:
    assert ids(source, "SELECT user_id FROM orders WHERE email LIKE '%\\%%' ESCAPE '\\' AND completed > :now"
                       " AND ':x?%s%(y)s' LIKE ':%?%'") == ["u3"]
    assert ids(source, "SELECT user_id FROM orders WHERE email LIKE '%?'") == ["u3"]


def test_a_trailing_semicolon_and_comments_are_fine(source: Source) -> None:
    assert ids(source, "-- who\nSELECT user_id /* id */ FROM orders WHERE total = 10; -- done: yes\n") == ["u1"]


def test_included_columns_travel_in_the_order_asked_for_and_no_others_do(source: Source) -> None:
    chunk, = source.read(audience("SELECT completed, email, user_id, total FROM orders WHERE total = 10",
                                  include=("total", "email")), NOON).chunks
    assert chunk == (["u1"], ['{"total":10,"email":"a@b.co"}'], None)
    chunk, = source.read(audience("SELECT email, user_id FROM orders WHERE total = 10"), NOON).chunks
    assert chunk == (["u1"], None, None)


def test_a_null_included_column_is_left_out_of_its_row(source: Source) -> None:
    assert included(source, "SELECT user_id, email, total FROM orders ORDER BY 1", "email", "total") == [
        {"email": "a@b.co", "total": 10}, {"total": 600}, {"email": "c%d?", "total": 700}]


def test_the_first_id_column_of_the_order_is_the_id_whatever_its_case(source: Source) -> None:
    for sql, wanted in (('SELECT email, user_id AS "User_ID" FROM orders', "user_id"),
                        ("SELECT user_id AS anonymous_id, email FROM orders", "anonymous_id"),
                        ('SELECT total, email AS "EMAIL" FROM orders', "email")):
        assert source.read(audience(sql), NOON).id_kind == wanted


def test_whole_numbers_are_sent_as_strings(source: Source) -> None:
    assert ids(source, "SELECT total AS user_id FROM orders ORDER BY 1") == ["10", "600", "700"]


def test_spaces_around_an_id_are_kept(source: Source) -> None:
    assert ids(source, "SELECT ' ' || user_id || ' ' AS user_id FROM orders WHERE total = 10") == [" u1 "]


@pytest.mark.parametrize("long", ["x" * 1000, "é" * 1000, "🙂" * 500])
def test_an_id_of_a_thousand_characters_and_two_thousand_bytes_is_taken(source: Source, long: str) -> None:
    assert ids(source, f"SELECT '{long}' AS user_id") == [long]


def test_no_rows_are_an_empty_audience(source: Source) -> None:
    result = source.read(audience("SELECT user_id FROM orders WHERE total > 10000"), NOON)
    assert (result.id_kind, list(result.chunks)) == ("user_id", [])


@pytest.mark.parametrize(("value", "said", "hint"), [
    ("NULL", "is NULL", "add WHERE user_id IS NOT NULL"),
    ("''", "is blank: ''", "trim(user_id) <> ''"),
    ("'  '", "is blank: '  '", "trim(user_id) <> ''"),
    ("CAST(1.5 AS DOUBLE PRECISION)", "is a floating-point number: 1.5", "CAST(... AS text) AS user_id"),
    ("'" + "x" * 1001 + "'", "is 1,001 characters long; at most 1,000", "is user_id the right column?"),
    ("'" + "🙂" * 501 + "'", "is 2,004 bytes of UTF-8 long; at most 2,000", "is user_id the right column?"),
])
def test_a_row_whose_id_is_none_fails_the_run_and_is_named(
        source: Source, kind: str, value: str, said: str, hint: str) -> None:
    sql = (f"SELECT user_id FROM (SELECT 1 AS n, user_id FROM orders WHERE total = 10 UNION ALL SELECT 2, {value}) x"
           f" ORDER BY n")
    if kind != "sqlite" and "DOUBLE" in value:  # a column of theirs has one type
        sql = f"SELECT {value} AS user_id WHERE 1 = 1 UNION ALL SELECT {value}"
    message = refusal(source, sql)
    assert "of the result: user_id " in message
    assert said in message
    assert hint in message
    assert message.startswith(f"audiences/big.sql:3:1: error: row {1 if 'UNION ALL SELECT CAST' in sql else 2} of")


def test_the_row_that_is_named_is_counted_over_all_chunks(source: Source) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)"
    sql = f"{numbers} SELECT CASE WHEN i <> 11001 THEN i END AS user_id FROM n ORDER BY i"
    assert "row 11,001 of the result: user_id is NULL" in refusal(source, sql)


def test_a_result_without_an_id_column_names_what_it_has(source: Source) -> None:
    said = refusal(source, "SELECT user_id AS userid, total FROM orders")
    assert "no column user_id, anonymous_id or email; it has userid, total" in said
    assert "write userid AS user_id" in said


def test_two_id_columns_of_one_name_are_refused(source: Source) -> None:
    assert "two id columns named user_id" in refusal(
        source, 'SELECT a.user_id, b.user_id AS "USER_ID" FROM orders a JOIN orders b ON a.total = b.total')


def test_an_included_column_must_be_there_once(source: Source) -> None:
    assert "no column plan, which include: asks for; it has user_id, total" in refusal(
        source, "SELECT user_id, total FROM orders", "plan")
    assert "more than one column named total" in refusal(source, "SELECT user_id, total, total FROM orders", "total")


def test_a_missing_table_and_a_mistake_in_sql_are_shown_in_the_databases_own_words(source: Source) -> None:
    said = refusal(source, "SELECT user_id\nFROM ordrs")
    assert "ordrs" in said.split("\n")[0]
    assert said.startswith("audiences/big.sql:4:6: error: the source says: ")
    assert "     4 | FROM ordrs\n       |      ^^^^^" in said
    assert "syntax error" in refusal(source, "SELECT user_id FORM orders WHERE")
    assert "totl" in refusal(source, "SELECT user_id FROM orders WHERE totl = 1")


@pytest.mark.parametrize("second", [
    "SELECT 2", "DROP TABLE orders", "COMMIT; DROP TABLE orders", "ROLLBACK; DROP TABLE orders",
])
def test_two_statements_are_refused_and_the_second_is_not_run(source: Source, second: str) -> None:
    assert "an audience is exactly one SELECT statement" in refusal(source, f"SELECT user_id FROM orders; {second}")
    assert len(ids(source, "SELECT user_id FROM orders")) == 3


@pytest.mark.parametrize("sql", [
    "WITH x AS (SELECT 1) DELETE FROM orders",
    "WITH x AS (SELECT 'u9' AS u) INSERT INTO orders (user_id) SELECT u FROM x",
    "WITH x AS (SELECT 1) UPDATE orders SET total = 0 RETURNING user_id", "DELETE FROM orders RETURNING user_id",
    "CREATE TABLE x (user_id text)", "DROP TABLE orders", "ATTACH 'other.db' AS other", "PRAGMA query_only = 0",
    "COMMIT",
])
def test_sql_that_writes_is_refused_and_writes_nothing(source: Source, sql: str) -> None:
    said = refusal(source, sql)
    assert "the source is only ever read" in said or "exactly one SELECT" in said or "syntax error" in said
    assert ids(source, "SELECT user_id FROM orders ORDER BY 1") == ["u1", "u2", "u3"]


def test_a_query_that_is_too_slow_is_stopped(kind: str, url: str) -> None:
    with open_source(SourceSettings(url=url, statement_timeout=0.3)) as source:
        with pytest.raises(SourceUnavailable, match=r"big.sql: the query took longer than 0.3s \(source.statement_tim"):
            ids(source, SLOW[kind])
        assert len(ids(source, "SELECT user_id FROM orders")) == 3


def test_a_read_that_nobody_waits_for_is_stopped(kind: str, source: Source) -> None:
    began = time.monotonic()
    with pytest.raises(Interrupted):
        source.read(audience(SLOW[kind]), NOON, interrupted=lambda: time.monotonic() > began + 0.2)
    with pytest.raises(Interrupted):
        source.read(audience("SELECT user_id FROM orders"), NOON, interrupted=lambda: True)
    asked = False
    result = source.read(audience("SELECT user_id FROM orders"), NOON, interrupted=lambda: asked)
    asked = True
    with pytest.raises(Interrupted):
        next(result.chunks)
    assert len(ids(source, "SELECT user_id FROM orders")) == 3


def test_a_read_can_be_left_unfinished_at_any_point(source: Source, url: str) -> None:
    sql = "SELECT a.user_id FROM orders a" + "".join(f", orders {name}" for name in "bcdefghi")
    source.read(audience(sql), NOON)
    chunks = source.read(audience(sql), NOON).chunks
    assert len(next(chunks).ids) == 5000
    chunks.close()  # type: ignore[attr-defined]
    assert len(next(source.read(audience(sql), NOON).chunks).ids) == 5000
    source.close()
    fill(url, "DROP TABLE orders")  # nobody holds it any more


def test_every_row_arrives_in_chunks_of_five_thousand(source: Source, url: str) -> None:
    digits = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {d}" for d in range(1, 10)) + ")"
    fill(url, f"CREATE TABLE many AS SELECT 'u' || (a.d + 10 * b.d + 100 * c.d + 1000 * d.d + 10000 * e.d) AS user_id"
              f" FROM {digits} a, {digits} b, {digits} c, {digits} d, {digits} e")
    chunks = list(source.read(audience("SELECT user_id FROM many"), NOON).chunks)
    assert [len(chunk.ids) for chunk in chunks] == [5000] * 20
    assert {user for chunk in chunks for user in chunk.ids} == {f"u{number}" for number in range(100_000)}


def test_doctor_hears_what_the_source_is(source: Source, kind: str) -> None:
    first, *more = source.check()
    assert first.lower().startswith(kind)
    assert "read-only" in first
    assert [line[:8] for line in more] == (["warning:"] if kind == "postgresql" else [])


@pytest.mark.parametrize("address", [
    "", "nonsense", "postgresql://u:secret@host:port/db", "sqlite://",
    "sqlite:///:memory:", "duckdb:///:memory:", "nosuch://u:secret@host/db", "mysql+nosuch://u:secret@host/db",
    "oracle://u:secret@host/db",
])
def test_an_address_that_makes_no_sense_is_wrong_usage_and_hides_the_password(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(SourceSettings(url=address))
    assert str(caught.value).startswith("source.url")
    assert "secret" not in str(caught.value)

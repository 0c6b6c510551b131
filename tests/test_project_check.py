"""What the text of an audience's SQL shows, without a database, at its line and column in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiencesync.model import Audience
from audiencesync.project.check import check_sql, dialect_of
from tests.project_files import places, project


def check(sql, dialect="sqlite", *, line=1, include=(), **variables):
    """The problems of one audience's SQL."""
    audience = Audience(key="buyers", name="buyers", sql=sql, path=Path("audiences/buyers.sql"), line=line,
                        include=include, variables=variables)
    return tuple(check_sql(audience, dialect))


@pytest.mark.parametrize(("dialect", "sql"), [
    ("postgres", """SELECT u.user_id, p->>'plan' AS plan FROM u WHERE at > :since::timestamptz AND at <= :now
                    AND tags @> '{"a":true}' AND note = 'x :foo y' AND body = $$a :bar$$ -- :comment
                    AND v[1:2] = w /* :other */ ;"""),
    ("duckdb", "FROM t"),
    ("duckdb", "SELECT user_id FROM read_csv('a.csv') WHERE s = {'b':c} AND l[1:n] = x[a:b]"),
    ("sqlite", "WITH a AS (SELECT * FROM t) SELECT * FROM a UNION SELECT user_id FROM b"),
    ("sqlite", "SELECT DISTINCT lower(x) AS User_ID FROM t LIMIT :since"),
    ("sqlite", "(SELECT email FROM t)"),
    ("bigquery", "SELECT user_id FROM `a-b.c.d` WHERE at > TIMESTAMP_SUB(:now, INTERVAL 1 DAY)"),
    ("snowflake", "SELECT v:id::string AS user_id FROM t WHERE v:now = 1 QUALIFY row_number() OVER (ORDER BY 1) = 1"),
    (None, "SELECT anonymous_id FROM t WHERE at > :now"),
])
def test_sound_sql_has_no_problems(dialect, sql):
    assert places(check(sql, dialect, since=1)) == []


@pytest.mark.parametrize(("sql", "expected"), [
    ("SELECT user_id\n  FROM t WHERE", "2:10: this is not SQL: "),
    ("SELECT user_id\nFROM t u v w", "2:10: this is not SQL: "),
    ("SELECT user_id,\n 'abc FROM t", "2:2: this is not SQL: the closing ' is missing"),
    ("SELECT user_id /* abc", "1:1: this is not SQL: a quote or a comment is left open"),
    ("SELECT user_id FROM a;\nSELECT user_id FROM b", "1:1: an audience is one statement; here are 2"),
    ("DROP TABLE t", "1:1: an audience is a SELECT; 'DROP' is none"),
    ("DELETE FROM t", "1:1: an audience is a SELECT; 'DELETE' is none"),
    ("ATTACH 'x.db' AS x", "1:1: an audience is a SELECT; 'ATTACH' is none"),
    ("PRAGMA user_version", "1:1: an audience is a SELECT; "),
    ("VACUUM", "1:1: an audience is a SELECT; 'VACUUM' is none"),
    ("  SELECT 1", "1:3: the result has no column that names a user"),
    ("SELECT id, max(at) FROM t", "1:1: the result has no column that names a user"),
    ("SELECT id FROM t UNION SELECT user_id FROM t", "1:1: the result has no column that names a user"),
    ("SELECT user_id FROM t WHERE at > :sincee", "1:34: unknown parameter :sincee"),
    ("SELECT user_id FROM t\nWHERE at > :n0w AND b > :n0w", "2:12: unknown parameter :n0w"),
])
def test_each_mistake_has_its_place(sql, expected):
    found = places(check(sql, since=1))
    assert len(found) == 1
    assert found[0].startswith(f"audiences/buyers.sql:{expected}")


@pytest.mark.parametrize(("sql", "word"), [
    ("WITH gone AS (DELETE FROM t RETURNING user_id) SELECT user_id FROM gone", "DELETE"),
    ("SELECT user_id INTO x FROM t", "INTO"),
    ("INSERT INTO x SELECT user_id FROM t", "INSERT"),
    ("COPY t TO 'file'", "COPY"),
])
def test_sql_that_writes_is_refused(sql, word):
    [problem] = check(sql, "postgres")
    assert word in problem.message
    assert problem.severity == "error"


def test_an_unknown_parameter_is_answered_with_the_one_that_was_meant():
    [problem] = check("SELECT user_id FROM t WHERE at > :sinc", since=1, limit=2)
    assert problem.hint.startswith("did you mean 'since'? known: now, since, limit")


@pytest.mark.parametrize("clock", ["now()", "CURRENT_TIMESTAMP", "current_date", "datetime('now', '-30 days')",
                                   "clock_timestamp ()", "strftime('%s', 'now')"])
def test_the_database_s_clock_is_a_warning(clock):
    [problem] = check(f"SELECT user_id FROM t WHERE at > {clock}")
    assert problem.severity == "warning"
    assert "no other instant can be computed" in problem.message
    assert problem.hint == "write :now"


@pytest.mark.parametrize("harmless", ["now", "t.now", '"now"', "'nowhere'", "status = 'now'", ":now", "current_dates"])
def test_what_only_looks_like_a_clock_is_none(harmless):
    assert check(f"SELECT user_id FROM t WHERE at > {harmless}") == ()


def test_a_column_to_include_must_be_in_the_result():
    [problem] = check("SELECT user_id, emial FROM t", include=("email",))
    assert problem.message == "the included column 'email' is not in the result"
    assert problem.hint.startswith("did you mean 'emial'?")
    assert check("SELECT *, 1 AS x FROM t", include=("email",)) == ()


def test_a_second_column_that_names_the_user_is_a_warning_unless_it_is_included():
    sql = "SELECT email, anonymous_id, user_id FROM t"
    assert [(one.severity, one.message) for one in check(sql)] == [
        ("warning", "user_id names the user, so anonymous_id is not used"),
        ("warning", "user_id names the user, so email is not used")]
    assert [one.message for one in check(sql, include=("email",))] == [
        "user_id names the user, so anonymous_id is not used"]


@pytest.mark.parametrize("dialect", [None, "oracle", "no-such-dialect"])
def test_what_only_our_parser_may_fail_to_read_is_a_warning(dialect):
    for sql in ("SELECT user_id FROM t u v w", "SELECT 'abc", "FETCH t WITH everything"):
        [problem] = check(sql, dialect)
        assert problem.severity == "warning"


def test_places_count_from_the_beginning_of_the_file(tmp_path):
    sql = "-- x\n/* audiencesync\nname: Buyers\n*/ SELECT user_id\n\n  FROM t WHERE a = :nwo"
    [audience] = project(tmp_path, buyers=sql).audiences
    [problem] = check_sql(audience, "sqlite")
    assert str(problem).startswith("audiences/buyers.sql:6:20: error: unknown parameter :nwo\n"
                                   "     6 |   FROM t WHERE a = :nwo\n"
                                   "       |                    ^^^^\n")


@pytest.mark.parametrize(("url", "dialect"), [
    ("sqlite:///x.db", "sqlite"), ("postgresql+psycopg://h/d", "postgres"), ("duckdb:///x", "duckdb"),
    ("mysql+pymysql://h/d", "mysql"), ("mssql+pyodbc://h/d", "tsql"), ("exasol://h", None),
])
def test_the_dialect_follows_from_the_source_s_url(url, dialect):
    assert dialect_of(url) == dialect

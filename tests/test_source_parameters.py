"""Which colons of an audience's SQL are parameters, and what is said of those that are not known."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from audiencesync.errors import QueryError
from audiencesync.model import Audience
from audiencesync.source import check_sql, parameters
from audiencesync.source.parameters import escape_colons, find_parameters

NAMES = ("now", "since", "high_value", "limit")


def audience(sql: str, line: int = 1) -> Audience:
    return Audience(key="big", name="Big", sql=sql, path=Path("audiences/big.sql"), line=line,
                    variables={"since": 1, "high_value": 500, "limit": 3})


def found(sql: str, dialect: str = "postgresql") -> list[str]:
    return [name for _, name in find_parameters(audience(sql), NAMES, dialect)]


@pytest.mark.parametrize(("sql", "names"), [
    ("SELECT user_id FROM o WHERE at > :since AND at <= :now", ["since", "now"]),
    ("SELECT :now::timestamptz", ["now"]),
    ("SELECT (:now)::date, a::text", ["now"]),
    ("SELECT at>:since,:now", ["since", "now"]),
    ("SELECT 'at :now', \"a :now\", x", []),
    ("SELECT 'it''s :now' -- and :now\n, :since /* :now */", ["since"]),
    ("SELECT p @> '{\"plan\":1}' AND q = '{\"a\":true}'", []),
    ("SELECT '{\"now\":1}'::jsonb ? 'a', :now", ["now"]),
    ("SELECT $$ :now $$, $x$ :now $x$, :since", ["since"]),
    ("SELECT E'it\\'s :now', :since", ["since"]),
    ("SELECT list[1:now], list[:now]", ["now"]),
    ("SELECT {'b':since}, {\"b\":since}", []),
    ("SELECT payload:now, (f(x)):since, l[1]:now", []),
    ("SELECT a FROM t LIMIT :limit", ["limit"]),
    ("SELECT max(at => 1, at := :now)", ["now"]),
    ("SELECT 'ä', :now, 'ö :since'", ["now"]),
    ("SELECT a /* nested /* :now */ :now */, :since", ["since"]),
    ("SELECT 12:now, _x:now", []),
    ("SELECT '12:30', :1, : now", []),
])
def test_a_colon_is_a_parameter_only_where_a_reader_would_say_so(sql: str, names: list[str]) -> None:
    assert found(sql) == names


@pytest.mark.parametrize("sql", [
    'SELECT [a:now], `b :now`, "c:now" FROM t WHERE x = :now',
    "SELECT 'a\\', :now FROM t",
])
def test_sqlite_has_its_own_quotes(sql: str) -> None:
    assert found(sql, "sqlite") == ["now"]


@settings(deadline=None)
@given(st.lists(st.sampled_from([
    ":now", ":since", "::", ":", "'", '"', "--", "/*", "*/", "\n", " ", "a", "1", ")", "]", ":=", "(", "it''s", "-",
])).map("".join))
def test_the_quick_way_and_the_tokens_see_the_same_colons(sql: str) -> None:
    if parameters._without_literals(sql) is None:
        return
    try:
        by_token = list(parameters._token_colons(audience(sql), "postgresql"))
    except QueryError:
        return
    assert list(parameters._colons(audience(sql), "postgresql")) == by_token


@pytest.mark.parametrize("sql", [
    "SELECT '{\"a\":1}', ':x', a::text, 'C:\\:d', '\\\\:e', :now::timestamptz, x[1:2] -- :y",
    "SELECT ':', '::', ' :a:b ', ':a::b', '%(now)s :now', :now",
    ":now",
])
def test_sqlalchemy_reads_the_escaped_text_as_it_was_meant(sql: str) -> None:
    escaped = text(escape_colons(sql, find_parameters(audience(sql), NAMES, "postgresql")))
    assert set(escaped._bindparams) == {"now"}
    assert str(escaped) == sql


def test_an_unknown_parameter_is_named_with_its_place_and_what_was_meant() -> None:
    with pytest.raises(QueryError) as caught:
        check_sql(audience("SELECT user_id\nFROM o WHERE total > :high_valeu\n", line=4), "postgresql")
    assert str(caught.value) == (
        "audiences/big.sql:5:22: error: unknown parameter :high_valeu\n"
        "     5 | FROM o WHERE total > :high_valeu\n"
        "       |                      ^^^^^^^^^^^\n"
        "       = did you mean :high_value? known: :high_value, :limit, :now, :since; others are given under vars:")


def test_a_parameter_in_the_wrong_case_is_unknown_and_the_right_one_is_named() -> None:
    with pytest.raises(QueryError, match="did you mean :now"):
        check_sql(audience("SELECT :NOW"), "postgresql")


def test_sql_that_has_no_tokens_is_refused_in_words() -> None:
    with pytest.raises(QueryError, match="left open"):
        check_sql(audience("SELECT 'never closed :now"), "postgresql")


@pytest.mark.parametrize(("sql", "word"), [
    ("DELETE FROM users", "DELETE"), ("  -- hm\n/* well */ drop table users", "drop"), ("(UPDATE x)", "UPDATE"),
    ("ATTACH 'x' AS y", "ATTACH"), ("PRAGMA query_only = 0", "PRAGMA"), ("COPY t TO 'x'", "COPY"),
    ("BEGIN", "BEGIN"), ("SET x = 1", "SET"),
])
def test_what_begins_with_anything_but_a_query_is_refused_unasked(sql: str, word: str) -> None:
    with pytest.raises(QueryError, match=f"this begins with {word}; an audience is exactly one SELECT"):
        check_sql(audience(sql), "sqlite")


@pytest.mark.parametrize("sql", ["", " \n", "-- nothing", "/* nothing */ ;"])
def test_a_file_without_sql_is_refused(sql: str) -> None:
    with pytest.raises(QueryError, match="there is no SQL here"):
        check_sql(audience(sql), "sqlite")


@pytest.mark.parametrize("sql", [
    "select 1", "WITH x AS (SELECT 1) SELECT * FROM x", "((SELECT 1) UNION (SELECT 2))", "VALUES (1)", "FROM t",
    "TABLE t", "/* a */-- b\n select 1",
])
def test_every_form_of_a_query_is_let_through(sql: str) -> None:
    check_sql(audience(sql), "postgresql")

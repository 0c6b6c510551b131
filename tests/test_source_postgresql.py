"""What only PostgreSQL does: roles, passwords, locks between sessions, functions that act, types of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from audiencesync.errors import QueryError, SourceUnavailable, UsageError
from audiencesync.model import Audience, SourceSettings
from audiencesync.source import Source, open_source
from tests.databases import WALLED, PostgresServer, fill

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def source(postgres_url: str) -> Iterator[Source]:
    fill(postgres_url, "CREATE TABLE orders (user_id text, completed timestamp, seen timestamptz)",
         "INSERT INTO orders VALUES ('u1', '2026-11-22 11:59:59', '2026-11-22 11:59:59+00'),"
         " ('u2', '2026-11-22 12:00:01', '2026-11-22 12:00:01+00')")
    with open_source(SourceSettings(url=postgres_url, lock_timeout=0.2)) as opened:
        yield opened


@pytest.fixture
def role(postgres_server: PostgresServer) -> Iterator[str]:
    """A role that must say its password, and may read nothing yet."""
    postgres_server.execute(f"DROP ROLE IF EXISTS {WALLED}", f"CREATE ROLE {WALLED} LOGIN PASSWORD 'opensesame'")
    yield WALLED
    postgres_server.execute(f"DROP ROLE {WALLED}")


def read(source: Source, sql: str, *include: str) -> list[str]:
    asked = Audience(key="big", name="Big", sql=sql, path=Path("audiences/big.sql"), include=include)
    return [text for chunk in source.read(asked, NOON).chunks for text in chunk.included or chunk.ids]


def test_instants_are_utc_whatever_the_server_prefers(source: Source) -> None:
    assert read(source, "SELECT user_id FROM orders WHERE completed <= :now") == ["u1"]
    assert read(source, "SELECT user_id FROM orders WHERE seen <= :now::timestamptz AND :now::date > '2026-11-21'"
                ) == ["u1"]
    assert read(source, "SELECT user_id, seen, completed FROM orders WHERE seen > :now - interval '1 minute' LIMIT 1",
                "seen", "completed") == ['{"seen":"2026-11-22T11:59:59Z","completed":"2026-11-22T11:59:59Z"}']


def test_json_operators_and_casts_survive(source: Source) -> None:
    assert read(source, """SELECT '{"a":1,"now":2}'::jsonb ->> 'now' AS user_id
                           WHERE '{"a":1}'::jsonb ? 'a' AND '{"plan":1}' @> '{"plan":1}'::jsonb
                             AND (ARRAY[1,2,3])[1:2] = ARRAY[1,2] AND $$:now %s$$ LIKE '%:now %'""") == ["2"]


def test_ids_and_included_values_of_postgresqls_own_types(source: Source) -> None:
    sql = ("SELECT 'aaaaaaaa-0000-0000-0000-000000000001'::uuid AS user_id, 12345678901234567890.123456789 AS d,"
           " ARRAY[1, NULL] AS l, '{\"a\": [1.5, null, \"x\"]}'::jsonb AS j, '2026-01-02'::date AS t, true AS b,"
           " '{1,2}'::int[] AS i, 7::bigint AS n, 'x'::char(3) AS c")
    assert read(source, sql) == ["aaaaaaaa-0000-0000-0000-000000000001"]
    assert read(source, sql, *"dljtbinc") == [
        ('{"d":12345678901234567890.123456789,"l":[1,null],"j":{"a":[1.5,null,"x"]},"t":"2026-01-02","b":true,'
         '"i":[1,2],"n":7,"c":"x  "}')]


@pytest.mark.parametrize(("value", "said"), [
    ("true", "a boolean: True"), ("1.0", "a decimal number: Decimal('1.0')"), ("'x'::bytea", "binary data: b'x'"),
    ("now()", "of the type datetime"), ("ARRAY[1]", "of the type list: [1]"), ("'{}'::jsonb", "of the type dict: {}"),
])
def test_a_bad_id_is_named(source: Source, value: str, said: str) -> None:
    with pytest.raises(QueryError) as caught:
        read(source, f"SELECT {value} AS user_id")
    assert f"row 1 of the result: user_id is {said}" in str(caught.value)
    assert "cast it: CAST(... AS text) AS user_id" in str(caught.value)


@pytest.mark.parametrize(("value", "said"), [
    ("'NaN'::float8", "not a finite number"), ("'Infinity'::numeric", "not a finite number"),
    ("'x'::bytea", "binary data"), ("interval '1 day'", "of the type timedelta"),
    ("ARRAY['NaN'::float8]", "not a finite number"),
])
def test_an_included_value_that_json_cannot_say_is_named(source: Source, value: str, said: str) -> None:
    with pytest.raises(QueryError, match=f"row 2 of the result: the included column x is {said}"):
        read(source, f"SELECT 'u0' AS user_id, NULL AS x UNION ALL SELECT 'u1', {value}", "x")


def test_a_function_that_writes_is_stopped_by_the_server(source: Source, postgres_url: str) -> None:
    fill(postgres_url, "CREATE FUNCTION wipe() RETURNS text LANGUAGE sql AS 'DELETE FROM orders; SELECT ''u1''::text'")
    with pytest.raises(QueryError, match="read-only transaction") as caught:
        read(source, "SELECT wipe() AS user_id")
    assert "only ever read" in str(caught.value)
    with pytest.raises(QueryError, match="only ever read"):
        read(source, "WITH gone AS (DELETE FROM orders RETURNING user_id) SELECT user_id FROM gone")
    assert len(read(source, "SELECT user_id FROM orders")) == 2


@pytest.mark.parametrize("call", [
    "pg_advisory_lock(1)", "pg_try_advisory_xact_lock (1)", "lo_create(0)", "pg_notify('a', 'b')", "PG_READ_FILE('x')",
    "set_config('transaction_read_only', 'off', true)", "query_to_xml('SELECT 1', true, true, '')", "nextval('s')",
    '"pg_terminate_backend"(1)', "pg_catalog.dblink('x', 'y')",
])
def test_functions_that_act_on_more_than_the_result_are_refused(source: Source, call: str) -> None:
    with pytest.raises(QueryError, match="acts on more than this query's result"):
        read(source, f"SELECT {call}::text AS user_id")


@pytest.mark.parametrize("sql", [
    r"SELECT E'\'', nextval('s'), ''", r"SELECT e'\\\'', nextval('s'), ''", "SELECT E'a'\n'\\'', nextval('s'), ''",
    r"SELECT 'a\', nextval('s'), ''", r"SELECT nameE'\', nextval('s'), ''", "SELECT $$'$$, nextval('s'), ''",
    "SELECT $a$ $$ ' $a$, nextval('s'), ''", "SELECT x$$, nextval('s'), x$$", "SELECT 1 --'\r, nextval('s'), ''",
    "SELECT /* /* */ ' */ nextval('s'), ''", "SELECT nextval /* /* */ */ ('s')",
    """SELECT 1 AS "'", nextval('s'), ''""",
])
def test_no_quote_hides_the_call_of_such_a_function(source: Source, sql: str) -> None:
    with pytest.raises(QueryError, match="the function nextval acts on more than this query's result"):
        read(source, sql)


@pytest.mark.parametrize("sql", ["SELECT U&\"next\\0076al\"('s')", "SELECT 1 /* /* /* ' */ */ */, nextval('s'), ''"])
def test_names_and_comments_that_cannot_be_seen_through_are_refused(source: Source, sql: str) -> None:
    with pytest.raises(QueryError, match="which functions this calls cannot be seen"):
        read(source, sql)


@pytest.mark.parametrize(("literal", "said"), [
    ("'pg_notify(x)'", "pg_notify(x)"), (r"E'\'nextval(x)'", "'nextval(x)"), ("$a$nextval($$)$a$", "nextval($$)"),
    (r"'\'", "\\"), ("'/*'/* nextval( /* lo_put( */ */", "/*"), ("E'a'\n-- b\n'\\'nextval('", "a'nextval("),
])
def test_the_names_of_such_functions_may_stand_in_literals_and_comments(
        source: Source, literal: str, said: str) -> None:
    assert read(source, f"SELECT {literal} AS user_id -- not nextval('s')") == [said]


def test_a_lock_of_another_session_is_waited_for_no_longer_than_allowed(source: Source, postgres_url: str) -> None:
    with closing(psycopg.connect(postgres_url.replace("+psycopg", ""))) as other:
        other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SourceUnavailable, match=r"holds a lock .*source.lock_timeout"):
            read(source, "SELECT user_id FROM orders")
    assert len(read(source, "SELECT user_id FROM orders")) == 2


def test_a_session_that_the_server_ends_is_unavailable_and_the_next_read_works(
        source: Source, postgres_url: str) -> None:
    asked = Audience(key="big", name="Big", sql="SELECT i::text AS user_id FROM generate_series(1, 200000) i",
                     path=Path("big.sql"))
    chunks = source.read(asked, NOON).chunks
    next(chunks)
    fill(postgres_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'audiencesync'")
    with pytest.raises(SourceUnavailable, match=r"big\.sql: the source \(postgresql"):
        list(chunks)
    assert len(read(source, "SELECT user_id FROM orders")) == 2


def test_a_wrong_password_an_unknown_database_and_a_closed_port_are_unavailable_and_say_where(
        postgres_server: PostgresServer, role: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for url, said in (
                (postgres_server.url("postgres", role=role, password="sEcReT%2Fx"), "password authentication failed"),
                (postgres_server.url("nowhere"), '"nowhere" does not exist'),
                (postgres_server.url("postgres", role="nobody_known"), '"nobody_known" does not exist'),
                (f"postgresql+psycopg://u:sEcReT%2Fx@127.0.0.1:{port}/db", "refused"),
                ("postgresql+psycopg://u:sEcReT%2Fx@nowhere.invalid/db", "postgresql+psycopg://nowhere.invalid/db")):
            with open_source(SourceSettings(url=url)) as source:
                with pytest.raises(SourceUnavailable, match=r"the source \(postgresql.*cannot be reached") as caught:
                    read(source, "SELECT 1 AS user_id")
                with pytest.raises(SourceUnavailable) as checked:
                    list(source.check())
                assert str(checked.value) == str(caught.value)
                assert said in str(caught.value)
                assert "sEcReT" not in str(caught.value)


def test_a_setting_that_the_driver_does_not_know_is_wrong_usage(postgres_url: str) -> None:
    with open_source(SourceSettings(url=f"{postgres_url}?colour=red")) as source, \
            pytest.raises(UsageError, match="colour"):
        read(source, "SELECT 1 AS user_id")


def test_a_role_that_may_only_read_is_enough_and_one_that_may_not_is_told(
        postgres_server: PostgresServer, postgres_url: str, role: str) -> None:
    fill(postgres_url, "CREATE TABLE open (user_id text)", "INSERT INTO open VALUES ('u1')",
         f"GRANT SELECT ON open TO {role}", "CREATE TABLE shut (user_id text)")
    url = postgres_server.url(postgres_url.rsplit("/", 1)[1], role=role, password="opensesame")
    with open_source(SourceSettings(url=url)) as source:
        assert read(source, "SELECT user_id FROM open") == ["u1"]
        with pytest.raises(QueryError, match="permission denied for table shut"):
            read(source, "SELECT user_id FROM shut")
        assert len(list(source.check())) == 1
        fill(postgres_url, f"GRANT INSERT ON open TO {role}")
        assert len(list(source.check())) == 2
    fill(postgres_url, f"REVOKE ALL ON open FROM {role}")


def test_data_that_the_server_quotes_is_blotted_out(source: Source) -> None:
    with pytest.raises(QueryError, match="invalid input syntax for type integer") as caught:
        read(source, "SELECT user_id::integer AS user_id FROM orders")
    assert '"u1"' not in str(caught.value)


def test_the_servers_hint_is_passed_on(source: Source) -> None:
    with pytest.raises(QueryError, match=r'= Perhaps you meant to reference the column "orders.user_id"'):
        read(source, "SELECT user_idd AS user_id FROM orders")

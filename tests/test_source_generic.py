"""Databases that are known through SQLAlchemy alone, drivers that are missing, and memory."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url

from audiencesync.errors import QueryError, SourceUnavailable, UsageError
from audiencesync.model import Audience, SourceSettings
from audiencesync.source import Source, open_source
from audiencesync.source.generic import GenericSource
from tests.databases import fill

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def generic(url: str) -> GenericSource:
    return GenericSource(make_url(url), SourceSettings(url=url))


@pytest.fixture
def source(state_url: str) -> Iterator[Source]:
    fill(state_url, "CREATE TABLE users (user_id TEXT, score INTEGER)", "INSERT INTO users VALUES ('u1', 1), ('u2', 2)")
    with generic(state_url) as opened:
        yield opened


def read(source: Source, sql: str, *include: str) -> list[str]:
    asked = Audience(key="big", name="Big", sql=sql, path=Path("audiences/big.sql"), include=include,
                     variables={"least": 2})
    return [text for chunk in source.read(asked, NOON).chunks for text in chunk.included or chunk.ids]


def test_any_other_database_is_read_with_parameters_and_literal_colons(source: Source) -> None:
    assert read(source, "SELECT user_id || ':least%' AS user_id FROM users WHERE score >= :least;") == ["u2:least%"]
    assert read(source, "SELECT user_id, score FROM users WHERE user_id = 'u1'", "score") == ['{"score":1}']


@pytest.mark.parametrize("sql", [
    "SELECT user_id FROM users; SELECT 2", "SELECT user_id FROM users; DELETE FROM users", "DELETE FROM users",
    "SELECT user_id FROM users WHERE user_id = 'never closed", "SELECT user_id FROM nowhere",
    "SELECT user_id FORM users x",
])
def test_any_other_database_gets_one_select_and_its_mistakes_are_told(source: Source, sql: str) -> None:
    with pytest.raises(QueryError, match=r"audiences/big\.sql:1:"):
        read(source, sql)
    assert len(read(source, "SELECT user_id FROM users")) == 2


def test_nothing_is_committed_in_any_other_database(source: Source, state_url: str) -> None:
    with pytest.raises(QueryError, match="only ever read"):
        read(source, "WITH x AS (SELECT 'u3' AS u) INSERT INTO users (user_id) SELECT u FROM x")
    source.close()
    with open_source(SourceSettings(url=state_url)) as other:
        assert read(other, "SELECT user_id FROM users ORDER BY 1") == ["u1", "u2"]


def test_any_other_database_may_be_away(tmp_path: Path) -> None:
    with generic(f"sqlite:///{tmp_path}/none/x.db") as source:
        with pytest.raises(SourceUnavailable, match="unable to open database file"):
            read(source, "SELECT 1 AS user_id")
        with pytest.raises(SourceUnavailable, match="unable to open database file"):
            list(source.check())


def test_doctor_is_warned_of_a_database_that_is_not_known(source: Source) -> None:
    assert [line[:8] for line in source.check()][1:] == ["warning:"]


@pytest.mark.parametrize(("url", "module", "extra"), [
    ("postgresql://u:secret@host/db", "psycopg", "audiencesync[postgres]"),
    ("duckdb:///x.duckdb", "duckdb", "audiencesync[duckdb]"),
])
def test_a_missing_driver_says_what_to_install(
        monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "audiencesync.source.duckdb", raising=False)
    with pytest.raises(UsageError) as caught:
        open_source(SourceSettings(url=url))
    assert f"module {module} is missing; pip install '{extra}'" in str(caught.value)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "duckdb", "generic"])
def test_memory_does_not_grow_with_the_audience(
        kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = kind in ("postgresql", "generic")
    url = request.getfixturevalue("postgres_url") if server else f"{kind}:///{tmp_path / 'x'}"
    sql = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
           " SELECT i || '" + "x" * 400 + "' AS user_id, i AS n FROM n")
    fill(url, "CREATE TABLE one (n INTEGER)")
    with generic(url) if kind == "generic" else open_source(SourceSettings(url=url)) as source:
        read(source, "SELECT '1' AS user_id")
        asked = Audience(key="big", name="Big", sql=sql, path=Path("big.sql"), include=("n",))
        tracemalloc.start()
        try:
            users = sum(len(chunk.ids) for chunk in source.read(asked, NOON).chunks)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert users == 100_000
    assert peak < 15_000_000  # the ids alone are 40 MB

"""What only SQLite does: types that vary by row, bytes in text, locks on the whole file, files that are not there."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audiencesync.errors import QueryError, SourceUnavailable
from audiencesync.model import Audience, SourceSettings
from audiencesync.source import Source, open_source
from tests.databases import fill

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "a shop #1%.db"
    fill(f"sqlite:///{file}", "CREATE TABLE users (user_id)", "INSERT INTO users VALUES ('u1'), (2)")
    return file


@pytest.fixture
def source(path: Path) -> Iterator[Source]:
    with open_source(SourceSettings(url=f"sqlite:///{path}", lock_timeout=0.3)) as opened:
        yield opened


def read(source: Source, sql: str, *include: str) -> list[str]:
    asked = Audience(key="big", name="Big", sql=sql, path=Path("audiences/big.sql"), include=include)
    return [text for chunk in source.read(asked, NOON).chunks for text in chunk.included or chunk.ids]


def test_text_and_numbers_may_stand_in_one_column(source: Source) -> None:
    assert read(source, "SELECT user_id FROM users ORDER BY rowid") == ["u1", "2"]


def test_an_instant_is_bound_as_text_in_utc(source: Source) -> None:
    assert read(source, "SELECT :now AS user_id") == ["2026-11-22 12:00:00"]


@pytest.mark.parametrize(("value", "said"), [
    ("1.5", "row 3 of the result: user_id is a floating-point number: 1.5"),
    ("x'00ff'", "row 3 of the result: user_id is binary data: b'\\x00\\xff'"),
    ("'a' || char(0) || 'b'", "row 3 of the result: user_id is text with a NUL character: 'a\\x00b'"),
    ("char(0)", "row 3 of the result: user_id is text with a NUL character"),
    ("char(0x2003)", "row 3 of the result: user_id is blank"),
    ("char(0xd800)", "the result holds text that is not UTF-8"),
    ("CAST(x'ff' AS TEXT)", "the result holds text that is not UTF-8"),
    ("zeroblob(500)", "user_id is binary data: b'\\x00\\x00"),
])
def test_a_bad_id_is_named(path: Path, source: Source, value: str, said: str) -> None:
    fill(f"sqlite:///{path}", f"INSERT INTO users VALUES ({value})")
    with pytest.raises(QueryError) as caught:
        read(source, "SELECT user_id FROM users ORDER BY rowid")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("value", "said"), [
    ("9e999", "row 1 of the result: the included column x is not a finite number, which JSON cannot say"),
    ("x'00'", "row 1 of the result: the included column x is binary data, which JSON cannot say"),
])
def test_an_included_value_that_json_cannot_say_is_named(source: Source, value: str, said: str) -> None:
    with pytest.raises(QueryError) as caught:
        read(source, f"SELECT 'u1' AS user_id, {value} AS x", "x")
    assert said in str(caught.value)


def test_included_values_of_any_kind_are_written_exactly(source: Source) -> None:
    fruit = ("SELECT 'u1' AS user_id, 9007199254740993 AS big, 0.1 AS small, 'a\"}\n,{%s' || char(0) AS odd,"
             " NULL AS none UNION ALL SELECT 'u2', -5, 1e300, 'ünï', 'null'")
    assert read(source, fruit, "odd", "big", "none", "small") == [
        '{"odd":"a\\"}\\n,{%s\\u0000","big":9007199254740993,"small":0.1}',
        '{"odd":"ünï","big":-5,"none":"null","small":1e+300}']


@pytest.mark.parametrize("sql", [
    "SELECT load_extension('x') AS user_id", "WITH x AS (SELECT 1) REPLACE INTO users VALUES (1)",
    "SELECT writefile('x', 'y') AS user_id", "SELECT name AS user_id FROM pragma_database_list",
])
def test_functions_that_reach_outside_are_refused(source: Source, sql: str) -> None:
    with pytest.raises(QueryError):
        read(source, sql)


def test_full_text_and_json_tables_can_be_read(path: Path, source: Source) -> None:
    fill(f"sqlite:///{path}", "CREATE VIRTUAL TABLE notes USING fts5(user_id, body)",
         "INSERT INTO notes VALUES ('u7', 'likes tea'), ('u8', 'likes coffee')")
    assert read(source, "SELECT user_id FROM notes WHERE notes MATCH 'tea'") == ["u7"]
    assert read(source, "SELECT value AS user_id FROM json_each('[1,\"a:b\"]')") == ["1", "a:b"]
    assert read(source, "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 3) SELECT i AS user_id"
                        " FROM n ORDER BY count(*) OVER (), i") == ["1", "2", "3"]


def test_a_file_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "none.db"
    for path, said in ((missing, "No such"), (tmp_path / "no folder/x.db", "No such"), (tmp_path, "directory")):
        with open_source(SourceSettings(url=f"sqlite:///{path}")) as source:
            with pytest.raises(SourceUnavailable, match=f"the source {path} cannot be read: .*{said}"):
                read(source, "SELECT 1 AS user_id")
            with pytest.raises(SourceUnavailable, match=f"the source {path} cannot be read: .*{said}"):
                list(source.check())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "junk.db"
    file.write_text("hello" * 1000)
    with open_source(SourceSettings(url=f"sqlite:///{file}")) as source:
        with pytest.raises(SourceUnavailable, match="not a database"):
            read(source, "SELECT 1 AS user_id FROM sqlite_master")
        with pytest.raises(SourceUnavailable, match="not a database"):
            list(source.check())


def test_a_locked_file_is_unavailable_after_a_short_wait_and_readable_afterwards(path: Path, source: Source) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SourceUnavailable, match="database is locked"):
            read(source, "SELECT user_id FROM users")
        writer.execute("ROLLBACK")
        assert len(read(source, "SELECT user_id FROM users")) == 2


def test_a_wal_file_is_read_as_it_was_while_others_write(path: Path, source: Source) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 12007)"
                       " INSERT INTO users SELECT i FROM n")
        asked = Audience(key="big", name="Big", sql="SELECT user_id FROM users", path=Path("big.sql"))
        chunks = source.read(asked, NOON).chunks
        seen = len(next(chunks).ids)
        writer.execute("DELETE FROM users")
        assert seen + sum(len(chunk.ids) for chunk in chunks) == 12000
        assert read(source, "SELECT user_id FROM users") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another account's part")
def test_a_file_that_may_not_be_read_is_unavailable(path: Path) -> None:
    script = ("import os, sys; from audiencesync.model import SourceSettings;"
              "from audiencesync.source import open_source;"
              "source = open_source(SourceSettings(url='sqlite:///' + sys.argv[1])); os.setuid(65534);"
              "list(source.check())")
    path.chmod(0o600)
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert done.stderr.endswith(f"SourceUnavailable: the source {path} cannot be read: Permission denied\n")

"""What only DuckDB does: files within reach of SQL, settings that SQL can change, and a lock on the whole file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from audiencesync.errors import QueryError, SourceUnavailable
from audiencesync.model import Audience, SourceSettings
from audiencesync.source import Source, open_source
from tests.databases import fill

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "shop.duckdb"
    fill(f"duckdb:///{file}", "CREATE TABLE orders (user_id TEXT, completed TIMESTAMP, seen TIMESTAMPTZ)",
         "INSERT INTO orders VALUES ('u1', '2026-11-22 11:59:59', '2026-11-22 11:59:59+00'),"
         " ('u2', '2026-11-22 12:00:01', '2026-11-22 12:00:01+00')")
    return file


@pytest.fixture
def source(path: Path) -> Iterator[Source]:
    with open_source(SourceSettings(url=f"duckdb:///{path}")) as opened:
        yield opened


def read(source: Source, sql: str, *include: str) -> list[str]:
    asked = Audience(key="big", name="Big", sql=sql, path=Path("audiences/big.sql"), include=include)
    return [text for chunk in source.read(asked, NOON).chunks for text in chunk.included or chunk.ids]


@pytest.mark.parametrize("sql", [
    "FROM read_csv('{file}') SELECT column0 AS user_id", "SELECT content AS user_id FROM read_text('{file}')",
    "SELECT * FROM '{file}'", "SELECT file AS user_id FROM glob('{file}')",
])
def test_other_files_are_out_of_reach_unless_allowed(tmp_path: Path, source: Source, sql: str) -> None:
    file = tmp_path / "ids.csv"
    file.write_text("user_id\nu7\n")
    with pytest.raises(QueryError):
        read(source, sql.format(file=file))


def test_files_can_be_read_when_allowed(tmp_path: Path) -> None:
    file = tmp_path / "ids.parquet"
    fill(f"duckdb:///{tmp_path / 'x'}", f"COPY (SELECT 'u7' AS user_id) TO '{file}'")
    with open_source(SourceSettings(url="duckdb:///:memory:", allow_files=True)) as source:
        assert read(source, f"SELECT user_id FROM '{file}'") == ["u7"]
        assert [line[:8] for line in source.check()][1:] == ["warning:"]


@pytest.mark.parametrize("sql", [
    "SELECT 1 AS user_id; SET lock_configuration = false", "SET enable_external_access = true",
    "FROM orders; FROM orders", "COPY orders TO 'x.csv'", "INSTALL httpfs",
    "CALL pragma_version()", "PIVOT orders ON user_id",
    "WITH x AS (SELECT 1) DELETE FROM orders",
])
def test_only_one_select_is_run(source: Source, sql: str) -> None:
    with pytest.raises(QueryError, match="exactly one SELECT"):
        read(source, sql)


def test_instants_are_utc_wherever_the_process_lives(
        path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(time.tzset)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    settings = SourceSettings(url=f"duckdb:///{path}")
    with open_source(settings) as first, open_source(settings) as second:
        for source in (first, second):
            assert read(source, "SELECT user_id FROM orders WHERE completed <= :now") == ["u1"]
            assert read(source, "SELECT user_id FROM orders WHERE seen <= :now::timestamptz") == ["u1"]
    monkeypatch.delenv("TZ")


def test_an_included_instant_is_told_in_utc(source: Source) -> None:
    assert read(source, "SELECT user_id, seen FROM orders ORDER BY 1", "seen") == [
        '{"seen":"2026-11-22T11:59:59Z"}', '{"seen":"2026-11-22T12:00:01Z"}']


WITHOUT_PYTZ = """
import sys
from pathlib import Path
sys.modules["pytz"] = None  # as where it is not installed
from tests.test_source_duckdb import SourceSettings, open_source, read
with open_source(SourceSettings(url=f"duckdb:///{sys.argv[1]}")) as source:
    try:
        read(source, "SELECT user_id, seen FROM orders", "seen")
        print("read")
    except Exception as error:
        print(type(error).__name__, error)
"""
ALONE = """
import sys
sys.modules["pytz"] = None
import duckdb
duckdb.connect().execute("SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00'").fetchall()
"""


def test_a_column_that_takes_another_package_to_read_is_explained(path: Path) -> None:
    house = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYTZ, path], cwd=house, capture_output=True, text=True,
                          timeout=60, check=False)
    alone = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, timeout=60, check=False)
    if alone.returncode == 0:  # this duckdb reads it by itself
        assert done.stdout == "read\n", done.stderr
        return
    assert "QueryError" in done.stdout, done.stderr
    assert "TIMESTAMP WITH TIME ZONE" in done.stdout
    assert "pip install pytz" in done.stdout
    assert "Traceback" not in done.stdout


def test_ids_and_included_values_of_duckdbs_own_types(source: Source) -> None:
    sql = ("SELECT 'aaaaaaaa-0000-0000-0000-000000000001'::UUID AS user_id,"
           " 170141183460469231731687303715884105727 AS h, 1.50::DECIMAL(9, 2) AS d, [1, NULL] AS l,"
           " {'a': {'b': 1.25}} AS s, DATE '2026-01-02' AS t,"
           " TIMESTAMP '2026-01-02 03:04:05' AS m, true AS b, uuid() IS NULL AS n")
    assert read(source, sql) == ["aaaaaaaa-0000-0000-0000-000000000001"]
    assert read(source, sql, *"hdlstmbn") == [
        ('{"h":170141183460469231731687303715884105727,"d":1.50,"l":[1,null],"s":{"a":{"b":1.25}},"t":"2026-01-02",'
         '"m":"2026-01-02T03:04:05Z","b":true,"n":false}')]
    assert read(source, "SELECT 170141183460469231731687303715884105727 AS user_id") == [str(2**127 - 1)]


@pytest.mark.parametrize("value", [
    "true", "1.0::DECIMAL(4, 1)", "'x'::BLOB", "[1]", "DATE '2026-01-01'", "chr(0) || 'a'",
])
def test_a_bad_id_is_named(source: Source, value: str) -> None:
    with pytest.raises(QueryError, match="row 1 of the result: user_id is "):
        read(source, f"SELECT {value} AS user_id")


def test_data_that_the_database_quotes_is_blotted_out(source: Source) -> None:
    with pytest.raises(QueryError) as caught:
        read(source, "SELECT (user_id || '@private')::INTEGER AS user_id FROM orders")
    assert "Conversion Error" in str(caught.value)
    assert "u1@" not in str(caught.value)


def test_a_file_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "none.duckdb"
    with open_source(SourceSettings(url=f"duckdb:///{missing}")) as source, \
            pytest.raises(SourceUnavailable, match=f"{missing} cannot be read: No such file"):
        read(source, "SELECT 1 AS user_id")
    assert not missing.exists()


def test_a_file_that_somebody_writes_or_that_is_no_database_is_unavailable(path: Path, source: Source) -> None:
    with closing(duckdb.connect(str(path))), pytest.raises(SourceUnavailable, match=str(path)):
        read(source, "SELECT 1 AS user_id")
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(SourceUnavailable, match="not a valid DuckDB"):
        read(source, "SELECT 1 AS user_id")
    with pytest.raises(SourceUnavailable, match="not a valid DuckDB"):
        list(source.check())


def test_reading_changes_nothing_on_disk(path: Path, source: Source) -> None:
    before = (path.read_bytes(), sorted(path.parent.iterdir()))
    assert read(source, "SELECT user_id FROM orders ORDER BY 1") == ["u1", "u2"]
    source.close()
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == before

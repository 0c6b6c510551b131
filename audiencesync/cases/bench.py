"""Where a test's tables stand: a file that is thrown away, or a transaction of PostgreSQL that is rolled back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from audiencesync.cases.tables import DUCKDB, POSTGRESQL, SQLITE, Statement, quoted, schema_of, statements, unmade
from audiencesync.errors import UsageError
from audiencesync.model import SourceSettings
from audiencesync.model.cases import Case
from audiencesync.source import Source, open_source

DIALECTS = (SQLITE, DUCKDB, POSTGRESQL)


@dataclass(frozen=True)
class Bench:
    """Gives a case, by `open`, the source that holds its tables; `foreign` is another dialect than the project's."""

    foreign: bool
    open: Callable[[Case], AbstractContextManager[Source]]


def open_bench(settings: SourceSettings, url: str = "") -> Bench:
    """How the cases of a project get their source: in the dialect of its own source or of `url`.

    Raises UsageError where there is no way, and SourceUnavailable where PostgreSQL cannot be reached.
    """
    dialect = _dialect(url or settings.url)
    plain, foreign = replace(settings, fresh=None, allow_files=False), dialect != _dialect(settings.url)
    if dialect == POSTGRESQL and url:
        from audiencesync.cases.postgresql import check, in_transaction

        check(replace(plain, url=url))
        return Bench(foreign, partial(in_transaction, replace(plain, url=url)))
    if dialect in (SQLITE, DUCKDB):
        return Bench(foreign, partial(_in_file, plain, dialect))
    if dialect == POSTGRESQL:
        raise UsageError("the tests of a PostgreSQL source need a server: give one by "
                         "--url postgresql+psycopg://user:password@host/database or AUDIENCESYNC_TESTS; "
                         "all happens in transactions that are rolled back")
    raise UsageError(f"definitions in the dialect of {dialect} cannot be tested here; there are {', '.join(DIALECTS)}. "
                     "Where the SQL is simple enough for one of these: --url duckdb://")


def _dialect(url: str) -> str:
    try:
        return make_url(url).get_backend_name()
    except (ArgumentError, ValueError, NoSuchModuleError):  # their words can hold the password
        raise UsageError("this is not a database URL; write dialect://user:password@host:port/database") from None


@contextmanager
def _in_file(settings: SourceSettings, dialect: str, case: Case) -> Iterator[Source]:
    """A file of the case's own, read as every source is."""
    with TemporaryDirectory(prefix="audiencesync-test-") as folder:
        path = Path(folder, "given.db")
        _FILLED[dialect](path, case)
        url = URL.create(dialect, database=str(path)).render_as_string()
        with open_source(replace(settings, url=url)) as source:
            yield source


def _fill_sqlite(path: Path, case: Case) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("VACUUM")  # so that there is a file, also where nothing is given
        for fixture in case.given:
            if schema_of(fixture) not in ("", "main"):
                raise unmade(case, fixture, "a SQLite file has no schemas but main")
            try:
                _run(connection, list(statements(fixture, SQLITE)))
            except (sqlite3.Error, OverflowError, ValueError) as error:
                raise unmade(case, fixture, str(error)) from None


def _fill_duckdb(path: Path, case: Case) -> None:
    import duckdb

    with closing(duckdb.connect(str(path), config={"enable_external_access": False})) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for fixture in case.given:
            schema = schema_of(fixture)
            made = [Statement(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema, DUCKDB)}")] if schema else []
            try:
                _run(connection, [*made, *statements(fixture, DUCKDB)])
            except duckdb.Error as error:
                raise unmade(case, fixture, str(error)) from None


def _run(connection: Any, made: Sequence[Statement]) -> None:
    for statement in made:
        if statement.rows is None:
            connection.execute(statement.sql)
        else:
            connection.executemany(statement.sql, statement.rows)


_FILLED: dict[str, Callable[[Path, Case], None]] = {SQLITE: _fill_sqlite, DUCKDB: _fill_duckdb}

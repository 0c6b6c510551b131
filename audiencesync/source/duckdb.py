"""DuckDB as a source: the file read-only, no other files, no network, and settings that SQL cannot change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from sqlalchemy.engine import URL

from audiencesync.errors import AudiencesyncError, SourceUnavailable, UsageError
from audiencesync.model import Audience, Shipped, SourceSettings
from audiencesync.source.base import CHUNK, Answer, Question, Source
from audiencesync.source.problems import need_file, refused, wrong
from audiencesync.source.rows import Row
from audiencesync.source.shipped import USER, Digits, columns, parsed, quoted, watched
from audiencesync.source.statement import ONE
from audiencesync.source.watch import Watch

_AWAY = (duckdb.IOException, duckdb.ConnectionException, duckdb.OutOfMemoryException, duckdb.FatalException,
         duckdb.InternalException)
_QUOTING = (duckdb.ConversionException, duckdb.InvalidInputException)
"""Errors whose words can hold the data."""


class DuckdbSource(Source):
    """A DuckDB file, or an empty database in memory from which other files are read when `allow_files` is set."""

    failures = (duckdb.Error,)

    def __init__(self, url: URL, settings: SourceSettings) -> None:
        super().__init__(url, settings)
        self._database = url.database or ":memory:"
        if self._database == ":memory:" and not settings.allow_files:
            raise UsageError("source.url: a DuckDB in memory is empty; name a file (duckdb:///path/to/file.duckdb), "
                             "or set allow_files: true to read Parquet and CSV files")
        self._connection: duckdb.DuckDBPyConnection | None = None

    def close(self) -> None:
        """End what is still being read and close the file."""
        super().close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def ask(self, question: Question, watch: Watch) -> Iterator[Answer]:
        """Let DuckDB's own parser count the statements, and run the one with `$name` in place of `:name`."""
        connection = self._connect()
        sql = _dollars(question)
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise wrong(question.audience, f"there are {len(statements)} statements; {ONE}")
        if statements[0].type != duckdb.StatementType.SELECT:
            raise wrong(question.audience, f"this is no SELECT; {ONE}", hint="the source is only ever read")
        with closing(connection.cursor()) as cursor, watch.cancelling(cursor.interrupt):
            for table in question.given:
                _receive(cursor, table, watch)
            cursor.execute(sql, dict(question.values) or None)
            columns = [str(column[0]) for column in cursor.description or ()]
            yield Answer(columns, iter(partial(_fetch, cursor), []))

    def explain(self, audience: Audience, error: BaseException, watch: Watch) -> AudiencesyncError:
        """Tell a file that is away from SQL that is wrong."""
        del watch
        said = str(error)
        if isinstance(error, _AWAY):
            return SourceUnavailable(f"{audience.path}: the source {self._database} says: {_first(said)}")
        if "'pytz'" in said:
            return wrong(audience, "the result has a column of the type TIMESTAMP WITH TIME ZONE",
                         hint="leave it out or cast it to TIMESTAMP; or pip install pytz, which DuckDB needs for it")
        hint = ""
        if isinstance(error, duckdb.PermissionException):
            hint = "source.allow_files: true lets SQL read files"
        elif "read-only" in said:
            hint = "the source is only ever read"
        return refused(audience, said, hint=hint, private=isinstance(error, _QUOTING) and not hint)

    def check(self) -> Iterator[str]:
        """The file can be opened and is a database."""
        try:
            tables = self._connect().execute("SELECT count(*) FROM information_schema.tables").fetchone()
        except duckdb.Error as error:
            raise SourceUnavailable(f"the source {self._database} says: {_first(str(error))}") from None
        yield f"DuckDB {duckdb.__version__}, {self._database}, {tables[0] if tables else 0} tables and views, read-only"
        if self.settings.allow_files:
            yield "warning: allow_files is set, so an audience's SQL can read and write files of this account"

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Every connection of a process to one file must be opened alike; the first one locks the settings of all."""
        if self._connection is None:
            memory = self._database == ":memory:"
            if not memory and ":" not in self._database:
                need_file(Path(self._database))
            connection = duckdb.connect(self._database, read_only=not memory,
                                        config={"enable_external_access": self.settings.allow_files})
            locked = connection.execute("SELECT current_setting('lock_configuration')").fetchone()
            if locked != (True,):
                connection.execute("SET GLOBAL TimeZone = 'UTC'")
                connection.execute("SET lock_configuration = true")
            self._connection = connection
        return self._connection


def _dollars(question: Question) -> str:
    sql = question.audience.sql
    for start, _ in question.parameters:
        sql = f"{sql[:start]}${sql[start + 1:]}"
    return sql


_TYPES = {"number": "VARCHAR", "boolean": "BOOLEAN", "timestamp": "TIMESTAMPTZ", "string": "VARCHAR",
          "list": "VARCHAR[]"}
"""By kind; a number is text until it is known which type has room for them all."""


def _receive(cursor: duckdb.DuckDBPyConnection, table: Shipped, watch: Watch) -> None:
    """Fill a temporary table, which ends with the cursor; arrays, since rows of parameters cost far more."""
    beside, name = columns(table), quoted(table.name)
    digits = {column.name: Digits() for column in beside if column.kind == "number"}
    kinds = "".join(f", {column.name} {_TYPES[column.kind]}" for column in beside)
    cursor.execute(f"CREATE TEMPORARY TABLE {name} ({USER} VARCHAR{kinds})")
    arrays = "".join(f", unnest(CAST(? AS {_TYPES[column.kind]}[]))" for column in beside)
    for chunk in watched(table, watch):
        rows = parsed(chunk) if beside else ()
        values = [[_kept(row.get(column.trait), digits.get(column.name)) for row in rows] for column in beside]
        cursor.execute(f"INSERT INTO {name} SELECT unnest(CAST(? AS VARCHAR[])){arrays}", [chunk.ids, *values])
    for column, room in digits.items():
        cursor.execute(f"ALTER TABLE {name} ALTER {column} TYPE {room.type()}")


def _kept(value: Any, digits: Digits | None) -> Any:
    return value if digits is None or value is None else digits.see(value)


def _fetch(cursor: duckdb.DuckDBPyConnection) -> list[Row]:
    return list(cursor.fetchmany(CHUNK))


def _first(said: str) -> str:
    return said.strip().split("\n", 1)[0]

"""SQLite as a source: a file opened for reading alone, and an authorizer that lets nothing but SELECT through."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy.engine import URL

from audiencesync.errors import AudiencesyncError, SourceUnavailable, UsageError
from audiencesync.model import Audience, Chunk, Shipped, SourceSettings
from audiencesync.source.base import CHUNK, Answer, Question, Source
from audiencesync.source.problems import need_file, refused, wrong
from audiencesync.source.shipped import USER, ShippedColumn, columns, parsed, quoted, watched
from audiencesync.source.statement import ONE
from audiencesync.source.watch import Watch

_BUSY = 0.2
"""Seconds SQLite itself waits for a lock before we look whether we should still wait."""

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_AWAY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR,
         sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_FULL,
         sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM}


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _via: str | None) -> int:
    """Let reading through, and what SQLite itself does to read a full-text table.

    That is asking for `data_version`, and declaring the table's columns, which passes here as an update of the schema;
    a true update of the schema is refused by SQLite, and the file is open for reading alone.
    """
    reading = (action in _ALLOWED
               or (action == sqlite3.SQLITE_FUNCTION and second != "load_extension")
               or (action == sqlite3.SQLITE_PRAGMA and first == "data_version" and second is None)
               or (action == sqlite3.SQLITE_UPDATE and first == "sqlite_master"))
    return sqlite3.SQLITE_OK if reading else sqlite3.SQLITE_DENY


class SqliteSource(Source):
    """A SQLite file, read through the driver itself, which is the fastest way."""

    failures = (sqlite3.Error, sqlite3.Warning, OverflowError)

    def __init__(self, url: URL, settings: SourceSettings) -> None:
        super().__init__(url, settings)
        if not url.database or url.database.startswith((":memory:", "file:")):
            raise UsageError("source.url: a SQLite source is a file; write sqlite:///path/to/file.db")
        self._path = Path(url.database)
        self._connection: sqlite3.Connection | None = None
        self._received: list[str] = []

    def close(self) -> None:
        """End what is still being read and close the file."""
        super().close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def ask(self, question: Question, watch: Watch) -> Iterator[Answer]:
        """Run the query as it stands: SQLite itself knows `:name`."""
        connection = self._connect()
        self._receive(connection, question.given, watch)
        values = {name: _bound(value) for name, value in question.values.items()}
        with closing(connection.cursor()) as cursor, watch.cancelling(connection.interrupt):
            self._execute(cursor, question.audience.sql, values, watch)
            columns = [column[0] for column in cursor.description or ()]
            yield Answer(columns, iter(partial(cursor.fetchmany, CHUNK), []))

    def explain(self, audience: Audience, error: BaseException, watch: Watch) -> AudiencesyncError:
        """Tell a file that is away or locked from SQL that is wrong."""
        del watch
        said = str(error)
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _AWAY:
            return SourceUnavailable(f"{audience.path}: the source {self._path} says: {said}")
        if said.startswith("Could not decode"):
            return wrong(audience, "the result holds text that is not UTF-8",
                         hint="mend the data, or select hex(...) of that column")
        if "one statement" in said:
            return wrong(audience, f"there is more than one statement; {ONE}")
        if code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
            return refused(audience, said, hint="the source is only ever read: SELECT and harmless functions")
        return refused(audience, said)

    def check(self) -> Iterator[str]:
        """The file can be opened and is a database."""
        try:
            connection = self._connect()
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view')").fetchone()
        except sqlite3.Error as error:
            raise SourceUnavailable(f"the source {self._path} says: {error}") from None
        yield f"SQLite {sqlite3.sqlite_version}, {self._path}, {tables[0]} tables and views, opened read-only"

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            need_file(self._path)
            connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY,
                                         isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.set_authorizer(_authorize)
            self._connection = connection
        return self._connection

    def _receive(self, connection: sqlite3.Connection, given: Sequence[Shipped], watch: Watch) -> None:
        """Fill temporary tables, which lie outside of the file, in place of those of the last question."""
        if not given and not self._received:
            return
        connection.set_authorizer(None)
        try:
            with watch.cancelling(connection.interrupt):
                while self._received:
                    self._execute(connection.cursor(), f"DROP TABLE IF EXISTS temp.{self._received[-1]}", {}, watch)
                    self._received.pop()
                for table in given:
                    self._received.append(quoted(table.name))
                    self._execute(connection.cursor(), _creation(table), {}, watch)
                    _fill(connection, table, watch)
        finally:
            connection.set_authorizer(_authorize)

    def _execute(self, cursor: sqlite3.Cursor, sql: str, values: dict[str, object], watch: Watch) -> None:
        """Run it, waiting for a writer's lock no longer than allowed, and no longer than anybody waits for us."""
        deadline = time.monotonic() + self.settings.lock_timeout
        while True:
            try:
                cursor.execute(sql, values)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                watch.check()
            else:
                return


_TYPES = {"number": "NUMERIC", "boolean": "BOOLEAN", "timestamp": "TEXT", "string": "TEXT", "list": "TEXT"}
"""By kind; what is called BOOLEAN holds 1 and 0, and a list is the text of a JSON array."""


def _creation(table: Shipped) -> str:
    kinds = "".join(f", {column.name} {_TYPES[column.kind]}" for column in columns(table))
    return f"CREATE TEMPORARY TABLE {quoted(table.name)} ({USER} TEXT PRIMARY KEY NOT NULL{kinds}) WITHOUT ROWID"


def _fill(connection: sqlite3.Connection, table: Shipped, watch: Watch) -> None:
    beside, name = columns(table), f"temp.{quoted(table.name)}"
    slots = "".join(f", {'datetime(?)' if column.kind == 'timestamp' else '?'}" for column in beside)
    for chunk in watched(table, watch):
        connection.execute("BEGIN")
        try:
            connection.executemany(f"INSERT INTO {name} VALUES (?{slots})", _rows(chunk, beside))
        finally:
            connection.execute("COMMIT")


def _rows(chunk: Chunk, beside: Sequence[ShippedColumn]) -> Iterator[Sequence[Any]]:
    """Rows as the driver takes them; of decimals SQLite keeps what it can, which are some fifteen digits."""
    if not beside:
        return zip(chunk.ids, strict=True)
    return ((user, *(_kept(values.get(column.trait)) for column in beside))
            for user, values in zip(chunk.ids, parsed(chunk), strict=True))


def _kept(value: Any) -> Any:
    if isinstance(value, list):
        return orjson.dumps(value).decode()
    return str(value) if isinstance(value, Decimal) else value


def _bound(value: object) -> object:
    """SQLite has no type for time: an instant is the text `YYYY-MM-DD HH:MM:SS` in UTC."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else value

"""How the state is opened: SQLite beside the project, or PostgreSQL for several hosts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.pool import StaticPool

from audiencesync.errors import UsageError


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # FULL: an intent lost with the power would let an answered request be forgotten
    connection.isolation_level = None  # sqlite3 would begin by itself, and too late
    connection.cursor().execute("PRAGMA busy_timeout=30000")
    _switch_to_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.cursor().execute(f"PRAGMA {pragma}")


def _switch_to_wal(connection: DBAPIConnection) -> None:
    """Processes that switch a new file at once lock each other out, and SQLite lets none wait: so ask again."""
    import sqlite3

    until = time.monotonic() + 30
    while True:
        try:
            connection.cursor().execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def open_engine(url: str, *, create: bool = True) -> Engine:
    """Open the state; UsageError for a URL that is none, or of a database that cannot hold a state.

    With `create` false a SQLite file that does not exist stays so (StateUnavailable at the first use).
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError("state: this is not a database URL; write sqlite:///audiencesync.db "
                         "or postgresql+psycopg://user@host/database") from None
    kind = parsed.get_backend_name()
    if kind == "postgresql":
        return _postgresql(parsed)
    if kind != "sqlite":
        raise UsageError(f"state: {kind} cannot hold the state; SQLite and PostgreSQL can")
    if parsed.database in (None, "", ":memory:"):
        engine = create_engine("sqlite://", hide_parameters=True, poolclass=StaticPool,
                               connect_args={"check_same_thread": False})
    else:
        mode = "rwc" if create else "rw"
        path = quote(str(Path(str(parsed.database)).absolute()))
        engine = create_engine(f"sqlite:///file:{path}?mode={mode}&uri=true", hide_parameters=True,
                               connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin)
    if not isinstance(engine.pool, StaticPool):
        _watch_file(engine, Path(str(parsed.database)))
    return engine


def _watch_file(engine: Engine, path: Path) -> None:
    """A connection to a file that was moved away or replaced would go on with what nobody else sees."""
    def remember(_connection: DBAPIConnection, record: Any) -> None:
        record.info["file"] = _identity(path)

    def check(_connection: DBAPIConnection, record: Any, _proxy: object) -> None:
        if record.info.get("file") != _identity(path):
            raise DisconnectionError("the file is another one")

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", check)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _postgresql(url: URL) -> Engine:
    """Times are in UTC and nothing waits for ever, whatever else the URL asks for; what it says wins."""
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    settings = {"connect_timeout": 10, "application_name": "audiencesync", "keepalives": 1, "keepalives_idle": 30,
                "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
    asked = {name: value for name, value in settings.items() if name not in url.query}
    own = url.query.get("options", "")
    asked["options"] = f"-c lock_timeout=30s {own if isinstance(own, str) else ' '.join(own)} -c timezone=UTC"
    try:
        return create_engine(url.difference_update_query(["options"]), hide_parameters=True, pool_pre_ping=True,
                             connect_args=asked)
    except ModuleNotFoundError:
        raise UsageError("state: PostgreSQL needs its driver: pip install 'audiencesync[postgres]'") from None

"""The state as the rest of the store uses it: short reads that lock nothing, short writes that are alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from audiencesync.errors import StateUnavailable, UsageError
from audiencesync.store.backends import BACKENDS, Backend
from audiencesync.store.engine import open_engine


class Store:
    """One state database; `clock` stands in for the database's own time where a test moves it."""

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime] | None = None) -> None:
        self.engine = engine
        self.backend: Backend = BACKENDS[engine.dialect.name]
        self._clock = clock
        self.keeps = isinstance(engine.pool, StaticPool)
        """Whether a scratch connection lives on, with what it holds; a database in memory is its connection."""
        self.counted: dict[tuple[int, int, int], tuple[int, int]] = {}
        """Net changes (entered, exited) of a computation between two runs, counted once."""

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Store:
        """The state at `url`; nothing is read yet."""
        return cls(open_engine(url, create=create))

    def now(self, connection: Connection) -> datetime:
        """The time all holders of leases agree on."""
        return self._clock() if self._clock else self.backend.now(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection on which each statement stands alone and takes no lock."""
        with _translated(), self.engine.connect() as connection:
            yield connection.execution_options(**self.backend.alone)

    @contextmanager
    def scratch(self) -> Iterator[Connection]:
        """A connection to read on that is thrown away, which is cheaper than emptying its temporary tables."""
        with self.read() as connection:
            try:
                yield connection
            finally:
                if not self.keeps and not connection.closed:
                    connection.rollback()
                    connection.invalidate()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction of its own: all of it or nothing."""
        with _translated(), self.engine.connect() as connection, self.transaction(connection):
            yield connection

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[Connection]:
        """The same for a connection that already holds something, such as a temporary table."""
        connection.rollback()
        connection.execution_options(**self.backend.together, writes=True)
        try:
            with connection.begin():
                yield connection
        finally:
            connection.execution_options(**self.backend.alone, writes=False)

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        lines = str(error.orig).strip().splitlines() or ["no reason given"]
        if "file is not a database" in lines[0]:
            raise UsageError("state: the file is there, but it is no SQLite database; name another one") from error
        raise StateUnavailable(f"the state database does not answer as it should: {lines[0]}") from error
    except SQLAlchemyError as error:
        raise StateUnavailable(f"the state database cannot be used: {str(error).splitlines()[0]}") from error

"""PostgreSQL for tests: the tables are made in the transaction that reads them, and nothing is ever committed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from audiencesync.cases.tables import POSTGRESQL, quoted, schema_of, statements, unmade
from audiencesync.errors import SourceUnavailable, UsageError
from audiencesync.model import SourceSettings
from audiencesync.model.cases import Case, Fixture
from audiencesync.source import Source, open_source
from audiencesync.source.postgresql import PostgresqlSource


def check(settings: SourceSettings) -> None:
    """Raise SourceUnavailable or UsageError when the server cannot be used at all."""
    with open_source(settings) as source:
        list(source.check())


@contextmanager
def in_transaction(settings: SourceSettings, case: Case) -> Iterator[Source]:
    """A source that sees the tables of a case, and of the database's own only what is named with its schema."""
    with _Rehearsed(settings, case) as source:
        yield source


class _Rehearsed(PostgresqlSource):
    """A source each of whose connections begins with the tables of a case, in schemas that no other session sees."""

    def __init__(self, settings: SourceSettings, case: Case) -> None:
        super().__init__(make_url(settings.url), settings)
        self._case = case

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with super()._connect() as connection:
            try:
                self._begin(connection)
            except SQLAlchemyError as error:
                raise self._unusable(error) from None
            for fixture in self._case.given:
                try:
                    _make(connection, fixture)
                except SQLAlchemyError as error:
                    raise unmade(self._case, fixture, self.said(error)) from None
            yield connection

    def _begin(self, connection: Connection) -> None:
        """A schema for tables without one, and no other in which names are looked up."""
        schema = f"audiencesync_test_{secrets.token_hex(6)}"
        lock = max(1, round(self.settings.lock_timeout * 1000))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock}")
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")

    def _unusable(self, error: SQLAlchemyError) -> UsageError | SourceUnavailable:
        said = self.said(error).strip().split("\n", 1)[0]
        if getattr(error, "connection_invalidated", False):
            return SourceUnavailable(f"the database for tests ({self.place}) says: {said}")
        return UsageError(f"the database for tests ({self.place}) lets us make no schema: {said}; "
                          "its role needs the right CREATE on that database")


def _make(connection: Connection, fixture: Fixture) -> None:
    schema = schema_of(fixture)
    if schema:
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema, POSTGRESQL)}")
    for statement in statements(fixture, POSTGRESQL):
        if statement.rows is None:
            connection.exec_driver_sql(statement.sql)
        else:
            connection.exec_driver_sql(statement.sql, [tuple(row) for row in statement.rows])

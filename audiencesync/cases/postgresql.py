"""PostgreSQL for tests: the tables are made in the transaction that reads them, and nothing is ever committed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from audiencesync.cases.tables import POSTGRESQL, quoted, schema_of, statements, unmade
from audiencesync.errors import SourceUnavailable, UsageError
from audiencesync.model import Audience, SourceSettings
from audiencesync.model.cases import Case, Fixture
from audiencesync.source import Source, open_source
from audiencesync.source.postgresql import PostgresqlSource
from audiencesync.source.problems import wrong


def check(settings: SourceSettings) -> None:
    """Raise SourceUnavailable or UsageError when the server cannot be used at all."""
    with open_source(settings) as source:
        list(source.check())


@contextmanager
def in_transaction(settings: SourceSettings, case: Case) -> Iterator[Source]:
    """A source that sees the tables of a case, and none of the database's own."""
    with _Rehearsed(settings, case) as source:
        yield source


class _Rehearsed(PostgresqlSource):
    """A source each of whose connections begins with the tables of a case, in schemas that no other session sees."""

    def __init__(self, settings: SourceSettings, case: Case) -> None:
        super().__init__(make_url(settings.url), settings)
        self._case = case

    def guard(self, audience: Audience) -> None:
        """Refuse also what is named with its schema and not given: it would be the database's own."""
        super().guard(audience)
        given = {fixture.name for fixture in self._case.given}
        for name in _named_with_schema(audience.sql):
            if name not in given:
                raise wrong(audience, f"the table {name} is not given; a test reads none of the database's own",
                            hint="give its rows under given:, by this name")

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


def _named_with_schema(sql: str) -> list[str]:
    """The tables that SQL names with a schema, but for the system's; none where sqlglot cannot read it."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        tables = [table for statement in sqlglot.parse(sql, dialect="postgres") if statement
                  for table in statement.find_all(sqlglot.exp.Table)]
    except SqlglotError:
        return []
    return [".".join(_folded(part) for part in table.parts[-2:]) for table in tables
            if table.db and table.db.lower() not in ("pg_catalog", "information_schema")]


def _folded(part: Any) -> str:
    """A name as PostgreSQL takes it: one without quotes in small letters."""
    return str(part.name) if part.args.get("quoted") else str(part.name).lower()


def _make(connection: Connection, fixture: Fixture) -> None:
    schema = schema_of(fixture)
    if schema:
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema, POSTGRESQL)}")
    for statement in statements(fixture, POSTGRESQL):
        if statement.rows is None:
            connection.exec_driver_sql(statement.sql)
        else:
            connection.exec_driver_sql(statement.sql, [tuple(row) for row in statement.rows])

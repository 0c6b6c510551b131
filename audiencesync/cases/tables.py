"""How a test's tables are made in each dialect: the statements, and the values as its driver takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from audiencesync.errors import Problem, UsageError
from audiencesync.model.cases import SOMETIME, Case, Fixture

SQLITE, DUCKDB, POSTGRESQL = "sqlite", "duckdb", "postgresql"

_TYPES: Mapping[str, Mapping[str, str]] = {
    SQLITE: {"text": "TEXT", "integer": "INTEGER", "number": "REAL", "boolean": "BOOLEAN", "date": "TEXT",
             "timestamp": "TEXT", "timestamptz": "TEXT", "list": "TEXT", "json": "TEXT", "uuid": "TEXT"},
    DUCKDB: {"text": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN", "date": "DATE",
             "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMPTZ", "json": "JSON", "uuid": "UUID"},
    POSTGRESQL: {"text": "text", "integer": "bigint", "number": "numeric", "boolean": "boolean", "date": "date",
                 "timestamp": "timestamp", "timestamptz": "timestamptz", "json": "jsonb", "uuid": "uuid"},
}


class Unmade(UsageError):
    """A table of a case cannot be made, so that the case cannot be run."""


def unmade(case: Case, fixture: Fixture, said: str) -> Unmade:
    """The error for a table that the database refuses, in the first line of its words."""
    first = said.strip().split("\n", 1)[0]
    return Unmade(str(Problem(case.path.as_posix(), fixture.line, 1,
                              f"the table {fixture.name} cannot be made: {first}")))


class Statement(NamedTuple):
    """SQL as a dialect's driver takes it, and rows of parameters; None for a statement without any."""

    sql: str
    rows: Sequence[Sequence[Any]] | None = None


def schema_of(fixture: Fixture) -> str:
    """The schema that a fixture names, or nothing."""
    schema, dot, _ = fixture.name.partition(".")
    return schema if dot else ""


def statements(fixture: Fixture, dialect: str) -> Iterator[Statement]:
    """What makes a table and fills it."""
    types = {column: _resolved(type_, _values(fixture, column), dialect) for column, type_ in fixture.columns.items()}
    table = ".".join(quoted(part, dialect) for part in fixture.name.split("."))
    columns = ", ".join(f"{quoted(column, dialect)} {_named(type_, _values(fixture, column), dialect)}"
                        for column, type_ in types.items())
    yield Statement(f"CREATE TABLE {table} ({columns})")
    if fixture.rows:
        rows = [[_kept(row.get(column), type_, dialect) for column, type_ in types.items()] for row in fixture.rows]
        places = ", ".join(["%s" if dialect == POSTGRESQL else "?"] * len(types))
        yield Statement(f"INSERT INTO {table} VALUES ({places})", rows)


def quoted(name: str, dialect: str) -> str:
    """An identifier as standard SQL writes it, and as the driver takes it: PostgreSQL's reads % as a parameter."""
    text = '"' + name.replace('"', '""') + '"'
    return text.replace("%", "%%") if dialect == POSTGRESQL else text


def _values(fixture: Fixture, column: str) -> list[object]:
    return [row[column] for row in fixture.rows if row.get(column) is not None]


def _resolved(type_: str, values: Sequence[object], dialect: str) -> str:
    """A type that all dialects know, or the database's own: in SQLite moments that nobody declared stay as written."""
    if type_ != SOMETIME:
        return type_
    if dialect == SQLITE:
        return "text"
    zoned = any(datetime.fromisoformat(str(value)).tzinfo for value in values)
    return "timestamptz" if zoned else "timestamp"


def _named(type_: str, values: Sequence[object], dialect: str) -> str:
    if type_ == "list" and dialect != SQLITE:
        return f"{_TYPES[dialect][_element(values)]}[]"
    return _TYPES[dialect].get(type_, type_)


def _element(values: Sequence[object]) -> str:
    """The type of the members of lists; text where it is not clear."""
    kinds = {type(item) for value in values if isinstance(value, list) for item in value if item is not None}
    return {frozenset({bool}): "boolean", frozenset({int}): "integer", frozenset({float}): "number",
            frozenset({int, float}): "number"}.get(frozenset(kinds), "text")


def _kept(value: object, type_: str, dialect: str) -> Any:
    """A value as the driver takes it."""
    if value is None:
        return None
    if type_ == "json" or isinstance(value, dict) or (isinstance(value, list) and dialect == SQLITE):
        return orjson.dumps(value).decode()
    if type_ in ("timestamp", "timestamptz"):
        return _moment(str(value)) + ("+00" if type_ == "timestamptz" and dialect != SQLITE else "")
    if type_ == "number" or isinstance(value, float):
        return Decimal(str(value)) if dialect == POSTGRESQL else float(Decimal(str(value)))
    return str(value) if type_ == "text" else value


def _moment(text: str) -> str:
    """`YYYY-MM-DD HH:MM:SS` in UTC, as :now is bound where there is no type for time."""
    at = datetime.fromisoformat(text)
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.replace(tzinfo=None).isoformat(" ")

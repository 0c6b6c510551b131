"""Finds the parameters of an audience's SQL: a colon is one only where a reader of the SQL would say so."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from audiencesync.errors import QueryError
from audiencesync.model import Audience
from audiencesync.source.problems import wrong

DIALECTS = {"postgresql": "postgres", "cockroachdb": "postgres", "mariadb": "mysql", "mssql": "tsql",
            "clickhousedb": "clickhouse", "awsathena": "athena"}
"""What sqlglot calls the databases that SQLAlchemy calls otherwise."""

_NAME = re.compile(r"[A-Za-z_]\w*")
_BEFORE = re.compile(r"[\w'\"`)\]$:]")
"""A colon directly after one of these belongs to a slice, a struct, a path or a label."""

_HIDING = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_COLONS = re.compile(r"::|:=|(:)")


class Parameter(NamedTuple):
    """`:name` at an offset (of the colon) in the SQL."""

    start: int
    name: str


def find_parameters(audience: Audience, names: Collection[str], dialect: str) -> list[Parameter]:
    """The parameters in order; raises QueryError for one that is none of `names`. `dialect` is SQLAlchemy's name."""
    sql = audience.sql
    found = []
    for start in _colons(audience, dialect) if ":" in sql else ():
        name = _NAME.match(sql, start + 1)
        if name is None or (start and _BEFORE.match(sql[start - 1])):
            continue
        if name[0] not in names:
            raise _unknown(audience, start, name[0], names)
        found.append(Parameter(start, name[0]))
    return found


def escape_colons(sql: str, parameters: list[Parameter]) -> str:
    """The SQL as sqlalchemy.text reads it rightly: every colon but those of parameters behind a backslash."""
    parts, end = [], 0
    for start, name in parameters:
        parts += [sql[end:start].replace(":", "\\:"), f":{name}"]
        end = start + 1 + len(name)
    return "".join([*parts, sql[end:].replace(":", "\\:")])


def _colons(audience: Audience, dialect: str) -> Iterator[int]:
    """The offsets of single colons outside literals and comments."""
    plain = _without_literals(audience.sql)
    if plain is not None:
        return (match.start() for match in _COLONS.finditer(plain) if match[1])
    return _token_colons(audience, dialect)


def _without_literals(sql: str) -> str | None:
    """The SQL with its literals and comments blanked, or None where that takes more than every dialect agrees on.

    Saves the import of sqlglot (0.1 s of CPU) for most audiences.
    """
    if any(mark in sql for mark in "\\`$#["):
        return None
    if any("/*" in comment[2:] for comment in re.findall(r"/\*.*?\*/", sql, re.DOTALL)):
        return None
    blank = _HIDING.sub(lambda match: "_" * len(match[0]), sql)
    return None if "'" in blank or '"' in blank or "/*" in blank else blank


def _token_colons(audience: Audience, dialect: str) -> Iterator[int]:
    from sqlglot import TokenType, tokenize
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.errors import SqlglotError

    name = DIALECTS.get(dialect, dialect)
    try:
        tokens = tokenize(audience.sql, read=name if Dialect.get(name) else None)
    except SqlglotError:
        raise wrong(audience, "this SQL cannot be taken apart into words",
                    hint="is a quote, a comment or a $$ left open?") from None
    return (token.start for token in tokens if token.token_type == TokenType.COLON)


def _unknown(audience: Audience, start: int, name: str, names: Collection[str]) -> QueryError:
    from difflib import get_close_matches

    close = get_close_matches(name, names, 1) or [known for known in names if known.lower() == name.lower()]
    hint = f"did you mean :{close[0]}? " if close else ""
    known = ", ".join(f":{known}" for known in sorted(names))
    return wrong(audience, f"unknown parameter :{name}", at=(start, len(name) + 1),
                 hint=f"{hint}known: {known}; others are given under vars:")

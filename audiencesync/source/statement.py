"""Tells SQL that could be an audience from SQL that could not, before any database is asked."""

from __future__ import annotations

import re

from audiencesync.model import Audience
from audiencesync.source.parameters import find_parameters
from audiencesync.source.problems import wrong

_BEGINNING = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/|\()*([A-Za-z]\w*)?", re.DOTALL)
_READING = frozenset({"select", "with", "values", "table", "from"})

ONE = "an audience is exactly one SELECT statement"


def check_sql(audience: Audience, dialect: str) -> None:
    """Raise QueryError for what needs no database to see: not a SELECT, or an unknown parameter."""
    check_beginning(audience)
    find_parameters(audience, {*audience.variables, "now"}, dialect)


def check_beginning(audience: Audience) -> None:
    """Raise QueryError unless the SQL begins as something that reads does."""
    match = _BEGINNING.match(audience.sql)
    word = match[1] if match else None
    if match and word is None and not audience.sql[match.end():].strip(" \n\t;"):
        raise wrong(audience, f"there is no SQL here; {ONE}")
    if match and word and word.lower() not in _READING:
        raise wrong(audience, f"this begins with {word}; {ONE}", at=(match.start(1), len(word)),
                    hint="the source is only ever read")

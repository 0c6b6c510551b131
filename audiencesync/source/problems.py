"""Says of an audience's SQL what is wrong and where in its file."""

from __future__ import annotations

import re
from pathlib import Path

from audiencesync.errors import Problem, QueryError, SourceUnavailable
from audiencesync.model import Audience

_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)
_WORD = re.compile(r"(?:near|column|table|relation|function|name|no such \w+:) ?[\"']?([\w.]+)")

_USED = re.compile(r"(?:table|relation|name)\b\W*(audience|trait)_(\w+)", re.IGNORECASE)
"""The name of another computation's table, which is not there."""


def wrong(audience: Audience, message: str, *, hint: str = "", at: tuple[int, int] | None = None) -> QueryError:
    """A QueryError that names the file; `at` is an offset in the SQL and a width, without it the SQL's beginning."""
    sql = audience.sql
    if audience.declared:
        return _about_declared(audience, message, hint, at)
    offset, width = at or (len(sql) - len(sql.lstrip()), 1)
    begin = sql.rfind("\n", 0, offset) + 1
    snippet = sql[begin:].split("\n", 1)[0].rstrip() if at else ""
    return QueryError(str(Problem(str(audience.path), audience.line + sql.count("\n", 0, offset), offset - begin + 1,
                                  message, hint=hint, snippet=snippet, width=width)))


def _about_declared(audience: Audience, message: str, hint: str, at: tuple[int, int] | None) -> QueryError:
    """Nobody wrote this SQL, so the file is named, and the columns are those that audiencesync.yml names."""
    said = audience.sql[at[0]:at[0] + at[1]] if at else ""
    about = f"{said}: " if said and said not in message else ""
    columns = "tables and columns are named under  events:  in audiencesync.yml; `audiencesync show` has --sql"
    return QueryError(str(Problem(str(audience.path), audience.line, 1, f"{about}{message}",
                                  hint=f"{hint}; {columns}" if hint else columns)))


def refused(audience: Audience, said: str, *, hint: str = "", private: bool = False) -> QueryError:
    """A QueryError with the database's own first line and, where it can be found, the place it speaks of.

    `private` says that the database may have quoted the data, which is then blotted out.
    """
    first = said.strip().split("\n", 1)[0].strip()
    if private:
        first = re.sub(r"([\"']).*\1", r"\1...\1", first)
    if (used := _USED.search(first)) is not None and used[2] not in audience.uses:
        hint = f"the members or values of {used[2]} are a table with  uses: [{used[2]}]  in the header"
    return wrong(audience, f"the source says: {first}", hint=hint, at=_place(audience.sql, said))


def need_file(path: Path) -> None:
    """Raise SourceUnavailable unless a file is there to be read, so that no engine makes a new one."""
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise SourceUnavailable(f"the source {path} cannot be read: {error.strerror}") from None


def _place(sql: str, said: str) -> tuple[int, int] | None:
    """Where the word that the database stumbled over stands, if it stands there once."""
    begin, end = 0, len(sql)
    line = _LINE.search(said)
    lines = sql.split("\n")
    if line and 0 < int(line[1]) <= len(lines):
        begin = sum(len(before) + 1 for before in lines[:int(line[1]) - 1])
        end = begin + len(lines[int(line[1]) - 1])
    word = _WORD.search(said)
    found = [] if word is None else list(re.finditer(rf"(?<!\w){re.escape(word[1])}(?!\w)", sql[begin:end]))
    if len(found) == 1:
        return begin + found[0].start(), len(found[0][0])
    return (begin, 1) if line else None

"""What definitions may say that they use: computations that are there, and never themselves, by no way round."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from audiencesync.model import Audience, table_of
from audiencesync.naming import kept
from audiencesync.project.page import did_you_mean

if TYPE_CHECKING:
    from audiencesync.project.definitions import Definition


def check_uses(definitions: Sequence[Definition], unread: Collection[str], backend: str | None) -> None:
    """Note every mistake in `uses:`; `unread` are the names of files whose keys nobody knows.

    `backend` is SQLAlchemy's name of the source's database, which may keep the beginning of a table's name alone.
    """
    known = {definition.audience.key: definition.audience for definition in definitions}
    for definition in definitions:
        audience, tables = definition.audience, dict[str, str]()
        for index, key in enumerate(audience.uses):
            at = ("uses", index)
            if key not in known:
                if key not in unread:
                    others = [other for other in known if other != audience.key]
                    definition.document.mistake(at, f"unknown computation {key!r}", hint=did_you_mean(key, others))
                continue
            if (path := _way_back(known, key, audience.key)) is not None:
                definition.document.mistake(at, _round(path), hint="nothing of this could be computed first")
                continue
            whole = table_of(known[key].kind, key)
            table = kept(whole, backend)
            if table in tables:
                definition.document.mistake(at, f"{key!r} and {tables[table]!r} would both be the table {table}",
                                            hint="give one of them another key")
            elif not re.search(rf"\b({whole}|{table})\b", audience.sql, re.IGNORECASE):
                definition.document.mistake(at, f"the SQL never reads the table {whole}", severity="warning",
                                            hint=f"SELECT ... FROM {whole}, or take {key} out of uses:")
            tables.setdefault(table, key)


def _way_back(known: Mapping[str, Audience], start: str, goal: str) -> list[str] | None:
    """The shortest way from goal over start along `uses` to goal again, goal at both ends."""
    ways, seen = [[goal, start]], {start}
    for way in ways:
        if way[-1] == goal:
            return way
        for key in known[way[-1]].uses:
            if key in known and key not in seen:
                seen.add(key)
                ways.append([*way, key])
    return None


def _round(path: Sequence[str]) -> str:
    if len(path) == 2:
        return f"{path[0]!r} uses itself"
    return ", ".join(f"{user} uses {used}" for user, used in pairwise(path))

"""Audiences with a past, recorded by the real store, and the naive model that every reading of it is compared with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, delete, select, text

from audiencesync.model import Audience, Chunk, Envelope, Run, Span
from audiencesync.store import content, runs, tables
from audiencesync.store.connect import Store
from audiencesync.store.stage import stage

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
AWKWARD = ("a", "A", "aa", "a b", " a", "1", "10", "2", "é", "e\u0301", "ß", "ss", "日本", "\U0001f469\u200d\U0001f467",
           "\uffff", "\U00010000", "\ud7ff", "it's", 'quo"te', "back\\slash", "new\nline", "tab\t", "\x01", "\x7f",
           "%s", "{0}", ":now", "null", "true", "[1]", '{"a":1}', "'); DROP TABLE runs; --", "\u2028", "z" * 1000)
"""Ids that sort differently, or mean something else, wherever text is not taken for what it is."""


def at(hour: float) -> datetime:
    """An hour of the story."""
    return BEGIN + timedelta(hours=hour)


def an_audience(key: str, *, include: Sequence[str] = (), **other: Any) -> Audience:
    """A definition whose SQL is never asked."""
    return Audience(key, key, f"SELECT {key}", Path(f"{key}.sql"), include=tuple(include), **other)


def chunks(rows: Sequence[tuple[str, str | None]], *, paired: bool, size: int = 3) -> Iterable[Chunk]:
    """A result as a source hands it over."""
    for start in range(0, len(rows), size):
        part = rows[start:start + size]
        yield Chunk([user for user, _ in part], [str(included) for _, included in part] if paired else None)


def record(store: Store, key: str, rows: Iterable[tuple[str, str | None]] | Iterable[str], hour: float, *,
           id_kind: str = "user_id", definition: str = "") -> Run:
    """One run; rows are users, or pairs of a user and his included columns."""
    pairs = [(row, None) if isinstance(row, str) else row for row in rows]
    paired = any(included is not None for _, included in pairs)
    with stage(store, chunks(pairs, paired=paired)) as held:
        return runs.record(store, held, an_audience(key), id_kind=id_kind, as_of=at(hour), started_at=at(hour),
                           definition_hash=definition or f"paired {paired}")


def members_as_of(store: Store, key: str, run: int) -> dict[str, str | None]:
    """Who was a member at the end of a run, and his included columns."""
    table = tables.memberships
    with store.read() as connection:
        found = connection.execute(
            select(table.c.user_id, table.c.included).join(tables.computations, tables.computations.c.id ==
                                                           table.c.computation_id)
            .where(tables.computations.c.key == key, content.as_of(run))).all()
    assert len({row.user_id for row in found}) == len(found)
    return {row.user_id: row.included for row in found}


@dataclass
class Past:
    """An audience's members at the end of each run, as sets; run 0 lies before everything."""

    key: str
    states: list[dict[str, str | None]] = field(default_factory=lambda: [{}])

    def members(self, run: int) -> set[str]:
        """Who was a member at the end of a run."""
        return set(self.states[run])

    def ever(self, run: int) -> set[str]:
        """Whoever was a member up to the run."""
        return set().union(*self.states[:run + 1])

    def difference(self, mode: str, from_run: int, to_run: int) -> dict[str, bool]:
        """Whom a sync of this mode is about, and what he is told."""
        now = self.members(to_run)
        users = {"initial": now, "backfill": self.ever(to_run), "incremental": now ^ self.members(from_run)}[mode]
        return {user: user in now for user in users}


def live(store: Store, key: str, seed: int, *, length: int, users: Sequence[str] = AWKWARD) -> Past:
    """A random past of so many runs, recorded, some of them with included columns."""
    rng, past = random.Random(f"{key} {seed}"), Past(key)
    mine: dict[str, str | None] = {}
    for hour in range(length):
        restless = rng.choice((0.0, 0.1, 0.5, 1.0))
        for user in users:
            if rng.random() < restless and mine.pop(user, "nobody") == "nobody":
                mine[user] = None
        mine = dict.fromkeys(mine, f'{{"n":{hour // 2}}}' if rng.random() < 0.5 else None)
        rows = sorted(mine.items())
        rng.shuffle(rows)
        record(store, key, rows, hour)
        past.states.append(dict(mine))
    return past


def identity(store: Store, key: str) -> int:
    """The computation's number in the state."""
    return runs.latest(store, [key])[key].computation_id


def span(store: Store, key: str, from_run: int, to_run: int) -> Span:
    """A part of a sync."""
    return Span(identity(store, key), key, from_run, to_run,
                Envelope(key, "user_id", "shop", "0", "2026-01-01T00:00:00.000Z"))


def dump(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """All that the state holds, table by table."""
    with store.read() as connection:
        return {table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
                for table in tables.metadata.sorted_tables}


def wipe(store: Store) -> None:
    """Make the state as if nothing had ever been."""
    with store.write() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(delete(table))


def temporary_tables(engine: Engine) -> list[str]:
    """What is left in temporary tables on any connection of the pool."""
    held, found = [], []
    query = ("SELECT name FROM sqlite_temp_master" if engine.dialect.name == "sqlite" else
             "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'")
    for _ in range(3):
        connection = engine.connect()
        held.append(closing(connection))
        found += connection.execute(text(query)).scalars().all()
    for connection_ in held:
        connection_.__exit__(None, None, None)
    return found


def as_mapping(calls: Iterable[Any]) -> Mapping[tuple[str, int], bool]:
    """Calls by user and span; each of them once."""
    listed = list(calls)
    found = {(call.user_id, call.span): call.value for call in listed}
    assert len(found) == len(listed)
    return found

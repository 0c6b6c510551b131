"""Computed traits of a simulated world: what runs find, and by plain dicts whatever is to be told and held of it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

from audiencesync.model import Audience, Chunk

VALUES = (None, 0, 1, 2)
"""So few that users often have the same ones, null, or what those get who drop out."""

MISSING = ("null", "null", "", "0", "1")

Row = dict[str, int | None]
Where = tuple[str, str]
"""A destination and a key."""


class Table(NamedTuple):
    """What a run found: the names of its columns, and by user each of his values."""

    columns: tuple[str, ...] = ()
    rows: dict[str, Row] = {}  # noqa: RUF012 - nobody writes into it

    def chunk(self) -> Chunk:
        """As a source would hand it over."""
        users = sorted(self.rows)
        return Chunk(users, None, [orjson.dumps([self.rows[user][name] for name in self.columns]).decode()
                                   for user in users])

    def kinds(self) -> dict[str, str]:
        """A column without a value has no kind."""
        return {name: "number" if any(row[name] is not None for row in self.rows.values()) else ""
                for name in self.columns}


NOTHING = Table()


def world_has_traits(seed: int) -> bool:
    """A third of the worlds."""
    return seed % 3 == 2


@dataclass
class Valued:
    """One computed trait: its values now, those of each run, and which runs each destination was brought to."""

    seed: int
    key: str = ""
    missing: str = "null"
    full_row: bool = False
    tables: dict[int, Table] = field(default_factory=lambda: {0: NOTHING})
    visited: dict[Where, set[int]] = field(default_factory=lambda: defaultdict(set))
    backfilled: dict[Where, set[int]] = field(default_factory=lambda: defaultdict(set))

    def take(self, audiences: list[Audience], users: Iterable[str]) -> None:
        """Make one of the audiences a computed trait, if this is a world of such."""
        if world_has_traits(self.seed):
            at = random.Random(f"which {self.seed}").randrange(len(audiences))
            self.begin(audiences[at].key, users)
            audiences[at] = replace(audiences[at], kind="trait", missing=self.missing, full_row=self.full_row)

    def begin(self, key: str, users: Iterable[str]) -> None:
        """Be the computed trait of that key, of which these users may have values."""
        self.rng = random.Random(f"traits {self.seed}")
        self.key, self.missing = key, self.rng.choice(MISSING)
        self.full_row = self.rng.random() < 0.25
        self.names = [f"{self.key}_{name}" for name in "abc"]
        self.wandering = self.rng.choice((0.0, 0.3, 0.6))
        self.restless = self.rng.choice((0.1, 0.4))
        self._other_columns()
        self.now: dict[str, Row] = {user: {name: self.rng.choice(VALUES) for name in self.names} for user in users}

    def _other_columns(self) -> None:
        self.columns = tuple(self.rng.sample(self.names, self.rng.randint(1, 3)))

    def _other_order(self) -> None:
        self.columns = tuple(self.rng.sample(self.columns, len(self.columns)))

    def _other_name(self) -> None:
        """Give one column the name of another, and its values with it, so that equal texts are not equal values."""
        old, new = self.rng.choice(self.columns), self.rng.choice(self.names)
        for row in self.now.values():
            row[old], row[new] = row[new], row[old]
        swapped = {old: new, new: old}
        self.columns = tuple(swapped.get(name, name) for name in self.columns)

    def names_of(self, key: str) -> list[str]:
        """Every column that a computation may ever have; none of an audience."""
        return self.names if key == self.key else []

    def change(self) -> None:
        """Let some values be others; columns come, go and change places."""
        if self.rng.random() < self.wandering:
            self.rng.choice((self._other_columns, self._other_order, self._other_name, self._other_name))()
            if self.rng.random() < 0.7:
                return
        for row in self.now.values():
            row.update({name: self.rng.choice(VALUES) for name in self.names if self.rng.random() < self.restless})

    def table(self, members: Iterable[str]) -> Table:
        """What a run would find now."""
        return Table(self.columns, {user: {name: self.now[user][name] for name in self.columns} for user in members})

    # what is to be told

    @property
    def gone(self) -> int | None:
        """What those are told who drop out, unless it is nothing."""
        value: int | None = orjson.loads(self.missing or "null")
        return value

    def whole(self, user: str, now: Table, then: Table, *, farewell: bool) -> Row:
        """All that a user is told who was refused, or in a backfill: also that what the older run had is no more."""
        if user in now.rows:
            return {**dict.fromkeys(then.columns), **now.rows[user]}
        if farewell:
            return dict.fromkeys(then.columns)
        return dict.fromkeys((*then.columns, *now.columns), self.gone) if self.missing else {}

    def told(self, mode: str, user: str, low: int, high: int, *, begun: bool = True) -> Row | None:
        """What a sync tells a user by itself; None where that is nothing; `begun` says that there was one before."""
        now, then = self.tables[high], self.tables[low]
        if mode == "backfill":
            ever = any(user in table.rows for run, table in self.tables.items() if run <= high)
            return self.whole(user, now, NOTHING, farewell=False) if user in now.rows or (
                ever and self.missing) else None
        missing, gone = ("null", None) if not high else (self.missing, self.gone)
        before, after = then.rows.get(user), now.rows.get(user)
        if not high and self.missing != "null" and begun:  # also whoever dropped out before, and held something
            ever = any(user in table.rows for run, table in self.tables.items() if run <= low)
            holds = ever if before is None else any(value is not None for value in before.values())
            return dict.fromkeys(then.columns) if holds else None
        if before is None:
            if after is None:
                return None
            differs = {name: value for name, value in after.items() if value is not None}
            everything: Row = {**dict.fromkeys(then.columns), **after}
            if missing != "null":  # what he holds is not known
                return everything
            return everything if differs and self.full_row else differs or None
        if after is None:
            if not missing or all(value == gone for value in before.values()):
                return None
            whole: Row = dict.fromkeys((*now.columns, *then.columns), gone)
        else:
            whole = {**dict.fromkeys(then.columns), **after}
        differs = {name: value for name, value in whole.items() if value != before.get(name)}
        return (whole if self.full_row and high else differs) if differs else None

    # what is to be held

    def held(self, where: Where, user: str, at: int, *, left: bool) -> dict[str, set[int | None]]:
        """By trait the values that a destination may hold of a user as of a run; `left` says it told a farewell."""
        may: dict[str, set[int | None]] = {name: {None} for name in self.names}
        then = NOTHING
        seen = {*self.visited[where], 0} if left else {run for run in self.visited[where] if run <= at} | {at}
        for run in sorted(seen, key=lambda run: (left and not run, run)):
            now = self.tables[run]
            gone, missing = (self.gone, self.missing) if run else (None, "null")
            for name, values in may.items():
                if user in now.rows and name in now.columns:
                    values.clear()
                    values.add(now.rows[user][name])
                elif name in then.columns and (user in now.rows or (user in then.rows and missing)
                                               or (not run and self.missing != "null")):
                    values.clear()
                    values.add(None if user in now.rows else gone)
                elif gone is not None and name in now.columns:
                    values.add(gone)  # of a column that came later, those who had left may be told, as in a backfill
                if name not in now.columns:
                    values.add(None)  # and that a former one is no more
            then = now
        return may

    def held_after_refusal(self, where: Where, user: str, at: int, *, left: bool) -> dict[str, set[int | None]]:
        """Likewise of somebody who was refused once: what is no column any more he may have kept."""
        last = max(self.visited[where], default=0) if left else at
        now = self.tables[last]
        if user in now.rows and not left:
            return {name: {value} for name, value in now.rows[user].items()}
        if not self.missing and not (left and user in now.rows):
            return {}
        return {name: {None, self.gone} for name in now.columns}

    def faults(self, where: Where, user: str, at: int, told: dict[Where, Any], *, refused: bool,
               left: bool) -> Iterable[str]:
        """What a destination holds of a user and should not."""
        expected = self.held_after_refusal if refused else self.held
        for name, values in expected(where, user, at, left=left).items():
            if (holds := told.get((name, user))) not in values:
                yield f"{where[0]} holds {holds} as {name} of {user} (run {at}), not {sorted(map(str, values))}"

    def remembered(self, rows: Iterable[Any], run: int) -> Iterable[str]:
        """Whose values the state takes for others than that run found."""
        table = self.tables[run]
        for row in rows:
            if row.since_run <= run and (row.until_run is None or row.until_run > run) and row.user_id in table.rows:
                known = dict(zip(table.columns, orjson.loads(row.value), strict=True))
                if known != table.rows[row.user_id]:
                    yield f"{row.user_id}: {known}, which were {table.rows[row.user_id]}"

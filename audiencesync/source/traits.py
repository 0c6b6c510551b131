"""A computed trait's values as they are kept and told: one spelling for equal values, whatever the database.

9.50 and 9.5 are one number and so are 9.0 and 9, an instant is ISO 8601 in UTC, names are sorted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from audiencesync.model import Audience
from audiencesync.naming import key_of
from audiencesync.source.included import Unfit
from audiencesync.source.kinds import NULL, plain, spell
from audiencesync.source.problems import wrong

MOST = 25
"""Columns that are traits: what Segment's SQL traits may have (sql-traits)."""

WIDE = 16_384
"""Bytes of one user's values that are warned about: Segment discards wider rows of SQL traits."""

_OPEN = {"", "number"}
LOGGER = logging.getLogger(__name__)


class Column(NamedTuple):
    """A column that is a trait: the trait's name, its own, and where it stands in a row."""

    name: str
    said: str
    place: int


class Traits:
    """The columns of a computed trait's result; `kinds` grows while rows are read."""

    def __init__(self, audience: Audience, columns: Sequence[str], taken: Sequence[str]) -> None:
        self._audience = audience
        self._columns = sorted(self._find(columns, {name.lower() for name in taken}))
        self.kinds: dict[str, str] = dict.fromkeys((column.name for column in self._columns), "")
        self._declared = {column.name: audience.types.get(column.name, audience.types.get(column.said, ""))
                          for column in self._columns}
        self._check_types()
        self._get = itemgetter(*(column.place for column in self._columns))
        self._warned = False

    def _find(self, columns: Sequence[str], taken: set[str]) -> list[Column]:
        found: dict[str, Column] = {}
        for place, said in enumerate(columns):
            if said.lower() in taken:
                continue
            name = self._name(said)
            if name in found:
                raise wrong(self._audience, f"two columns are the trait {name}", hint="give one another name with AS")
            found[name] = Column(name, said, place)
        if not found:
            raise wrong(self._audience, "the result has no column besides the id that could be a trait",
                        hint="each other column is one: SELECT user_id, sum(total) AS lifetime_revenue ...")
        if len(found) > MOST:
            raise wrong(self._audience, f"the result has {len(found)} columns that are traits; at most {MOST} are told",
                        hint="leave some out, or make two files of it")
        return list(found.values())

    def _name(self, said: str) -> str:
        try:
            return key_of(said)
        except ValueError as error:
            also = f"give it another name with AS, or write  include: [{said}]  to send it along"
            raise wrong(self._audience, f"the column {said!r} is no trait: {error}".partition("; ")[0],
                        hint=also) from None

    def _check_types(self) -> None:
        known = {name for column in self._columns for name in (column.name, column.said)}
        for name in self._audience.types:
            if name not in known:
                raise wrong(self._audience, f"types: names {name}, and the result has no such column",
                            hint=f"it has {', '.join(column.name for column in self._columns)}")

    def texts(self, rows: Sequence[Sequence[Any]], number: int) -> list[str]:
        """Each row's values as the text of a JSON array, in the order of `kinds`.

        Before these rows `number` were read. Raises QueryError for a value that cannot be told.
        """
        texts = self._numbers(rows)
        if texts is None:
            spelt = [self._spelt(column, list(map(itemgetter(column.place), rows)), number) for column in self._columns]
            texts = list(map("[{}]".format, map(",".join, zip(*spelt, strict=True))))
        if max(map(len, texts)) * 4 > WIDE and not self._warned:
            self._warn(texts, number)
        return texts

    def _numbers(self, rows: Sequence[Sequence[Any]]) -> list[str] | None:
        """The texts where every value is a number or NULL, made in one call at a third of the cost; else None."""
        if not {*self.kinds.values()} <= _OPEN or any(self._declared.values()):
            return None
        chosen = [(row,) for row in map(self._get, rows)] if len(self._columns) == 1 else list(map(self._get, rows))
        text = plain(chosen)
        if text is None:
            return None
        for at, name in enumerate(self.kinds):
            if NULL not in text or any(row[at] is not None for row in chosen):
                self.kinds[name] = "number"
        return text.split("\n")

    def _spelt(self, column: Column, values: Sequence[Any], number: int) -> list[str]:
        try:
            spelling = spell(values, self._declared[column.name] or self.kinds[column.name],
                             declared=bool(self._declared[column.name]))
        except Unfit as error:
            raise self._bad(column, values, number, error) from None
        self.kinds[column.name] = spelling.kind or self.kinds[column.name]
        return spelling.texts

    def _bad(self, column: Column, values: Sequence[Any], number: int, error: Unfit) -> Exception:
        """The error that names the row: found by looking at one value after the other."""
        kind, declared = self.kinds[column.name], self._declared[column.name]
        for index, value in enumerate(values):
            try:
                kind = spell([value], declared or kind, declared=bool(declared)).kind or kind
            except Unfit as unfit:
                number, error = number + index, unfit
                break
        return wrong(self._audience, f"row {number + 1:,} of the result: the trait {column.name} is {error}",
                     hint=f"cast {column.said}, say what it is with  types: {{{column.name}: ...}}  (boolean, number, "
                          "string, timestamp or list), or leave the column out")

    def _warn(self, texts: Sequence[str], number: int) -> None:
        """Tell of the first such row of a result by its number, since a log holds no user's id."""
        for row, text in enumerate(texts, number + 1):
            if (size := len(text.encode())) > WIDE:
                self._warned = True
                LOGGER.warning("%s: row %d of the result: a user's traits take %d bytes; %d is what Segment keeps of a "
                               "row, and one of more than twice that is rejected", self._audience.path, row, size, WIDE,
                               extra={"computation": self._audience.key, "row": row, "bytes": size, "most": WIDE})
                return

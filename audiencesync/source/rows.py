"""The rules on a result: which column is the id, what an id may be, and how included columns are written.

Everything is tested a chunk at a time at C speed; only a chunk that fails is looked at row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any
from uuid import UUID

from audiencesync.errors import QueryError
from audiencesync.model import ID_COLUMNS, TRAIT, Audience, Chunk
from audiencesync.source.included import Unfit, encodable, fit, objects, simple
from audiencesync.source.problems import wrong
from audiencesync.source.traits import Traits

Row = Sequence[Any]

LONGEST = 1000
"""Characters of an id; Segment refuses longer ones."""

WIDEST = 2000
"""Bytes of an id in UTF-8: what PostgreSQL's index takes is a row of 2,704 bytes, whose other columns need some."""

_TEXTS = frozenset({str})
_LEGAL = frozenset({str, int, UUID})
_KINDS = {bool: "a boolean", float: "a floating-point number", Decimal: "a decimal number", bytes: "binary data"}


class Layout:
    """Where in the rows of an audience's result its id and its included columns stand, found by `columns`' names."""

    def __init__(self, audience: Audience, columns: Sequence[str]) -> None:
        self.audience = audience
        self._columns = [column.lower() for column in columns]
        self.id_kind = self._find_kind()
        self._id = itemgetter(self._index(self.id_kind))
        self._included = [(name, self._index(name)) for name in audience.include]
        self.traits = (Traits(audience, columns, (self.id_kind, *audience.include)) if audience.kind == TRAIT
                       else None)

    def chunk(self, rows: Sequence[Row], number: int) -> Chunk:
        """Check and convert some rows, before which `number` rows were read; raises QueryError for a bad one."""
        values = list(map(self._id, rows))
        ids = _as_texts(values)
        if ids is None:
            raise self._bad_id(values, number)
        return Chunk(ids, self._objects(rows, number) if self._included else None,
                     self.traits.texts(rows, number) if self.traits else None)

    def _find_kind(self) -> str:
        kind = next((kind for kind in ID_COLUMNS if kind in self._columns), None)
        if kind is None:
            from difflib import get_close_matches

            close = [(column, kind) for kind in ID_COLUMNS
                     for column in get_close_matches(kind, self._columns, 1, 0.75)]
            hint = f"write {close[0][0]} AS {close[0][1]}" if close else "name one of the columns so, with AS"
            raise wrong(self.audience, f"the result has no column user_id, anonymous_id or email; "
                                       f"it has {', '.join(self._columns)}", hint=hint)
        return kind

    def _index(self, name: str) -> int:
        """Where the column of that name stands; names are compared as SQL does, without case."""
        places = [place for place, column in enumerate(self._columns) if column == name.lower()]
        if not places:
            raise wrong(self.audience, f"the result has no column {name}, which include: asks for; "
                                       f"it has {', '.join(self._columns)}", hint=f"add {name} to the SELECT")
        if len(places) > 1:
            what = "two id columns named" if name == self.id_kind else "more than one column named"
            raise wrong(self.audience, f"the result has {what} {name}", hint="select the one that is meant, once")
        return places[0]

    def _bad_id(self, values: list[Any], number: int) -> QueryError:
        for place, value in enumerate(values, number + 1):
            trouble = _trouble(value, self.id_kind)
            if trouble is not None:
                return wrong(self.audience, f"row {place:,} of the result: {self.id_kind} is {trouble[0]}",
                             hint=trouble[1])
        raise AssertionError("the test of the chunk and the test of its rows disagree")

    def _objects(self, rows: Sequence[Row], number: int) -> list[str]:
        return objects({name: self._column(name, place, rows, number) for name, place in self._included})

    def _column(self, name: str, place: int, rows: Sequence[Row], number: int) -> list[Any]:
        values = list(map(itemgetter(place), rows))
        if simple(values):
            return values
        for index, value in enumerate(values):
            try:
                values[index] = fit(value)
            except Unfit as error:
                raise wrong(self.audience, f"row {number + index + 1:,} of the result: the included column {name} "
                                           f"is {error}, which JSON cannot say",
                            hint=f"cast {name} to text or to a number, or leave it out of include:") from None
        return values


def _as_texts(values: list[Any]) -> list[str] | None:
    """The ids as text, or None when at least one may not be an id."""
    kinds = frozenset(map(type, values))
    if kinds == _TEXTS:
        ids = values
    elif kinds <= _LEGAL:
        ids = list(map(str, values))
    else:
        return None
    joined = "\n".join(ids)
    if "\0" in joined or not all(map(str.strip, ids)) or not encodable(joined):
        return None
    longest = max(map(len, ids))
    if longest > LONGEST or (longest > WIDEST // 4 and any(_width(text) > WIDEST for text in ids)):
        return None
    return ids


def _trouble(value: Any, name: str) -> tuple[str, str] | None:
    """What is wrong with one id and what to do about it; None when nothing is."""
    kind = type(value)
    if value is None:
        return "NULL", f"add WHERE {name} IS NOT NULL"
    if kind not in _LEGAL:
        what = _KINDS.get(kind, f"of the type {kind.__name__}")
        return f"{what}: {_shown(value)}; ids are text, integers or UUIDs", f"cast it: CAST(... AS text) AS {name}"
    text = str(value)
    tests: tuple[tuple[Callable[[str], bool], str, str], ...] = (
        (lambda text: not text.strip(), "blank", f"add WHERE trim({name}) <> ''"),
        (lambda text: "\0" in text, "text with a NUL character", "mend the row in the source"),
        (lambda text: not encodable(text), "text with half a surrogate pair", "mend the row in the source"),
        (lambda text: len(text) > LONGEST, f"{len(text):,} characters long; at most {LONGEST:,} are allowed",
         f"is {name} the right column?"),
        (lambda text: _width(text) > WIDEST, f"{_width(text):,} bytes of UTF-8 long; at most {WIDEST:,} are allowed",
         f"is {name} the right column?"),
    )
    return next(((f"{what}: {_shown(value)}", hint) for fails, what, hint in tests if fails(text)), None)


def _width(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _shown(value: Any) -> str:
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."

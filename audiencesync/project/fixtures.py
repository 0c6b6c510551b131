"""The tables that a test gives: their rows as YAML writes them, and the types of their columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from audiencesync.model.cases import SOMETIME, TYPES, Fixture
from audiencesync.project.document import Document, Loc
from audiencesync.project.page import did_you_mean, nearest

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_OWN_TYPE = re.compile(r"[A-Za-z_][\w ]*(\(\s*\d+(\s*,\s*\d+)?\s*\)[\w ]*)?(\[\])*")
_COMMON = ("int", "bigint", "smallint", "varchar", "char", "numeric", "decimal", "real", "double", "float", "bool",
           "time", "interval", "jsonb", "datetime", "string")
_TABLE = ("columns", "rows")


def fixtures(given: Mapping[str, object], document: Document, at: Loc) -> tuple[Fixture, ...]:
    """The tables of a case, which stand at `at`; mistakes go to the page, and what has one is left out."""
    made = (_fixture(name, table, document, (*at, name)) for name, table in given.items())
    return tuple(fixture for fixture in made if fixture)


def is_moment(text: str) -> bool:
    """Whether it is written like a day or a moment: 2026-11-01, 2026-11-01 10:00:00, 2026-11-01T10:00:00Z."""
    if not _DATE.match(text):
        return False
    try:
        at = datetime.fromisoformat(text)
        return at.tzinfo is None or at.astimezone(UTC) is not None
    except (ValueError, OverflowError):
        return False


def _fixture(name: str, table: object, document: Document, at: Loc) -> Fixture | None:
    parts = name.split(".")
    if len(parts) > 2 or not all(part.strip() and part.isprintable() for part in parts):
        document.mistake(at, f"{name!r} is not the name of a table; write  orders  or  shop.orders", key=True)
        return None
    declared: dict[str, object] | None = None
    if isinstance(table, dict):
        rows, at_rows, declared = table.get("rows", []), (*at, "rows"), _declared(table, document, at)
        if declared is None:
            return None
    else:
        rows, at_rows = table, at
    if not _are_rows(rows, document, at_rows):
        return None
    assert isinstance(rows, list)
    names = list(declared) if declared is not None else list(dict.fromkeys(key for row in rows for key in row))
    if not _are_columns(names, name, document, at):
        return None
    columns = {column: _Column(document, at_rows, column, rows).type((declared or {}).get(column)) for column in names}
    for index, row in enumerate(rows):
        for column in row:
            if column not in columns:
                document.mistake((*at_rows, index, column), f"{column!r} is none of the table's columns", key=True,
                                 hint=did_you_mean(column, columns))
    return Fixture(name, columns, tuple(rows), document.place(at, key=True).line)


def _are_columns(names: Sequence[str], table: str, document: Document, at: Loc) -> bool:
    bad = [name for name in names if not name.strip() or not name.isprintable()]
    if bad:
        document.mistake(at, f"{bad[0]!r} is not the name of a column", key=True)
    if not names:
        document.mistake(at, f"which columns the table {table!r} has is not said", key=True,
                         hint="write rows such as  - {user_id: u1, total: 9.5}  or, for an empty table, "
                              "columns: {user_id: text, total: number}")
    return bool(names) and not bad


def _declared(table: Mapping[str, object], document: Document, at: Loc) -> dict[str, object] | None:
    """The columns of a table with their types, None for one that the values tell; None when they are not sound."""
    for key in table:
        if key not in _TABLE:
            document.mistake((*at, key), f"unknown key {key!r}", hint=did_you_mean(key, _TABLE), key=True)
            return None
    columns = table.get("columns")
    if not isinstance(columns, dict):
        document.mistake((*at, "columns"), "'columns' must be a mapping of names to types, such as "
                                           "{user_id: text, total: number}", key=True)
        return None
    sound = True
    for name, kind in columns.items():
        wrong = kind is not None and (not isinstance(kind, str) or not _OWN_TYPE.fullmatch(kind))
        meant = nearest(kind, TYPES) if isinstance(kind, str) and kind.lower() not in (*TYPES, *_COMMON) else ""
        if wrong or (meant and "(" not in str(kind) and "[" not in str(kind) and " " not in str(kind)):
            document.mistake((*at, "columns", name), f"{kind!r} is not a type of a column",
                             hint=did_you_mean(str(kind), TYPES))
            sound = False
    return {name: kind.lower() if isinstance(kind, str) and kind.lower() in TYPES else kind
            for name, kind in columns.items()} if sound else None


def _are_rows(rows: object, document: Document, at: Loc) -> bool:
    if not isinstance(rows, list):
        document.mistake(at, "the rows of a table are a list, such as  - {user_id: u1, total: 9.5}")
        return False
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            document.mistake((*at, index), "a row is a mapping of columns to values, such as {user_id: u1, total: 9.5}")
            return False
    return True


@dataclass(frozen=True)
class _Column:
    """One column of the rows that stand at `at`."""

    document: Document
    at: Loc
    name: str
    rows: Sequence[Mapping[str, object]]

    def type(self, declared: object) -> str:
        """Its type, declared or told by its values, which must all be of it."""
        values = [(index, row[self.name]) for index, row in enumerate(self.rows) if row.get(self.name) is not None]
        if declared is None:
            found = told_by([value for _, value in values])
            if not found:
                self._mixed(values)
            return found or "text"
        for index, value in values:
            trouble = _trouble(str(declared), value)
            if trouble:
                self.document.mistake((*self.at, index, self.name), f"{self.name!r} {trouble}")
        return str(declared)

    def _mixed(self, values: Sequence[tuple[int, object]]) -> None:
        first = told_by([values[0][1]])
        index = next(index for index, value in values if told_by([values[0][1], value]) == "")
        self.document.mistake((*self.at, index, self.name),
                              f"{self.name!r} is of another kind here than above, where it is {first}",
                              hint=f"put texts in quotes, or give its type: columns: {{{self.name}: text}}")


def told_by(values: Sequence[object]) -> str:
    """The type that all of these values have, text where there are none; nothing when they have several."""
    kinds = {type(value) for value in values}
    type_ = next((type_ for type_, members in _KINDS if kinds <= members), "")
    if type_ == "list" and any(isinstance(item, list | dict) for value in values for item in _items(value)):
        return "json"
    if type_ != "text" or not values:
        return type_
    texts = [str(value) for value in values]
    if not all(map(is_moment, texts)):
        return "text"
    return "date" if all(map(_DATE.fullmatch, texts)) else SOMETIME


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


_KINDS: tuple[tuple[str, frozenset[type]], ...] = (
    ("text", frozenset({str})), ("boolean", frozenset({bool})), ("integer", frozenset({int})),
    ("number", frozenset({int, float})), ("list", frozenset({list})), ("json", frozenset({list, dict})))


def _trouble(declared: str, value: object) -> str:
    """What is wrong with a value of a column of a declared type."""
    words, fits = _CHECKS.get(declared, ("", _anything))
    return "" if fits(value) else words


def _anything(value: object) -> bool:
    return not isinstance(value, dict)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numeric(value: object) -> bool:
    if isinstance(value, str):
        try:
            return Decimal(value).is_finite()
        except InvalidOperation:
            return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _day(value: object) -> bool:
    return _moment(value) and _DATE.fullmatch(str(value)) is not None


def _moment(value: object) -> bool:
    return isinstance(value, str) and is_moment(value)


_CHECKS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "text": ("must be text; put it in quotes", lambda value: isinstance(value, str) or _whole(value)),
    "uuid": ("must be text; put it in quotes", lambda value: isinstance(value, str)),
    "integer": ("must be a whole number", _whole),
    "number": ("must be a number", _numeric),
    "boolean": ("must be true or false", lambda value: isinstance(value, bool)),
    "date": ("must be a day such as 2026-11-01", _day),
    "timestamp": ("must be a moment such as 2026-11-01 10:00:00", _moment),
    "timestamptz": ("must be a moment such as 2026-11-01T10:00:00Z", _moment),
    "list": ("must be a list", lambda value: isinstance(value, list)),
    "json": ("", lambda _: True),
}

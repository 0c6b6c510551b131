"""What kind of value a column has, and how each of its values is spelt in JSON: found out a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from audiencesync.model import spelt
from audiencesync.source.included import Unfit, encodable, fit, texts_of

NULL = "null"

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "boolean"), ((int, float, Decimal), "number"), ((str, UUID, time), "string"), (date, "timestamp"),
    ((list, tuple), "list"),
)
_WORDS = {"boolean": "a boolean", "number": "a number", "string": "text", "timestamp": "a time", "list": "a list"}
_TRUE, _FALSE = frozenset({"1", "t", "true", "y", "yes"}), frozenset({"0", "f", "false", "n", "no"})


_PLAIN = frozenset({int, float, type(None)})


class Spelling(NamedTuple):
    """A column's kind of value (empty where all are NULL), and its values as JSON."""

    kind: str
    texts: list[str]


def spell(values: Sequence[Any], kind: str, *, declared: bool) -> Spelling:
    """Spell the values of a column, of this `kind` unless that is empty; a `declared` one they are converted to.

    Raises Unfit, which says what a value is.
    """
    found = {_kind(type_, values) for type_ in set(map(type, values))} - {""}
    if declared:
        values, found = [None if value is None else _CONVERSIONS[kind](value) for value in values], {kind}
    elif len(found | {kind or next(iter(found), "")}) > 1:
        other, *more = sorted(found - {kind})
        raise Unfit(f"{_WORDS[other]}, and {_WORDS[kind or more[0]]} in a row before")
    mine = next(iter(found), kind)
    return Spelling(mine if found else "", _SPELLINGS[mine](values) if found else [NULL] * len(values))


def _kind(type_: type, values: Sequence[Any]) -> str:
    if type_ is type(None):
        return ""
    for types, kind in _KINDS:
        if issubclass(type_, types):
            return kind
    value = next(value for value in values if type(value) is type_)
    if isinstance(value, dict):
        raise Unfit("an object, and a trait is one value")
    fit(value)
    raise Unfit(f"of the type {type_.__name__}, which JSON cannot say")


def _plain(values: Sequence[Any]) -> list[str]:
    return texts_of([None if value is None else fit(value) for value in values])


def _strings(values: Sequence[Any]) -> list[str]:
    if not encodable("".join(value for value in values if type(value) is str)):
        raise Unfit("text with half a surrogate pair")
    if any("\0" in value for value in values if type(value) is str):
        raise Unfit("text with a NUL character")
    return texts_of([value if value is None or isinstance(value, str) else str(value) for value in values])


def _numbers(values: Sequence[Any]) -> list[str]:
    """Whole ones without a point, decimals without zeros at their end, no exponents: equal numbers are equal texts."""
    text = plain([(value,) for value in values])
    return text[1:-1].split("]\n[") if text is not None else list(map(_number, values))


def plain(rows: Sequence[Sequence[Any]]) -> str | None:
    """Rows of numbers alone as JSON arrays, a line each, spelt in one call; None where some want a closer look.

    What orjson cannot say it calls null, and what is large or small it writes with an exponent.
    """
    if not _PLAIN.issuperset(map(type, chain.from_iterable(rows))):
        return None
    try:
        text = orjson.dumps(rows).decode()
    except orjson.JSONEncodeError:  # more than 64 bits
        return None
    if "e" in text or "-0.0" in text or (NULL in text and text.count(NULL) != sum(row.count(None) for row in rows)):
        return None
    return text[1:-1].replace(".0,", ",").replace(".0]", "]").replace("],[", "]\n[")


def _number(value: float | Decimal | None) -> str:
    try:
        return NULL if value is None else spelt(int(value) if isinstance(value, int) else value)
    except ValueError as error:
        raise Unfit(str(error)) from None


def _lists(values: Sequence[Any]) -> list[str]:
    for value in values:
        if value is not None and not all(isinstance(item, str) for item in value):
            raise Unfit("a list of something else than text; cast its items to text")
        if value is not None and "\0" in "".join(value):
            raise Unfit("a list with a NUL character")
    return _plain(values)


def _boolean(value: Any) -> bool:
    text = str(value).strip().lower()
    if isinstance(value, bool | int | float | Decimal | str) and text in {*_TRUE, "1.0"}:
        return True
    if isinstance(value, bool | int | float | Decimal | str) and text in {*_FALSE, "0.0"}:
        return False
    raise Unfit("no boolean, which types: says it is")


def _to_number(value: Any) -> Any:
    if isinstance(value, int | float | Decimal):
        return int(value) if isinstance(value, bool) else value
    try:
        return Decimal(value.strip() if value.isascii() and "_" not in value else "")  # Decimal reads 1_000 and ٣, too
    except (AttributeError, InvalidOperation):
        raise Unfit("no number, which types: says it is") from None


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | Decimal):
        return _numbers([value])[0] if not isinstance(value, bool) else str(value).lower()
    if isinstance(value, UUID | date | time):
        return orjson.dumps(fit(value), option=orjson.OPT_UTC_Z).decode().strip('"')
    raise Unfit("no text, which types: says it is")


def _timestamp(value: Any) -> datetime | date:
    if isinstance(value, datetime | date):
        return value
    try:
        text = value.strip()
        moment = datetime.fromisoformat(text)
        return moment.date() if len(text) == len("2026-11-22") else moment.astimezone(UTC) if moment.tzinfo else moment
    except (AttributeError, ValueError, OverflowError):
        raise Unfit("no instant such as 2026-11-22 10:00:00, which types: says it is") from None


def _list(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    try:
        items = orjson.loads(value)
    except (TypeError, orjson.JSONDecodeError):
        items = None
    if not isinstance(items, list):
        raise Unfit("no list (nor the JSON text of one), which types: says it is")
    return items


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "boolean": _boolean, "number": _to_number, "string": _string, "timestamp": _timestamp, "list": _list,
}
_SPELLINGS: dict[str, Callable[[Sequence[Any]], list[str]]] = {
    "boolean": _plain, "number": _numbers, "string": _strings, "timestamp": _plain, "list": _lists,
}

"""How a value of an included column is written in JSON, exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

import orjson

_SIMPLE = frozenset({str, bool, int, float, type(None)})
_LINE_END: Any = orjson.Fragment(b"\n")
_BINARY = (bytes, bytearray, memoryview)


class Unfit(Exception):
    """A value that JSON has no words for; says what it is, and not which."""


def objects(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The text of a JSON object for each row of columns of fit values; what is NULL is left out of its object."""
    names = [orjson.dumps(name).decode() for name in columns]
    texts = [texts_of(values) for values in columns.values()]
    if not any(None in values for values in columns.values()):
        template = ",".join(f"{name.replace('%', '%%')}:%s" for name in names)
        return list(map(f"{{{template}}}".__mod__, zip(*texts, strict=True)))
    pairs = [[f"{name}:{text}" if text != "null" else "" for text in column]
             for name, column in zip(names, texts, strict=True)]
    return [f"{{{','.join(filter(None, row))}}}" for row in zip(*pairs, strict=True)]


def texts_of(values: Sequence[Any]) -> list[str]:
    """Each value in JSON, made in one call: JSON never holds a bare line end, so one between values parts them."""
    parted = [_LINE_END] * (2 * len(values) - 1)
    parted[::2] = values
    return orjson.dumps(parted, option=orjson.OPT_UTC_Z).decode()[1:-1].split(",\n,")


def encodable(text: str) -> bool:
    """Whether the text is free of halves of surrogate pairs, which no UTF-8 can carry."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def simple(values: Sequence[Any]) -> bool:
    """Whether orjson writes every one of the values as it is, without loss: found out at C speed."""
    if not _SIMPLE.issuperset(map(type, values)):
        return False
    floats = [value for value in values if type(value) is float]
    whole = [value for value in values if type(value) is int]
    return (all(map(isfinite, floats)) and min(whole, default=0) >= -2**63 and max(whole, default=0) < 2**64
            and encodable("".join(value for value in values if type(value) is str)))


def fit(value: Any) -> Any:
    """The value as orjson writes it without loss; raises Unfit.

    Instants become UTC (those that know no zone are taken for UTC), decimals keep every digit.
    """
    if value is None or isinstance(value, bool):
        return value
    for kinds, convert in _CONVERSIONS:
        if isinstance(value, kinds):
            return convert(value)
    raise Unfit("binary data" if isinstance(value, _BINARY) else f"of the type {type(value).__name__}")


def _text(value: str) -> str:
    if not encodable(value):
        raise Unfit("text with half a surrogate pair")
    return value


def _number(value: float | Decimal) -> Any:
    if isinstance(value, int):
        return value if -2**63 <= value < 2**64 else orjson.Fragment(str(value))
    if not (value.is_finite() if isinstance(value, Decimal) else isfinite(value)):
        raise Unfit("not a finite number")
    return orjson.Fragment(str(value)) if isinstance(value, Decimal) else value


def _moment(value: date | time) -> date | str:
    if not isinstance(value, datetime):
        return value.isoformat()
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise Unfit("an instant outside the calendar") from None


def _list(value: Sequence[Any]) -> list[Any]:
    return [fit(item) for item in value]


def _dict(value: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in value):
        raise Unfit("a map whose keys are not text")
    return {_text(key): fit(item) for key, item in value.items()}


_CONVERSIONS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (str, _text), ((int, float, Decimal), _number), ((date, time), _moment), (UUID, str), ((list, tuple), _list),
    (dict, _dict),
)

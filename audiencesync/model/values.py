"""The values of computed traits as JSON: numbers that keep every digit, and one spelling for equal ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson


def exact(text: str) -> dict[str, Any]:
    """A JSON object whose numbers keep every digit: those that a double or 64 bits cannot hold become Decimals."""
    return dict(_EXACT.decode(text))


def decoded(text: str) -> Any:
    """Any JSON, likewise."""
    return _EXACT.decode(text)


def as_object(names: Sequence[str], values: str) -> str:
    """A user's values, the text of a JSON array, as that of an object by these names, without null."""
    if '"' not in values and "null" not in values:  # else an item may hold what parts items
        items = values[1:-1].split(",")
    else:
        items = [orjson.dumps(item, default=digits).decode() for item in decoded(values)]
    pairs = [f"{orjson.dumps(name).decode()}:{item}" for name, item in zip(names, items, strict=True) if item != "null"]
    return f"{{{','.join(pairs)}}}"


def digits(number: object) -> orjson.Fragment:
    """How orjson writes a number that a double or 64 bits cannot hold; raises TypeError for anything else."""
    if isinstance(number, Decimal):
        return orjson.Fragment(f"{number:f}")
    raise TypeError(f"JSON has no words for {type(number).__name__}")


def spelt(number: float | Decimal) -> str:
    """The one spelling of a number: 9 for 9.0, 9.5 for 9.50, no exponent; raises ValueError where JSON has none.

    A number of more than 308 digits is one that receivers, which read doubles, take for infinite or malformed.
    """
    value = number if isinstance(number, Decimal) else Decimal(number if isinstance(number, int) else repr(number))
    if not value.is_finite():
        raise ValueError("not a finite number, which JSON cannot say")
    if value.adjusted() > MOST_DIGITS or value.adjusted() < -1000:
        raise ValueError(f"a number of more than {MOST_DIGITS} digits, which no receiver can hold")
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _whole(text: str) -> int | Decimal:
    return int(text) if len(text) < _ALWAYS_64_BITS else Decimal(text)


MOST_DIGITS = 307
"""Of a double, before the point."""
_ALWAYS_64_BITS = 19
"""Characters below which a whole number has room in 64 bits, sign and all."""
_EXACT = json.JSONDecoder(parse_float=Decimal, parse_int=_whole)

"""How a shipped table's columns are named, and how its values leave the text they are kept as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from audiencesync.model import Chunk, Shipped, exact
from audiencesync.source.watch import Watch

USER = "user_id"
"""The column that names the user, whatever kind of id the computation has."""

VALUE = "value"
"""What a lone trait is called besides its own name."""


class ShippedColumn(NamedTuple):
    """A column of a shipped table: its name, quoted, the trait it shows and of what kind that is."""

    name: str
    trait: str
    kind: str


def columns(table: Shipped) -> list[ShippedColumn]:
    """The columns beside the user's; one that has only ever been NULL is taken for text."""
    found = [ShippedColumn(quoted(trait), trait, kind or "string") for trait, kind in table.traits.items()]
    if len(found) == 1 and found[0].trait != VALUE:
        found.insert(0, found[0]._replace(name=quoted(VALUE)))
    return found


def quoted(name: str) -> str:
    """An identifier as standard SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def watched(table: Shipped, watch: Watch) -> Iterator[Chunk]:
    """The chunks, for as long as the read has time."""
    for chunk in table.chunks:
        watch.check()
        yield chunk


def parsed(chunk: Chunk) -> list[Mapping[str, Any]]:
    """Each user's traits, numbers with every digit."""
    return [exact(text) for text in chunk.values or ()]


class Digits:
    """What room the numbers of one column need: digits before the point and after it."""

    def __init__(self) -> None:
        self.before = self.after = 0

    def see(self, number: float | Decimal) -> str:
        """Take one number into account; its text."""
        value = Decimal(number)
        _, digits, exponent = value.as_tuple()
        assert isinstance(exponent, int)
        self.before = max(self.before, len(digits) + exponent)
        self.after = max(self.after, -exponent)
        return str(value)

    def type(self) -> str:
        """DuckDB's exact type with room for all, or else its inexact one."""
        after = min(self.after, _PLACES)
        return f"DECIMAL({_PLACES}, {after})" if self.before + self.after <= _PLACES else "DOUBLE"


_PLACES = 38
"""The most digits of an exact number in DuckDB."""

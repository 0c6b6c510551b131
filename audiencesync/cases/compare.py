"""Holds a result against what a test expects: who is in it, and with which values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from audiencesync.errors import RowsDiffer
from audiencesync.model import Audience, Chunk
from audiencesync.model.cases import Difference, Expected
from audiencesync.model.values import as_object, exact

Values = Mapping[str, object]
_ROUNDED = 1e-14
"""How far two binary fractions may be apart that came from the same sum: 0.1 + 0.2 is 0.30000000000000004."""


@dataclass(frozen=True)
class Found:
    """A result: of the kind `id_kind`, and by id the texts of included columns and of traits, one row a user."""

    id_kind: str
    traits: Sequence[str] = ()
    included: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    ids: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, audience: Audience, id_kind: str, traits: Sequence[str], chunks: Iterable[Chunk]) -> Found:
        """Read all; of a user's rows the least counts, as in a run. Raises QueryError for a trait told twice."""
        found = cls(id_kind, traits)
        for chunk in chunks:
            found.ids.update(dict.fromkeys(chunk.ids))
            for user, text in zip(chunk.ids, chunk.included or (), strict=False):
                found.included[user] = min(text, found.included.get(user, text))
            for user, text in zip(chunk.ids, chunk.values or (), strict=False):
                if found.values.setdefault(user, text) != text:
                    first, second = sorted((found.values[user], text))
                    raise RowsDiffer(audience.path, user, as_object(traits, first), as_object(traits, second))
        return found

    def row(self, user: str) -> Values:
        """The values of one user, by the name they travel under."""
        values = as_object(self.traits, self.values[user]) if user in self.values else "{}"
        return {**exact(self.included.get(user, "{}")), **exact(values)}


def differences(expected: Expected, found: Found) -> Iterator[Difference]:
    """Who is missing, who is unexpected, and then which values are different; each sorted by the id."""
    for user in sorted(expected.rows.keys() - found.ids.keys()):
        yield Difference("missing", user, expected=expected.rows[user])
    for user in sorted(found.ids.keys() - expected.rows.keys()):
        row = found.row(user)
        yield Difference("unexpected", user, found={name: row.get(name) for name in expected.columns})
    for user in sorted(found.ids.keys() & expected.rows.keys()):
        row, wanted = found.row(user), expected.rows[user]
        for column in expected.columns:
            if not same(wanted.get(column), row.get(column)):
                yield Difference("different", user, column, wanted.get(column), row.get(column))


def same(expected: object, found: object) -> bool:
    """Whether a value is told as it is expected: 9.5 is 9.50 and never "9.5", 1 is never true.

    A moment, which is told in ISO 8601 with a T, may be expected in any way to write it.
    """
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or found is None:
        return expected is found
    if isinstance(expected, int | float | Decimal) and isinstance(found, int | float | Decimal):
        return _same_number(Decimal(str(expected)), Decimal(str(found)))
    if isinstance(expected, str) and isinstance(found, str):
        return expected == found or ("T" in found and _same_moment(expected, found))
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(same, expected, found))
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(same(expected[key], found[key]) for key in expected)
    return False


def _same_number(expected: Decimal, found: Decimal) -> bool:
    if expected == found:
        return True
    fractions = expected != expected.to_integral_value() or found != found.to_integral_value()
    return fractions and math.isclose(expected, found, rel_tol=_ROUNDED)


def _same_moment(expected: str, found: str) -> bool:
    try:
        moments = [datetime.fromisoformat(text) for text in (expected, found)]
    except ValueError:
        return False
    first, second = (at.replace(tzinfo=UTC) if at.tzinfo is None else at for at in moments)
    return first == second

"""How each database says what a property is, so that all of them give the same values.

A property is handled as JSON, also where it is a column: its text, its number, its truth and its moment are read from
that. Numbers have at most ten decimals; a text that spells a number is one; lists and objects are neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy import (
    CTE,
    DateTime,
    Dialect,
    Numeric,
    Subquery,
    Text,
    case,
    cast,
    func,
    literal_column,
)
from sqlalchemy.sql import ColumnElement, Select

Element = ColumnElement[Any]

SCALE = 10
"""Decimals of a number."""

MEAN = 6
"""Decimals of an average, few enough for binary fractions to agree with decimal ones."""

NUMBER = " *[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,2})? *"
_HOUR = "([01][0-9]|2[0-3])"
_DAY = "[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
INSTANT = f"{_DAY}([T ]{_HOUR}:[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?(Z|[-+]{_HOUR}(:[0-5][0-9])?)?)?"


def word(text: str) -> Element:
    """A literal of ours, without quotes in it."""
    return literal_column(f"'{text}'", Text)


class Engine(ABC):
    """One kind of database; `columns` says that properties are plain columns."""

    dialect: ClassVar[Dialect]

    def __init__(self, *, columns: bool = False) -> None:
        self.columns = columns

    def pick(self, properties: Element, names: Sequence[Element]) -> Element:
        """The property at the end of a path of names, as JSON; NULL where it is absent or null."""
        found = properties
        for name in names:
            found = self.member(found, name)
        return found

    @abstractmethod
    def document(self, properties: Element) -> Element:
        """The column of properties as JSON."""

    @abstractmethod
    def member(self, json: Element, name: Element) -> Element:
        """What an object has under a name, NULL for nothing and for null."""

    @abstractmethod
    def column(self, column: Element) -> Element:
        """A plain column as JSON."""

    @abstractmethod
    def text(self, json: Element) -> Element:
        """The text of a scalar, in byte order when sorted; NULL for lists and objects."""

    @abstractmethod
    def number(self, json: Element) -> Element:
        """The number that it is or spells, or else NULL."""

    def kept(self, rows: CTE) -> CTE:
        """Rows whose columns are read more than once."""
        return rows

    def truth(self, json: Element) -> Element:
        """True or false, or else NULL."""
        text = self.text(json)
        return case((text == word("true"), literal_column("true")), (text == word("false"), literal_column("false")))

    @abstractmethod
    def moment(self, json: Element) -> Element:
        """The instant that an ISO 8601 text names, in UTC unless it says otherwise, or else NULL."""

    @abstractmethod
    def happened(self, column: Element) -> Element:
        """The instant in the column that says when an event happened."""

    def given(self, parameter: Element) -> Element:
        """The instant that is bound to a parameter, as a time or as text."""
        return cast(parameter, DateTime(timezone=True))

    @abstractmethod
    def shown(self, moment: Element) -> Element:
        """An instant as the text 2026-01-31T10:00:00.000Z."""

    def decimal(self, parameter: Element) -> Element:
        """The number that is bound to a parameter."""
        return cast(parameter, Numeric(38, SCALE))

    def within(self, text: Element, part: Element) -> Element:
        """Whether a text has this part."""
        return func.strpos(text, cast(part, Text)) > literal_column("0")

    def total(self, numbers: Element) -> Element:
        """Their sum."""
        return func.sum(numbers)

    def mean(self, numbers: Element) -> Element:
        """Their average."""
        return func.round(func.avg(numbers), literal_column(str(MEAN)))

    @abstractmethod
    def listed(self, pairs: Subquery) -> Select[Any]:
        """Of different pairs (person, value) each person's sorted list of values, as `value`."""


def plain(fixed: Element) -> Element:
    """A number with a fixed count of decimals, as text, without zeros that say nothing."""
    return func.rtrim(func.rtrim(fixed, word("0")), word("."))

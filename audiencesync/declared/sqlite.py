"""SQLite, which has no types for time, truth or decimals."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CTE, Numeric, Subquery, Text, and_, case, cast, func, literal_column, null, select
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.sql import Select

from audiencesync.declared.engines import SCALE, Element, Engine, plain, word

_FORMAT = word("%Y-%m-%d %H:%M:%f")
_ROOT = word("$")


class Sqlite(Engine):
    """JSON is text; instants are the text `YYYY-MM-DD HH:MM:SS.fff`; a column of truth holds 1 and 0."""

    dialect = SQLiteDialect(paramstyle="named")

    def document(self, properties: Element) -> Element:
        """It is text as it stands."""
        return properties

    def member(self, json: Element, name: Element) -> Element:
        """Looked for among the members, because paths cannot spell every name in every version."""
        each = func.json_each(case((func.json_type(json) == word("object"), json))).table_valued("key", "value", "type")
        kind, value = each.c.type, each.c.value
        spelt = case((kind.in_([word("true"), word("false")]), kind),
                     (kind.in_([word("object"), word("array")]), value),
                     (kind != word("null"), func.json_quote(value)))
        return select(spelt).select_from(each).where(each.c.key == name).scalar_subquery()

    def column(self, column: Element) -> Element:
        """NULL would be quoted as null."""
        return case((column.is_not(null()), func.json_quote(column)))

    def text(self, json: Element) -> Element:
        """Numbers as other databases write them."""
        kind, value = func.json_type(json), self._value(json)
        return case((kind == word("text"), value), (kind == word("integer"), cast(value, Text)),
                    (kind == word("real"), plain(func.printf(word(f"%.{SCALE}f"), value))),
                    (kind.in_([word("true"), word("false")]), kind))

    def number(self, json: Element) -> Element:
        """A text compared with a number is read as one only where all of it is."""
        value = self._value(json)
        number = cast(value, Numeric())
        numeric = func.json_type(json).in_([word(kind) for kind in ("integer", "real", "text")])
        return case((and_(numeric, number == value, func.abs(number) < literal_column("1e28")), number))

    def kept(self, rows: CTE) -> CTE:
        """Each column would be computed again wherever it is named (measured: three times slower)."""
        return rows.prefix_with("MATERIALIZED")

    def truth(self, json: Element) -> Element:
        """A column says 1 and 0 for them."""
        text = self.text(json)
        numbers = ([word("1")], [word("0")]) if self.columns else ([], [])
        return case((text.in_([word("true"), *numbers[0]]), literal_column("1")),
                    (text.in_([word("false"), *numbers[1]]), literal_column("0")))

    def moment(self, json: Element) -> Element:
        """Only of a text that begins with a date that the calendar has; SQLite would read `now` and numbers, too."""
        text = self.text(json)
        day = func.substr(text, literal_column("1"), literal_column("10"))
        dated = and_(text.op("GLOB")(word("[1-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*")),
                     func.date(day, word("+0 days")) == day)
        return case((dated, func.strftime(_FORMAT, text)))

    def happened(self, column: Element) -> Element:
        """ISO text, or seconds or milliseconds since 1970."""
        kind = func.typeof(column)
        seconds = case((func.abs(column) < literal_column("1e11"), column), else_=column / literal_column("1000.0"))
        return case((kind == word("text"), func.strftime(_FORMAT, column)),
                    else_=func.strftime(_FORMAT, seconds, word("unixepoch")))

    def given(self, parameter: Element) -> Element:
        """It is bound as text without fractions, which are added so that texts compare."""
        return func.strftime(_FORMAT, parameter)

    def shown(self, moment: Element) -> Element:
        """As ISO 8601 wants it."""
        return func.replace(moment, word(" "), word("T")).op("||")(word("Z"))

    def decimal(self, parameter: Element) -> Element:
        """It is bound as a number."""
        return cast(parameter, Numeric())

    def within(self, text: Element, part: Element) -> Element:
        """Places count from 1."""
        return func.instr(text, part) > literal_column("0")

    def total(self, numbers: Element) -> Element:
        """A sum of binary fractions is right to fifteen digits; the noise behind them would look like a change."""
        total = func.sum(numbers)
        exact = cast(func.printf(word("%.15g"), total), Numeric())
        return case((func.typeof(total) == word("integer"), total), else_=exact)

    def listed(self, pairs: Subquery) -> Select[Any]:
        """A window, because the order within an aggregate is new in 3.44."""
        person, value = pairs.c.person, pairs.c.value
        whole = func.json_group_array(value).over(partition_by=person, order_by=value, rows=(None, None))
        place = func.row_number().over(partition_by=person, order_by=value)
        lists = select(person, whole.label("value"), place.label("place")).subquery("lists")
        return select(lists.c.person, lists.c.value).where(lists.c.place == literal_column("1"))

    @staticmethod
    def _value(json: Element) -> Element:
        return func.json_extract(json, _ROOT)

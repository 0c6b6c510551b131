"""PostgreSQL and DuckDB, which speak nearly the same SQL."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    Date,
    DateTime,
    Dialect,
    Integer,
    Interval,
    Numeric,
    Subquery,
    Text,
    TryCast,
    and_,
    case,
    cast,
    extract,
    func,
    literal_column,
    or_,
    select,
    try_cast,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect, PGIdentifierPreparer
from sqlalchemy.sql import Select
from sqlalchemy.types import JSON

from audiencesync.declared.engines import INSTANT, NUMBER, SCALE, Element, Engine, plain, word

_UTC = word("UTC")
_NUL = "(?<!~~)((~~~~)*)~~u0000"
"""The escape as JSON spells it, after backslashes (here ~) that are escaped themselves."""


def _backslashed(text: str) -> Element:
    """A literal with a backslash for each ~, whatever a backslash in a literal means to the server."""
    return func.replace(word(text), word("~"), func.chr(literal_column("92")))


class Postgresql(Engine):
    """Properties are json, jsonb or text; what cannot be cast is never cast, for that would fail the whole query."""

    dialect: ClassVar[Dialect] = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]

    def document(self, properties: Element) -> Element:
        """Costs nothing where it is jsonb already; json may hold the NUL character, which jsonb refuses: left out."""
        spelt = cast(properties, Text)
        sound = or_(func.pg_typeof(properties) == literal_column("CAST('jsonb' AS regtype)"),
                    func.strpos(spelt, _backslashed("~u0000")) == literal_column("0"))
        mended = func.regexp_replace(spelt, _backslashed(_NUL), _backslashed("~1"), word("g"))
        return case((sound, cast(properties, JSONB)), else_=cast(mended, JSONB))

    def member(self, json: Element, name: Element) -> Element:
        """The parameter's type must be said: a list has members by number."""
        return func.nullif(json.op("->")(cast(name, Text)), cast(word("null"), JSONB))

    def column(self, column: Element) -> Element:
        """NULL stays NULL."""
        return func.to_jsonb(column)

    def text(self, json: Element) -> Element:
        """In byte order whatever the database's own."""
        kind, raw = func.jsonb_typeof(json), self._raw(json)
        number = func.trim_scale(func.round(cast(raw, Numeric()), literal_column(str(SCALE))))
        return case((kind.in_([word("string"), word("boolean")]), raw),
                    (kind == word("number"), cast(number, Text))).collate("C")

    def number(self, json: Element) -> Element:
        """As exact as it is written, up to the decimals that all databases keep."""
        raw = self._raw(json)
        scalar = func.jsonb_typeof(json).in_([word("number"), word("string")])
        return case((and_(scalar, self._matches(raw, NUMBER)),
                     func.round(cast(raw, Numeric()), literal_column(str(SCALE)))))

    def moment(self, json: Element) -> Element:
        """The month must have that day."""
        text = self.text(json)
        first = cast(func.concat(func.left(text, literal_column("7")), word("-01")), Date)
        last = extract("day", first + literal_column("INTERVAL '1 month - 1 day'", Interval))
        day = cast(func.substr(text, literal_column("9"), literal_column("2")), Integer)
        real = case((day <= last, cast(text, DateTime(timezone=True))))
        return case((self._matches(text, INSTANT), real))

    def happened(self, column: Element) -> Element:
        """As it stands, so that an index on it is of use."""
        return column

    def shown(self, moment: Element) -> Element:
        """In UTC whatever the session's zone."""
        zoned = func.timezone(_UTC, cast(moment, DateTime(timezone=True)))
        return func.to_char(zoned, word('YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))

    def listed(self, pairs: Subquery) -> Select[Any]:
        """An array."""
        return self._list(pairs, "array_agg")

    @staticmethod
    def _list(pairs: Subquery, function: str) -> Select[Any]:
        value = pairs.c.value
        values = getattr(func, function)(aggregate_order_by(value, value))
        return select(pairs.c.person, values.label("value")).group_by(pairs.c.person)

    @staticmethod
    def _raw(json: Element) -> Element:
        return json.op("#>>")(word("{}"))

    @staticmethod
    def _matches(text: Element, pattern: str) -> Element:
        return text.op("~")(word(f"^({pattern})$"))


class _Quoting(PGIdentifierPreparer):
    """Quotes every name: DuckDB's reserved words are its own, and quotes change no meaning there."""

    def _requires_quotes(self, value: str) -> bool:
        del value
        return True


class _Compiler(PGCompiler):
    """Knows TRY_CAST."""

    def visit_try_cast(self, element: TryCast[Any], **options: Any) -> str:
        """As CAST is written."""
        return f"TRY_{self.visit_cast(element, **options)}"  # type: ignore[no-untyped-call]


class _DuckdbDialect(PGDialect):
    """PostgreSQL's SQL in DuckDB's spelling."""

    preparer = _Quoting
    statement_compiler = _Compiler


class Duckdb(Engine):
    """Properties are JSON, text or a struct."""

    dialect: ClassVar[Dialect] = _DuckdbDialect(paramstyle="named")  # type: ignore[no-untyped-call]

    def document(self, properties: Element) -> Element:
        """Costs nothing where it is JSON already."""
        return cast(properties, JSON)

    def member(self, json: Element, name: Element) -> Element:
        """A pointer, in which every name can be spelt."""
        tilde = func.replace(cast(name, Text), word("~"), word("~0"))
        pointer = word("/").op("||")(func.replace(tilde, word("/"), word("~1")))
        found = func.json_extract(json, pointer)
        return case((and_(func.json_type(json) == word("OBJECT"), func.json_type(found) != word("NULL")), found))

    def column(self, column: Element) -> Element:
        """NULL stays NULL."""
        return func.to_json(column)

    def text(self, json: Element) -> Element:
        """Numbers as other databases write them."""
        kind, raw = func.json_type(json), self._raw(json)
        return case((kind.in_([word("VARCHAR"), word("BOOLEAN")]), raw),
                    (kind.not_in([word("OBJECT"), word("ARRAY")]), plain(cast(self._decimal(raw), Text))))

    def number(self, json: Element) -> Element:
        """A decimal of 28 digits and ten decimals; what does not fit is none."""
        raw = self._raw(json)
        scalar = func.json_type(json).not_in([word("OBJECT"), word("ARRAY"), word("BOOLEAN")])
        return case((and_(scalar, func.regexp_full_match(raw, word(NUMBER))), self._decimal(raw)))

    def moment(self, json: Element) -> Element:
        """What the calendar does not have becomes NULL."""
        text = self.text(json)
        return case((func.regexp_full_match(text, word(INSTANT)), try_cast(text, DateTime(timezone=True))))

    def happened(self, column: Element) -> Element:
        """Dates and text are cast as well."""
        return cast(column, DateTime(timezone=True))

    def shown(self, moment: Element) -> Element:
        """In UTC whatever the session's zone."""
        return func.strftime(func.timezone(_UTC, moment), word("%Y-%m-%dT%H:%M:%S.%gZ"))

    def listed(self, pairs: Subquery) -> Select[Any]:
        """A list."""
        value = pairs.c.value
        values = func.list(aggregate_order_by(value, value))
        return select(pairs.c.person, values.label("value")).group_by(pairs.c.person)

    @staticmethod
    def _raw(json: Element) -> Element:
        return func.json_extract_string(json, word("$"))

    @staticmethod
    def _decimal(raw: Element) -> Element:
        return try_cast(raw, Numeric(38, SCALE))

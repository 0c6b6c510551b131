"""A trait that is declared without SQL: what its file may say, and what of that does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from audiencesync.declared import ENGINES, Compiled, Condition, EventTable, Trait, Window, compile_trait
from audiencesync.naming import IDENTIFIER, kept, key_of
from audiencesync.project.document import Document, Loc
from audiencesync.project.settings import EventsTable, Header
from audiencesync.project.values import Text
from audiencesync.project.windows import parse_moment, parse_window

_SQL_ONLY = ("kind", "include", "types", "uses", "vars")
_TYPES: Mapping[str, tuple[str, ...]] = {
    "most_frequent": ("string", "number", "boolean"), "first": ("string", "number", "boolean", "timestamp"),
    "last": ("string", "number", "boolean", "timestamp"), "min": ("number", "string", "timestamp"),
    "max": ("number", "string", "timestamp"), "sum": ("number",), "avg": ("number",),
}
"""What the value of each kind of trait, or function, may be read as; the first is what it is when nothing is said."""

def _path(value: object) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise ValueError("write the property's name, or a list such as [address, city] for one within another; "
                         "put a number in quotes")
    return tuple(names)


def _scalar(value: object) -> object:
    if not isinstance(value, str | int | float) or value == "":
        raise ValueError("write a text, a number, true or false; whether there is a value at all is  exists: true")
    return value


def _several(value: object) -> object:
    if not isinstance(value, list) or not value:
        raise ValueError("write a list, such as [shoes, hats]")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(  # noqa: TRY004 - pydantic tells it
            f"{value!r} is not a number; a date is compared with  before:  or  after:")
    return value


_Scalar = Annotated[object, BeforeValidator(_scalar)]
_Number = Annotated[object, BeforeValidator(_number)]
_Moment = Annotated[object, BeforeValidator(parse_moment)]
_Path = Annotated[tuple[str, ...], BeforeValidator(_path)]


class Where(BaseModel):
    """Conditions on one property, all of which must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    property: _Path
    equals: _Scalar = None
    not_equals: _Scalar = None
    contains: Text = ""
    one_of: Annotated[tuple[_Scalar, ...], BeforeValidator(_several)] = ()
    less: _Number = None
    greater: _Number = None
    before: _Moment = None
    after: _Moment = None
    exists: bool = True

    def conditions(self) -> list[Condition]:
        """Each of them; an alternative of values is an equality, and the day of `after` is over when it holds."""
        found = []
        for operator in sorted(self.model_fields_set - {"property"}):
            value = getattr(self, operator)
            if operator == "one_of":
                found.append(Condition(self.property, "equals", value))
            elif operator == "after" and value.end:
                found.append(Condition(self.property, "from", (value.end,)))
            elif operator in {"before", "after"}:
                found.append(Condition(self.property, operator, (value.begin,)))
            else:
                found.append(Condition(self.property, operator, (value,)))
        return found


class DeclaredFile(Header):
    """A trait's .yml file: a header's keys, and what is computed in place of SQL."""

    trait: Literal["event_counter", "aggregation", "most_frequent", "first", "last", "unique_list",
                   "unique_list_count"] | None = None
    event: Text | None = None
    property: _Path | None = None
    function: Literal["sum", "avg", "min", "max"] | None = None
    at_least: int | None = Field(None, ge=1)
    window: Annotated[object, BeforeValidator(parse_window)] = None
    where: tuple[Where, ...] = ()
    type: Literal["string", "number", "boolean", "timestamp"] | None = None


def compiled(file: DeclaredFile, key: str | None, document: Document, table: EventsTable | None,
             backend: str | None) -> Compiled | None:
    """A file's trait as SQL, or None where it has mistakes, which are noted, or the source is not known.

    `table` is what audiencesync.yml says of events, `backend` SQLAlchemy's name of the source's database.
    """
    events = EventTable(**table.model_dump()) if table else EventTable("events")
    if backend and backend not in ENGINES:
        document.mistake(("trait",), f"traits without SQL are computed in SQLite, PostgreSQL and DuckDB, not in "
                         f"{backend}", hint="write it in SQL, as a .sql file in this folder")
    elif backend and table is None:
        document.mistake(("trait",), "audiencesync.yml does not say where events lie",
                         hint="write there  events: {table: events}  with the names of its columns")
    if backend:
        _check(file, document, events)
    if key and "key" in document.data:
        _check_key(key, document)
    if key and kept(key, backend) != key:
        document.mistake(("key",) if "key" in document.data else ("name",), f"the key {key!r} is a column's name, of "
                         f"which PostgreSQL keeps {IDENTIFIER} bytes", hint="give it a shorter name or key:")
    if key is None or backend is None or document.page.has_errors():
        return None
    return compile_trait(_trait(file, key), events, backend)


def _check(file: DeclaredFile, document: Document, events: EventTable) -> None:
    """Note what is missing, what belongs to another kind of trait, and what the table of events cannot tell."""
    for name in ("trait", "event", "property", "function", "at_least", "type"):
        if name in document.data and document.data[name] is None:
            document.mistake((name,), f"{name!r} is empty", key=True, hint="write a value, or leave the key out")
    if "trait" not in document.data:
        document.mistake((), "the key 'trait' is missing", hint="write what is computed, such as  trait: event_counter")
    elif file.trait:
        _check_keys(file, document, file.trait)
    if events.event and "event" not in document.data:
        document.mistake((), "the key 'event' is missing", hint="write whose events count:  event: Order Completed")
    if file.event and not events.event:
        document.mistake(("event",), "events: in audiencesync.yml names no column for events", key=True,
                         hint="leave it out, so that every row counts, or name the column there")
    for name in _SQL_ONLY:
        if name in document.data:
            document.mistake((name,), f"{name} belongs to definitions in SQL", key=True, hint="leave it out")
    _check_where(file, document, events)


def _check_where(file: DeclaredFile, document: Document, events: EventTable) -> None:
    paths: list[tuple[Loc, tuple[str, ...] | None]] = [
        (("property",), file.property),
        *((("where", place, "property"), one.property) for place, one in enumerate(file.where))]
    for loc, path in paths:
        if path and len(path) > 1 and events.properties is None:
            document.mistake(loc, "properties are columns here, and a column has no properties of its own", key=True,
                             hint="write one name, or say under events: in which column properties lie as JSON")
    for place, one in enumerate(file.where):
        if not one.model_fields_set - {"property"}:
            document.mistake(("where", place), "this condition does not say what the property must be",
                             hint="write such as  equals: shoes")


def _check_keys(file: DeclaredFile, document: Document, kind: str) -> None:
    needed = {"event_counter": (), "aggregation": ("property", "function"), "first": (), "last": ()}
    for name in needed.get(kind, ("property",)):
        if name not in document.data:
            document.mistake(("trait",), f"{kind} needs the key {name!r}", hint={
                "property": "name the property of the event, such as  property: revenue",
                "function": "write  function: sum,  avg, min or max"}[name])
    owner = {"function": "aggregation", "at_least": "most_frequent"}
    for name, whose in owner.items():
        if name in document.data and kind != whose:
            document.mistake((name,), f"{name} belongs to {whose}, not to {kind}", key=True, hint="leave it out")
    if kind == "event_counter" and "property" in document.data:
        document.mistake(("property",), "event_counter counts events, whatever their properties", key=True,
                         hint="leave it out, or write a condition under  where:")
    allowed = _types(file)
    if file.type and file.type not in allowed:
        what = file.function if kind == "aggregation" else kind
        document.mistake(("type",), f"{what} gives no {file.type}", hint=(
            f"write  type: {' or '.join(allowed)},  or leave it out" if allowed else "leave it out"))


def _types(file: DeclaredFile) -> tuple[str, ...]:
    if file.trait in {"first", "last"} and file.property is None:
        return ("timestamp",)
    return _TYPES.get(str(file.function if file.trait == "aggregation" else file.trait), ())


def _check_key(key: str, document: Document) -> None:
    """A trait is told under its column's name, which is read as keys are made from names."""
    try:
        spelt = key_of(key)
    except ValueError:
        spelt = ""
    if spelt != key:
        document.mistake(("key",), f"the key of a trait without SQL is the trait's name, and {key!r} is none",
                         hint=f"write  key: {spelt}" if spelt else "write it in small letters, digits and _")


def _trait(file: DeclaredFile, key: str) -> Trait:
    """What a file without mistakes declares."""
    window = file.window if isinstance(file.window, Window) else Window()
    where = tuple(one for part in file.where for one in part.conditions())
    allowed = _types(file)
    return Trait(
        key=key, kind=str(file.trait), event=file.event, path=file.property, function=file.function or "",
        at_least=file.at_least or 1, window=window, where=where,
        type=file.type or (allowed[0] if allowed else "string"))

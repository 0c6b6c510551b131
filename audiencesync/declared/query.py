"""One declared trait as one SELECT of a database's own SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, and_, bindparam, column, func, literal_column, null, or_, select, table
from sqlalchemy.sql import Select

from audiencesync.declared.engines import Element, Engine
from audiencesync.declared.servers import Duckdb, Postgresql
from audiencesync.declared.spec import Condition, EventTable, Path, Trait
from audiencesync.declared.sqlite import Sqlite
from audiencesync.model import ID_COLUMNS, Variable

ENGINES: Mapping[str, type[Engine]] = {"sqlite": Sqlite, "postgresql": Postgresql, "duckdb": Duckdb}
_ONE: Element = literal_column("1")


class Compiled(NamedTuple):
    """The SELECT, what its parameters besides `:now` stand for, and the type of its value."""

    sql: str
    variables: Mapping[str, Variable]
    type: str


def compile_trait(trait: Trait, events: EventTable, backend: str) -> Compiled:
    """A trait over the table of events, in the SQL of `backend` as SQLAlchemy calls it.

    Everything that was written in the declaration is bound as a parameter, but for names of tables and columns.
    Raises KeyError for a backend that is not one of ENGINES.
    """
    query = _Query(trait, events, ENGINES[backend](columns=events.properties is None))
    statement = query.values()
    person, value = statement.selected_columns
    result = statement.with_only_columns(
        person.label(events.user if events.user in ID_COLUMNS else "user_id"), value.label(trait.key),
        maintain_column_froms=True)
    compiled = result.compile(dialect=query.engine.dialect)
    assert set(compiled.params) <= {"now", *query.variables}, f"a value is not named: {sorted(compiled.params)}"
    sql = "\n".join(line.strip() for line in str(compiled).splitlines())
    return Compiled(sql, query.variables, query.type)


class _Query:
    """Builds the statement and collects the parameters."""

    def __init__(self, trait: Trait, events: EventTable, engine: Engine) -> None:
        self.trait = trait
        self.events = events
        self.engine = engine
        self.variables: dict[str, Variable] = {}

    @property
    def type(self) -> str:
        """What the value is, for who reads the result."""
        counted = self.trait.kind in {"event_counter", "unique_list_count"}
        return "number" if counted else "list" if self.trait.kind == "unique_list" else self.trait.type

    def values(self) -> Select[Any]:
        """The select of (person, value)."""
        found = self._found()
        if self.trait.kind == "event_counter":
            return select(found.c.person, func.count()).group_by(found.c.person)
        pairs = self._valued(found)
        person, value = pairs.c.person, pairs.c.value
        if self.trait.kind == "unique_list_count":
            return select(person, func.count(value.distinct())).group_by(person)
        if self.trait.kind == "unique_list":
            return self.engine.listed(select(person, value).distinct().subquery("pairs"))
        if self.trait.kind == "aggregation":
            return select(person, self._aggregated(value)).group_by(person)
        return self._best(pairs)

    def _aggregated(self, value: Element) -> Element:
        own = {"sum": self.engine.total, "avg": self.engine.mean}.get(self.trait.function)
        return own(value) if own else getattr(func, self.trait.function)(value)

    def _best(self, pairs: CTE) -> Select[Any]:
        """The value that comes first in the order of this kind of trait; ties go to the smallest."""
        person, value = pairs.c.person, pairs.c.value
        if self.trait.kind == "most_frequent":
            times = func.count()
            pairs = (select(person, value, times.label("times")).group_by(person, value)
                     .having(times >= self._bind("at_least", self.trait.at_least)).cte("counted"))
            order: Element = pairs.c.times.desc()
        else:
            order = pairs.c.moment.desc() if self.trait.kind == "last" else pairs.c.moment.asc()
        place = func.row_number().over(partition_by=pairs.c.person, order_by=[order, pairs.c.value])
        ranked = select(pairs.c.person, pairs.c.value, place.label("place")).subquery("ranked")
        return select(ranked.c.person, ranked.c.value).where(ranked.c.place == _ONE)

    def _found(self) -> CTE:
        """The events that count, with the property."""
        read = self._read()
        holding = [self._holds(read.c[f"condition_{place}"], condition, place)
                   for place, condition in enumerate(self.trait.where, 1)]
        return select(read).where(*holding).cte("found") if holding else read

    def _read(self) -> CTE:
        """The events of that name and in that window, with their properties as JSON."""
        events = self.events
        schema, _, name = events.table.rpartition(".")
        names = {events.user, events.at, *filter(None, (events.event, events.properties))}
        paths = [path for path in (self.trait.path, *(one.path for one in self.trait.where)) if path]
        plain = {path[0] for path in paths} if events.properties is None else set()
        source = table(name, *map(column, sorted(names | plain)), schema=schema or None)
        at = self.engine.happened(source.c[events.at])
        columns = [source.c[events.user].label("person"), at.label("moment")]
        if self.trait.path:
            columns.append(self._property(source, self.trait.path, "property").label("property"))
        columns += [self._property(source, one.path, f"where_{place}").label(f"condition_{place}")
                    for place, one in enumerate(self.trait.where, 1)]
        counted = [source.c[events.user].is_not(null()), *self._in_window(at)]
        if events.event is not None and self.trait.event is not None:
            counted.insert(0, source.c[events.event] == self._bind("event", self.trait.event))
        return self.engine.kept(select(*columns).where(*counted).cte("seen"))

    def _property(self, source: Any, path: Path, name: str) -> Element:
        if self.events.properties is None:
            return self.engine.column(source.c[path[0]])
        names = [self._bind(f"{name}_{depth}" if depth else name, part) for depth, part in enumerate(path)]
        return self.engine.pick(self.engine.document(source.c[self.events.properties]), names)

    def _in_window(self, at: Element) -> list[ColumnElement[bool]]:
        window = self.trait.window
        limits = [at <= self.engine.given(bindparam("now"))]
        if window.after is not None:
            limits.append(at > self._moment("after", window.after))
        if window.since is not None:
            limits.append(at >= self._moment("since", window.since))
        if window.before is not None:
            limits.append(at < self._moment("before", window.before))
        if window.until is not None:
            limits.append(at <= self._moment("until", window.until))
        return limits

    def _valued(self, found: CTE) -> CTE:
        """The events that have a value."""
        value = self.engine.shown(found.c.moment) if self.trait.path is None else self._typed(found.c.property)
        pairs = self.engine.kept(select(found.c.person, found.c.moment, value.label("value")).cte("valued"))
        return select(pairs).where(pairs.c.value.is_not(null())).cte("known")

    def _typed(self, json: Element) -> Element:
        if self.trait.type == "timestamp":
            return self.engine.shown(self.engine.moment(json))
        read = {"number": self.engine.number, "boolean": self.engine.truth}.get(self.trait.type, self.engine.text)
        return read(json)

    def _holds(self, json: Element, condition: Condition, place: int) -> ColumnElement[bool]:
        if condition.operator == "exists":
            return json.is_not(null()) if condition.values[0] else json.is_(null())
        tests = [self._compared(json, condition.operator, value, f"value_{place}" + (f"_{index}" if index else ""))
                 for index, value in enumerate(condition.values)]
        if condition.operator == "not_equals":
            return and_(json.is_not(null()), ~func.coalesce(or_(*tests), literal_column("false")))
        return or_(*tests)

    def _compared(self, json: Element, operator: str, value: Variable, name: str) -> ColumnElement[bool]:
        if operator in {"before", "after", "from"}:
            moment, given = self.engine.moment(json), self._moment(name, value)
            return {"before": moment < given, "after": moment > given, "from": moment >= given}[operator]
        if operator == "contains":
            return self.engine.within(self.engine.text(json), self._bind(name, value))
        if isinstance(value, bool):
            return self.engine.truth(json) == literal_column("true" if value else "false")
        if isinstance(value, str):
            return self.engine.text(json) == self._bind(name, value)
        number, given = self.engine.number(json), self.engine.decimal(self._bind(name, value))
        return {"less": number < given, "greater": number > given}.get(operator, number == given)

    def _moment(self, name: str, value: Variable) -> Element:
        return self.engine.given(self._bind(name, value))

    def _bind(self, name: str, value: Variable) -> Element:
        self.variables[name] = value
        return bindparam(name)

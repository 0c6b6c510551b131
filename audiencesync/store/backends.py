"""The two databases a state can live in, and all that they say differently."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import orjson
from sqlalchemy import (
    ARRAY,
    Connection,
    Insert,
    Integer,
    Select,
    Subquery,
    Table,
    Text,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
)

_TOGETHER = 250
"""Rows of one statement in SQLite, whose parameters are fewer than a thousand then."""


class Backend(ABC):
    """What SQLite and PostgreSQL say differently; a new database for the state is one more of these.

    `alone` are the execution options under which each statement is its own transaction, `together` the others.
    """

    alone: ClassVar[dict[str, Any]] = {"isolation_level": "AUTOCOMMIT"}
    together: ClassVar[dict[str, Any]] = {"isolation_level": "READ COMMITTED"}

    @abstractmethod
    def array(self, name: str) -> Select[Any]:
        """A select of the texts in the array parameter `name`."""

    @abstractmethod
    def parameters(self, name: str, texts: list[str]) -> dict[str, object]:
        """The value that `array` wants for these texts."""

    @abstractmethod
    def fill(self, connection: Connection, table: Table, columns: Mapping[str, list[str]]) -> None:
        """Insert rows, given as columns of one length."""

    @abstractmethod
    def gather(self, connection: Connection, rows: Subquery) -> list[list[Any]]:
        """The columns of a sorted subquery, each as one list."""

    @abstractmethod
    def sort(self, heap: Table, stage: Table, columns: Sequence[str]) -> Insert:
        """Copy these columns (user_id first) of the heap into the stage in the order of the ids, one row an id."""

    @abstractmethod
    def differences(self, stage: Table, present: Select[Any], diff: Table) -> tuple[Insert, ...]:
        """Fill `diff` with who is staged and not present (entered: true) and the reverse (false)."""

    def now(self, connection: Connection) -> datetime:
        """The database's own time, which all hosts share."""
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def one_at_a_time(self, connection: Connection) -> None:
        """Let no other process migrate until this transaction ends."""
        connection.execute(select(func.pg_advisory_xact_lock(0x61756469656E6365)))

    def add(self, table: Table) -> Insert:
        """Insert a row unless it is there: another process may be making it at this moment."""
        from sqlalchemy.dialects import postgresql
        return postgresql.insert(table).on_conflict_do_nothing()

    def locked(self, query: Select[Any]) -> Select[Any]:
        """Lock the row that is read until the transaction ends, though not against those who only refer to it."""
        return query.with_for_update(key_share=True)


class Sqlite(Backend):
    """A file beside the project: WAL, synchronous FULL, and the write lock only while something is written.

    The driver is kept from opening transactions by itself, so that a statement outside of one stands alone.
    """

    alone: ClassVar[dict[str, Any]] = {}
    together: ClassVar[dict[str, Any]] = {}

    def array(self, name: str) -> Select[Any]:
        """One JSON array; a text of 5,000 ids costs less than half of 5,000 rows of parameters."""
        return select(func.json_each(bindparam(name)).table_valued("value", name=f"{name}_items").c.value)

    def parameters(self, name: str, texts: list[str]) -> dict[str, object]:
        """The array's text."""
        return {name: orjson.dumps(texts).decode()}

    def fill(self, connection: Connection, table: Table, columns: Mapping[str, list[str]]) -> None:
        """Of several columns many rows a statement: a statement a row costs twice as much, JSON taken apart thrice."""
        if len(columns) == 1:
            [(name, texts)] = columns.items()
            connection.execute(insert(table).from_select([name], self.array("texts")), self.parameters("texts", texts))
            return
        flat: list[str] = [""] * sum(map(len, columns.values()))
        for at, texts in enumerate(columns.values()):
            flat[at::len(columns)] = texts
        slots = f"({', '.join('?' * len(columns))})"
        step = _TOGETHER * len(columns)
        connection.exec_driver_sql("BEGIN")
        for start in range(0, len(flat), step):
            part = tuple(flat[start:start + step])
            rows = ", ".join([slots] * (len(part) // len(columns)))
            connection.exec_driver_sql(f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES {rows}", part)
        connection.exec_driver_sql("COMMIT")

    def gather(self, connection: Connection, rows: Subquery) -> list[list[Any]]:
        """One JSON array a column."""
        return list(map(orjson.loads, connection.execute(select(*map(func.json_group_array, rows.c))).one()))

    def sort(self, heap: Table, stage: Table, columns: Sequence[str]) -> Insert:
        """The plus keeps SQLite to its sorter: a walk along an index of unsorted rows costs seven times as much."""
        chosen = [heap.c[name] for name in columns]
        ordered = select(*chosen).order_by(text("+user_id"), *chosen[1:])
        return insert(stage).prefix_with("OR IGNORE").from_select(list(columns), ordered)

    def differences(self, stage: Table, present: Select[Any], diff: Table) -> tuple[Insert, ...]:
        """EXCEPT with an ORDER BY lets SQLite merge two sorted walks."""
        staged = select(stage.c.user_id)
        sides = ((staged.except_(present), 1), (present.except_(staged), 0))
        return tuple(
            insert(diff).from_select(
                ["user_id", "entered"],
                select(side.order_by(text("1")).subquery().c.user_id, literal_column(str(entered))))
            for side, entered in sides)

    def now(self, connection: Connection) -> datetime:
        """A file has the time of the host it lies on."""
        del connection
        return datetime.now(UTC)

    def one_at_a_time(self, connection: Connection) -> None:
        """BEGIN IMMEDIATE has seen to it."""

    def add(self, table: Table) -> Insert:
        """The same in SQLite's own words."""
        return insert(table).prefix_with("OR IGNORE")

    def locked(self, query: Select[Any]) -> Select[Any]:
        """BEGIN IMMEDIATE has seen to it."""
        return query


class Postgresql(Backend):
    """A server that several hosts share."""

    def array(self, name: str) -> Select[Any]:
        """One array parameter, unnested."""
        return select(_unnested(name))

    def parameters(self, name: str, texts: list[str]) -> dict[str, object]:
        """The array itself."""
        return {name: texts}

    def fill(self, connection: Connection, table: Table, columns: Mapping[str, list[str]]) -> None:
        """Arrays of one length go side by side."""
        connection.execute(insert(table).from_select(list(columns), select(*map(_unnested, columns))), dict(columns))

    def gather(self, connection: Connection, rows: Subquery) -> list[list[Any]]:
        """One array a column."""
        return [column or [] for column in connection.execute(select(*map(func.array_agg, rows.c))).one()]

    def sort(self, heap: Table, stage: Table, columns: Sequence[str]) -> Insert:
        """Grouping gives one row an id; the full join below sorts or hashes as it likes."""
        single = select(heap.c.user_id, *(func.min(heap.c[name]) for name in columns[1:])).group_by(heap.c.user_id)
        return insert(stage).from_select(list(columns), single)

    def differences(self, stage: Table, present: Select[Any], diff: Table) -> tuple[Insert, ...]:
        """One full join costs less than half of two EXCEPTs here."""
        current = present.subquery("present")
        joined = stage.join(current, stage.c.user_id == current.c.user_id, full=True)
        changes = (select(func.coalesce(stage.c.user_id, current.c.user_id), cast(current.c.user_id.is_(None), Integer))
                   .select_from(joined)
                   .where(or_(stage.c.user_id.is_(None), current.c.user_id.is_(None))))
        return (insert(diff).from_select(["user_id", "entered"], changes),)


def _unnested(name: str) -> Any:
    return func.unnest(cast(bindparam(name, type_=ARRAY(Text)), ARRAY(Text)))


BACKENDS: dict[str, Backend] = {"sqlite": Sqlite(), "postgresql": Postgresql()}

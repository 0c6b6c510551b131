"""A result held while it is compared: complete, sorted, in temporary tables of one connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Integer, MetaData, Table, func, select
from sqlalchemy.schema import CreateTable, DropTable

from audiencesync import failpoints
from audiencesync.model import Chunk
from audiencesync.store.connect import Store
from audiencesync.store.tables import UserId

_temporary = MetaData()


def _temporary_table(name: str, *columns: Column[Any], **options: Any) -> Table:
    return Table(name, _temporary, *columns, prefixes=["TEMPORARY"], **options)


_heap = _temporary_table("stage_rows", Column("user_id", UserId), Column("included", UserId), Column("value", UserId))
staged = _temporary_table("stage", Column("user_id", UserId, primary_key=True), Column("included", UserId),
                           Column("value", UserId), sqlite_with_rowid=False)
diff = _temporary_table("stage_diff", Column("user_id", UserId, primary_key=True), Column("entered", Integer),
                         sqlite_with_rowid=False)
EXITED, ENTERED, RENEWED, UPDATED = 0, 1, 2, 3
"""What may differ of a user: his membership, only his included columns, or his values."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A complete result, sorted, one row a user, on a connection of its own; `rows` counts duplicates too.

    `columns` are those that were filled: included ones and a computed trait's values stand beside the id.
    """

    connection: Connection
    rows: int
    members: int
    columns: tuple[str, ...]

    def has(self, column: str) -> bool:
        """Whether that column was filled."""
        return column in self.columns

    def torn(self) -> tuple[str, str, str] | None:
        """A user with different values in two of his rows, and these; None where there is none."""
        if not self.has("value") or self.rows == self.members:
            return None
        least, most = func.min(_heap.c.value), func.max(_heap.c.value)
        row = self.connection.execute(select(_heap.c.user_id, least, most).group_by(_heap.c.user_id)
                                      .having(least != most).order_by(_heap.c.user_id).limit(1)).one_or_none()
        return None if row is None else (row[0], row[1], row[2])


@contextmanager
def stage(store: Store, chunks: Iterable[Chunk]) -> Iterator[Stage]:
    """Hold a result while it is compared; filled outside of any transaction, so that nobody waits for the source."""
    with store.scratch() as connection:
        for table in _temporary.sorted_tables:
            connection.execute(CreateTable(table))
        try:
            rows = 0
            columns: tuple[str, ...] = ("user_id",)
            for chunk in chunks:
                filled = {"user_id": chunk.ids, "included": chunk.included, "value": chunk.values}
                texts = {name: column for name, column in filled.items() if column is not None}
                store.backend.fill(connection, _heap, texts)
                rows, columns = rows + len(chunk.ids), tuple(texts)
            members = connection.execute(store.backend.sort(_heap, staged, columns),
                                         execution_options={"preserve_rowcount": True}).rowcount
            failpoints.reach("run.staged")
            yield Stage(connection, rows, members, columns)
        finally:
            if store.keeps and not connection.invalidated and not connection.closed:
                connection.rollback()
                for table in _temporary.sorted_tables:
                    connection.execute(DropTable(table))

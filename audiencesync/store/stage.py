"""A result held while it is compared: complete, sorted, in temporary tables of one connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert
from sqlalchemy.schema import CreateTable, DropTable

from audiencesync import failpoints
from audiencesync.model import Chunk
from audiencesync.store.connect import Store
from audiencesync.store.tables import UserId

_temporary = MetaData()


def _temporary_table(name: str, *columns: Column[Any], **options: Any) -> Table:
    return Table(name, _temporary, *columns, prefixes=["TEMPORARY"], **options)


_heap = _temporary_table("stage_rows", Column("user_id", UserId), Column("included", UserId))
staged = _temporary_table("stage", Column("user_id", UserId, primary_key=True), Column("included", UserId),
                           sqlite_with_rowid=False)
diff = _temporary_table("stage_diff", Column("user_id", UserId, primary_key=True), Column("entered", Integer),
                         sqlite_with_rowid=False)
EXITED, ENTERED, RENEWED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Stage:
    """A complete result, sorted, one row a user, on a connection of its own; `rows` counts duplicates too.

    `paired` says whether included columns travel along.
    """

    connection: Connection
    rows: int
    members: int
    paired: bool


@contextmanager
def stage(store: Store, chunks: Iterable[Chunk]) -> Iterator[Stage]:
    """Hold a result while it is compared; filled outside of any transaction, so that nobody waits for the source."""
    with store.scratch() as connection:
        for table in _temporary.sorted_tables:
            connection.execute(CreateTable(table))
        try:
            rows, paired = 0, False
            for chunk in chunks:
                _fill(store, connection, chunk)
                rows += len(chunk.ids)
                paired = chunk.included is not None
            members = connection.execute(store.backend.sort(_heap, staged),
                                         execution_options={"preserve_rowcount": True}).rowcount
            failpoints.reach("run.staged")
            yield Stage(connection, rows, members, paired)
        finally:
            if store.keeps and not connection.invalidated and not connection.closed:
                connection.rollback()
                for table in _temporary.sorted_tables:
                    connection.execute(DropTable(table))


def _fill(store: Store, connection: Connection, chunk: Chunk) -> None:
    paired = chunk.included is not None
    rows = store.backend.array("ids", paired=paired)
    columns = ["user_id", "included"] if paired else ["user_id"]
    connection.execute(insert(_heap).from_select(columns, rows),
                       store.backend.parameters("ids", chunk.ids, chunk.included))

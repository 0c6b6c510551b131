"""The members or values of a computation as another one's SQL reads them: of one run, in chunks, never all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Column, FromClause, MetaData, Select, Table, Text, insert, literal, select
from sqlalchemy.schema import CreateTable, DropTable

from audiencesync.model import TRAIT, Audience, Chunk, Shipped, as_object, table_of
from audiencesync.store.connect import Store
from audiencesync.store.content import in_columns
from audiencesync.store.runs import Due
from audiencesync.store.stage import Stage, staged
from audiencesync.store.tables import UserId, memberships
from audiencesync.store.traits import traits_of
from audiencesync.store.values import as_of

CHUNK = 5000
"""Users of a chunk."""

_kept = Table(
    "kept_members", MetaData(), Column("key", Text, primary_key=True), Column("user_id", UserId, primary_key=True),
    Column("value", UserId), prefixes=["TEMPORARY"], sqlite_with_rowid=False)


def shipped(store: Store, due: Due) -> Shipped:
    """A computation's table as of its last run, which another run meanwhile does not change; it must have one."""
    assert due.run is not None
    valued = due.kind == TRAIT
    traits = traits_of(store, due.computation_id, due.run.number)
    rows = _columns(memberships, valued=valued).where(memberships.c.computation_id == due.computation_id,
                                                      as_of(due.run.number))
    return Shipped(table_of(due.kind, due.key), traits, _chunks(store, rows, list(traits)))


def _columns(table: FromClause, *, valued: bool) -> Select[tuple[str, str]]:
    return select(table.c.user_id, table.c.value) if valued else select(table.c.user_id)


def _chunks(store: Store, query: Select[tuple[str, str]], traits: Sequence[str]) -> Iterator[Chunk]:
    for users, *values in in_columns(store, query, None, CHUNK):
        yield Chunk(users, None, [as_object(traits, text) for text in values[0]] if values else None)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a plan has computed so far of computations `wanted` by others, in a temporary table of its connection."""

    store: Store
    wanted: frozenset[str]
    kinds: dict[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)

    def keep(self, held: Stage, audience: Audience, traits: Mapping[str, str]) -> None:
        """Keep what is staged now, if it is wanted; `traits` are the kinds of its values by name."""
        if audience.key not in self.wanted:
            return
        rows = select(literal(audience.key), staged.c.user_id, staged.c.value)
        held.connection.execute(insert(_kept).from_select(["key", "user_id", "value"], rows))
        self.kinds[audience.key] = audience.kind, traits

    def shipped(self, key: str) -> Shipped | None:
        """The table of one that is kept; None where it is not."""
        if key not in self.kinds:
            return None
        kind, traits = self.kinds[key]
        valued = kind == TRAIT
        return Shipped(table_of(kind, key), traits,
                       _chunks(self.store, _columns(_kept, valued=valued).where(_kept.c.key == key), list(traits)))


@contextmanager
def keeping(thought: Store, wanted: frozenset[str]) -> Iterator[Kept]:
    """A place beside planned content, whose one connection `thought` reads on, for those of these keys."""
    with thought.read() as connection:
        connection.execute(CreateTable(_kept))
        try:
            yield Kept(thought, wanted)
        finally:
            if not connection.invalidated and not connection.closed:
                connection.rollback()
                connection.execute(DropTable(_kept))

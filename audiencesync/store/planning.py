"""A sync that is only thought of: its content in a temporary table, read by the code that reads real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Row,
    Select,
    Subquery,
    Table,
    Text,
    and_,
    distinct,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.schema import CreateTable, DropTable

from audiencesync.model import Left, Span, Sync
from audiencesync.store.connect import Store
from audiencesync.store.content import as_of, changes, retries
from audiencesync.store.included import included_column
from audiencesync.store.stage import Stage, staged
from audiencesync.store.tables import UserId, computations, memberships, positions, rejections, runs, spans, syncs

planned = Table(
    "planned", MetaData(),
    Column("computation_id", Integer, primary_key=True, autoincrement=False),
    Column("user_id", UserId, primary_key=True),
    Column("since_run", Integer), Column("until_run", Integer), Column("included", Text),
    prefixes=["TEMPORARY"], sqlite_with_rowid=False)
FROM, TO = 0, 1
"""The two runs of a thought: as it is told, and as it would be."""


class Thought(Store):
    """The state seen through one connection, which alone knows the temporary tables."""

    def __init__(self, store: Store, connection: Connection) -> None:
        super().__init__(store.engine)
        self._held, self.keeps = connection, True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """The connection that knows."""
        yield self._held


@contextmanager
def thinking(store: Store) -> Iterator[Thought]:
    """A place for planned content that is gone afterwards."""
    with store.scratch() as connection:
        connection.execute(CreateTable(planned))
        try:
            yield Thought(store, connection)
        finally:
            if store.keeps and not connection.invalidated and not connection.closed:
                connection.rollback()
                connection.execute(DropTable(planned))


def differences(held: Stage, computation_id: int, run: int) -> tuple[int, int]:
    """How many users the stage would have enter and exit, compared with the memberships as of `run`."""
    told = _told(computation_id, run)
    both = select(func.count()).select_from(staged.join(told, told.c.user_id == staged.c.user_id))
    common = held.connection.execute(both).scalar_one()
    before = held.connection.execute(select(func.count()).select_from(told)).scalar_one()
    return held.members - common, before - common


def think(held: Stage, slot: int, computation_id: int, run: int, follows: str = "") -> tuple[int, int, int]:
    """Put into `planned`, under the number `slot`, who the stage would have enter and exit since `run`; count both.

    The third count is of members who are told again since the included column `follows` says who they are.
    """
    told = _told(computation_id, run)
    columns = ["computation_id", "user_id", "since_run", "until_run", "included"]
    entered = (select(literal(slot), staged.c.user_id, literal(TO), null(), staged.c.included)
               .select_from(staged.outerjoin(told, told.c.user_id == staged.c.user_id))
               .where(told.c.user_id.is_(None)).order_by(staged.c.user_id))
    exited = (select(literal(slot), told.c.user_id, literal(FROM), literal(TO), null())
              .select_from(told.outerjoin(staged, staged.c.user_id == told.c.user_id))
              .where(staged.c.user_id.is_(None)))
    counted = {"preserve_rowcount": True}  # otherwise psycopg's count of an INSERT is thrown away
    found = [held.connection.execute(insert(planned).from_select(columns, rows), execution_options=counted).rowcount
             for rows in (entered, exited)]
    if not follows:
        return found[0], found[1], 0
    then, now = included_column(told.c.included, follows), included_column(staged.c.included, follows)
    moved = (select(literal(slot), staged.c.user_id, literal(TO), null(), staged.c.included)
             .select_from(staged.join(told, told.c.user_id == staged.c.user_id))
             .where(now.is_not(None), or_(then.is_(None), then != now)))
    again = held.connection.execute(insert(planned).from_select(columns, moved), execution_options=counted).rowcount
    return found[0], found[1], again


def think_again(held: Stage, slot: int, destination: str, computation_id: int, before: Sequence[Sync]) -> int:
    """Add the users the destination refused before, with the value they would have; say how many that are.

    Whoever belongs to a sync that goes on `before` is refused no more when that is done.
    """
    known = select(planned.c.user_id).where(planned.c.computation_id == slot)
    mine = [rejections.c.destination == destination, rejections.c.computation_id == computation_id,
            rejections.c.user_id.not_in(known)]
    mine += [rejections.c.user_id.not_in(users) for sync in before for span in sync.spans
             if span.computation_id == computation_id for users in _owed(sync, span)]
    columns = ["computation_id", "user_id", "since_run", "until_run", "included"]
    count = held.connection.execute(select(func.count()).select_from(rejections).where(*mine)).scalar_one()
    for member in (True, False):
        matches = staged.c.user_id.is_not(None) if member else staged.c.user_id.is_(None)
        rows = (select(literal(slot), rejections.c.user_id, literal(TO if member else FROM),
                       null() if member else literal(TO), staged.c.included)
                .select_from(rejections.outerjoin(staged, staged.c.user_id == rejections.c.user_id))
                .where(*mine, matches))
        held.connection.execute(insert(planned).from_select(columns, rows))
    return count


def _told(computation_id: int, run: int) -> Subquery:
    return (select(memberships.c.user_id, memberships.c.included)
            .where(memberships.c.computation_id == computation_id, as_of(run)).subquery("told"))


def _owed(sync: Sync, span: Span) -> list[Select[Any]]:
    """The users of what is left of a span: those who differ, and those refused before."""
    users = [select(query.subquery().c.user_id) for query in (changes(sync.mode, span), retries(sync, span))]
    if sync.acknowledged is None:
        return users
    return [query.where(query.selected_columns[0] > sync.acknowledged) for query in users]


def distinct_users(thought: Store, slots: list[int], going_on: Sequence[Sync]) -> int:
    """How many different people the planned calls of these numbers, and the syncs that go on, are to."""
    users = [select(planned.c.user_id).where(planned.c.computation_id.in_(slots)),
             *(part for sync in going_on for span in sync.spans for part in _owed(sync, span))]
    everybody = union_all(*users).subquery()
    with thought.read() as connection:
        return connection.execute(select(func.count(distinct(everybody.c.user_id)))).scalar_one()


def taken_away(store: Store, goes_to: Mapping[str, Sequence[str]]) -> list[Left]:
    """Where people still hold a trait though their audience goes to that destination no more; `goes_to` by key."""
    stands = (select(positions.c.destination, computations.c.key, runs.c.members)
              .join(computations, computations.c.id == positions.c.computation_id)
              .join(runs, and_(runs.c.computation_id == positions.c.computation_id, runs.c.number == positions.c.run))
              .where(positions.c.retired_at.is_(None), computations.c.retired_at.is_(None), runs.c.members > 0))
    left_here = exists().where(positions.c.destination == syncs.c.destination, positions.c.retired_at.is_not(None),
                               positions.c.computation_id == spans.c.computation_id)
    begun = (select(syncs.c.destination, computations.c.key, syncs.c.sent.label("members"))
             .join(spans, spans.c.sync_id == syncs.c.id)
             .join(computations, computations.c.id == spans.c.computation_id)
             .where(syncs.c.status == "open", syncs.c.mode == "initial", syncs.c.claimed.is_not(None),
                    computations.c.retired_at.is_(None), ~left_here))
    with store.read() as connection:
        found = {(row.key, row.destination): row.members for query in (begun, stands)
                 for row in connection.execute(query)}
    return [Left(key, name, members) for (key, name), members in sorted(found.items())
            if name not in goes_to.get(key, ())]


def left_behind(store: Store, keys: list[str]) -> tuple[Row[tuple[str]], ...]:
    """Keys that were run once and are defined no more, unless retired."""
    with store.read() as connection:
        return tuple(connection.execute(
            select(computations.c.key).where(computations.c.key.not_in(keys), computations.c.retired_at.is_(None),
                                             computations.c.id_kind.is_not(None)).order_by(computations.c.key)))

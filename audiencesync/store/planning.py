"""A sync that is only thought of: its content in a temporary table, read by the code that reads real ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

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
    case,
    distinct,
    exists,
    func,
    insert,
    literal,
    not_,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.schema import CreateTable, DropTable

from audiencesync.model import TRAIT, UNTOLD, Envelope, Left, Span, Sync
from audiencesync.store import values
from audiencesync.store.connect import Store
from audiencesync.store.content import changes, retries
from audiencesync.store.included import included_column
from audiencesync.store.stage import Stage, staged
from audiencesync.store.tables import UserId, computations, memberships, positions, rejections, runs, spans, syncs
from audiencesync.store.values import as_of, renamed

planned = Table(
    "planned", MetaData(),
    Column("computation_id", Integer, primary_key=True, autoincrement=False),
    Column("user_id", UserId, primary_key=True),
    Column("since_run", Integer, primary_key=True, autoincrement=False), Column("until_run", Integer),
    Column("included", Text), Column("value", Text),
    prefixes=["TEMPORARY"], sqlite_with_rowid=False)
NOBODYS = '"\\u0000"'
"""A value that nobody has, since no text with a NUL character is ever kept."""
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


def differences(held: Stage, computation_id: int, run: int, *, renamed: bool) -> tuple[int, int, int]:
    """How many users the stage would have enter, exit and hold other values, compared with those as of `run`.

    By a `renamed` trait everybody's are others.
    """
    told = _told(computation_id, run)
    apart = case((staged.c.value.is_distinct_from(told.c.value), 1), else_=0)
    other = func.count() if renamed else func.coalesce(func.sum(apart), 0)
    both = select(func.count(), other).select_from(staged.join(told, told.c.user_id == staged.c.user_id))
    common, updated = held.connection.execute(both).one()
    before = held.connection.execute(select(func.count()).select_from(told)).scalar_one()
    return held.members - common, before - common, int(updated)


class Change(NamedTuple):
    """What the stage would change: whose membership, and how many are told so or something else.

    `moved` are members told again since an included column says who they are, `updated` those with other values.
    """

    net: tuple[int, int]
    entered: int
    exited: int
    moved: int = 0
    updated: int = 0

    @property
    def calls(self) -> int:
        """How many are told."""
        return self.entered + self.exited + self.moved + self.updated


def think(held: Stage, slot: int, computation_id: int, run: int, envelope: Envelope) -> Change:
    """Put into `planned`, under the number `slot`, whom the stage would have told since `run`; count them."""
    told = _told(computation_id, run)
    both = staged.join(told, told.c.user_id == staged.c.user_id)
    new = literal(TO), null(), staged.c.included, staged.c.value
    old = literal(FROM), literal(TO), null(), told.c.value
    entered = _put(held, slot, select(staged.c.user_id, *new)
                   .select_from(staged.outerjoin(told, told.c.user_id == staged.c.user_id))
                   .where(told.c.user_id.is_(None)).order_by(staged.c.user_id))
    exited = _put(held, slot, select(told.c.user_id, *old)
                  .select_from(told.outerjoin(staged, staged.c.user_id == told.c.user_id))
                  .where(staged.c.user_id.is_(None)))
    other, moved = true() if renamed(envelope) else staged.c.value.is_distinct_from(told.c.value), 0
    if envelope.follows:
        then, now = (included_column(side.c.included, envelope.follows) for side in (told, staged))
        moved = _put(held, slot, select(staged.c.user_id, *new).select_from(both)
                     .where(now.is_not(None), or_(then.is_(None), then != now), not_(other)))
    if envelope.computation_class != TRAIT:
        return Change((entered, exited), entered, exited, moved)
    for side, row in ((staged, new), (told, old)):
        _put(held, slot, select(side.c.user_id, *row).select_from(both).where(other))
    return _counted(held, Span(slot, envelope.key, FROM, TO, envelope), (entered, exited), moved)


def _put(held: Stage, slot: int, rows: Select[Any]) -> int:
    columns = ["computation_id", "user_id", "since_run", "until_run", "included", "value"]
    numbered = insert(planned).from_select(columns, rows.with_only_columns(literal(slot), *rows.selected_columns))
    counted = {"preserve_rowcount": True}  # otherwise psycopg's count of an INSERT is thrown away
    return held.connection.execute(numbered, execution_options=counted).rowcount


def _counted(held: Stage, span: Span, net: tuple[int, int], moved: int) -> Change:
    """Of computed traits it is their values that say who is told; by other names only when they are compared."""
    if renamed(span.envelope):
        entered = exited = told = 0
        for _, member, _, before, after in _in_order(held, changes("incremental", span, planned)):
            if values.told(span.envelope, before, after, whole=False) != UNTOLD:
                entered, exited, told = entered + (before is None), exited + (not member), told + 1
        return Change(net, entered - moved, exited, moved, told - entered - exited)
    rows = changes("incremental", span, planned).subquery()
    entered, exited, told = held.connection.execute(select(
        func.coalesce(func.sum(case((rows.c.before.is_(None), 1), else_=0)), 0),
        func.coalesce(func.sum(1 - rows.c.value), 0), func.count()).select_from(rows)).one()
    return Change(net, int(entered) - moved, int(exited), moved, int(told) - int(entered) - int(exited))


def _in_order(held: Stage, query: Select[Any]) -> Iterator[Any]:
    """The rows by user, some thousand at a time."""
    user, after = query.selected_columns[0], None
    query = query.order_by(user).limit(5000)
    while rows := held.connection.execute(query if after is None else query.where(user > after)).all():
        yield from rows
        after = rows[-1][0]


def think_again(held: Stage, slot: int, destination: str, computation_id: int, envelope: Envelope,
                before: Sequence[Sync]) -> int:
    """Add the users the destination refused before, with the value they would have; say how many that are.

    Whoever belongs to a sync that goes on `before` is refused no more when that is done. Of computed traits they are
    told all, as if they held what nobody does.
    """
    strange = f"[{','.join([NOBODYS] * len(envelope.traits_before))}]"
    known = select(planned.c.user_id).where(planned.c.computation_id == slot,
                                            planned.c.value.is_distinct_from(strange))
    mine = [rejections.c.destination == destination, rejections.c.computation_id == computation_id,
            rejections.c.user_id.not_in(known)]
    mine += [rejections.c.user_id.not_in(users) for sync in before for span in sync.spans
             if span.computation_id == computation_id for users in _owed(sync, span)]
    refused = rejections.outerjoin(staged, staged.c.user_id == rejections.c.user_id)
    valued = envelope.computation_class == TRAIT
    if valued and not envelope.missing:
        mine.append(staged.c.user_id.is_not(None))
    count = held.connection.execute(select(func.count()).select_from(refused).where(*mine)).scalar_one()
    here, gone = staged.c.user_id.is_not(None), staged.c.user_id.is_(None)
    old = rejections.c.user_id, literal(FROM), literal(TO), null(), literal(strange) if valued else null()
    new = rejections.c.user_id, literal(TO), null(), staged.c.included, staged.c.value
    for row, matches in ((old, or_(gone, here) if valued else gone), (new, here)):
        _put(held, slot, select(*row).select_from(refused).where(*mine, matches))
    return count


def _told(computation_id: int, run: int) -> Subquery:
    return (select(memberships.c.user_id, memberships.c.included, memberships.c.value)
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

"""What a sync sends, read in pages: a pure function of its row and of the memberships as of two runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import merge
from itertools import chain, groupby, islice, repeat
from operator import itemgetter, not_
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
)

from audiencesync.model import TRAIT, UNTOLD, Call, Page, Span, Sync
from audiencesync.store import values
from audiencesync.store.connect import Store
from audiencesync.store.included import included_column
from audiencesync.store.tables import memberships, rejections
from audiencesync.store.values import as_of, renamed


def differ(store: Store, span: Span) -> bool:
    """Whether an increment has anything to tell."""
    with store.read() as connection:
        return connection.execute(changes("incremental", span).limit(1)).first() is not None


def net(store: Store, computation_id: int, from_run: int, to_run: int) -> tuple[int, int]:
    """How many users entered and exited between two runs, those left out who ended as they were."""
    change = _changed(computation_id, from_run, to_run, memberships).subquery()
    with store.read() as connection:
        entered, both = connection.execute(select(func.coalesce(func.sum(change.c.value), 0), func.count())
                                           .select_from(change)).one()
    return int(entered), int(both) - int(entered)


def changes(mode: str, span: Span, table: FromClause = memberships) -> Select[Any]:
    """(user_id, value, included) of everyone a span is about, of computed traits with (before, after) besides.

    The mode is as in the sync's row.
    """
    if span.envelope.computation_class == TRAIT:
        return _traits(mode, span, table)
    mine = table.c.computation_id == span.computation_id
    if mode == "initial":
        member = select(table.c.user_id, literal_column("1").label("value"), table.c.included)
        return member.where(mine, as_of(span.to_run, table))
    if mode == "backfill":
        return valued(span.to_run, table).where(mine, table.c.since_run <= span.to_run)
    return _changed(span.computation_id, span.from_run, span.to_run, table, span.envelope.follows)


def _traits(mode: str, span: Span, table: FromClause) -> Select[Any]:
    if mode == "initial":
        return values.initial(span, table)
    if mode == "backfill":
        return values.everybody(span, table)
    return values.changed(span, table, _touched(span.from_run, span.to_run, table))


def members(store: Store, computation_id: int, run: int, chunk: int = 5000) -> Iterator[list[list[Any]]]:
    """Who is in it as of a run: users, included columns and values, as lists of one length."""
    columns = select(memberships.c.user_id, memberships.c.included, memberships.c.value)
    return in_columns(store, columns.where(memberships.c.computation_id == computation_id, as_of(run)), None, chunk)


def valued(run: int, table: FromClause) -> Select[Any]:
    """Each user's (user_id, value, included) as of `run`, over all his rows that a caller chooses."""
    now = as_of(run, table)
    value = func.max(case((now, 1), else_=0)).label("value")
    included = func.max(case((now, table.c.included), else_=null())).label("included")
    return select(table.c.user_id, value, included).group_by(table.c.user_id)


def _changed(computation_id: int, from_run: int, to_run: int, table: FromClause, follows: str = "") -> Select[Any]:
    """Where an included column says who a user is, a member whose column differs is told again."""
    then, now = as_of(from_run, table), as_of(to_run, table)
    differs = func.max(case((now, 1), else_=0)) != func.max(case((then, 1), else_=0))
    if follows:
        column = included_column(table.c.included, follows)
        before, after = (func.max(case((when, column), else_=null())) for when in (then, now))
        differs = or_(differs, and_(after.is_not(None), or_(before.is_(None), before != after)))
    return valued(to_run, table).where(table.c.computation_id == computation_id,
                                       _touched(from_run, to_run, table)).having(differs)


def _touched(from_run: int, to_run: int, table: FromClause) -> ColumnElement[bool]:
    """A row outside of (from, to] cannot be part of a difference, which keeps an increment to one cheap scan.

    A destination that an audience leaves goes from its position back to run 0, as of which nobody is a member.
    """
    low, high = sorted((from_run, to_run))
    return or_(and_(table.c.since_run > low, table.c.since_run <= high),
               and_(table.c.until_run > low, table.c.until_run <= high))


def retries(sync: Sync, span: Span) -> Select[Any]:
    """What `changes` gives, of users refused before the sync opened whose next try is due."""
    before = and_(rejections.c.destination == sync.destination, rejections.c.computation_id == span.computation_id,
                  rejections.c.sync_id < sync.id)
    due = rejections.c.next_try <= sync.retries_due
    if span.envelope.computation_class == TRAIT:
        # of his traits only those that differ would be told else, though he does not hold the others
        told = select(changes(sync.mode, span).subquery().c.user_id)
        return values.refused(span, and_(before, or_(due, rejections.c.user_id.in_(told))))
    member = memberships.alias("member")
    mine = and_(member.c.computation_id == span.computation_id, member.c.user_id == rejections.c.user_id,
                as_of(span.to_run, member))
    value = case((member.c.user_id.is_(None), 0), else_=1)
    return (select(rejections.c.user_id, value.label("value"), member.c.included)
            .select_from(rejections.outerjoin(member, mine)).where(before, due))


def in_columns(store: Store, query: Select[Any], after: str | None, chunk: int) -> Iterator[list[list[Any]]]:
    """The rows of a query behind user `after` (its first column), so many at a time, each column as one list."""
    # read anew from the last user for each chunk: no cursor and no transaction stays open while requests are under way;
    # gathered into arrays, since a row of its own for each user would cost twice as much
    column = query.selected_columns[0]
    query = query.order_by(column).limit(chunk)
    while True:
        part = (query if after is None else query.where(column > after)).subquery()
        with store.read() as connection:
            columns = store.backend.gather(connection, part)
        if columns[0]:
            yield columns
        if len(columns[0]) < chunk:
            return
        after = columns[0][-1]


_as_call: Callable[[Any], Call] = partial(tuple.__new__, Call)


def as_calls(span: Span, index: int, columns: list[list[Any]], *, whole: bool) -> list[Call]:
    """Rows of `changes`, given as columns, as calls of the span with that index."""
    users, members, included, *traits = columns
    told = partial(values.told, span.envelope, whole=whole)
    each: Iterable[bool | str] = map(told, *traits) if traits else map(bool, members)
    over = map(not_, members) if traits else repeat(False)
    calls = list(map(_as_call, zip(users, repeat(index), each, included, over, strict=False)))
    return [call for call in calls if call.value != UNTOLD] if not whole and renamed(span.envelope) else calls


def _streams(store: Store, sync: Sync, size: int, table: FromClause, *, retried: bool) -> list[Iterator[list[Call]]]:
    spans = list(enumerate(sync.spans))
    queries = [(retries(sync, span), partial(as_calls, span, index, whole=True)) for index, span in spans if retried]
    # behind those: whoever was refused does not hold what he is said to, so that a difference would not do
    queries += [(changes(sync.mode, span, table), partial(as_calls, span, index, whole=sync.mode == "backfill"))
                for index, span in spans]
    # of a lone stream's chunk comes a whole number of pages; many streams hold no more in memory together than one
    whole = size * max(5, -(-100 // size)) if len(queries) == 1 else max(100, 5 * size // len(queries))
    return [map(calls, in_columns(store, query, sync.acknowledged, whole)) for query, calls in queries]


def pages(store: Store, sync: Sync, *, size: int, table: FromClause = memberships,
          retried: bool = True) -> Iterator[Page]:
    """The rest of the sync behind what is acknowledged, in pages of about `size` calls that end between users.

    Calls are ordered by user and span, each user once a span. `retried` may be false where nobody was ever refused.
    """
    streams = _streams(store, sync, size, table, retried=retried)
    if len(streams) == 1:
        for chunk in streams[0]:
            for start in range(0, len(chunk), size):
                part = chunk[start:start + size]
                yield Page(part[-1].user_id, part)
        return
    order = itemgetter(0, 1)
    merged = merge(*map(chain.from_iterable, streams), key=order)
    yield from _cut((next(same) for _, same in groupby(merged, key=order)), size)


def _cut(rest: Iterator[Call], size: int) -> Iterator[Page]:
    held: list[Call] = []
    while True:
        held += islice(rest, size + 1 - len(held))
        if not held:
            return
        cut = len(held)
        if cut > size:
            held += _rest_of_user(rest, held)
            cut = _boundary(held)
        page, held = held[:cut], held[cut:]
        yield Page(page[-1].user_id, page)


def _boundary(held: list[Call]) -> int:
    """The index of the last user's first call, unless he is the only one."""
    last = held[-1].user_id
    cut = len(held)
    while cut and held[cut - 1].user_id == last:
        cut -= 1
    return cut or len(held)


def _rest_of_user(rest: Iterator[Call], held: list[Call]) -> list[Call]:
    """What must follow so that a page of one user only is whole."""
    if held[0].user_id != held[-1].user_id:
        return []
    user, more = held[-1].user_id, []
    for call in rest:
        more.append(call)
        if call.user_id != user:
            break
    return more


def count(store: Store, sync: Sync, *, after: str | None = None, table: FromClause = memberships) -> tuple[int, int]:
    """How many calls the sync has behind user `after`, and how many of them are to users refused before."""
    total = again = 0
    with store.read() as connection:
        for span in sync.spans:
            whole, refused = (_behind(query, after) for query in (changes(sync.mode, span, table), retries(sync, span)))
            tried = connection.execute(select(func.count()).select_from(refused)).scalar_one()
            if sync.mode == "incremental" and renamed(span.envelope):
                fresh = _told(store, span, after, table, refused)
            else:
                both = whole.join(refused, whole.c.user_id == refused.c.user_id)
                fresh = connection.execute(select(func.count()).select_from(whole)).scalar_one() - (
                    connection.execute(select(func.count()).select_from(both)).scalar_one() if tried else 0)
            total, again = total + fresh + tried, again + tried
    return total, again


def _told(store: Store, span: Span, after: str | None, table: FromClause, refused: Subquery) -> int:
    """Of how many users of a span there is something to tell, where other names keep the database from saying.

    Those `refused` before are left out.
    """
    query = changes("incremental", span, table)
    fresh = query.where(query.selected_columns[0].not_in(select(refused.c.user_id)))
    return sum(len(as_calls(span, 0, columns, whole=False)) for columns in in_columns(store, fresh, after, 5000))


def _behind(query: Select[Any], after: str | None) -> Subquery:
    return (query if after is None else query.where(query.selected_columns[0] > after)).subquery()

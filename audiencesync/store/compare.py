"""What differs between a complete result and the memberships that last, and which of them end and begin with a run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Connection,
    FromClause,
    Insert,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    update,
)

from audiencesync.store.connect import Store
from audiencesync.store.stage import ENTERED, EXITED, RENEWED, UPDATED, Stage, diff, staged
from audiencesync.store.tables import memberships


def _present(computation_id: int) -> Select[Any]:
    """The users whose membership lasts."""
    return select(memberships.c.user_id).where(memberships.c.computation_id == computation_id,
                                               memberships.c.until_run.is_(None))


def compare(store: Store, held: Stage, computation_id: int, before: int, number: int, *, redefined: bool,
            renamed: bool) -> tuple[int, int, int]:
    """End what ended, begin what began with run `number`; how many entered, exited and were updated.

    There were `before` members. By a `renamed` trait all are updated; what was `redefined` may have other columns.
    """
    counts: dict[int, int] = {}
    bare = len(held.columns) == 1 and not redefined
    for statement in store.backend.differences(staged, _present(computation_id), diff) if bare else (
            _with_columns(computation_id, renamed=renamed)):
        held.connection.execute(statement)
        found = held.connection.execute(select(diff.c.entered, func.count()).group_by(diff.c.entered))
        counts = {int(code): int(users) for code, users in found}
        if before + counts.get(ENTERED, 0) == held.members:
            break  # both are sets: equal sizes but for those who entered leave nobody to look for
    if counts.keys() - {ENTERED}:
        _end(held.connection, computation_id, number)
    if counts.keys() - {EXITED}:
        began = select(diff.c.user_id).where(diff.c.entered != EXITED).subquery("began")
        begin(held, computation_id, number, began)
    return counts.get(ENTERED, 0), counts.get(EXITED, 0), counts.get(UPDATED, 0)


def _with_columns(computation_id: int, *, renamed: bool) -> tuple[Insert, ...]:
    """Note who entered and whose values or included columns changed, then who exited: a walk along either side."""
    lasts = and_(memberships.c.computation_id == computation_id, memberships.c.until_run.is_(None))
    same = memberships.c.user_id == staged.c.user_id
    updated = true() if renamed else memberships.c.value.is_distinct_from(staged.c.value)
    renewed = memberships.c.included.is_distinct_from(staged.c.included)
    code = case((memberships.c.user_id.is_(None), ENTERED), (updated, UPDATED), else_=RENEWED)
    here = (select(staged.c.user_id, code).select_from(staged.outerjoin(memberships, and_(lasts, same)))
            .where(or_(memberships.c.user_id.is_(None), updated, renewed)))
    gone = (select(memberships.c.user_id, literal(EXITED)).select_from(memberships.outerjoin(staged, same))
            .where(lasts, staged.c.user_id.is_(None)))
    return tuple(insert(diff).from_select(["user_id", "entered"], side) for side in (here, gone))


def _end(connection: Connection, computation_id: int, number: int) -> None:
    ended = select(diff.c.user_id).where(diff.c.entered != ENTERED)
    connection.execute(update(memberships).where(
        memberships.c.computation_id == computation_id, memberships.c.until_run.is_(None),
        memberships.c.user_id.in_(ended)).values(until_run=number))


def begin(held: Stage, computation_id: int, number: int, users: FromClause = staged) -> int:
    """Start a membership for each of `users`, in their order; say how many."""
    source, more = users, held.columns[1:]
    if more and users is not staged:
        source = users.join(staged, staged.c.user_id == users.c.user_id)
    begun = (select(bindparam("computation", computation_id, Integer), users.c.user_id,
                    bindparam("number", number, Integer), null(), *(staged.c[name] for name in more))
             .select_from(source).order_by(users.c.user_id))
    columns = ["computation_id", "user_id", "since_run", "until_run", *more]
    return held.connection.execute(insert(memberships).from_select(columns, begun),
                                   execution_options={"preserve_rowcount": True}).rowcount

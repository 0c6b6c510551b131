"""What a sync tells of computed traits: only those that differ between two runs, or all of a user's.

A user's values are kept as the text of a JSON array, in the order of the names that the run found; a run that finds
other names writes everybody's anew. Each query gives (user_id, value, included, before, after): whether he is in the
result as of the newer run, and his values as of both, which are NULL while he is not. A user who dropped out is told
`missing` for each of his traits; where that is nothing, he keeps what he was told last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
)

from audiencesync.model import UNTOLD, Envelope, Span, as_object, decoded, digits
from audiencesync.store.included import included_column
from audiencesync.store.tables import memberships, rejections


def as_of(run: int, table: FromClause = memberships) -> ColumnElement[bool]:
    """Whether a membership lasted at the end of `run`."""
    return and_(table.c.since_run <= run, or_(table.c.until_run.is_(None), table.c.until_run > run))


def renamed(envelope: Envelope) -> bool:
    """Whether the two runs found other names, so that equal texts are not equal values."""
    return envelope.traits != envelope.traits_before


def initial(span: Span, table: FromClause) -> Select[Any]:
    """Everybody in the result who has a value at all."""
    found = select(table.c.user_id, literal_column("1").label("value"), table.c.included, _none("before"),
                   table.c.value.label("after")).where(
        table.c.computation_id == span.computation_id, as_of(span.to_run, table))
    clears = span.envelope.missing == "null"
    return found.where(table.c.value != _all("null", span.envelope.traits)) if clears else found


def changed(span: Span, table: FromClause, touched: ColumnElement[bool]) -> Select[Any]:
    """Who is told something else than before; `touched` are rows that may be part of a difference.

    Where the names are others it is everybody, some of whom there may be nothing to tell. Of a user of whom an included
    column says that he is somebody else now, `before` is as `after`, so that he is told all.
    """
    then, now, envelope = as_of(span.from_run, table), as_of(span.to_run, table), span.envelope
    before: ColumnElement[Any] = func.max(case((then, table.c.value), else_=null()))
    after = func.max(case((now, table.c.value), else_=null()))
    entered = and_(before.is_(None), after.is_not(None))
    left = and_(before.is_not(None), after.is_(None))
    stayed = and_(before.is_not(None), after.is_not(None))
    clears = envelope.missing == "null"
    differs = [and_(entered, after != _all("null", envelope.traits)) if clears else entered,
               stayed if renamed(envelope) else before != after]
    if envelope.missing:
        differs.append(and_(left, before != _all(envelope.missing, envelope.traits_before)))
    if envelope.full_row and span.to_run == 0:  # whoever dropped out before may hold something, too
        differs.append(true())
    if envelope.follows:
        column = included_column(table.c.included, envelope.follows)
        was, is_ = (func.max(case((when, column), else_=null())) for when in (then, now))
        moved = and_(stayed, is_.is_not(None), or_(was.is_(None), was != is_))
        differs.append(moved)
        before = case((moved, after), else_=before)
    included = func.max(case((now, table.c.included), else_=null())).label("included")
    return (select(table.c.user_id, func.max(case((now, 1), else_=0)).label("value"), included,
                   before.label("before"), after.label("after"))
            .where(table.c.computation_id == span.computation_id, touched)
            .group_by(table.c.user_id).having(or_(*differs)))


def everybody(span: Span, table: FromClause) -> Select[Any]:
    """Whoever is in the result, and where something is told of that, who ever was; each by his newest row."""
    newer = table.alias("newer")
    newest = ~exists().where(newer.c.computation_id == table.c.computation_id, newer.c.user_id == table.c.user_id,
                             newer.c.since_run > table.c.since_run, newer.c.since_run <= span.to_run)
    now = as_of(span.to_run, table)
    found = (select(table.c.user_id, case((now, 1), else_=0).label("value"),
                    case((now, table.c.included)).label("included"), _none("before"),
                    case((now, table.c.value)).label("after"))
             .where(table.c.computation_id == span.computation_id, table.c.since_run <= span.to_run, newest))
    return found if span.envelope.missing else found.where(now)


def refused(span: Span, mine: ColumnElement[bool]) -> Select[Any]:
    """Rejected users (those of `mine`) with what they hold as of the span's newer run."""
    holders = everybody(span, memberships).subquery("holders")
    return (select(rejections.c.user_id, func.coalesce(holders.c.value, 0).label("value"), holders.c.included,
                   _none("before"), holders.c.after)
            .select_from(rejections.outerjoin(holders, holders.c.user_id == rejections.c.user_id)).where(mine))


def told(envelope: Envelope, before: str | None, after: str | None, *, whole: bool) -> str:
    """The traits that a user is told, as the text of a JSON object; `whole` says that all of his are."""
    if after is None and not envelope.missing:
        return UNTOLD
    if before is None and after is not None and not whole and not envelope.full_row and envelope.missing == "null":
        return as_object(envelope.traits, after)
    new = dict(zip(envelope.traits, decoded(after), strict=True)) if after else {}
    missing = orjson.loads(envelope.missing or "null") if after is None else None
    chosen: dict[str, Any] = dict.fromkeys(envelope.traits_gone if whole else ())
    chosen |= {name: new.get(name, missing) for name in (*envelope.traits, *envelope.traits_before)}
    moved = before == after and (bool(envelope.follows) or not renamed(envelope))
    if before is not None and not whole and not moved:
        old = dict(zip(envelope.traits_before, decoded(before), strict=True))
        differs = {name: value for name, value in chosen.items() if not same(value, old.get(name))}
        chosen = chosen if differs and envelope.full_row else differs
    return orjson.dumps(chosen, default=digits).decode()


def same(one: object, other: object) -> bool:
    """Whether two values are spelt alike: what Python calls equal may be a number here and a boolean there."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _all(value: str, traits: Sequence[str]) -> str:
    """The values of a user who has this one, spelt in JSON, in each trait."""
    return f"[{','.join([value] * len(traits))}]"


def _none(name: str) -> ColumnElement[Any]:
    return cast(null(), Text).label(name)

"""What a sync tells of computed traits: only those that differ between two runs, or all of a user's.

Each query gives (user_id, value, included, before, after): whether he is in the result as of the newer run, and his
values as of both, which are NULL while he is not. A user who dropped out is told `missing` for each of his traits;
where that is nothing, he keeps what he was told last.
"""

from __future__ import annotations

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
)

from audiencesync.model import Envelope, Span, exact
from audiencesync.store.included import included_column
from audiencesync.store.tables import memberships, rejections

NOTHING = "{}"
"""The values of a user all of whose traits are NULL."""

TRAIT = "trait"
"""How an envelope calls a computed trait (context.personas.computation_class)."""


def as_of(run: int, table: FromClause = memberships) -> ColumnElement[bool]:
    """Whether a membership lasted at the end of `run`."""
    return and_(table.c.since_run <= run, or_(table.c.until_run.is_(None), table.c.until_run > run))


def initial(span: Span, table: FromClause) -> Select[Any]:
    """Everybody in the result who has a value at all."""
    found = select(table.c.user_id, literal_column("1").label("value"), table.c.included, _none("before"),
                   table.c.value.label("after")).where(
        table.c.computation_id == span.computation_id, as_of(span.to_run, table))
    return found.where(table.c.value != NOTHING) if span.envelope.missing == "null" else found


def changed(span: Span, table: FromClause, touched: ColumnElement[bool]) -> Select[Any]:
    """Who is told something else than before; `touched` are rows that may be part of a difference."""
    then, now, envelope = as_of(span.from_run, table), as_of(span.to_run, table), span.envelope
    before, after = (func.max(case((when, table.c.value), else_=null())) for when in (then, now))
    entered = and_(before.is_(None), after.is_not(None))
    left = and_(before.is_not(None), after.is_(None))
    differs = [and_(entered, after != NOTHING) if envelope.missing == "null" else entered, before != after]
    if envelope.missing:
        differs.append(and_(left, before != _absent(envelope)))
    if envelope.follows:
        column = included_column(table.c.included, envelope.follows)
        was, is_ = (func.max(case((when, column), else_=null())) for when in (then, now))
        differs.append(and_(is_.is_not(None), or_(was.is_(None), was != is_)))
    included = func.max(case((now, table.c.included), else_=null())).label("included")
    return (select(table.c.user_id, func.max(case((now, 1), else_=0)).label("value"), included,
                   before.label("before"), after.label("after"))
            .where(table.c.computation_id == span.computation_id, touched)
            .group_by(table.c.user_id).having(or_(*differs)))


def everybody(span: Span, table: FromClause) -> Select[Any]:
    """Whoever is in the result or ever was, by his newest row."""
    newer = table.alias("newer")
    newest = ~exists().where(newer.c.computation_id == table.c.computation_id, newer.c.user_id == table.c.user_id,
                             newer.c.since_run > table.c.since_run, newer.c.since_run <= span.to_run)
    now, after = as_of(span.to_run, table), table.c.value
    held = case((now, after)) if span.envelope.missing else after
    return (select(table.c.user_id, case((now, 1), else_=0).label("value"),
                   case((now, table.c.included)).label("included"), _none("before"), held.label("after"))
            .where(table.c.computation_id == span.computation_id, table.c.since_run <= span.to_run, newest))


def refused(span: Span, mine: ColumnElement[bool]) -> Select[Any]:
    """Rejected users (those of `mine`) with what they hold as of the span's newer run."""
    holders = everybody(span, memberships).subquery("holders")
    return (select(rejections.c.user_id, func.coalesce(holders.c.value, 0).label("value"), holders.c.included,
                   _none("before"), holders.c.after)
            .select_from(rejections.outerjoin(holders, holders.c.user_id == rejections.c.user_id)).where(mine))


def told(envelope: Envelope, before: str | None, after: str | None, *, whole: bool) -> str:
    """The traits that a user is told, as the text of a JSON object; `whole` says that all of his are."""
    whole = whole or envelope.full_row
    if before is None and after is not None and not whole and envelope.missing == "null":
        return after
    old, new = exact(before or NOTHING), exact(after or NOTHING)
    missing = orjson.loads(envelope.missing or "null") if after is None else None
    names = dict.fromkeys((*envelope.traits, *old, *new))
    if whole or before in (None, after):
        chosen = {name: new.get(name, missing) for name in names}
    else:
        chosen = {name: value for name in names if (value := new.get(name, missing)) != old.get(name)}
    return orjson.dumps(chosen, default=_digits).decode()


def _absent(envelope: Envelope) -> str:
    """The values that a user is told who dropped out, in the spelling of those of a user who is there."""
    value = orjson.loads(envelope.missing)
    return orjson.dumps({} if value is None else dict.fromkeys(sorted(envelope.traits), value)).decode()


def _digits(number: object) -> orjson.Fragment:
    return orjson.Fragment(str(number))


def _none(name: str) -> ColumnElement[Any]:
    return cast(null(), Text).label(name)

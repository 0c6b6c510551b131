"""Where each destination stands with each audience, and what it is still to be told. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select

from audiencesync.model import Envelope, Span
from audiencesync.store.connect import Store
from audiencesync.store.content import changes
from audiencesync.store.tables import memberships, positions, rejections, runs
from audiencesync.store.tables import spans as spans_table
from audiencesync.store.tables import syncs as syncs_table
from audiencesync.store.views import Known


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one destination stands with one audience; `pending` are the calls it is still to get.

    `told` of `total` is how far the open sync (which may span other audiences too) has come; `unresolved` says
    whether some of it may or may not have arrived. An audience that was retired there `leaves`.
    """

    destination: str
    key: str
    mode: str
    position: int
    run: int
    pending: int
    rejected: int
    next_try: datetime | None
    refused_since: datetime | None
    settled_at: datetime | None
    position_as_of: datetime | None = None
    oldest_unsent: datetime | None = None
    leaves: bool = False
    sync: int | None = None
    told: int = 0
    total: int = 0
    unresolved: bool = False
    opened_at: datetime | None = None


def standings(store: Store, found: Iterable[Known], goes_to: Mapping[str, Sequence[str]], *,
              counted: bool = True) -> list[Standing]:
    """Where each destination stands with each audience that goes to it; `goes_to` are destinations by key.

    What is pending is only counted where somebody wants to know, since that asks for each of the users.
    """
    with store.read() as connection:
        at = {(row.destination, row.computation_id): row for row in connection.execute(select(positions))}
        refused = {(row.destination, row.computation_id): row for row in connection.execute(_refused())}
        opened = {(row.destination, row.computation_id): row for row in connection.execute(_open())}
        return [_standing(connection, one, name, at.get((name, one.computation_id)),
                          refused.get((name, one.computation_id)), opened.get((name, one.computation_id)),
                          counted=counted)
                for one in found for name in goes_to.get(one.key, ())]


def _refused() -> Select[Any]:
    return (select(rejections.c.destination, rejections.c.computation_id, func.count().label("users"),
                   func.min(rejections.c.next_try).label("next_try"), func.min(rejections.c.since).label("since"))
            .group_by(rejections.c.destination, rejections.c.computation_id))


def _open() -> Select[Any]:
    return (select(syncs_table, spans_table.c.computation_id, spans_table.c.from_run, spans_table.c.to_run)
            .join(spans_table, spans_table.c.sync_id == syncs_table.c.id).where(syncs_table.c.status == "open"))


def _standing(connection: Connection, one: Known, name: str, at: Any, refused: Any, opened: Any, *,
              counted: bool) -> Standing:
    position, newest = at.run if at else 0, one.run.run.number if one.run else 0
    leaves = at is not None and (at.retired_at is not None or one.retired_at is not None)
    if leaves:
        newest = 0 if at.clear_as_of is not None else position
    mode = opened.mode if opened else "incremental" if position or leaves else "initial"
    pending = _pending(connection, one, position, newest, opened) if counted else 0
    told = {} if opened is None else {
        "sync": opened.id, "told": opened.sent + opened.rejected, "total": opened.total,
        "unresolved": opened.claimed != opened.acknowledged, "opened_at": opened.opened_at}
    return Standing(name, one.key, mode, position, newest, pending, refused.users if refused else 0,
                    refused.next_try if refused else None, refused.since if refused else None,
                    at.settled_at if at else None, _as_of(connection, one, position),
                    _oldest(connection, one, position, newest), leaves, **told)


def _as_of(connection: Connection, one: Known, number: int) -> datetime | None:
    mine = (runs.c.computation_id == one.computation_id, runs.c.number == number)
    found: datetime | None = connection.execute(select(runs.c.as_of).where(*mine)).scalar()
    return found


def _oldest(connection: Connection, one: Known, position: int, newest: int) -> datetime | None:
    """The instant of the oldest run that changed something the destination was not told."""
    if position == newest:
        return None
    changed = (runs.c.computation_id == one.computation_id, runs.c.number > min(position, newest),
               runs.c.status == "done", runs.c.changed > 0)
    found: datetime | None = connection.execute(select(func.min(runs.c.as_of)).where(*changed)).scalar()
    return found


def _pending(connection: Connection, one: Known, position: int, newest: int, opened: Any) -> int:
    """What is left of the open sync, and what has changed since the run that it brings the destination to."""
    count = 0
    if opened is not None:
        rest = changes(opened.mode, _span(one, opened.from_run, opened.to_run))
        if opened.acknowledged is not None:
            rest = rest.where(memberships.c.user_id > opened.acknowledged)
        count += _count(connection, rest)
        position = opened.to_run
    if position != newest:
        count += _count(connection, changes("incremental" if position else "initial", _span(one, position, newest)))
    return count


def _span(one: Known, from_run: int, to_run: int) -> Span:
    return Span(one.computation_id, one.key, from_run, to_run, Envelope(one.key, one.id_kind or "", "", "", ""))


def _count(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())

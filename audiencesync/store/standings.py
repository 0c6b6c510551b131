"""Where each destination stands with each audience, and what it is still to be told. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, select

from audiencesync.model import TRAIT, Envelope, Span
from audiencesync.store.connect import Store
from audiencesync.store.content import changes
from audiencesync.store.positions import envelope_at
from audiencesync.store.tables import memberships, positions, rejections, runs
from audiencesync.store.tables import spans as spans_table
from audiencesync.store.tables import syncs as syncs_table
from audiencesync.store.traits import traits_at
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
        at, refused, opened, as_of, oldest = (
            {(row.destination, row.computation_id): row for row in connection.execute(query)}
            for query in (select(positions), _refused(), _open(), _as_of(), _oldest()))
        first = {row.computation_id: row.as_of for row in connection.execute(_first())}
        seen = _Seen(at, refused, opened, as_of, oldest, first)
        return [_standing(connection, one, name, seen, counted=counted)
                for one in found for name in goes_to.get(one.key, ())]


class _Seen(NamedTuple):
    """What the state says of each (destination, computation id), asked once for all; `first` is by computation id."""

    positions: Mapping[tuple[str, int], Any]
    refused: Mapping[tuple[str, int], Any]
    open: Mapping[tuple[str, int], Any]
    as_of: Mapping[tuple[str, int], Any]
    oldest: Mapping[tuple[str, int], Any]
    first: Mapping[int, datetime]


def _as_of() -> Select[Any]:
    """The instants of the runs that destinations were brought to."""
    mine = (runs.c.computation_id == positions.c.computation_id) & (runs.c.number == positions.c.run)
    return select(positions.c.destination, positions.c.computation_id, runs.c.as_of).join(runs, mine)


def _oldest() -> Select[Any]:
    """The instants of the oldest runs behind the positions that changed something."""
    behind = (runs.c.computation_id == positions.c.computation_id) & (runs.c.number > positions.c.run)
    return (select(positions.c.destination, positions.c.computation_id, func.min(runs.c.as_of).label("as_of"))
            .join(runs, behind).where(runs.c.status == "done", runs.c.changed > 0)
            .group_by(positions.c.destination, positions.c.computation_id))


def _first() -> Select[Any]:
    """The instants of the first runs that found anybody, for destinations that were told nothing yet."""
    return (select(runs.c.computation_id, func.min(runs.c.as_of).label("as_of"))
            .where(runs.c.status == "done", runs.c.changed > 0).group_by(runs.c.computation_id))


def _refused() -> Select[Any]:
    return (select(rejections.c.destination, rejections.c.computation_id, func.count().label("users"),
                   func.min(rejections.c.next_try).label("next_try"), func.min(rejections.c.since).label("since"))
            .group_by(rejections.c.destination, rejections.c.computation_id))


def _open() -> Select[Any]:
    return (select(syncs_table, spans_table.c.computation_id, spans_table.c.from_run, spans_table.c.to_run)
            .join(spans_table, spans_table.c.sync_id == syncs_table.c.id).where(syncs_table.c.status == "open"))


def _standing(connection: Connection, one: Known, name: str, seen: _Seen, *, counted: bool) -> Standing:
    place = (name, one.computation_id)
    at, refused, opened = seen.positions.get(place), seen.refused.get(place), seen.open.get(place)
    position, newest = at.run if at else 0, one.run.run.number if one.run else 0
    leaves = at is not None and (at.retired_at is not None or one.retired_at is not None)
    oldest = seen.oldest[place].as_of if place in seen.oldest else None if at else seen.first.get(one.computation_id)
    if at is not None and leaves:
        newest = 0 if at.clear_as_of is not None else position
        oldest = at.clear_as_of if position else None
    mode = opened.mode if opened else "incremental" if position or leaves else "initial"
    pending = _pending(connection, one, name, position, newest, opened) if counted else 0
    told = {} if opened is None else {
        "sync": opened.id, "told": opened.sent + opened.rejected, "total": opened.total,
        "unresolved": opened.claimed != opened.acknowledged, "opened_at": opened.opened_at}
    return Standing(name, one.key, mode, position, newest, pending, refused.users if refused else 0,
                    refused.next_try if refused else None, refused.since if refused else None,
                    at.settled_at if at else None, seen.as_of[place].as_of if place in seen.as_of else None,
                    oldest, leaves, **told)


def _pending(connection: Connection, one: Known, name: str, position: int, newest: int, opened: Any) -> int:
    """What is left of the open sync, and what has changed since the run that it brings the destination to."""
    count = 0
    if opened is not None:
        rest = changes(opened.mode, _span(connection, one, name, opened.from_run, opened.to_run))
        if opened.acknowledged is not None:
            rest = rest.where(memberships.c.user_id > opened.acknowledged)
        count += _count(connection, rest)
        position = opened.to_run
    if position != newest:
        rest = changes("incremental" if position else "initial", _span(connection, one, name, position, newest))
        count += _count(connection, rest)
    return count


def _span(connection: Connection, one: Known, name: str, from_run: int, to_run: int) -> Span:
    """A span that is only counted; of computed traits what its runs found, and what was said of those who drop out."""
    envelope = Envelope(one.key, one.id_kind or "", "", "", "", one.kind)
    if one.kind == TRAIT:
        after, before = (tuple(traits_at(connection, one.computation_id, run)) for run in (to_run, from_run))
        missing = envelope_at(connection, name, one.computation_id).missing
        envelope = replace(envelope, traits=after, traits_before=before, missing=missing)
    return Span(one.computation_id, one.key, from_run, to_run, envelope)


def _count(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())

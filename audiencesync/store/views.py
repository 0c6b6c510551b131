"""What people ask of the state: where everything stands, which runs there were, who is refused. Reads only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, exists, func, select

from audiencesync.model import Run
from audiencesync.store.connect import Store
from audiencesync.store.leases import is_dead
from audiencesync.store.slots import UNAVAILABLE
from audiencesync.store.tables import acts, computations, destinations, leases, memberships, rejections, runs


class Ran(NamedTuple):
    """A run and when it was at work."""

    run: Run
    started_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """An audience as the state knows it: its newest run that ended well, a newer one that did not, and since when."""

    computation_id: int
    key: str
    kind: str
    id_kind: str | None
    paused_at: datetime | None
    pause_reason: str | None
    retired_at: datetime | None
    run: Ran | None
    failed: Ran | None
    first_as_of: datetime | None = None
    failing_since: datetime | None = None


def known(store: Store) -> list[Known]:
    """Every audience the state has ever seen, by key."""
    with store.read() as connection:
        done, first = _end(connection, newest=True), _end(connection, newest=False)
        found = connection.execute(select(computations).order_by(computations.c.key)).all()
        failed = {row.id: _failed(connection, row.id, done.get(row.id)) for row in found}
    return [Known(row.id, row.key, row.kind, row.id_kind, row.paused_at, row.pause_reason, row.retired_at,
                  done.get(row.id), failed[row.id][0], first[row.id].run.as_of if row.id in first else None,
                  failed[row.id][1]) for row in found]


def _end(connection: Connection, *, newest: bool) -> dict[int, Ran]:
    """The newest (or the oldest) run of each computation that ended well: a step along the key, no whole history."""
    other = runs.alias("other")
    order = other.c.number.desc() if newest else other.c.number
    number = (select(other.c.number).where(other.c.computation_id == computations.c.id, other.c.status == "done")
              .order_by(order).limit(1).correlate(computations).scalar_subquery())
    return {row.computation_id: _ran(row) for row in connection.execute(_all_runs().where(runs.c.number == number))}


def _failed(connection: Connection, computation_id: int, done: Ran | None) -> tuple[Ran | None, datetime | None]:
    """The newest run since the last good one that failed or found stale data, and when the first of its kind ended.

    One that is tried again counts only where there is none of those.

    Else a failure would be over for as long as the next slot's attempts last.
    """
    since = _all_runs().where(runs.c.computation_id == computation_id, runs.c.status != "done",
                              runs.c.number > (done.run.number if done else 0))
    for chosen in (runs.c.status != UNAVAILABLE, runs.c.status == UNAVAILABLE):
        row = connection.execute(since.where(chosen).order_by(runs.c.number.desc()).limit(1)).one_or_none()
        if row is not None:
            same = since.where(runs.c.status == row.status).order_by(runs.c.number).limit(1)
            return _ran(row), connection.execute(same).one().ended_at
    return None, None


def _all_runs() -> Select[Any]:
    return (select(runs, computations.c.key)
            .select_from(runs.join(computations, computations.c.id == runs.c.computation_id)))


def _ran(row: Row[Any]) -> Ran:
    return Ran(Run(row.key, row.number, row.as_of, row.status, row.members, row.entered, row.exited, row.duplicates,
                   row.error, row.changed - row.entered - row.exited), row.started_at, row.ended_at)


def history(store: Store, keys: Collection[str] | None = None, *, limit: int = 50) -> list[Ran]:
    """The runs of these audiences (of all, without keys), newest first."""
    query = _all_runs().order_by(runs.c.ended_at.desc(), runs.c.number.desc(), computations.c.key).limit(limit)
    if keys is not None:
        query = query.where(computations.c.key.in_(list(keys)))
    with store.read() as connection:
        return [_ran(row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Door:
    """A destination as the state knows it, and until when a process is at work there."""

    name: str
    fingerprint: str | None = None
    paused_at: datetime | None = None
    pause_reason: str | None = None
    paused_by: str | None = None
    retry_at: datetime | None = None
    retry_reason: str | None = None
    busy_until: datetime | None = None


def doors(store: Store) -> tuple[dict[str, Door], datetime]:
    """Every destination the state has ever met, by name, and the database's time."""
    with store.read() as connection:
        now = store.now(connection)
        rows = {row.name: row for row in connection.execute(select(destinations))}
        busy = {row.name.partition(":")[2]: row.expires for row in connection.execute(
            select(leases).where(leases.c.holder.is_not(None), leases.c.expires > now,
                                 leases.c.name.like("destination:%")))
                if not is_dead(row.holder)}
    return {name: _door(name, rows.get(name), busy.get(name)) for name in sorted({*rows, *busy})}, now


def _door(name: str, row: Any, busy_until: datetime | None) -> Door:
    if row is None:
        return Door(name, busy_until=busy_until)
    return Door(name, row.fingerprint, row.paused_at, row.pause_reason, row.paused_by, row.retry_at, row.retry_reason,
                busy_until)


class Acted(NamedTuple):
    """What somebody decided: when, who, what he typed, and why."""

    at: datetime
    who: str
    command: str
    reason: str | None


def acts_of(store: Store, subject: str, *, limit: int = 10) -> list[Acted]:
    """What people decided of an audience or a destination, newest first."""
    query = (select(acts.c.at, acts.c.who, acts.c.command, acts.c.reason).where(acts.c.subject == subject)
             .order_by(acts.c.id.desc()).limit(limit))
    with store.read() as connection:
        return [Acted(*row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One user whom a destination refuses."""

    user_id: str
    key: str
    destination: str
    reason: str
    status: int | None
    tries: int
    since: datetime
    next_try: datetime


def rejected(store: Store, *, keys: Collection[str] | None = None, names: Collection[str] | None = None,
             limit: int = 100) -> tuple[list[Rejected], int]:
    """The refused users of these audiences at these destinations (of all, without), and how many there are in all."""
    chosen = [] if keys is None else [computations.c.key.in_(list(keys))]
    if names is not None:
        chosen.append(rejections.c.destination.in_(list(names)))
    joined = rejections.join(computations, computations.c.id == rejections.c.computation_id)
    query = (select(rejections, computations.c.key).select_from(joined).where(*chosen)
             .order_by(rejections.c.destination, computations.c.key, rejections.c.user_id).limit(limit))
    with store.read() as connection:
        found = [Rejected(row.user_id, row.key, row.destination, row.reason, row.status, row.tries, row.since,
                          row.next_try) for row in connection.execute(query)]
        total = connection.execute(select(func.count()).select_from(joined).where(*chosen)).scalar_one()
    return found, total


def movers(store: Store, computation_id: int, number: int, *, entered: bool, limit: int = 5) -> list[str]:
    """Some of the users who entered (or exited) with a run; one whose row was only renewed did neither."""
    other = memberships.alias("other")
    mine = (memberships.c.computation_id == computation_id,)
    same = (other.c.computation_id == computation_id, other.c.user_id == memberships.c.user_id)
    if entered:
        moved = (memberships.c.since_run == number, ~exists().where(*same, other.c.until_run == number))
    else:
        moved = (memberships.c.until_run == number, ~exists().where(*same, other.c.since_run == number))
    with store.read() as connection:
        return list(connection.execute(select(memberships.c.user_id).where(*mine, *moved)
                                       .order_by(memberships.c.user_id).limit(limit)).scalars())

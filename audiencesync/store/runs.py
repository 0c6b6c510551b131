"""A run: read the complete result into a stage, then compare and remember in one short transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson
from sqlalchemy import Connection, Row, func, insert, select, update

from audiencesync import failpoints
from audiencesync.errors import OlderRun, QueryError, RowsDiffer, UsageError
from audiencesync.model import Audience, Run, as_object
from audiencesync.store.compare import begin, compare
from audiencesync.store.connect import Store
from audiencesync.store.leases import Lease, guard
from audiencesync.store.stage import Stage
from audiencesync.store.tables import computations, runs
from audiencesync.store.traits import check_traits, read_traits


@dataclass(frozen=True, slots=True)
class Due:
    """An audience as the state knows it; `run` is the newest that ended well, None before the first."""

    computation_id: int
    key: str
    id_kind: str | None
    paused: bool
    pause_reason: str | None
    retired: bool
    run: Run | None
    kind: str = "audience"


def _computation(store: Store, connection: Connection, audience: Audience) -> Row[Any]:
    """The audience's row, made at its first appearance and locked until the transaction ends."""
    query = select(computations).where(computations.c.key == audience.key)
    query = store.backend.locked(query)
    row = connection.execute(query).one_or_none()
    if row is None:
        connection.execute(store.backend.add(computations).values(key=audience.key, kind=audience.kind))
        row = connection.execute(query).one()
    return row


def check_key(audience: Audience, *, retired: bool) -> None:
    """Refuse the key of a retired computation (UsageError)."""
    if retired:
        raise UsageError(f"{audience.path.name}: the key {audience.key} belongs to a retired audience, and "
                         "destinations still remember it; give this one another name or `key:`")


def last_run(connection: Connection, computation_id: int) -> Row[Any] | None:
    """The newest run that ended well; the one whose members last."""
    return connection.execute(
        select(runs).where(runs.c.computation_id == computation_id, runs.c.status == "done")
        .order_by(runs.c.number.desc()).limit(1)).one_or_none()


def _next_number(connection: Connection, computation_id: int) -> int:
    newest = select(func.max(runs.c.number)).where(runs.c.computation_id == computation_id)
    return (connection.execute(newest).scalar() or 0) + 1


def check_run(row: Any, last: Any, audience: Audience, id_kind: str | None, as_of: datetime) -> None:
    """Refuse a run that lies before the last one (OlderRun) or names its users otherwise (QueryError)."""
    if last is not None and as_of < last.as_of:
        raise OlderRun(f"{audience.key}: as of {as_of:%Y-%m-%d %H:%M:%S}Z lies before its last run, as of "
                       f"{last.as_of:%Y-%m-%d %H:%M:%S}Z; what was told cannot be taken back in time")
    if row is not None and None not in (row.id_kind, id_kind) and row.id_kind != id_kind:
        raise QueryError(f"{audience.path.name}: the id column was {row.id_kind} and is now {id_kind}: destinations "
                         f"know these users by {row.id_kind}; select that column again, or give the audience a new key")


def record(store: Store, held: Stage, audience: Audience, *, id_kind: str, as_of: datetime, started_at: datetime,
           definition_hash: str, lease: Lease | None = None, traits: Mapping[str, str] | None = None,
           included: Mapping[str, str] = MappingProxyType({})) -> Run:
    """Compare the stage with the memberships that last, and write what differs and the run, together or not at all.

    `traits` are the kinds of a computed trait's values by column, `included` keys by columns that travel along. It
    raises QueryError where those go against what is known, or one user's rows against each other. With a `lease` it
    writes only while that is held: raises LeaseLost.
    """
    kinds = check_result(store, held, audience, traits or {}, included)
    with store.transaction(held.connection) as connection:
        if lease is not None:
            guard(store, connection, lease)
        row = _computation(store, connection, audience)
        check_key(audience, retired=row.retired_at is not None)
        last = last_run(connection, row.id)
        check_run(row, last, audience, id_kind, as_of)
        number = _next_number(connection, row.id)
        if last is None or not last.members:
            entered, exited, updated = begin(held, row.id, number), 0, 0
        else:
            renamed = list(read_traits(last.traits)) != list(kinds)
            entered, exited, updated = compare(store, held, row.id, last.members, number, renamed=renamed,
                                               redefined=row.definition_hash != definition_hash)
        run = Run(audience.key, number, as_of, "done", held.members, entered, exited, held.rows - held.members,
                  updated=updated)
        _write_run(store, connection, row.id, run, started_at, kinds)
        connection.execute(update(computations).where(computations.c.id == row.id)
                           .values(kind=audience.kind, id_kind=id_kind, definition_hash=definition_hash))
        failpoints.reach("run.written")
    return run


def check_result(store: Store, held: Stage, audience: Audience, traits: Mapping[str, str],
                 included: Mapping[str, str]) -> dict[str, str]:
    """Refuse a result that goes against what is told (see check_traits), or itself (QueryError).

    That is one in which a user has two rows with different values; both are shown. Gives the kinds of its values.
    """
    kinds = check_traits(store, audience, traits, included)
    if (torn := held.torn()) is not None:
        user, *both = torn
        raise RowsDiffer(audience.path, user, *(as_object(list(kinds), values) for values in both))
    return kinds


def _write_run(store: Store, connection: Connection, computation_id: int, run: Run, started_at: datetime,
               traits: Mapping[str, str] | None = None) -> None:
    connection.execute(insert(runs).values(
        computation_id=computation_id, number=run.number, as_of=run.as_of, status=run.status, members=run.members,
        entered=run.entered, exited=run.exited, changed=run.changed, duplicates=run.duplicates, error=run.error,
        started_at=started_at, ended_at=store.now(connection),
        traits=orjson.dumps(traits).decode() if traits else None))


def record_failure(store: Store, audience: Audience, lease: Lease | None = None, *, as_of: datetime,
                   started_at: datetime, error: str, status: str = "failed") -> Run:
    """Remember that a run failed and why; memberships stay as they are."""
    with store.write() as connection:
        if lease is not None:
            guard(store, connection, lease)
        row = _computation(store, connection, audience)
        run = Run(audience.key, _next_number(connection, row.id), as_of, status, error=error)
        _write_run(store, connection, row.id, run, started_at)
    return run


def latest(store: Store, keys: Iterable[str]) -> dict[str, Due]:
    """What the state knows of these audiences, and the run of each whose members last."""
    done = runs.alias("done")
    newest = (select(done.c.number).where(done.c.computation_id == computations.c.id, done.c.status == "done")
              .order_by(done.c.number.desc()).limit(1).correlate(computations)
              .scalar_subquery())  # one step along the key, not a whole history
    query = (select(computations, runs.c.number, runs.c.as_of, runs.c.members, runs.c.entered, runs.c.exited,
                    runs.c.duplicates, runs.c.changed)
             .select_from(computations.outerjoin(
                 runs, (runs.c.computation_id == computations.c.id) & (runs.c.number == newest)))
             .where(computations.c.key.in_(list(keys))).order_by(computations.c.key))
    with store.read() as connection:
        return {row.key: Due(row.id, row.key, row.id_kind, row.paused_at is not None, row.pause_reason,
                             row.retired_at is not None, _run(row), row.kind) for row in connection.execute(query)}


def _run(row: Any) -> Run | None:
    if row.number is None:
        return None
    return Run(row.key, row.number, row.as_of, "done", row.members, row.entered, row.exited, row.duplicates,
               updated=row.changed - row.entered - row.exited)


def instant_of(store: Store, computation_id: int, number: int) -> datetime:
    """The instant of a run."""
    with store.read() as connection:
        moment: datetime = connection.execute(
            select(runs.c.as_of).where(runs.c.computation_id == computation_id, runs.c.number == number)).scalar_one()
    return moment


def newest(store: Store) -> datetime | None:
    """When the last run of all ended."""
    with store.read() as connection:
        moment: datetime | None = connection.execute(select(func.max(runs.c.ended_at))).scalar()
    return moment

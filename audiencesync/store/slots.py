"""The instants at which schedules were due, each written once, whoever looks at the clock first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, select

from audiencesync.store.connect import Store
from audiencesync.store.tables import computations, runs, slots

UNAVAILABLE = "unavailable"
"""The status of a run that could not be made and is tried again in the same slot."""


NEVER = datetime.min.replace(tzinfo=UTC)
"""The instant of an audience that was tried, and never yet run."""


class Slot(NamedTuple):
    """When a schedule was due, and as of when it was computed: later, where nobody looked in time."""

    at: datetime
    as_of: datetime


class Latest(NamedTuple):
    """An audience's newest run: as of when, whatever became of it, and what was tried in vain since.

    `ended_at` is when the last of those `tries` ended. `definition` is the hash of what the newest run computed; None
    where it failed.
    """

    as_of: datetime
    tries: int = 0
    ended_at: datetime | None = None
    definition: str | None = None


def newest(store: Store, schedule: str) -> Slot | None:
    """The last slot of a schedule that anybody began."""
    with store.read() as connection:
        row = connection.execute(select(slots.c.at, slots.c.as_of).where(slots.c.schedule == schedule)
                                 .order_by(slots.c.at.desc()).limit(1)).one_or_none()
    return None if row is None else Slot(row.at, row.as_of)


def claim(store: Store, schedule: str, at: datetime, as_of: datetime) -> tuple[Slot, bool]:
    """Begin a slot, or find out as of when somebody else began it; says which."""
    mine = (slots.c.schedule == schedule, slots.c.at == at)
    with store.write() as connection:
        begun = connection.execute(store.backend.add(slots).values(schedule=schedule, at=at, as_of=as_of),
                                   execution_options={"preserve_rowcount": True})
        row = connection.execute(select(slots.c.at, slots.c.as_of).where(*mine)).one()
    return Slot(row.at, row.as_of), begun.rowcount == 1


def latest(store: Store, keys: Sequence[str]) -> dict[str, Latest]:
    """How the newest runs of these audiences stand, of each that was ever run; its instant is the last that counts."""
    other = runs.alias("other")
    newest = (select(other.c.number).where(other.c.computation_id == computations.c.id)
              .order_by(other.c.number.desc()).limit(1).correlate(computations).scalar_subquery())
    query = (_rows().add_columns(computations.c.key, computations.c.id)
             .where(computations.c.key.in_(keys), runs.c.number == newest))
    found = {}
    with store.read() as connection:
        for row in connection.execute(query).all():
            rows: Sequence[Row[Any]] = [row]
            if row.status == UNAVAILABLE:
                rows = connection.execute(_rows().where(runs.c.computation_id == row.id)
                                          .order_by(runs.c.number.desc()).limit(10)).all()
            found[row.key] = _latest(rows)
    return found


def _rows() -> Select[Any]:
    return (select(runs.c.as_of, runs.c.status, runs.c.started_at, runs.c.ended_at, computations.c.definition_hash)
            .select_from(runs.join(computations, computations.c.id == runs.c.computation_id)))


def _latest(rows: Sequence[Row[Any]]) -> Latest:
    tries = next((index for index, row in enumerate(rows) if row.status != UNAVAILABLE), len(rows))
    if tries == len(rows):
        return Latest(NEVER, tries, rows[0].ended_at)
    counts = rows[tries]
    if counts.status != "done":  # a failure as of some day to come stands for nothing until then
        return Latest(min(counts.as_of, counts.started_at), tries, rows[0].ended_at if tries else None)
    return Latest(counts.as_of, tries, rows[0].ended_at if tries else None, None if tries else counts.definition_hash)

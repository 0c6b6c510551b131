"""What the state forgets, and when: only what no destination can need any more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, Select, and_, delete, exists, func, or_, select, tuple_

from audiencesync.store import slots as slots_of
from audiencesync.store.connect import Store
from audiencesync.store.tables import acts, computations, leases, memberships, positions, runs, slots, spans, syncs

LOGGER = logging.getLogger(__name__)

SLOT = "housekeeping"
"""The name under which the day's tidying is claimed, so that one process does it."""

BATCH = 5000
"""Rows deleted in one transaction, so that nobody waits long for it."""


def tidy(store: Store, retention: timedelta) -> dict[str, int]:
    """Once a day, by whoever comes first: forget what is older than `retention`; rows forgotten by table."""
    with store.read() as connection:
        now = store.now(connection)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    last = slots_of.newest(store, SLOT)
    if (last is not None and last.at >= today) or not slots_of.claim(store, SLOT, today, now)[1]:
        return {}
    gone = forget(store, now - retention)
    LOGGER.info("housekeeping done", extra={name: count for name, count in gone.items() if count})
    return gone


def forget(store: Store, before: datetime) -> dict[str, int]:
    """Delete what ended before this instant and is needed no more; how many rows of which table."""
    gone = dict.fromkeys(("memberships", "runs", "syncs", "slots", "acts", "leases"), 0)
    with store.read() as connection:
        known = connection.execute(select(computations.c.id)).scalars().all()
    for computation in known:
        with store.read() as connection:
            floor, needed = _floors(connection, computation, before)
        gone["memberships"] += _forget_memberships(store, computation, floor)
        gone["runs"] += _forget_runs(store, computation, needed, before)
    with store.write() as connection:
        gone["syncs"] = _forget_syncs(connection, before)
        kept = select(slots.c.schedule, func.max(slots.c.at)).group_by(slots.c.schedule)
        gone["slots"] = connection.execute(
            delete(slots).where(slots.c.at < before, tuple_(slots.c.schedule, slots.c.at).not_in(kept))).rowcount
        gone["acts"] = connection.execute(delete(acts).where(acts.c.at < before)).rowcount
        gone["leases"] = connection.execute(delete(leases).where(leases.c.expires < before)).rowcount
    return gone


def _floors(connection: Connection, computation: int, before: datetime) -> tuple[int, int]:
    """The run up to which ended memberships may go, and the first run whose row is still needed.

    Both lie at or below every position and every open sync's beginning; the last good run is always needed.
    """
    stands = select(func.min(positions.c.run)).where(positions.c.computation_id == computation,
                                                     positions.c.retired_at.is_(None))
    begins = (select(func.min(spans.c.from_run)).join(syncs, syncs.c.id == spans.c.sync_id)
              .where(spans.c.computation_id == computation, syncs.c.status == "open"))
    newest = (select(func.max(runs.c.number)).where(runs.c.computation_id == computation, runs.c.status == "done"))
    old = select(func.max(runs.c.number)).where(runs.c.computation_id == computation, runs.c.ended_at < before)
    last = connection.execute(newest).scalar() or 0
    low = [found for query in (stands, begins) if (found := connection.execute(query).scalar()) is not None]
    needed = min([last, *low])
    return min(needed, connection.execute(old).scalar() or 0), needed


def _forget_memberships(store: Store, computation: int, floor: int) -> int:
    """Delete ended stretches that nobody asks for, though never a user's newest one: former members stay known."""
    later = memberships.alias("later")
    newer = exists().where(later.c.computation_id == computation, later.c.user_id == memberships.c.user_id,
                           later.c.since_run > memberships.c.since_run)
    gone = 0
    for rows in _batches(store, select(memberships.c.user_id, memberships.c.since_run).where(
            memberships.c.computation_id == computation, memberships.c.until_run <= floor, newer), floor):
        mine = [and_(memberships.c.user_id == row.user_id, memberships.c.since_run == row.since_run) for row in rows]
        with store.write() as connection:
            for start in range(0, len(mine), 200):
                gone += connection.execute(delete(memberships).where(
                    memberships.c.computation_id == computation, or_(*mine[start:start + 200]))).rowcount
    return gone


def _batches(store: Store, query: Select[tuple[str, int]], floor: int) -> Iterator[list[Row[tuple[str, int]]]]:
    """The rows of a query by user, some at a time, each time from behind the last."""
    after: tuple[str, int] | None = None
    while floor:
        part = query.order_by(memberships.c.user_id, memberships.c.since_run).limit(BATCH)
        if after is not None:
            part = part.where(tuple_(memberships.c.user_id, memberships.c.since_run) > after)
        with store.read() as connection:
            rows = list(connection.execute(part).all())
        if not rows:
            return
        yield rows
        after = (rows[-1].user_id, rows[-1].since_run)


def _forget_runs(store: Store, computation: int, needed: int, before: datetime) -> int:
    """Runs with which a membership began or ended stay: their instants are still asked for."""
    mine = memberships.c.computation_id == computation
    with store.read() as connection:
        old = set(connection.execute(select(runs.c.number).where(
            runs.c.computation_id == computation, runs.c.number < needed, runs.c.ended_at < before)).scalars())
        for column in (memberships.c.since_run, memberships.c.until_run) if old else ():
            old -= set(connection.execute(select(column).where(mine).distinct()).scalars())
    gone = sorted(old)
    for start in range(0, len(gone), 500):
        with store.write() as connection:
            connection.execute(delete(runs).where(runs.c.computation_id == computation,
                                                  runs.c.number.in_(gone[start:start + 500])))
    return len(gone)


def _forget_syncs(connection: Connection, before: datetime) -> int:
    """The newest sync of each destination and computation stays: it knows what their bodies are made of."""
    newest = (select(func.max(spans.c.sync_id)).join(syncs, syncs.c.id == spans.c.sync_id)
              .group_by(syncs.c.destination, spans.c.computation_id))
    old = select(syncs.c.id).where(syncs.c.status != "open", syncs.c.closed_at < before, syncs.c.id.not_in(newest))
    found = connection.execute(old).scalars().all()
    for start in range(0, len(found), 500):
        part = found[start:start + 500]
        connection.execute(delete(spans).where(spans.c.sync_id.in_(part)))
        connection.execute(delete(syncs).where(syncs.c.id.in_(part)))
    return len(found)

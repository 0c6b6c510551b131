"""What the state forgets, and when: only what no destination can need any more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, not_, or_, select, tuple_

from audiencesync.store import slots as slots_of
from audiencesync.store.accounts import NEW_ACCOUNT
from audiencesync.store.connect import Store
from audiencesync.store.tables import (
    acts,
    computations,
    decisions,
    leases,
    memberships,
    positions,
    runs,
    slots,
    spans,
    syncs,
)
from audiencesync.store.values import as_of

LOGGER = logging.getLogger(__name__)

SLOT = "housekeeping"
"""The name under which the day's tidying is claimed, so that one process does it."""

BATCH = 5000
"""Rows looked at in one transaction, so that nobody waits long for it."""


class Needs(NamedTuple):
    """What may still be asked of a computation: from the run `floor` on everything, and who was told as of `told`.

    `needed` is the first run whose row is asked for.
    """

    floor: int
    needed: int
    told: tuple[int, ...]


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
            needs = _needs(connection, computation, before)
        gone["memberships"] += _forget_memberships(store, computation, needs)
        gone["runs"] += _forget_runs(store, computation, needs, before)
    gone["syncs"] = _forget_syncs(store, before)
    kept = select(slots.c.schedule, func.max(slots.c.at)).group_by(slots.c.schedule)
    # a destination's account is what it was last said to be, however long ago
    said = select(func.max(acts.c.id)).where(acts.c.command == NEW_ACCOUNT).group_by(acts.c.subject)
    with store.write() as connection:
        gone["slots"] = connection.execute(
            delete(slots).where(slots.c.at < before, tuple_(slots.c.schedule, slots.c.at).not_in(kept))).rowcount
        gone["acts"] = connection.execute(delete(acts).where(acts.c.at < before, acts.c.id.not_in(said))).rowcount
        gone["leases"] = connection.execute(delete(leases).where(leases.c.expires < before)).rowcount
    return gone


def _needs(connection: Connection, computation: int, before: datetime) -> Needs:
    """Floors lie at or below every position and every open sync's beginning; the last good run is always needed.

    Of a destination where the computation was retired only who is told `true` there matters, in case it is cleared.
    """
    mine = positions.c.computation_id == computation
    stands = select(func.min(positions.c.run)).where(mine, positions.c.retired_at.is_(None))
    begins = (select(func.min(spans.c.from_run)).join(syncs, syncs.c.id == spans.c.sync_id)
              .where(spans.c.computation_id == computation, syncs.c.status == "open"))
    at = and_(positions.c.destination == decisions.c.destination, positions.c.computation_id == computation)
    decided = (select(func.min(decisions.c.to_run)).outerjoin(positions, at)
               .where(decisions.c.computation_id == computation, positions.c.retired_at.is_(None),
                      decisions.c.to_run > func.coalesce(positions.c.run, 0)))
    newest = select(func.max(runs.c.number)).where(runs.c.computation_id == computation, runs.c.status == "done")
    old = select(func.max(runs.c.number)).where(runs.c.computation_id == computation, runs.c.ended_at < before)
    told = select(positions.c.run).distinct().where(mine, positions.c.retired_at.is_not(None), positions.c.run > 0)
    last, *low = (connection.execute(query).scalar() for query in (newest, stands, begins, decided))
    needed = min([last or 0, *(run for run in low if run is not None)])
    return Needs(min(needed, connection.execute(old).scalar() or 0), needed,
                 tuple(sorted(connection.execute(told).scalars())))


def _forget_memberships(store: Store, computation: int, needs: Needs) -> int:
    """Delete ended stretches that nobody asks for; of each user who was a member up to the floor one row stays."""
    later = memberships.alias("later")
    newer = exists().where(later.c.computation_id == computation, later.c.user_id == memberships.c.user_id,
                           later.c.since_run > memberships.c.since_run, later.c.since_run <= needs.floor)
    over = and_(memberships.c.computation_id == computation, memberships.c.until_run <= needs.floor, newer,
                *(not_(as_of(run)) for run in needs.told))
    gone = 0
    for part in _ranges(store, computation) if needs.floor else ():
        with store.read() as connection:
            some = connection.execute(select(memberships.c.user_id).where(over, part).limit(1)).first()
        if some is not None:
            with store.write() as connection:
                gone += connection.execute(delete(memberships).where(over, part)).rowcount
    return gone


def _ranges(store: Store, computation: int) -> Iterator[ColumnElement[bool]]:
    """A computation's memberships cut between users, so that each part is one short walk along the primary key."""
    user, after = memberships.c.user_id, ""
    query = select(user).where(memberships.c.computation_id == computation).order_by(user).offset(BATCH).limit(1)
    while True:
        with store.read() as connection:
            end = connection.execute(query.where(user > after)).scalar()
        if end is None:
            yield user > after
            return
        yield and_(user > after, user <= end)
        after = end


def _forget_runs(store: Store, computation: int, needs: Needs, before: datetime) -> int:
    """Runs with which a membership began or ended stay: their instants are still asked for. So does the newest.

    One that failed is asked for only while it is the newest.
    """
    mine, old = runs.c.computation_id == computation, runs.c.ended_at < before
    newest = select(func.max(runs.c.number)).where(mine).scalar_subquery()
    with store.read() as connection:
        gone = set(connection.execute(select(runs.c.number).where(
            mine, old, runs.c.number < newest,
            or_(runs.c.number < needs.needed, runs.c.status != "done"))).scalars())
        for column in (memberships.c.since_run, memberships.c.until_run) if gone else ():
            gone -= set(connection.execute(select(column).where(
                memberships.c.computation_id == computation).distinct()).scalars())
    found = sorted(gone - set(needs.told))
    for start in range(0, len(found), 500):
        with store.write() as connection:
            connection.execute(delete(runs).where(mine, runs.c.number.in_(found[start:start + 500])))
    return len(found)


def _forget_syncs(store: Store, before: datetime) -> int:
    """The newest sync of each destination and computation stays: it knows what their bodies are made of.

    So does the newest of all, as one of these, and no id is ever given twice.
    """
    newest = (select(func.max(spans.c.sync_id)).join(syncs, syncs.c.id == spans.c.sync_id)
              .group_by(syncs.c.destination, spans.c.computation_id))
    old = select(syncs.c.id).where(syncs.c.status != "open", syncs.c.closed_at < before, syncs.c.id.not_in(newest))
    with store.read() as connection:
        found = connection.execute(old).scalars().all()
    for start in range(0, len(found), 500):
        part = found[start:start + 500]
        with store.write() as connection:
            connection.execute(delete(spans).where(spans.c.sync_id.in_(part)))
            connection.execute(delete(syncs).where(syncs.c.id.in_(part)))
    return len(found)

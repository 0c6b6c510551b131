"""The rows that make a sync exact: opened with its content fixed, moved by two cursors, closed with its positions."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from audiencesync import failpoints
from audiencesync.model import Call, Envelope, Progress, Refusal, Span, Sync
from audiencesync.store import content, identities
from audiencesync.store.connect import Store
from audiencesync.store.leases import Lease, guard
from audiencesync.store.tables import computations as computations_table
from audiencesync.store.tables import positions, rejections, spans, syncs

EVERYONE = datetime(9999, 1, 1, tzinfo=UTC)
"""A sync that a person typed tries every refused user again, however long his pause."""

FAIRNESS = ("incremental", "backfill", "initial")
"""Fresh changes go before what takes hours."""


def open_syncs(store: Store, destination: str) -> list[Sync]:
    """The destination's unfinished syncs, those that go first before the others."""
    with store.read() as connection:
        found = connection.execute(select(syncs).where(syncs.c.destination == destination, syncs.c.status == "open")
                                   .order_by(syncs.c.id)).all()
        loaded = [_load(connection, row) for row in found]
    return sorted(loaded, key=lambda sync: (FAIRNESS.index(sync.mode), sync.id))


def reload(store: Store, sync: Sync) -> Sync:
    """The sync as the last commit left it."""
    with store.read() as connection:
        return _load(connection, connection.execute(select(syncs).where(syncs.c.id == sync.id)).one())


def _load(connection: Connection, row: Any) -> Sync:
    parts = connection.execute(
        select(spans, computations_table.c.key).join(computations_table,
                                                     computations_table.c.id == spans.c.computation_id)
        .where(spans.c.sync_id == row.id).order_by(spans.c.ordinal)).all()
    return Sync(row.id, row.destination, row.mode, row.secret, row.retries_due, row.claimed, row.acknowledged,
                row.total, row.sent, row.rejected, row.requests, row.opened_at,
                tuple(Span(part.computation_id, part.key, part.from_run, part.to_run,
                           envelope_of(orjson.loads(part.envelope))) for part in parts))


def envelope_of(frozen: dict[str, Any]) -> Envelope:
    """An envelope as its span's row keeps it."""
    kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in frozen.items()}
    return Envelope(**kept)


def open_sync(store: Store, lease: Lease, *, destination: str, mode: str, parts: Sequence[Span],
              retries_due: datetime) -> Sync | None:
    """Fix a sync's content and open it; where there is nothing to send, only move the positions and return None."""
    draft = Sync(NEWEST, destination, mode, secrets.token_bytes(16), retries_due, None, None, 0, 0, 0, 0, retries_due,
                 tuple(parts))
    total, _ = content.count(store, draft)
    with store.write() as connection:
        guard(store, connection, lease)
        now = store.now(connection)
        if not total:
            _move(connection, draft)
            return None
        row = {"destination": destination, "mode": mode, "status": "open", "secret": draft.secret,
               "retries_due": retries_due, "total": total, "sent": 0, "rejected": 0, "requests": 0, "opened_at": now}
        key = connection.execute(insert(syncs).values(**row)).inserted_primary_key
        identity = int(key[0]) if key else 0
        connection.execute(insert(spans), [
            {"sync_id": identity, "ordinal": ordinal, "computation_id": part.computation_id, "from_run": part.from_run,
             "to_run": part.to_run, "envelope": orjson.dumps(asdict(part.envelope)).decode()}
            for ordinal, part in enumerate(parts)])
        failpoints.reach("sync.opened")
    return Sync(identity, destination, mode, draft.secret, retries_due, None, None, total, 0, 0, 0, now, tuple(parts))


NEWEST = 2**62
"""The id of a sync that has none yet: later than every other."""


def advance(store: Store, lease: Lease, sync: Sync, progress: Progress, *, settle: timedelta, finished: bool) -> None:
    """Commit the cursors with the rejections and counts up to there; with `finished`, close and move the positions."""
    with store.write() as connection:
        guard(store, connection, lease)
        now = store.now(connection)
        values: dict[str, Any] = {
            "claimed": progress.claimed, "acknowledged": progress.acknowledged,
            "sent": syncs.c.sent + len(progress.accepted), "rejected": syncs.c.rejected + len(progress.refused),
            "requests": syncs.c.requests + progress.requests}
        if finished:
            values |= {"status": "done", "closed_at": now}
        connection.execute(update(syncs).where(syncs.c.id == sync.id).values(**values))
        identities.remember(store, connection, sync.destination, progress.learned)
        _clear(store, connection, sync, progress.accepted)
        _reject(store, connection, sync, progress.refused, now)
        if progress.unresolved:
            _unsettle(connection, sync, now + settle)
        if finished:
            _move(connection, sync)
        failpoints.reach("sync.closing" if finished else "page.acknowledging")


def _clear(store: Store, connection: Connection, sync: Sync, accepted: Iterable[Call]) -> None:
    mine = (rejections.c.destination == sync.destination,
            rejections.c.computation_id.in_([span.computation_id for span in sync.spans]))
    if connection.execute(select(rejections.c.user_id).where(*mine).limit(1)).first() is None:
        return
    told: dict[int, list[str]] = {}
    for call in accepted:
        told.setdefault(call.span, []).append(call.user_id)
    for index, users in told.items():
        connection.execute(
            delete(rejections).where(*mine, rejections.c.computation_id == sync.spans[index].computation_id,
                                     rejections.c.user_id.in_(store.backend.array("users"))),
            store.backend.parameters("users", users))


def _reject(store: Store, connection: Connection, sync: Sync, refused: Sequence[tuple[Call, Refusal]],
            now: datetime) -> None:
    by_span: dict[int, dict[str, Refusal]] = {}
    for call, refusal in refused:
        by_span.setdefault(call.span, {})[call.user_id] = refusal
    for index, found in by_span.items():
        mine = (rejections.c.destination == sync.destination,
                rejections.c.computation_id == sync.spans[index].computation_id,
                rejections.c.user_id.in_(store.backend.array("users")))
        users = store.backend.parameters("users", list(found))
        before = {row.user_id: row for row in connection.execute(select(rejections).where(*mine), users)}
        connection.execute(delete(rejections).where(*mine), users)
        connection.execute(insert(rejections), [
            {"destination": sync.destination, "computation_id": sync.spans[index].computation_id, "user_id": user,
             "reason": refusal.reason, "status": refusal.status, "sync_id": sync.id,
             "tries": (tries := before[user].tries + 1 if user in before else 1),
             "since": before[user].since if user in before else now, "next_try": now + pause_after(tries)}
            for user, refusal in found.items()])


def pause_after(tries: int) -> timedelta:
    """How long a scheduled sync leaves a refused user alone: two hours, then twice as long each time, at last a day."""
    return timedelta(hours=min(24, 2 ** min(tries, 5)))


def _unsettle(connection: Connection, sync: Sync, until: datetime) -> None:
    for span in sync.spans:
        mine = and_(positions.c.destination == sync.destination, positions.c.computation_id == span.computation_id)
        later = or_(positions.c.settled_at.is_(None), positions.c.settled_at < until)
        known = connection.execute(select(positions.c.run).where(mine)).one_or_none()
        if known is None:
            connection.execute(insert(positions).values(destination=sync.destination, run=0, settled_at=until,
                                                        computation_id=span.computation_id))
        else:
            connection.execute(update(positions).where(mine, later).values(settled_at=until))


def _move(connection: Connection, sync: Sync) -> None:
    if sync.mode == "backfill":
        return
    for span in sync.spans:
        mine = (positions.c.destination == sync.destination, positions.c.computation_id == span.computation_id)
        moved = connection.execute(update(positions).where(*mine).values(run=span.to_run))
        if not moved.rowcount:
            connection.execute(insert(positions).values(destination=sync.destination, run=span.to_run,
                                                        computation_id=span.computation_id))


def unsettle(store: Store, lease: Lease, found: Iterable[Sync], *, settle: timedelta) -> None:
    """After a takeover: what lies between the cursors may still arrive, so the settle time starts anew."""
    unresolved = [sync for sync in found if sync.claimed != sync.acknowledged]
    if not unresolved:
        return
    with store.write() as connection:
        guard(store, connection, lease)
        for sync in unresolved:
            _unsettle(connection, sync, store.now(connection) + settle)


def split(store: Store, lease: Lease, sync: Sync, apart: set[int]) -> Sync:
    """Give these computations a sync of their own, and return what is left; neither knows that it was one.

    A messageId depends on the secret, the key and the user, and both halves keep the secret and the cursors: what was
    sent stays sent, and what is sent again is the same.
    """
    leaving = replace(sync, id=NEWEST, spans=tuple(span for span in sync.spans if span.computation_id in apart))
    remaining, _ = content.count(store, leaving, after=sync.acknowledged)
    with store.write() as connection:
        guard(store, connection, lease)
        row = connection.execute(select(syncs).where(syncs.c.id == sync.id)).one()
        half = {**row._mapping, "total": remaining, "sent": 0, "rejected": 0, "requests": 0}  # noqa: SLF001 - SQLAlchemy's public name
        del half["id"]
        key = connection.execute(insert(syncs).values(**half)).inserted_primary_key
        connection.execute(update(spans).where(spans.c.sync_id == sync.id, spans.c.computation_id.in_(apart))
                           .values(sync_id=int(key[0]) if key else 0))
        connection.execute(update(syncs).where(syncs.c.id == sync.id).values(total=row.total - remaining))
    return reload(store, sync)


def was_told(store: Store, destination: str) -> bool:
    """Whether the destination was ever brought to a run, and so has taken calls like these."""
    with store.read() as connection:
        query = select(positions.c.run).where(positions.c.destination == destination, positions.c.run > 0)
        return connection.execute(query.limit(1)).first() is not None


def rejected_counts(store: Store, destination: str, *, due: bool = False) -> Mapping[int, int]:
    """How many users the destination refuses, by computation id; with `due` only those whose next try has come."""
    with store.read() as connection:
        chosen = [rejections.c.destination == destination]
        if due:
            chosen.append(rejections.c.next_try <= store.now(connection))
        found = connection.execute(select(rejections.c.computation_id, func.count()).where(*chosen)
                                   .group_by(rejections.c.computation_id))
        return {row[0]: row[1] for row in found}

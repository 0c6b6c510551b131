"""What the state knows of a destination's account: whose it is, whether it refuses us, when to ask it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from audiencesync.store.connect import Store
from audiencesync.store.identities import forget_all
from audiencesync.store.leases import Lease, guard
from audiencesync.store.tables import acts, computations, decisions, destinations, positions, rejections, syncs

EVERYTHING = "*"
"""The row that stands for all destinations and audiences; no destination can have this name."""

NEW_ACCOUNT = "new-account"
"""The act after which nothing counts that the destination was told before."""

OURSELVES = "audiencesync"
"""Who pauses a destination that refuses the credentials; everybody else is a person."""

RESUMED: dict[str, Any] = dict.fromkeys(("paused_at", "pause_reason", "paused_by", "retry_at", "retry_reason"))
"""Nothing keeps the destination from being synced."""


@dataclass(frozen=True, slots=True)
class Account:
    """A destination as the state knows it; all empty before the first sync."""

    fingerprint: str | None = None
    paused_at: datetime | None = None
    pause_reason: str | None = None
    retry_at: datetime | None = None
    retry_reason: str | None = None
    by_all: bool = False
    """Whether it is paused because everything is."""


def account(store: Store, destination: str) -> tuple[Account, datetime]:
    """The destination's account, paused also where everything is, and the database's time."""
    with store.read() as connection:
        rows = {row.name: row for row in connection.execute(
            select(destinations).where(destinations.c.name.in_((destination, EVERYTHING))))}
        now = store.now(connection)
    found = Account()
    if (row := rows.get(destination)) is not None:
        found = Account(row.fingerprint, row.paused_at, row.pause_reason, row.retry_at, row.retry_reason)
    if (all_ := rows.get(EVERYTHING)) is not None and all_.paused_at is not None:
        found = replace(found, paused_at=all_.paused_at, pause_reason=all_.pause_reason, by_all=True)
    return found, now


class Allowed(NamedTuple):
    """What a destination's limits were used for: requests of a day, and what its speed limits still count (JSON)."""

    day: str | None = None
    used: int | None = None
    paced: str | None = None


def allowed(store: Store, destination: str) -> tuple[Allowed, datetime]:
    """What was used of the destination's limits, and the database's time."""
    query = select(destinations.c.day, destinations.c.used, destinations.c.paced)
    with store.read() as connection:
        row = connection.execute(query.where(destinations.c.name == destination)).one_or_none()
        return Allowed(*row) if row is not None else Allowed(), store.now(connection)


def note(store: Store, destination: str, **values: Any) -> None:
    """Write down some columns of the destination."""
    with store.write() as connection:
        _set(store, connection, destination, values)


def _set(store: Store, connection: Connection, destination: str, values: dict[str, Any]) -> None:
    connection.execute(store.backend.add(destinations).values(name=destination))
    connection.execute(update(destinations).where(destinations.c.name == destination).values(**values))


def pause_destination(store: Store, destination: str, *, reason: str, who: str) -> None:
    """Send nothing to it until somebody resumes it; everything is kept."""
    with store.write() as connection:
        now = store.now(connection)
        _set(store, connection, destination, {"paused_at": now, "pause_reason": reason, "paused_by": who})
        record_act(connection, now, who, "pause", destination, reason)


def resume_destination(store: Store, destination: str, *, who: str, reason: str, command: str = "resume",
                       lifts: bool = True, **values: Any) -> None:
    """Let it be synced again, with other columns (such as the account's fingerprint) written beside.

    Unless it `lifts` every pause, one that a person made stays: whose account it is was not what he decided.
    """
    with store.write() as connection:
        _set(store, connection, destination, {**_resumed(connection, destination, lifts=lifts), **values})
        record_act(connection, store.now(connection), who, command, destination, reason)


def _resumed(connection: Connection, destination: str, *, lifts: bool) -> dict[str, Any]:
    row = connection.execute(select(destinations).where(destinations.c.name == destination)).one_or_none()
    if lifts or row is None or row.paused_at is None or row.paused_by == OURSELVES:
        return RESUMED
    return {"retry_at": None, "retry_reason": None}


def pause_computation(store: Store, key: str, *, kind: str, reason: str, who: str) -> None:
    """Compute it no more and send nothing of it until somebody resumes it."""
    with store.write() as connection:
        now = store.now(connection)
        values = {"paused_at": now, "pause_reason": reason}
        connection.execute(store.backend.add(computations).values(key=key, kind=kind))
        connection.execute(update(computations).where(computations.c.key == key).values(**values))
        record_act(connection, now, who, "pause", key, reason)


def resume_computation(store: Store, key: str, *, who: str, reason: str) -> None:
    """Compute and sync it again."""
    with store.write() as connection:
        connection.execute(update(computations).where(computations.c.key == key)
                           .values(paused_at=None, pause_reason=None))
        record_act(connection, store.now(connection), who, "resume", key, reason)


def any_paused(store: Store, computation_ids: Sequence[int]) -> bool:
    """Whether somebody paused one of these computations."""
    mine = computations.c.id.in_(computation_ids)
    query = select(computations.c.id).where(mine, computations.c.paused_at.is_not(None))
    with store.read() as connection:
        return connection.execute(query.limit(1)).first() is not None


def record_act(connection: Connection, now: datetime, who: str, command: str, subject: str, reason: str) -> None:
    """Remember who did what to what, and why, with the change itself or not at all."""
    connection.execute(insert(acts).values(at=now, who=who, command=command, subject=subject, reason=reason or None))


def new_account(store: Store, lease: Lease, destination: str, *, fingerprint: str | None, who: str,
                reason: str = "", lifts: bool = True) -> int:
    """Take the destination for one that was told nothing yet; how many open syncs were given up.

    Its positions go back to before everything, so that initial syncs start, and refusals of the former account and
    what was decided of its changes are forgotten. Pauses are lifted as `resume_destination` does it. The lease keeps
    everybody else from sending meanwhile; raises LeaseLost.
    """
    mine = syncs.c.destination == destination
    with store.write() as connection:
        guard(store, connection, lease)
        now = store.now(connection)
        given_up = connection.execute(update(syncs).where(mine, syncs.c.status == "open")
                                      .values(status="abandoned", closed_at=now)).rowcount
        connection.execute(update(positions).where(positions.c.destination == destination).values(run=0))
        connection.execute(delete(rejections).where(rejections.c.destination == destination))
        connection.execute(delete(decisions).where(decisions.c.destination == destination))
        forget_all(connection, destination)
        _set(store, connection, destination, {**_resumed(connection, destination, lifts=lifts),
                                              "fingerprint": fingerprint})
        record_act(connection, now, who, NEW_ACCOUNT, destination, reason or "told everything anew")
    return given_up

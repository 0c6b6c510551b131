"""One effective worker per destination: a lease with a fence for what is written and a deadline for what is sent."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from audiencesync import clock
from audiencesync.errors import LeaseHeld, LeaseLost
from audiencesync.store.connect import Store
from audiencesync.store.tables import leases

LIFE = timedelta(seconds=30)


@dataclass(slots=True)
class Lease:
    """What this process holds; `deadline` is the holder's own, in seconds of `monotonic`."""

    name: str
    holder: str
    fence: int
    life: timedelta
    deadline: float
    monotonic: Callable[[], float] = clock.monotonic

    @property
    def remaining(self) -> float:
        """Seconds in which bytes may still leave."""
        return self.deadline - self.monotonic()


def this_process() -> str:
    """A name for this process that no other has, also after a restart: where it lives, its number, when it began."""
    return f"{_place()}/{os.getpid()}/{_began(os.getpid())}"


def _place() -> str:
    # one kernel since its boot, one pid namespace: only there does a process number mean anything
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - the target is no path
    except OSError:
        return ""  # nothing tells this host from another of the same name
    return hashlib.blake2b(f"{socket.gethostname()} {kernel} {space}".encode(), digest_size=8).hexdigest()


def _began(pid: int) -> str:
    """When the process began, in the kernel's own count; `dead` for one that only waits to be taken note of."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "dead" if fields[0] in ("Z", "X") else fields[19]


def is_dead(holder: str) -> bool:
    """Whether the holder is a process of this very host that no longer runs."""
    place, _, rest = holder.partition("/")
    pid, _, began = rest.partition("/")
    if not place or place != _place() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _began(int(pid)) != began


def acquire(store: Store, name: str, *, holder: str, life: timedelta = LIFE,
            monotonic: Callable[[], float] = clock.monotonic) -> Lease:
    """Take the lease, or raise LeaseHeld while another living process has it."""
    began = monotonic()
    with store.write() as connection:
        connection.execute(store.backend.add(leases).values(name=name, fence=0, expires=store.now(connection)))
        query = select(leases).where(leases.c.name == name)
        row = connection.execute(store.backend.locked(query)).one()
        now = store.now(connection)
        if row.holder is not None and row.expires > now and not is_dead(row.holder):
            raise LeaseHeld(f"another process works {name.partition(':')[2]} (its lease runs until "
                            f"{row.expires:%H:%M:%S}Z unless renewed); wait for it with --wait 60s")
        connection.execute(update(leases).where(leases.c.name == name)
                           .values(holder=holder, fence=row.fence + 1, expires=now + life))
    return Lease(name, holder, row.fence + 1, life, began + life.total_seconds(), monotonic)


def guard(store: Store, connection: Connection, lease: Lease) -> None:
    """Refuse to write (LeaseLost) unless the lease is still this holder's.

    One that ran out and that nobody took is still his: the row is locked, so nobody has acted meanwhile.
    """
    query = select(leases).where(leases.c.name == lease.name)
    row = connection.execute(store.backend.locked(query)).one_or_none()
    if row is None or (row.fence, row.holder) != (lease.fence, lease.holder):
        raise LeaseLost(f"another process took {lease.name.partition(':')[2]} over while this one slept; "
                        "it goes on from there, nothing is lost")


def renew(store: Store, lease: Lease) -> None:
    """Move the deadline on, or raise LeaseLost."""
    began = lease.monotonic()
    with store.write() as connection:
        guard(store, connection, lease)
        connection.execute(update(leases).where(leases.c.name == lease.name)
                           .values(expires=store.now(connection) + lease.life))
    lease.deadline = began + lease.life.total_seconds()


class Beat(NamedTuple):
    """A process that serves: its host and number, until when it is known to live, and whether it still does."""

    name: str
    until: datetime
    alive: bool


_SERVICE = "service:"


def beat(store: Store, *, holder: str, life: timedelta = LIFE) -> None:
    """Say that this process serves, for as long as a lease lives; forget those that are surely gone."""
    mine = f"{_SERVICE}{socket.gethostname()}:{os.getpid()}"
    with store.write() as connection:
        now = store.now(connection)
        connection.execute(store.backend.add(leases).values(name=mine, fence=0, expires=now))
        connection.execute(update(leases).where(leases.c.name == mine).values(holder=holder, expires=now + life))
        others = connection.execute(select(leases).where(leases.c.name.like(f"{_SERVICE}%"), leases.c.name != mine))
        gone = [row.name for row in others if row.expires < now - 120 * life or is_dead(row.holder or "")]
        if gone:
            connection.execute(delete(leases).where(leases.c.name.in_(gone)))


def silence(store: Store) -> None:
    """Say that this process serves no more."""
    with store.write() as connection:
        connection.execute(delete(leases).where(leases.c.name == f"{_SERVICE}{socket.gethostname()}:{os.getpid()}"))


def beats(store: Store) -> list[Beat]:
    """The processes that serve, or did so until they fell silent."""
    with store.read() as connection:
        now = store.now(connection)
        rows = connection.execute(select(leases).where(leases.c.name.like(f"{_SERVICE}%"))
                                  .order_by(leases.c.name)).all()
    return [Beat(row.name.removeprefix(_SERVICE), row.expires, row.expires > now and not is_dead(row.holder or ""))
            for row in rows]


def release(store: Store, lease: Lease) -> None:
    """Let the next one in at once; a lease already lost is left alone."""
    with store.write() as connection:
        connection.execute(update(leases).where(leases.c.name == lease.name, leases.c.fence == lease.fence)
                           .values(holder=None, expires=store.now(connection)))

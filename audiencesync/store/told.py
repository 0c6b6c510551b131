"""Which troubles each channel of alerts was told of, so that it is told once, and once when they are over."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import delete, select

from audiencesync.model import Trouble
from audiencesync.store.connect import Store
from audiencesync.store.tables import alerts


class Told(NamedTuple):
    """A trouble that a channel takes for lasting: what makes it the same, and whom it concerns."""

    kind: str
    what: str
    key: str
    destination: str


def troubles(store: Store, channel: str) -> list[Told]:
    """What a channel takes for lasting."""
    with store.read() as connection:
        return [Told(row.kind, row.subject, row.key, row.destination)
                for row in connection.execute(select(alerts).where(alerts.c.channel == channel))]


def remember(store: Store, channel: str, trouble: Trouble) -> None:
    """The channel was told that this trouble began."""
    with store.write() as connection:
        connection.execute(store.backend.add(alerts).values(
            channel=channel, kind=trouble.kind, subject=trouble.what, key=trouble.key,
            destination=trouble.destination, told_at=store.now(connection)))


def forget(store: Store, channel: str, told: Told) -> None:
    """The channel was told that it is over."""
    with store.write() as connection:
        connection.execute(delete(alerts).where(alerts.c.channel == channel, alerts.c.kind == told.kind,
                                                alerts.c.subject == told.what))

"""Which troubles each channel of alerts was told of, so that it is told once, and once when they are over."""

from __future__ import annotations

from sqlalchemy import delete, select

from audiencesync.store.connect import Store
from audiencesync.store.tables import alerts


def subjects(store: Store, channel: str) -> set[tuple[str, str]]:
    """The (kind, subject) of the troubles that a channel takes for lasting."""
    with store.read() as connection:
        return {(row.kind, row.subject) for row in
                connection.execute(select(alerts.c.kind, alerts.c.subject).where(alerts.c.channel == channel))}


def remember(store: Store, channel: str, kind: str, subject: str) -> None:
    """The channel was told that this trouble began."""
    with store.write() as connection:
        connection.execute(store.backend.add(alerts).values(channel=channel, kind=kind, subject=subject,
                                                            told_at=store.now(connection)))


def forget(store: Store, channel: str, kind: str, subject: str) -> None:
    """The channel was told that it is over."""
    with store.write() as connection:
        connection.execute(delete(alerts).where(alerts.c.channel == channel, alerts.c.kind == kind,
                                                alerts.c.subject == subject))

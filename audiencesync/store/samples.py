"""Some users of an audience, drawn by chance, with what a destination was told of them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import exists, func, select

from audiencesync.store.connect import Store
from audiencesync.store.content import valued
from audiencesync.store.tables import memberships, rejections


class Sampled(NamedTuple):
    """A user with the value he was told as of the position, and his included columns."""

    user_id: str
    value: bool
    included: str | None


def sample(store: Store, destination: str, computation_id: int, run: int, count: int) -> list[Sampled]:
    """So many members and former members as of a run that the destination was brought to, without the refused."""
    refused = exists().where(rejections.c.destination == destination,
                             rejections.c.computation_id == computation_id,
                             rejections.c.user_id == memberships.c.user_id)
    query = valued(run, memberships).where(memberships.c.computation_id == computation_id,
                                           memberships.c.since_run <= run, ~refused)
    found = query.subquery()
    with store.read() as connection:
        rows = connection.execute(select(found).order_by(func.random()).limit(count)).all()
    return [Sampled(row.user_id, bool(row.value), row.included) for row in rows]

"""Some users of a computation, drawn by chance, with what a destination was told of them."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import ColumnElement, exists, func, or_, select

from audiencesync.model import Call, Span
from audiencesync.store.connect import Store
from audiencesync.store.content import as_calls, changes
from audiencesync.store.positions import last_envelope
from audiencesync.store.tables import rejections
from audiencesync.store.traits import traits_of


def sample(store: Store, destination: str, computation_id: int, key: str, run: int, count: int) -> list[Call]:
    """So many members and former members as of a run that the destination was brought to, without the refused.

    Each is told all that he was told in the end, as a backfill would.
    """
    names = tuple(traits_of(store, computation_id, run))
    envelope = replace(last_envelope(store, destination, computation_id), traits=names)
    span = Span(computation_id, key, run, run, envelope)
    everybody = changes("backfill", span).subquery()
    refused: ColumnElement[bool] = exists().where(rejections.c.destination == destination,
                             rejections.c.computation_id == computation_id,
                             rejections.c.user_id == everybody.c.user_id)
    if envelope.missing not in ("null", ""):  # who dropped out before this destination was told anything is not there
        refused = or_(refused, everybody.c.value == 0)
    drawn = select(everybody).where(~refused).order_by(func.random()).limit(count).subquery()
    with store.read() as connection:
        columns = store.backend.gather(connection, drawn)
    return as_calls(span, 0, columns, whole=True)

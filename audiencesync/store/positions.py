"""Where a destination stands with each computation, and what it was last sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, select

from audiencesync.model import Content, Envelope, Sync
from audiencesync.store.connect import Store
from audiencesync.store.syncs import envelope_of
from audiencesync.store.tables import computations, positions, spans, syncs


class Position(NamedTuple):
    """Where a destination stands with a computation, and until when its last unresolved attempt may still land.

    Retired there is told no more; with `clear_as_of` everybody is told that he left, as of that instant.
    """

    run: int
    settled_at: datetime | None = None
    retired_at: datetime | None = None
    clear_as_of: datetime | None = None


NOWHERE = Position(0)
"""Where a destination stands that was told nothing."""

NOTHING = Envelope("", "", "", "", "")
"""What bodies are made of that were never sent."""


def known_positions(store: Store, destination: str) -> Mapping[int, Position]:
    """The destination's positions by computation id."""
    with store.read() as connection:
        found = connection.execute(select(positions).where(positions.c.destination == destination))
        return {row.computation_id: Position(row.run, row.settled_at, row.retired_at, row.clear_as_of)
                for row in found}


def known_keys(store: Store, destination: str) -> tuple[str, ...]:
    """The keys of all computations that the destination was ever told, or is being told."""
    stands = (select(computations.c.key).join(positions, positions.c.computation_id == computations.c.id)
              .where(positions.c.destination == destination))
    begun = (select(computations.c.key).join(spans, spans.c.computation_id == computations.c.id)
             .join(syncs, syncs.c.id == spans.c.sync_id)
             .where(syncs.c.destination == destination, syncs.c.status == "open"))
    with store.read() as connection:
        return tuple(sorted(connection.execute(stands.union(begun)).scalars()))


def full_content(store: Store, sync: Sync) -> Content:
    """What a sync's calls have in common, with the keys that the destination may hold besides."""
    return replace(sync.content, keys=known_keys(store, sync.destination), anew=sync.mode == "backfill")


def last_envelope(store: Store, destination: str, computation_id: int) -> Envelope:
    """What the bodies of the newest sync of a computation to a destination were made of.

    An empty one where there was none: nobody was told, so no body will be made of it.
    """
    with store.read() as connection:
        return envelope_at(connection, destination, computation_id)


def envelope_at(connection: Connection, destination: str, computation_id: int) -> Envelope:
    """The same by a connection at hand."""
    frozen = connection.execute(
        select(spans.c.envelope).join(syncs, syncs.c.id == spans.c.sync_id)
        .where(syncs.c.destination == destination, spans.c.computation_id == computation_id)
        .order_by(syncs.c.id.desc()).limit(1)).scalar()
    return NOTHING if frozen is None else envelope_of(orjson.loads(frozen))

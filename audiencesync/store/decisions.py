"""What people decided: of a held change, of an audience's end, each bound to what they were shown and remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from audiencesync.store.accounts import record_act
from audiencesync.store.connect import Store
from audiencesync.store.tables import computations, decisions, positions, runs, spans, syncs

APPROVED, DISCARDED = "approved", "discarded"


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's word on one change: how many entered and exited up to `to_run`, as he was shown it."""

    to_run: int
    entered: int
    exited: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Act:
    """Who did what, and why; `command` is what he typed."""

    who: str
    command: str
    reason: str = ""


def decisions_of(store: Store, destination: str) -> Mapping[int, Decision]:
    """The last word on each computation's changes at a destination, by computation id."""
    with store.read() as connection:
        return {row.computation_id: Decision(row.to_run, row.entered, row.exited, row.verdict)
                for row in connection.execute(select(decisions).where(decisions.c.destination == destination))}


def decide(store: Store, key: str, made: Iterable[tuple[str, int, Decision]], act: Act) -> None:
    """Remember a decision for each (destination, computation id), in the place of an earlier one."""
    with store.write() as connection:
        for destination, computation, decision in made:
            connection.execute(delete(decisions).where(decisions.c.destination == destination,
                                                       decisions.c.computation_id == computation))
            connection.execute(insert(decisions).values(
                destination=destination, computation_id=computation, to_run=decision.to_run,
                entered=decision.entered, exited=decision.exited, verdict=decision.verdict))
        record_act(connection, store.now(connection), act.who, act.command, key, act.reason)


def sums(store: Store, computation_id: int, from_run: int, to_run: int) -> tuple[int, int]:
    """How many entered and exited with the runs in between, all told: no net change can be larger."""
    with store.read() as connection:
        row = connection.execute(
            select(func.coalesce(func.sum(runs.c.entered), 0), func.coalesce(func.sum(runs.c.exited), 0))
            .where(runs.c.computation_id == computation_id, runs.c.status == "done", runs.c.number > from_run,
                   runs.c.number <= to_run)).one()
    return int(row[0]), int(row[1])


def members_at(store: Store, computation_id: int, number: int) -> int:
    """How many members a run found; none before the first."""
    with store.read() as connection:
        found = connection.execute(select(runs.c.members).where(runs.c.computation_id == computation_id,
                                                                runs.c.number == number)).scalar()
    return int(found or 0)


def retire(store: Store, computation_id: int, key: str, act: Act, *, names: Iterable[str], clear: bool,
           whole: bool) -> datetime:
    """End a computation at these destinations, and for ever where `whole`; with `clear` all are told that they left.

    Gives back the instant. What was open goes on only where it is cleared, since half of it may be told already; and
    who is being cleared stays so, whoever retires it again. Cleared for ever is also who was told since `names` were
    found.
    """
    with store.write() as connection:
        now = store.now(connection)
        newest = select(func.max(runs.c.as_of)).where(runs.c.computation_id == computation_id, runs.c.status == "done")
        last = max(now, connection.execute(newest).scalar() or now)  # no farewell is older than what was told
        if whole and clear:
            names = sorted({*names, *_told(connection, computation_id)})
        if whole:
            connection.execute(update(computations).where(computations.c.id == computation_id)
                               .values(retired_at=func.coalesce(computations.c.retired_at, now), paused_at=None))
        for name in names:
            mine = (positions.c.destination == name, positions.c.computation_id == computation_id)
            values = {"retired_at": now, **({"clear_as_of": last} if clear else {})}
            if not connection.execute(update(positions).where(*mine).values(**values)).rowcount:
                connection.execute(insert(positions).values(destination=name, computation_id=computation_id, run=0,
                                                            **values))
        record_act(connection, now, act.who, act.command, key, act.reason)
    return now


def told_at(store: Store, computation_id: int) -> list[str]:
    """The destinations that were told of a computation, or began to be."""
    with store.read() as connection:
        return sorted(_told(connection, computation_id))


def _told(connection: Connection, computation_id: int) -> set[str]:
    begun = (select(syncs.c.destination).join(spans, spans.c.sync_id == syncs.c.id)
             .where(spans.c.computation_id == computation_id, syncs.c.status == "open"))
    told = select(positions.c.destination).where(positions.c.computation_id == computation_id, positions.c.run > 0)
    return {*connection.execute(begun).scalars(), *connection.execute(told).scalars()}


def any_ended(store: Store, destination: str, computation_ids: Sequence[int]) -> bool:
    """Whether one of these computations was retired, here or everywhere, and is not cleared here."""
    query = (select(computations.c.id)
             .outerjoin(positions, and_(positions.c.computation_id == computations.c.id,
                                        positions.c.destination == destination))
             .where(computations.c.id.in_(computation_ids), positions.c.clear_as_of.is_(None),
                    or_(computations.c.retired_at.is_not(None), positions.c.retired_at.is_not(None))))
    with store.read() as connection:
        return connection.execute(query.limit(1)).first() is not None


def farewells(store: Store, destination: str) -> list[str]:
    """The keys whose members at this destination are to be told that they left."""
    with store.read() as connection:
        return list(connection.execute(
            select(computations.c.key).join(positions, positions.c.computation_id == computations.c.id)
            .where(positions.c.destination == destination, positions.c.clear_as_of.is_not(None))
            .order_by(computations.c.key)).scalars())

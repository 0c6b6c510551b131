"""What is known of one user: when he was in which audience, and what each destination was told of him."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, func, or_, select

from audiencesync.model import TRAIT, as_object
from audiencesync.store.accounts import NEW_ACCOUNT
from audiencesync.store.connect import Store
from audiencesync.store.tables import acts, computations, memberships, positions, rejections, runs, spans, syncs
from audiencesync.store.traits import read_traits
from audiencesync.store.views import Rejected


@dataclass(frozen=True, slots=True)
class Stretch:
    """A membership: from one run until another, or lasting; the moments are the runs' instants."""

    since_run: int
    since: datetime
    until_run: int | None = None
    until: datetime | None = None

    def covers(self, run: int) -> bool:
        """Whether it lasted at the end of that run."""
        return self.since_run <= run and (self.until_run is None or self.until_run > run)


Value = bool | str | None
"""What a user is in an audience; or his computed traits as the text of a JSON object, None while he is not there."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a sync told: the value, as of which run, and when that sync ended (or began, while it is open)."""

    value: Value
    run: int
    as_of: datetime
    at: datetime
    mode: str


@dataclass(frozen=True, slots=True)
class Word:
    """What one destination knows of the user in one audience.

    `told` is the last it answered for, `unresolved` a value that may or may not have arrived, `pending` the next
    it will get.
    """

    destination: str
    told: Told | None = None
    unresolved: Value = None
    pending: Value = None
    rejected: Rejected | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """One audience's whole history with the user, oldest stretch first, and what each destination knows of it.

    `value` are his computed traits now, as the text of a JSON object; None where it is an audience.
    """

    key: str
    member: bool
    stretches: tuple[Stretch, ...]
    words: tuple[Word, ...]
    value: str | None = None


def user(store: Store, user_id: str, goes_to: Mapping[str, Sequence[str]]) -> list[Membership]:
    """All that is known of a user by exactly this id, an entry for each audience; `goes_to`: destinations by key."""
    with store.read() as connection:
        known = connection.execute(select(computations.c.id, computations.c.key, computations.c.kind,
                                          computations.c.retired_at)
                                   .order_by(computations.c.key)).all()
        ids = [row.id for row in known]
        rows = _by_computation(connection, _memberships(ids, user_id))
        told = _by_computation(connection, _syncs(ids, user_id))
        met = {*connection.execute(select(syncs.c.destination).distinct()).scalars()}
        refused = _by_computation(connection, _refused(sorted(met), ids, user_id))
        newest = _by_computation(connection, select(runs.c.computation_id, func.max(runs.c.number).label("number"))
                                 .where(runs.c.status == "done").group_by(runs.c.computation_id))
        at = {(row.destination, row.computation_id): row for row in connection.execute(_positions(ids))}
        fresh = {row.subject: row.at for row in connection.execute(
            select(acts.c.subject, func.max(acts.c.at).label("at")).where(acts.c.command == NEW_ACCOUNT)
            .group_by(acts.c.subject))}
    found = []
    for one in known:
        mine = rows.get(one.id, ())
        stretches = _stretches(mine)
        values = partial(_traits, mine) if one.kind == TRAIT else partial(_value, stretches)
        past = [row for row in told.get(one.id, ()) if row.destination not in fresh
                or row.opened_at > fresh[row.destination]]
        refusals = {row.destination: row for row in refused.get(one.id, ())}
        now = values(newest[one.id][0].number) if one.id in newest else False
        names = dict.fromkeys([*goes_to.get(one.key, ()), *(row.destination for row in past), *refusals])
        words = tuple(_word(name, user_id, values, [row for row in past if row.destination == name],
                            refusals.get(name), at.get((name, one.id)), now=now, retired=one.retired_at is not None)
                      for name in names)
        found.append(Membership(one.key, bool(now), stretches, words, now if isinstance(now, str) else None))
    return found


def _by_computation(connection: Connection, query: Select[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in connection.execute(query):
        found.setdefault(row.computation_id, []).append(row)
    return found


def _memberships(ids: Sequence[int], user_id: str) -> Select[Any]:
    began, ended = runs.alias("began"), runs.alias("ended")
    return (select(memberships.c.computation_id, memberships.c.since_run, memberships.c.until_run,
                   began.c.as_of.label("since"), ended.c.as_of.label("until"), memberships.c.value, began.c.traits)
            .join(began, and_(began.c.computation_id == memberships.c.computation_id,
                              began.c.number == memberships.c.since_run))
            .outerjoin(ended, and_(ended.c.computation_id == memberships.c.computation_id,
                                   ended.c.number == memberships.c.until_run))
            .where(memberships.c.computation_id.in_(ids), memberships.c.user_id == user_id)
            .order_by(memberships.c.computation_id, memberships.c.since_run))


def _syncs(ids: Sequence[int], user_id: str) -> Select[Any]:
    """The syncs whose content may hold the user, newest first: found by his few memberships, one probe a span."""
    mine = (memberships.c.computation_id == spans.c.computation_id, memberships.c.user_id == user_id)
    moved = or_(and_(memberships.c.since_run > spans.c.from_run, memberships.c.since_run <= spans.c.to_run),
                and_(memberships.c.until_run > spans.c.from_run, memberships.c.until_run <= spans.c.to_run),
                and_(spans.c.to_run == 0, memberships.c.since_run <= spans.c.from_run))
    lasted = or_(memberships.c.until_run.is_(None), memberships.c.until_run > spans.c.to_run)
    begun = memberships.c.since_run <= spans.c.to_run
    held = or_(and_(syncs.c.mode == "initial", exists().where(*mine, begun, lasted)),
               and_(syncs.c.mode == "backfill", exists().where(*mine, begun)),
               and_(syncs.c.mode == "incremental", exists().where(*mine, moved)))
    return (select(syncs, spans.c.computation_id, spans.c.from_run, spans.c.to_run, runs.c.as_of)
            .join(spans, spans.c.sync_id == syncs.c.id)
            .outerjoin(runs, and_(runs.c.computation_id == spans.c.computation_id, runs.c.number == spans.c.to_run))
            .where(spans.c.computation_id.in_(ids), syncs.c.status.in_(("open", "done")), held)
            .order_by(syncs.c.id.desc()))


def _positions(ids: Sequence[int]) -> Select[Any]:
    """Where destinations stand with these computations, and the instants of those runs."""
    mine = and_(runs.c.computation_id == positions.c.computation_id, runs.c.number == positions.c.run)
    return (select(positions, runs.c.as_of).select_from(positions.outerjoin(runs, mine))
            .where(positions.c.computation_id.in_(ids)))


def _refused(names: Sequence[str], ids: Sequence[int], user_id: str) -> Select[Any]:
    return (select(rejections, computations.c.key).join(computations, computations.c.id == rejections.c.computation_id)
            .where(rejections.c.destination.in_(names), rejections.c.computation_id.in_(ids),
                   rejections.c.user_id == user_id))


def _stretches(rows: Iterable[Any]) -> tuple[Stretch, ...]:
    """Rows that follow each other without a gap are one membership whose included columns changed."""
    found: list[Stretch] = []
    for row in rows:
        if found and found[-1].until_run == row.since_run:
            found[-1] = Stretch(found[-1].since_run, found[-1].since, row.until_run, row.until)
        else:
            found.append(Stretch(row.since_run, row.since, row.until_run, row.until))
    return tuple(found)


def _value(stretches: Iterable[Stretch], run: int) -> bool:
    return any(stretch.covers(run) for stretch in stretches)


def _traits(rows: Iterable[Any], run: int) -> str | None:
    """The traits as of a run; a row's values have the names that the run found which wrote it."""
    return next((as_object(list(read_traits(row.traits)), row.value) for row in rows
                 if Stretch(row.since_run, row.since, row.until_run).covers(run)), None)


def _word(name: str, user_id: str, values: Callable[[int], Value], past: Iterable[Any], refused: Any, at: Any, *,
          now: Value, retired: bool) -> Word:
    """Walk the destination's syncs back to the last one that it answered for.

    A sync that retention forgot left its word in the position, which is `at`.
    """
    told: Told | None = None
    unresolved: Value = None
    coming: Value = None
    for sync in past:
        value = values(sync.to_run)
        if sync.mode == "incremental" and value == values(sync.from_run):
            continue
        if sync.status == "open" and (sync.acknowledged is None or user_id > sync.acknowledged):
            if sync.claimed is not None and user_id <= sync.claimed:
                unresolved = value
            else:
                coming = value
        elif refused is None or (sync.closed_at is not None and sync.closed_at < refused.since):
            told = Told(value, sync.to_run, sync.as_of or sync.opened_at, sync.closed_at or sync.opened_at, sync.mode)
            break
    if refused is not None:
        rejected = Rejected(user_id, refused.key, name, refused.reason, refused.status, refused.tries, refused.since,
                            refused.next_try)
        return Word(name, told, unresolved, None, rejected)
    if told is None and at is not None and at.as_of is not None and values(at.run):
        told = Told(values(at.run), at.run, at.as_of, at.as_of, "incremental")
    if retired or (at is not None and at.retired_at is not None):
        if at is None or at.clear_as_of is None:
            return Word(name, told, unresolved)
        now = False if isinstance(now, bool) else None
    known = unresolved if unresolved is not None else told.value if told else False if isinstance(now, bool) else None
    return Word(name, told, unresolved, coming if coming is not None else now if now != known else None)

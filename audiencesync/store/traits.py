"""What the state knows of computed traits as columns: their names as of a run, and what kind of value each has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, and_, func, or_, select, union

from audiencesync.errors import QueryError
from audiencesync.model import ID_COLUMNS, TRAIT, Audience
from audiencesync.store.connect import Store
from audiencesync.store.tables import computations, positions, rejections, runs, spans, syncs

BOOLEAN = "boolean"
"""The kind of value that an audience's trait has."""


def traits_of(store: Store, computation_id: int, run: int) -> dict[str, str]:
    """The kind of value by the name of each trait that a run found, in the order of its values; none of an audience."""
    with store.read() as connection:
        return traits_at(connection, computation_id, run)


def traits_at(connection: Connection, computation_id: int, run: int) -> dict[str, str]:
    """The same by a connection at hand."""
    query = select(runs.c.traits).where(runs.c.computation_id == computation_id, runs.c.number == run)
    return read_traits(connection.execute(query).scalar())


def read_traits(text: str | None) -> dict[str, str]:
    """Kinds by name as a run keeps them."""
    return dict(orjson.loads(text)) if text else {}


def gone_traits(store: Store, destination: str, computation_id: int, run: int, *, ever: bool) -> tuple[str, ...]:
    """The names that runs up to this one gave up while the destination refused somebody, who may hold them still.

    Of all runs, if `ever`; without those that another computation tells by now.
    """
    refused = (select(func.min(spans.c.from_run)).select_from(rejections.join(spans, and_(
        spans.c.sync_id == rejections.c.sync_id, spans.c.computation_id == rejections.c.computation_id)))
        .where(rejections.c.destination == destination, rejections.c.computation_id == computation_id))
    with store.read() as connection:
        low = 0 if ever else connection.execute(refused).scalar()
        if low is None:
            return ()
        texts = connection.execute(select(runs.c.traits).distinct().where(
            runs.c.computation_id == computation_id, runs.c.number >= low, runs.c.number <= run)).scalars().all()
        key = connection.execute(select(computations.c.key).where(computations.c.id == computation_id)).scalar_one()
        others = _told_by_others(connection, key)
    current = traits_of(store, computation_id, run)
    names = dict.fromkeys(name for text in texts for name in read_traits(text))
    return tuple(name for name in names if name not in current and name.casefold() not in others)


def _told_by_others(connection: Connection, key: str) -> dict[str, str]:
    """By its name in small letters, the other computation that a trait is told by, or that is still to take it back.

    That is what its newest run found, what a destination was brought to, and what is under way.
    """
    leaves = or_(positions.c.retired_at.is_(None), positions.c.clear_as_of.is_not(None))
    stands = (select(computations.c.key, computations.c.kind, runs.c.traits).select_from(
        positions.join(computations, computations.c.id == positions.c.computation_id)
        .join(runs, and_(runs.c.computation_id == computations.c.id, runs.c.number == positions.c.run))).where(leaves))
    begun = (select(computations.c.key, computations.c.kind, runs.c.traits).select_from(
        spans.join(syncs, syncs.c.id == spans.c.sync_id).join(computations, computations.c.id == spans.c.computation_id)
        .join(runs, and_(runs.c.computation_id == computations.c.id, runs.c.number == spans.c.to_run)))
        .where(syncs.c.status == "open"))
    newest = _newest().where(computations.c.retired_at.is_(None)).with_only_columns(
        computations.c.key, computations.c.kind, runs.c.traits)
    found: dict[str, str] = {}
    for row in connection.execute(union(newest, stands, begun)):
        if row.key != key:
            names = read_traits(row.traits) if row.kind == TRAIT else [row.key]
            found |= {name.casefold(): row.key for name in names}
    return found


def _newest() -> Select[Any]:
    """Every computation with what its last good run found."""
    number = (select(func.max(runs.c.number)).where(runs.c.computation_id == computations.c.id, runs.c.status == "done")
              .correlate(computations).scalar_subquery())
    return select(computations.c.key, computations.c.kind, computations.c.retired_at, runs.c.traits).select_from(
        computations.join(runs, and_(runs.c.computation_id == computations.c.id, runs.c.number == number)))


def fields_of(store: Store, keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """By key, the kind of value by the name of each trait that destinations know it by: an audience's is its key.

    A computed trait that was never run has none yet.
    """
    wanted = list(keys)
    with store.read() as connection:
        found = {row.key: read_traits(row.traits) if row.kind == TRAIT else {row.key: BOOLEAN}
                 for row in connection.execute(_newest().where(computations.c.key.in_(wanted)))}
    return {key: found.get(key, {key: BOOLEAN}) for key in wanted}


def check_traits(store: Store, audience: Audience, traits: Mapping[str, str],
                 included: Mapping[str, str]) -> dict[str, str]:
    """The kinds by name, where one that had only NULL keeps the kind it had before.

    Raises QueryError for what destinations could not make sense of: a key whose kind is another now, a trait whose
    kind of value is another, and a name that is told already by another computation, or that travels along with one:
    `included` are keys by the columns that their definitions include, in small letters.
    """
    with store.read() as connection:
        own = connection.execute(_newest().where(computations.c.key == audience.key)).one_or_none()
        others = _told_by_others(connection, audience.key)
    for name in traits if audience.kind == TRAIT else [audience.key]:
        if other := others.get(name.casefold()):
            raise QueryError(f"{audience.path}: the trait {name} is told by {other}, or still to be taken back by it, "
                             f"and one would overwrite the other; give it another name here, or take it from {other} "
                             f"and  audiencesync sync {other}  first, or  audiencesync retire {other}")
        if (other := included.get(name.casefold(), audience.key)) != audience.key:
            raise QueryError(f"{audience.path}: the trait {name} would be overwritten by the column of that name that "
                             f"{other} includes; give one of them another name")
    for column in audience.include:
        if column not in ID_COLUMNS and (other := others.get(column.casefold())):
            raise QueryError(f"{audience.path}: the included column {column} would overwrite the trait of that name, "
                             f"which {other} tells; give it another name with AS, or leave it out of include:")
    return dict(traits) if own is None else _checked(own, audience, traits)


def _checked(row: Row[Any], audience: Audience, traits: Mapping[str, str]) -> dict[str, str]:
    if row.kind != audience.kind:
        was = "an audience" if row.kind == "audience" else "a computed trait"
        raise QueryError(f"{audience.path}: {audience.key} was {was} until now, which destinations remember; "
                         "give this one another key")
    known = read_traits(row.traits)
    for name, kind in traits.items():
        if kind and known.get(name, kind) not in (kind, ""):
            raise QueryError(f"{audience.path}: the trait {name} was a {known[name]} and is a {kind} now, which "
                             f"destinations do not take; {_cure(audience, name, known[name])}")
    return {name: kind or known.get(name, "") for name, kind in traits.items()}


def _cure(audience: Audience, name: str, kind: str) -> str:
    if audience.declared:
        return f"write  type: {kind}  in the file, or declare it under another key"
    return f"cast it, write  types: {{{name}: {kind}}}  in the header, or give the column another name"

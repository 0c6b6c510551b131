"""What the state knows of computed traits as columns: their names as of a run, and what kind of value each has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import Row, Select, and_, func, select

from audiencesync.errors import QueryError
from audiencesync.model import Audience
from audiencesync.store.connect import Store
from audiencesync.store.tables import computations, runs

BOOLEAN = "boolean"
"""The kind of value that an audience's trait has."""

TRAIT = "trait"
"""The kind of a computation that has values (context.personas.computation_class)."""


def traits_of(store: Store, computation_id: int, run: int) -> dict[str, str]:
    """The kind of value by the name of each trait that a run found, in the order of its values; none of an audience."""
    query = select(runs.c.traits).where(runs.c.computation_id == computation_id, runs.c.number == run)
    with store.read() as connection:
        return read_traits(connection.execute(query).scalar())


def read_traits(text: str | None) -> dict[str, str]:
    """Kinds by name as a run keeps them."""
    return dict(orjson.loads(text)) if text else {}


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


def check_traits(store: Store, audience: Audience, traits: Mapping[str, str]) -> dict[str, str]:
    """The kinds by name, where one that had only NULL keeps the kind it had before.

    Raises QueryError for what destinations could not make sense of: a key whose kind is another now, a trait whose
    kind of value is another, and a name that is told already by another computation.
    """
    with store.read() as connection:
        rows = connection.execute(_newest()).all()
    mine = {name.casefold() for name in traits} if audience.kind == TRAIT else {audience.key.casefold()}
    kinds = dict(traits)
    for row in rows:
        if row.key == audience.key:
            kinds = _checked(row, audience, traits)
        elif row.retired_at is None:
            for name in read_traits(row.traits) if row.kind == TRAIT else [row.key]:
                if name.casefold() in mine:
                    raise QueryError(f"{audience.path}: the trait {name} is told already by {row.key}, and one would "
                                     "overwrite the other; give it another name here, or  audiencesync retire "
                                     f"{row.key}")
    return kinds


def _checked(row: Row[Any], audience: Audience, traits: Mapping[str, str]) -> dict[str, str]:
    if row.kind != audience.kind:
        was = "an audience" if row.kind == "audience" else "a computed trait"
        raise QueryError(f"{audience.path}: {audience.key} was {was} until now, which destinations remember; "
                         "give this one another key")
    known = read_traits(row.traits)
    for name, kind in traits.items():
        if kind and known.get(name, kind) not in (kind, ""):
            raise QueryError(f"{audience.path}: the trait {name} was a {known[name]} and is a {kind} now, which "
                             f"destinations do not take; cast it, write  types: {{{name}: {known[name]}}}  in the "
                             "header, or give the column another name")
    return {name: kind or known.get(name, "") for name, kind in traits.items()}

"""What the state knows of computed traits as columns: their names, and what kind of value each has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, select, update

from audiencesync.errors import QueryError
from audiencesync.model import Audience
from audiencesync.store.connect import Store
from audiencesync.store.tables import computations

BOOLEAN = "boolean"
"""The kind of value that an audience's trait has."""


def traits_of(store: Store, computation_id: int) -> dict[str, str]:
    """The kind of value by the name of each trait, as of the last run; empty for an audience."""
    with store.read() as connection:
        text = connection.execute(select(computations.c.traits).where(computations.c.id == computation_id)).scalar()
    return _read(text)


def fields_of(store: Store, keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """By key, the kind of value by the name of each trait that destinations know it by: an audience's is its key.

    A computed trait that was never run has none yet.
    """
    wanted = list(keys)
    query = select(computations.c.key, computations.c.kind, computations.c.traits).where(computations.c.key.in_(wanted))
    with store.read() as connection:
        found = {row.key: _read(row.traits) if row.kind == "trait" else {row.key: BOOLEAN}
                 for row in connection.execute(query)}
    return {key: found.get(key, {key: BOOLEAN}) for key in wanted}


def _read(text: str | None) -> dict[str, str]:
    return dict(orjson.loads(text)) if text else {}


def check_traits(store: Store, audience: Audience, traits: Mapping[str, str]) -> None:
    """Refuse what destinations could not make sense of (QueryError).

    That is a key whose kind is another now, a trait whose kind of value is another, and a name that is told already by
    another computation.
    """
    with store.read() as connection:
        rows = connection.execute(select(computations).where(computations.c.id_kind.is_not(None))).all()
    mine = {name.casefold() for name in traits} if audience.kind == "trait" else {audience.key.casefold()}
    for row in rows:
        if row.key == audience.key:
            _check_own(row, audience, traits)
        elif row.retired_at is None:
            for name in _read(row.traits) if row.kind == "trait" else [row.key]:
                if name.casefold() in mine:
                    raise QueryError(f"{audience.path}: the trait {name} is told already by {row.key}, and one would "
                                     "overwrite the other; give it another name here, or  audiencesync retire "
                                     f"{row.key}")


def _check_own(row: Any, audience: Audience, traits: Mapping[str, str]) -> None:
    if row.kind != audience.kind:
        was = "an audience" if row.kind == "audience" else "a computed trait"
        raise QueryError(f"{audience.path}: {audience.key} was {was} until now, which destinations remember; "
                         "give this one another key")
    known = _read(row.traits)
    for name, kind in traits.items():
        if kind and known.get(name, kind) not in (kind, ""):
            raise QueryError(f"{audience.path}: the trait {name} was a {known[name]} and is a {kind} now, which "
                             f"destinations do not take; cast it, write  types: {{{name}: {known[name]}}}  in the "
                             "header, or give the column another name")


def remember_traits(connection: Connection, computation_id: int, audience: Audience, row: Any,
                    traits: Mapping[str, str]) -> None:
    """Keep the names for the syncs to come; one that had only NULL keeps the kind it had before."""
    if audience.kind != "trait":
        return
    known = _read(row.traits)
    kinds = {name: kind or known.get(name, "") for name, kind in traits.items()}
    connection.execute(update(computations).where(computations.c.id == computation_id)
                       .values(traits=orjson.dumps(kinds).decode()))

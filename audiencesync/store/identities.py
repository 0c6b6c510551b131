"""What a destination's answers taught of its people: names and values that only its own class understands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, select

from audiencesync.model import Call, Packer
from audiencesync.store.connect import Store
from audiencesync.store.tables import identities


def known(store: Store, destination: str, names: Iterable[str]) -> dict[str, str]:
    """The values that are remembered under these names, in one read."""
    asked = sorted(set(names))
    if not asked:
        return {}
    query = select(identities.c.name, identities.c.value).where(
        identities.c.destination == destination, identities.c.name.in_(store.backend.array("names")))
    with store.read() as connection:
        return {row.name: row.value for row in connection.execute(query, store.backend.parameters("names", asked))}


def of_page(store: Store, destination: str, packer: Packer, calls: Sequence[Call]) -> dict[str, str]:
    """All that a packer wants to know of these calls."""
    found = known(store, destination, packer.names(calls))
    return found | known(store, destination, packer.more_names(calls, found))


def remember(store: Store, connection: Connection, destination: str, learned: Mapping[str, str]) -> None:
    """Write down what was learned, in the caller's transaction; an empty value is forgotten."""
    if not learned:
        return
    mine = (identities.c.destination == destination, identities.c.name.in_(store.backend.array("names")))
    connection.execute(delete(identities).where(*mine), store.backend.parameters("names", list(learned)))
    fresh = [{"destination": destination, "name": name, "value": value} for name, value in learned.items() if value]
    if fresh:
        connection.execute(store.backend.add(identities), fresh)


def forget_all(connection: Connection, destination: str) -> None:
    """Forget everybody: another account has other people."""
    connection.execute(delete(identities).where(identities.c.destination == destination))

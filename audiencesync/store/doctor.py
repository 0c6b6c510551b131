"""What a state database can say of its own health."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text

from audiencesync.errors import StateUnavailable
from audiencesync.store.connect import Store


def look(store: Store) -> Iterator[str]:
    """Lines for people; one that begins with `warning:` is one. Raises StateUnavailable for a damaged file."""
    with store.read() as connection:
        if store.engine.dialect.name == "sqlite":
            said = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
            if said != "ok":
                raise StateUnavailable(f"the SQLite file is damaged ({said}); restore it from a backup")
            yield "the file is sound (quick_check)"
            return
        for name in ("synchronous_commit", "fsync"):
            if connection.execute(text(f"SHOW {name}")).scalar_one() == "off":
                yield (f"warning: {name} is off: what was acknowledged may be forgotten with the power, and be sent "
                       "again")

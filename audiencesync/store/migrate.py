"""Bring the state's tables to what this code expects; safe when many processes start at once."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from audiencesync.errors import StateUnavailable, UsageError
from audiencesync.store.connect import Store

_PACKAGED = Path(__file__).parents[1] / "_migrations"
DIRECTORY = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "migrations"


def known() -> tuple[str, ...]:
    """Every revision this code ships, oldest first; read from the files' names, since importing alembic is dear."""
    return tuple(sorted(match[1] for file in (DIRECTORY / "versions").glob("*.py")
                        if (match := re.match(r"(\d{4})_", file.name))))


def current(connection: Connection) -> str | None:
    """The revision the state is at; None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def check(store: Store) -> str:
    """`empty`, `behind` or `ready`; UsageError when the state is newer than this code."""
    with store.read() as connection:
        revision = current(connection)
    if revision is None:
        return "empty"
    revisions = known()
    if revision not in revisions:
        raise UsageError(f"the state is at revision {revision}, which this version does not know: it was written by a "
                         "newer audiencesync; install that version or a later one")
    return "ready" if revision == revisions[-1] else "behind"


def upgrade(store: Store) -> bool:
    """Migrate when needed, in one transaction that no other process shares; say whether anything was done."""
    if check(store) == "ready":
        return False
    with store.write() as connection:
        store.backend.one_at_a_time(connection)
        if current(connection) == known()[-1]:
            return False
        _run(connection)
    if check(store) != "ready":
        raise StateUnavailable("the migration did not reach the newest revision; see `audiencesync db check`")
    return True


def _run(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(DIRECTORY).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

"""A person at a project's command line: what he decides, as the commands decide it, and what of it was recorded."""

from __future__ import annotations

from sqlalchemy import select

from audiencesync.cli import decide
from audiencesync.cli.context import Session
from audiencesync.store import runs
from audiencesync.store.connect import Store
from audiencesync.store.tables import acts
from audiencesync.sync.brakes import Hold
from audiencesync.sync.standing import Overview, overview
from tests.commands import Shop
from tests.projects import Premises


def seen(house: Premises) -> Overview:
    """The command `status`."""
    return overview(house.project, house.store)


def holds(house: Premises) -> dict[tuple[str, str], Hold]:
    """What is held now, by key and destination, without what was discarded."""
    return {where: hold for where, hold in seen(house).holds.items() if not hold.discarded}


def _session(house: Premises) -> Session:
    session = Session(str(house.project.root))
    session.__dict__["project"] = house.project
    return session


def approve(house: Premises, key: str, *names: str, run: int | None = None) -> None:
    """The command `approve`."""
    decide._decide(_session(house), house.store, key, names, run, "approved", "")


def discard(house: Premises, key: str, *names: str) -> None:
    """The command `discard`."""
    decide._decide(_session(house), house.store, key, names, None, "discarded", "")


def retire(house: Premises, key: str, *names: str, clear: bool = False) -> str:
    """The command `retire`; what it says."""
    known = runs.latest(house.store, [key])[key]
    return decide._retired(_session(house), house.store, known, names, "", 0.0, clear=clear)


def recorded(shop: Shop) -> list[tuple[str, str, str | None]]:
    """Every act that the state remembers: the command, what it was about, the reason; each with a person's name."""
    store = Store.open(shop.environment["STATE"])
    with store.read() as connection:
        rows = connection.execute(select(acts).order_by(acts.c.id)).all()
    store.close()
    assert all("@" in row.who for row in rows)
    return [(row.command, row.subject, row.reason) for row in rows]

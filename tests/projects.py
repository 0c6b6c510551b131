"""A project in this process: a real source, a real state, and a recording server for each destination."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from audiencesync import failpoints
from audiencesync.destinations.segment import Segment
from audiencesync.model import Audience, Destination, Outcome, Plan, Project, Report, SourceSettings
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from audiencesync.sync import Request, backfill, sync
from audiencesync.sync.plan import plan
from tests.histories import at
from tests.servers import Recorder


class Paged(Segment):
    """Segment in pages of ten calls, so that a few users make a story."""

    page: ClassVar[int] = 10


class Stopped(Exception):
    """The process ended here."""


class Premises:
    """The project, and what people do with it; each destination is a server of the same name."""

    def __init__(self, root: Path, state_url: str, servers: Mapping[str, Recorder], *keys: str,
                 kind: type[Segment] = Paged, **settings: Any) -> None:
        self.file, self.servers, self.hour = root / "source.db", servers, 0.0
        with closing(sqlite3.connect(self.file)) as source:
            source.execute("CREATE TABLE members (key TEXT, user_id TEXT, email TEXT)")
        self.store = Store.open(state_url)
        upgrade(self.store)
        self.state_url = state_url
        options = {"write_key": "wk", "settle": timedelta(0), "timeout": timedelta(seconds=5), "concurrency": 2,
                   **settings}
        destinations: dict[str, Destination] = {name: kind(url=server.url, **options)
                                                for name, server in servers.items()}
        self.project = Project(root, "shop", "UTC", SourceSettings(f"sqlite:///{self.file}"), state_url,
                               tuple(self.audience(key) for key in keys), destinations)

    def audience(self, key: str, **other: Any) -> Audience:
        """One whose members are the rows of its key."""
        columns = ", ".join(["user_id", *other.get("include", ())])
        values = {"destinations": tuple(self.servers), **other}
        values.setdefault("sql", f"SELECT {columns} FROM members WHERE key = '{key}'")
        return Audience(key=key, name=key, path=Path(f"{key}.sql"), **values)

    def change(self, key: str, **other: Any) -> None:
        """Edit an audience's file."""
        self.project = replace(self.project, audiences=tuple(
            replace(one, **other) if one.key == key else one for one in self.project.audiences))

    def settle_on(self, name: str, **settings: Any) -> None:
        """Edit a destination's settings."""
        changed = self.project.destinations[name].model_copy(update=settings)
        self.project = replace(self.project, destinations={**self.project.destinations, name: changed})

    def members(self, key: str, users: Iterable[str], email: str = "a@b.co") -> None:
        """From now on these are the members."""
        with closing(sqlite3.connect(self.file)) as source, source:
            source.execute("DELETE FROM members WHERE key = ?", [key])
            source.executemany("INSERT INTO members VALUES (?, ?, ?)", [(key, user, email) for user in users])

    def request(self, *keys: str, names: Iterable[str] = (), **other: Any) -> Request:
        """A command for these audiences (all without any), as of the next hour."""
        chosen = tuple(audience for audience in self.project.audiences if not keys or audience.key in keys)
        return Request(chosen, tuple(names) or tuple(self.project.destinations), **other)

    def sync(self, *keys: str, store: Store | None = None, **other: Any) -> Report:
        """The command `sync`, an hour later."""
        self.hour += 1
        return sync(self.project, store or self.store, self.request(*keys, as_of=at(self.hour), **other))

    def backfill(self, *keys: str, **other: Any) -> Report:
        """The command `backfill`."""
        return backfill(self.project, self.store, self.request(*keys, **other))

    def plan(self, *keys: str) -> Plan:
        """The command `plan`, as of the hour of the next sync."""
        wanted = self.request(*keys)
        return plan(self.project, self.store, wanted.audiences, wanted.destinations, as_of=at(self.hour + 1),
                    interrupted=lambda: False)

    @contextmanager
    def other_process(self) -> Iterator[Store]:
        """The state as another process sees it."""
        other = Store.open(self.state_url)
        try:
            yield other
        finally:
            other.close()


@contextmanager
def stopping_at(point: str, nth: int = 1) -> Iterator[None]:
    """Whoever passes the failpoint for the n-th time ends there."""
    left = nth

    def hook(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if not left:
                raise Stopped(name)

    failpoints.install(hook)
    try:
        yield
    finally:
        failpoints.install(None)


def after(server: Recorder, requests: int) -> Callable[[], str]:
    """A signal that comes when the server has had so many requests."""
    return lambda: "asked to end" if server.requests >= requests else ""


def outcomes(report: Report) -> list[tuple[str, str, str, int]]:
    """What a report says of each sync: destination, mode, status, sent."""
    return [(one.destination, one.mode, one.status, one.sent) for one in report.syncs]


def by_status(report: Report, status: str) -> list[Outcome]:
    """The outcomes of one status."""
    return [one for one in report.syncs if one.status == status]

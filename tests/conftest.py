"""What every test can ask for: fresh databases of both kinds, and an environment without a developer's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import PostgresServer, run_postgres


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many workers as cores for `-n auto`: services, servers and databases are waited for most of the time."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits the longest, so that nobody waits for it at the end."""
    items.sort(key=lambda item: not item.path.name.startswith("test_service"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing the developer has set for audiencesync, PostgreSQL or proxies reaches a test."""
    for name in os.environ:
        if name.startswith(("AUDIENCESYNC_", "PG", "SEGMENT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server a test process, started when the first test needs it."""
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty PostgreSQL database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh, empty state database; a test that takes it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url

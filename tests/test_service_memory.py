"""A thousand scheduled runs leave nothing behind in memory."""

from __future__ import annotations

import gc
import sqlite3
import tempfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from audiencesync.destinations import registry
from audiencesync.service import Service
from audiencesync.service import work as workers
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from tests.commands import Shop
from tests.histories import BEGIN
from tests.servers import Recorder
from tests.test_service import BUYERS, MAIN

PAGE_KB = 4


def _resident_kb() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB


def test_memory_is_flat_over_a_thousand_scheduled_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = BEGIN
    quick = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of commits, and nobody pulls the plug
    with Recorder(keep=False) as server, tempfile.TemporaryDirectory(dir=quick) as folder:
        shop = Shop(Path(folder, "shop"), f"sqlite:///{folder}/state.db", url=server.url,
                    main=MAIN.format(schedule="every 2h to 3h", more="", rest=""), buyers=BUYERS)
        for name, value in shop.environment.items():
            monkeypatch.setenv(name, value)
        shop.orders(*(f"u{number:03}" for number in range(300)))
        store = Store.open(shop.environment["STATE"])
        upgrade(store)
        service = Service(shop.root, dict(registry()), listen=None)
        service.store = Store(store.engine, clock=lambda: now)
        compute, tell = workers.Compute(service, "every 2h to 3h"), workers.Tell(service, "segment")
        early = 0
        for number in range(1000):
            with closing(sqlite3.connect(shop.root / "shop.db")) as source, source:
                source.execute("UPDATE orders SET user_id = 'v' || ? WHERE rowid = ?", [number, number % 300 + 1])
            compute.look()
            tell.look()
            if number % 100 == 0:
                service.house.watch()
            now += timedelta(hours=3)
            if number == 300:
                early = _resident_kb()
        grown = _resident_kb() - early
        store.close()
    assert server.requests >= 1000
    assert grown < 4096, f"{grown} KB more after 700 runs"

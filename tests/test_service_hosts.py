"""Any number of services on one state: each slot once, each destination by one, whoever is killed or frozen."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from audiencesync.store.connect import Store
from audiencesync.store.tables import computations, leases, runs, slots
from tests.commands import Shop
from tests.servers import Recorder
from tests.serving import Serving, serving, wait_for

MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
defaults: {schedule: every 1s, guard: {max_exit: 100%}}
destinations:
  a: {type: segment, write_key: "${WRITE_KEY}", url: "${SEGMENT}", settle: 0s, timeout: 2s}
  b: {type: segment, write_key: "${WRITE_KEY}", url: "${OTHER}", settle: 0s, timeout: 2s}
"""
SQL = "SELECT user_id FROM members WHERE key = '{}'\n"


def _shuffle(shop: Shop, seed: int) -> dict[str, set[str]]:
    """Change who is a member; who it is now."""
    rng, now = random.Random(seed), {}
    with closing(sqlite3.connect(shop.root / "shop.db")) as source, source:
        source.execute("CREATE TABLE IF NOT EXISTS members (key TEXT, user_id TEXT)")
        source.execute("DELETE FROM members")
        for key in ("x", "y"):
            now[key] = {f"u{number}" for number in range(40) if rng.random() < 0.5}
            source.executemany("INSERT INTO members VALUES (?, ?)", [(key, user) for user in now[key]])
    return now


def _runs(store: Store) -> tuple[dict[str, Counter[datetime]], list[datetime]]:
    """How often each audience was computed as of each instant, and as of when the slots were."""
    found: dict[str, Counter[datetime]] = {"x": Counter(), "y": Counter()}
    with store.read() as connection:
        for row in connection.execute(select(computations.c.key, runs.c.as_of).join(
                runs, runs.c.computation_id == computations.c.id)):
            found[row.key][row.as_of] += 1
        begun = connection.execute(select(slots.c.as_of).where(slots.c.schedule == "every 1s")).scalars()
        return found, list(begun)


def _freeze(store: Store, service: Serving, *, computing: bool) -> None:
    """Let it stand still while it does or does not compute, and never inside of a write.

    No slot then has to wait for its lease to run out, unless that is meant; and a process that stands still with
    SQLite's write lock would stop everybody, whatever leases say.
    """
    while True:
        service.freeze()
        with store.read() as connection:
            held = connection.execute(select(leases.c.holder).where(leases.c.name.like("computation:%"))).scalars()
            busy = any(f"/{service.process.pid}/" in (holder or "") for holder in held)
        if busy is computing and not _locked(store):
            return
        service.thaw()
        time.sleep(0.01)


def _locked(store: Store) -> bool:
    if store.engine.dialect.name != "sqlite":
        return False
    with closing(sqlite3.connect(str(store.engine.url.database).partition("?")[0], uri=True, timeout=0.3,
                                 isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        other.execute("ROLLBACK")
    return False


def _holds(server: Recorder) -> dict[str, set[str]]:
    told = server.told()
    return {key: {user for (of, user), value in told.items() if of == key and value} for key in ("x", "y")}


def test_three_processes_run_thirty_slots_once_while_one_is_killed_and_one_frozen(tmp_path: Path,
                                                                                state_url: str) -> None:
    with Recorder() as a, Recorder() as b, ExitStack() as stack:
        shop = Shop(tmp_path / "shop", state_url, url=a.url, main=MAIN, x=SQL.format("x"), y=SQL.format("y"))
        shop.environment["OTHER"] = b.url
        now, seed = _shuffle(shop, 0), 0
        one, two, three = (stack.enter_context(serving(shop)) for _ in range(3))
        two.until("serving")
        store = Store.open(state_url)
        stack.callback(store.close)
        until = time.monotonic() + 100
        while len(_runs(store)[1]) < 30 and time.monotonic() < until:
            now, seed = _shuffle(shop, seed + 1), seed + 1
            time.sleep(0.7)
            if seed == 6:
                _freeze(store, one, computing=False)
                one.kill()
            if seed == 14:
                _freeze(store, two, computing=False)
            if seed == 30:
                two.thaw()
        two.thaw()
        wait_for(lambda: _holds(a) == now and _holds(b) == now)
        assert _holds(a) == now
        assert _holds(b) == now
        assert two.end() == 0
        assert three.end() == 0
        found, begun = _runs(store)
        assert len(begun) >= 30
        for key in ("x", "y"):
            assert set(found[key].values()) == {1}, "an instant was computed twice"
            missed = set(begun) - set(found[key]) - {max(begun)}  # the last was begun when they were asked to end
            assert len(missed) <= 2, "slots were begun and not computed, though no newer one overtook them"
            assert len(set(found[key]) - set(begun)) == 1, "besides its slots an audience has its very first run"
        for server in (a, b):
            assert server.violations == []
            assert server.changed_message_ids() == []


SLOW = """\
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
SELECT user_id FROM members WHERE key = 'x' AND (SELECT max(i) FROM n) > 0
"""


def test_a_process_frozen_while_it_computes_is_replaced_and_its_late_write_is_refused(tmp_path: Path,
                                                                                    state_url: str) -> None:
    with Recorder() as a, ExitStack() as stack:
        shop = Shop(tmp_path / "shop", state_url, url=a.url, main=MAIN.replace("every 1s", "every 1h"),
                    x=SLOW.format(12_000_000))
        shop.environment["OTHER"] = a.url
        _shuffle(shop, 0)
        one = stack.enter_context(serving(shop))
        store = Store.open(state_url)
        stack.callback(store.close)

        one.until("serving")
        time.sleep(1.5)  # it asks the source by then
        _freeze(store, one, computing=True)
        two = stack.enter_context(serving(shop))
        two.until("run done", seconds=60, computation="x")
        one.thaw()
        assert "took it over" in one.until("run given up", seconds=60, computation="x")["reason"]
        time.sleep(1)
        found, _ = _runs(store)
        assert sum(found["x"].values()) == 1
        assert one.said("run done") == []
        assert one.end() == two.end() == 0

"""Real orders, day by day: after every sync the destination was told exactly what a plain query gives, and no more."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from tests import warm
from tests.commands import Shop
from tests.servers import Recorder, key_of, user_of

MAIN = """\
name: cdnow
source: {url: "sqlite:///orders.db"}
state: ${STATE}
destinations:
  segment: {type: segment, write_key: wk, url: "${SEGMENT}"}
"""
HEADER = "/* audiencesync\nvars: {{{}}}\n*/\n"
AUDIENCES = {
    "bought_last_30days": HEADER.format("since: now - 30d") + """
        SELECT customer AS user_id FROM orders WHERE at > :since AND at <= :now GROUP BY customer""",
    "spent_100_last_90days": HEADER.format("since: now - 90d, least: 100") + """
        SELECT customer AS user_id, sum(dollars) AS spent FROM orders WHERE at > :since AND at <= :now
        GROUP BY customer HAVING sum(dollars) >= :least""",
    "lapsed": HEADER.format("since: now - 90d, far: now - 180d") + """
        SELECT customer AS user_id FROM orders WHERE at <= :now
        GROUP BY customer HAVING max(at) > :far AND max(at) <= :since""",
}
FIRST, LAST = date(1997, 1, 1), date(1998, 6, 30)
SPRING = date(1997, 3, 20)
"""The last new customers come, the first ones' thirty days are over, and from April on the first ones lapse."""

Pair = tuple[str, str]


@pytest.fixture(scope="session")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of CDNOW's orders in SQLite, each at noon; the package is not imported, since it does not bear it."""
    try:
        path = next(file for file in files("lifetimes") or () if file.name == "CDNOW_master.txt").locate()
    except (PackageNotFoundError, StopIteration):
        pytest.skip("real orders: the package lifetimes is not here (pip install --no-deps lifetimes)")
    made = tmp_path_factory.mktemp("cdnow") / "orders.db"
    rows = [line.split() for line in Path(str(path)).read_text().splitlines()[1:]]
    with closing(sqlite3.connect(made)) as shop, shop:
        shop.execute("CREATE TABLE orders (customer TEXT, at TEXT, dollars REAL)")
        shop.executemany("INSERT INTO orders VALUES (?, ?, ?)",
                         [(who, f"{day[:4]}-{day[4:6]}-{day[6:]} 12:00:00", float(sum_)) for who, day, _, sum_ in rows])
        assert shop.execute("SELECT count(*), count(DISTINCT customer) FROM orders").fetchone() == (69_659, 23_570)
    return made


def truth(shop: sqlite3.Connection, day: date) -> set[Pair]:
    """(key, user) of all members at the end of a day, by plain queries on days."""
    def query(key: str, sql: str, *days: int) -> set[Pair]:
        limits = [str(day - timedelta(days=back)) for back in days]
        return {(key, row[0]) for row in shop.execute(sql, limits)}

    return (query("bought_last_30days", "SELECT DISTINCT customer FROM orders "
                  "WHERE date(at) BETWEEN date(?, '+1 day') AND ?", 30, 0)
            | query("spent_100_last_90days", "SELECT customer FROM (SELECT customer, sum(dollars) AS spent FROM orders "
                    "WHERE date(at) BETWEEN date(?, '+1 day') AND ? GROUP BY customer) WHERE spent >= 100", 90, 0)
            | query("lapsed", "SELECT customer FROM (SELECT customer, max(date(at)) AS newest FROM orders "
                    "WHERE date(at) <= ? GROUP BY customer) WHERE newest > ? AND newest <= ?", 0, 180, 90))


def replay(root: Path, orders: Path, state_url: str, begin: date, days: int) -> None:
    """A sync a day, at its last second; each is compared with the truth."""
    told: dict[Pair, bool] = {}
    before: set[Pair] = set()
    moved = {True: 0, False: 0}
    with Recorder() as server, closing(sqlite3.connect(orders)) as plain:
        shop = Shop(root / "cdnow", state_url, url=server.url, main=MAIN, **AUDIENCES)
        shutil.copy(orders, shop.root / "orders.db")
        for day in (begin + timedelta(days=number) for number in range(days)):
            done = warm.run(shop, "sync", "--as-of", f"{day}T23:59:59Z", "-o", "json")
            assert done.code == 0, (day, done.out, done.err)
            now = truth(plain, day)
            calls = {(key_of(call), user_of(call)): call["traits"][key_of(call)] for call in server.calls}
            assert len(server.calls) == len(calls) == sum(one["sent"] for one in done.document["syncs"]), day
            assert calls == {pair: pair in now for pair in now ^ before}, day
            told |= calls
            assert {pair for pair, value in told.items() if value} == now, day
            assert server.violations == [], day
            assert server.changed_message_ids() == [], day
            for value in calls.values():
                moved[value] += 1
            before = now
            server.clear()
    assert min(moved.values()) > 20 * days  # people came and went


def test_forty_days_of_real_orders_are_told_exactly(tmp_path: Path, orders: Path, state_url: str) -> None:
    replay(tmp_path, orders, state_url, SPRING, 40)


@pytest.mark.soak
def test_all_days_of_real_orders_are_told_exactly(tmp_path: Path, orders: Path, state_url: str) -> None:
    replay(tmp_path, orders, state_url, FIRST, (LAST - FIRST).days + 1)

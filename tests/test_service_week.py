"""A week of a service in a minute: its real workers under a clock that the test moves, real databases and real HTTP."""

from __future__ import annotations

import heapq
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from audiencesync.destinations import registry
from audiencesync.service import Service
from audiencesync.service import work as workers
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from audiencesync.store.tables import computations, runs
from tests.commands import Shop
from tests.loopback import Answer, Fault, Request
from tests.servers import Recorder
from tests.test_service import Inbox

BEGIN = datetime(2026, 3, 2, 12, tzinfo=UTC)
END = BEGIN + timedelta(days=7)
SHORT = 4
"""Days, where a week takes long: with that on which a destination is down, and one after it."""
DOWN = (BEGIN + timedelta(days=2), BEGIN + timedelta(days=3))
KEYS = [f"audience_{number}" for number in range(10)]
CHANGING = KEYS[:4]
MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
defaults: {guard: {max_exit: 100%}}
destinations:
  healthy: {type: segment, write_key: "${WRITE_KEY}", url: "${HEALTHY}"}
  slow: {type: segment, write_key: "${WRITE_KEY}", url: "${SLOW}", concurrency: 1}
  down: {type: segment, write_key: "${WRITE_KEY}", url: "${DOWN}"}
alerts: [{type: webhook, url: "${INBOX}"}]
"""
SQL = "SELECT user_id FROM stays WHERE key = '{}' AND since <= :now AND until > :now GROUP BY user_id\n"


@dataclass
class Week:
    """The service's workers, looked at in the order of a clock that only the test moves."""

    now: datetime = BEGIN
    queue: list[tuple[datetime, int, str]] = field(default_factory=list)
    looks: dict[str, Callable[[], float]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def add(self, name: str, look: Callable[[], float]) -> None:
        """One more worker, which looks at once."""
        self.looks[name] = look
        self.at(self.now, name)

    def at(self, moment: datetime, name: str) -> None:
        """Have a worker look at this moment."""
        heapq.heappush(self.queue, (moment, next(self._numbers), name))

    def pass_by(self, until: datetime) -> None:
        """Let everybody work until then."""
        planned: dict[str, datetime] = {}
        while self.queue and self.queue[0][0] <= until:
            moment, _, name = heapq.heappop(self.queue)
            if moment < planned.get(name, moment):
                continue
            self.now = max(self.now, moment)
            following = self.now + timedelta(seconds=max(1.0, self.looks[name]()))
            planned[name] = following
            self.at(following, name)


@dataclass
class _Waked:
    week: Week
    name: str

    def wake(self) -> None:
        self.week.at(self.week.now, self.name)


class Slow(Recorder):
    """A server that takes two minutes for every request."""

    week: Week

    def answer(self, request: Request, *, taken: bool) -> Answer:
        self.week.now += timedelta(minutes=2)
        return super().answer(request, taken=taken)


def _live(file: Path) -> None:
    """Who is in which audience when: four of them change all the time."""
    rng = random.Random(7)
    with closing(sqlite3.connect(file)) as source, source:
        source.execute("CREATE TABLE stays (key TEXT, user_id TEXT, since TEXT, until TEXT)")
        for key in KEYS:
            for number in range(40):
                moment = BEGIN - timedelta(days=1)
                while moment < END:
                    stay = timedelta(hours=rng.uniform(1, 20)) if key in CHANGING else timedelta(days=30)
                    source.execute("INSERT INTO stays VALUES (?, ?, ?, ?)", [
                        key, f"u{number}", f"{moment:%Y-%m-%d %H:%M:%S}", f"{moment + stay:%Y-%m-%d %H:%M:%S}"])
                    moment += stay + timedelta(hours=rng.uniform(1, 20))


def _members(file: Path, moment: datetime) -> dict[str, set[str]]:
    with closing(sqlite3.connect(file)) as source:
        found = source.execute("SELECT key, user_id FROM stays WHERE since <= ? AND until > ?",
                               [f"{moment:%Y-%m-%d %H:%M:%S}"] * 2).fetchall()
    return {key: {user for of, user in found if of == key} for key in KEYS}


def _holds(server: Recorder) -> dict[str, set[str]]:
    told = server.told()
    return {key: {user for (of, user), value in told.items() if of == key and value} for key in KEYS}


@pytest.mark.parametrize("days", [SHORT, pytest.param(7, marks=pytest.mark.soak)])
def test_a_week_with_a_destination_down_for_a_day_a_slow_and_a_healthy_one(
        tmp_path: Path, state_url: str, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    week = Week()

    def away(_number: int, _request: Request) -> Fault | None:
        return Fault(status=503) if DOWN[0] <= week.now < DOWN[1] else None

    with Recorder() as healthy, Slow() as slow, Recorder(away) as down, Inbox() as inbox, ExitStack() as stack:
        slow.week = week
        shop = Shop(tmp_path / "shop", state_url, main=MAIN, **{key: SQL.format(key) for key in KEYS})
        _live(shop.root / "shop.db")
        for name, value in {**shop.environment, "HEALTHY": healthy.url, "SLOW": slow.url, "DOWN": down.url,
                            "INBOX": inbox.url}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(workers, "POLL", 1200.0)
        monkeypatch.setattr("random.uniform", lambda low, _high: low)  # no pause between two attempts of one sync
        store = Store.open(state_url)
        stack.callback(store.close)
        upgrade(store)
        service = Service(shop.root, dict(registry()), listen=None)
        service.store = Store(store.engine, clock=lambda: week.now)
        service.house.began -= 1000.0
        looks: dict[tuple[str, str], Any] = {
            ("schedule", "every 2h to 3h"): workers.Compute(service, "every 2h to 3h").look,
            **{("destination", name): workers.Tell(service, name).look for name in ("healthy", "slow", "down")},
            ("house", "alarms"): lambda: 120 * service.house.watch()}
        for place, look in looks.items():
            week.add(place[1], look)
            service._workers[place] = _Waked(week, place[1])  # type: ignore[assignment]
        lags: list[timedelta] = []
        end = BEGIN + timedelta(days=days)
        while week.now < end:
            week.pass_by(week.now + timedelta(hours=2))
            lags.append(week.now - _told_as_of(healthy))
        with store.read() as connection:
            found = connection.execute(select(computations.c.key, runs.c.as_of, runs.c.status).join(
                runs, runs.c.computation_id == computations.c.id)).all()
        last = max(row.as_of for row in found)
        truth = _members(shop.root / "shop.db", last)
        for server in (healthy, slow, down):
            assert _holds(server) == truth
            assert server.violations == []
            assert server.changed_message_ids() == []
        assert {row.status for row in found} == {"done"}
        per_audience = Counter(row.key for row in found)
        assert set(per_audience.values()) == {per_audience[KEYS[0]]}
        assert 8 <= per_audience[KEYS[0]] / (end - BEGIN).days <= 12.2
        assert max(Counter((row.key, row.as_of) for row in found).values()) == 1, "a run happened twice"
        assert max(lags) <= timedelta(hours=3, minutes=30), "the healthy one was late"
        assert [(alert["destination"], alert["state"]) for alert in inbox.alerts if alert["kind"] == "late"] == [
            ("down", "open"), ("down", "recovered")]
        assert {alert["kind"] for alert in inbox.alerts} == {"late"}
        assert DOWN[0] + timedelta(hours=4) < datetime.fromisoformat(inbox.alerts[0]["at"]) or inbox.alerts


def _told_as_of(server: Recorder) -> datetime:
    """The instant that the newest call speaks of."""
    return max((datetime.fromisoformat(call["timestamp"]) for call in server.calls), default=BEGIN)

"""The command is killed, as kill -9 does, at every step it has, and again while it recovers: nothing is lost."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select

from audiencesync import failpoints
from audiencesync.store.tables import syncs
from tests import warm
from tests.commands import Said, Shop
from tests.databases import PostgresServer
from tests.servers import Recorder, key_of, user_of

MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
defaults: {guard: {max_exit: 100%}}   # half of an audience leaves here, and that is meant
destinations:
  segment: {type: segment, write_key: wk, url: "${SEGMENT}", settle: 0s, timeout: 5s, concurrency: 2}
"""
AUDIENCES = {"buyers": "SELECT user_id FROM orders WHERE at <= :now\n",
             "regulars": "SELECT user_id FROM orders WHERE at <= :now AND at LIKE '%:01'\n"}
KILLED = -9
EARLY = ("run.staged", "run.written")
"""Steps that a backfill does not have."""

STAGES = ("initial", "incremental", "backfill")
SECOND = dict(zip(failpoints.NAMES, failpoints.NAMES[4:] + failpoints.NAMES[:4], strict=True))
"""Where the recovery from a kill at one point is killed itself, so that every point is one of them."""

Pair = tuple[str, str]


class World:
    """A shop of 2,700 who buy, of whom a third are regulars too; pages of 900 calls; what each stage must tell."""

    def __init__(self, root: Path, state_url: str, server: Recorder) -> None:
        self.server, self.state_url = server, state_url
        self.shop = Shop(root / "shop", state_url, url=server.url, main=MAIN, **AUDIENCES)
        self.hour = 0
        self.told: dict[Pair, bool] = {}
        self._fill(range(2700))

    def _fill(self, users: Iterable[int]) -> None:
        with closing(sqlite3.connect(self.shop.root / "shop.db")) as shop, shop:
            shop.execute("DELETE FROM orders")
            shop.executemany("INSERT INTO orders VALUES (?, ?)",
                             [(f"u{user * 7919 % 10007:05}", f"2026-01-01 00:00:0{int(not user % 3)}")
                              for user in users])

    def members(self) -> set[Pair]:
        """What a plain query gives."""
        with closing(sqlite3.connect(self.shop.root / "shop.db")) as shop:
            rows = shop.execute("SELECT user_id, at FROM orders").fetchall()
        return {("buyers", user) for user, _ in rows} | {("regulars", user) for user, at in rows if at[-2:] == "01"}

    def begin(self, stage: str) -> dict[Pair, bool]:
        """Let time pass; every (key, user) that the stage must tell, and what."""
        self.server.clear()
        if stage == "backfill":
            return dict(self.told)
        self.hour += 1
        if stage == "incremental":
            self._fill(range(900, 3600))
        now = self.members()
        before = {pair for pair, value in self.told.items() if value}
        content = {pair: pair in now for pair in now ^ before}
        self.told |= content
        return content

    def run(self, stage: str, failpoint: str = "") -> Said:
        """The command of the stage, killed at the failpoint."""
        words = ["backfill", "*"] if stage == "backfill" else ["sync", "--as-of", f"2026-01-02T{self.hour:02}:00Z"]
        more = {failpoints.VARIABLE: failpoint} if failpoint else {}
        return warm.run(self.shop, *words, "-o", "json", **more)

    def check_between(self, content: dict[Pair, bool]) -> None:
        """At this very instant, dead in the middle, the state knows exactly what was told, and what may have been."""
        received = {(key_of(call), user_of(call)): call["traits"][key_of(call)] for call in self.server.calls}
        assert received.items() <= content.items()
        for claimed, acknowledged in self.syncs("open"):
            assert all(claimed is not None and user <= claimed for _, user in received)
            assert all(pair in received for pair in content if acknowledged is not None and pair[1] <= acknowledged)

    def syncs(self, status: str, mode: str = "%") -> list[Any]:
        """The cursors of the syncs that the state has."""
        engine = create_engine(self.state_url)
        try:
            with engine.connect() as connection:
                if not engine.dialect.has_table(connection, "syncs"):
                    return []
                return list(connection.execute(select(syncs.c.claimed, syncs.c.acknowledged)
                                               .where(syncs.c.status == status, syncs.c.mode.like(mode))))
        finally:
            engine.dispose()

    def check_end(self, content: dict[Pair, bool]) -> None:
        """The stage told everybody it is about, once, in bodies that never changed."""
        server = self.server
        assert server.violations == []
        assert server.changed_message_ids() == []
        assert server.told() == content
        decisions = Counter((key_of(call), user_of(call)) for call in server.unique_calls)
        assert decisions == Counter(dict.fromkeys(content, 1))
        assert {pair for pair, value in self.told.items() if value} == self.members()

    def check_rest(self) -> None:
        """There is nothing more to say."""
        self.server.clear()
        done = self.run("incremental")
        assert (done.code, self.server.requests_since()) == (0, 0), done.err


class Counting(Recorder):
    """Knows how many requests came since it was asked before."""

    _before = 0

    def requests_since(self) -> int:
        before, self._before = self._before, self.requests
        return self.requests - before


@pytest.fixture
def world(tmp_path: Path, state_url: str) -> Iterator[World]:
    with Counting() as server:
        yield World(tmp_path, state_url, server)


def play(world: World, stage: str, kills: Iterable[str]) -> int:
    """One stage, killed at each of the points in turn, then left in peace; how many kills there were."""
    content, killed = world.begin(stage), 0
    for failpoint in [*kills, ""]:
        if stage == "backfill" and world.syncs("done", stage):
            break  # another call would be another backfill
        done = world.run(stage, failpoint)
        if done.code != KILLED:
            assert done.code == 0, done.err
            break
        killed += 1
        world.check_between(content)
    world.check_end(content)
    return killed


@pytest.mark.parametrize("point", failpoints.NAMES)
def test_a_command_killed_at_any_step_and_again_while_it_recovers_tells_everyone_once(world: World,
                                                                                     point: str) -> None:
    for stage in STAGES:
        # only what is passed once a page is surely passed twice: a quick server's answers share a commit
        nth = 2 if stage != "incremental" and point in {"page.read", "request.sending", "request.answered"} else 1
        killed = play(world, stage, [f"{point}:{nth}", f"{SECOND[point]}:1"])
        assert killed or (stage == "backfill" and point in EARLY)
    world.server.requests_since()
    world.check_rest()


@pytest.mark.soak
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("again", ["", *failpoints.NAMES])
@pytest.mark.parametrize("point", failpoints.NAMES)
def test_every_passing_of_every_step_with_every_second_kill(tmp_path: Path, postgres_server: PostgresServer,
                                                            stage: str, point: str, again: str) -> None:
    for nth in count(1):
        kills = [f"{point}:{nth}", *([f"{again}:1"] if again else [])]
        with postgres_server.database() as url:
            killed = [play_one(tmp_path / f"{nth}-{number}", state, stage, kills)
                      for number, state in enumerate([f"sqlite:///{tmp_path}/{nth}.db", url])]
        if not all(killed):
            assert nth > 1 or (stage == "backfill" and point in EARLY)
            return


def play_one(root: Path, state_url: str, stage: str, kills: list[str]) -> int:
    """A world brought to the stage in peace; how often it was killed there."""
    root.mkdir()
    with Counting() as server:
        world = World(root, state_url, server)
        for before in STAGES[:STAGES.index(stage)]:
            play(world, before, [])
        killed = play(world, stage, kills)
        world.server.requests_since()
        world.check_rest()
    return killed

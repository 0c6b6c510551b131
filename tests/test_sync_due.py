"""`sync --due`, the command for people with a scheduler of their own: harmless however often it is called."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select, update

from audiencesync.store import tables
from audiencesync.store.connect import Store
from tests import warm
from tests.commands import BUYERS, MAIN, Said, Shop
from tests.servers import Recorder

USERS = [f"u{number:05}" for number in range(3000)]
PACED = MAIN.replace("timeout: 2s", "timeout: 5s, concurrency: 1, rate: 900")


def scheduled(schedule: str, sql: str = BUYERS) -> str:
    """An audience's file with a schedule of its own."""
    return f"/* audiencesync\nschedule: {schedule}\n*/\n{sql}"


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def shop(tmp_path: Path, state_url: str, server: Recorder) -> Shop:
    made = Shop(tmp_path / "shop", state_url, url=server.url, hourly=scheduled("every 1h"),
                monthly=scheduled("every 30d"), by_hand=scheduled("manual"))
    made.orders("ann", "bob")
    return made


def age(shop: Shop, **span: float) -> None:
    """Let so much time pass: all that the state remembers is so much longer ago."""
    store = Store.open(shop.environment["STATE"], create=False)
    with store.write() as connection:
        for table in (tables.runs, tables.slots, tables.rejections):
            times = [column.name for column in table.c if isinstance(column.type, tables.Instant)]
            for row in connection.execute(select(table)).all():
                mine = [column == getattr(row, column.name) for column in table.primary_key]
                connection.execute(update(table).where(*mine).values(
                    {name: getattr(row, name) - timedelta(**span) for name in times}))
    store.close()


def due(shop: Shop, *words: str, **more: str) -> Said:
    """The command, in a process of its own."""
    return warm.run(shop, "sync", "--due", "-o", "json", *words, **more)


def computed(said: Said) -> dict[str, str]:
    """Which audiences were computed, and what became of it."""
    return {run["key"]: run["status"] for run in said.document["runs"]}


def runs_of(shop: Shop) -> Counter[tuple[str, str]]:
    """How often each audience was computed as of each instant."""
    found = warm.run(shop, "runs", "-o", "json").document["runs"]
    return Counter((run["key"], run["as_of"]) for run in found)


def test_only_what_is_due_is_computed_and_nothing_is_asked_of_anybody_when_nothing_is(
        shop: Shop, server: Recorder) -> None:
    said = due(shop)
    assert (said.code, computed(said)) == (0, {"hourly": "done", "monthly": "done"})
    assert {key for key, _ in server.told()} == {"hourly", "monthly"}, "what runs by hand is left out"
    shop.orders("eve")
    requests = server.requests
    for _ in range(3):
        said = due(shop)
        assert (said.code, computed(said), server.requests) == (0, {}, requests)
    age(shop, minutes=70)
    said = due(shop)
    assert (said.code, computed(said)) == (0, {"hourly": "done"})
    assert server.told()["hourly", "eve"] is True
    assert ("monthly", "eve") not in server.told()
    age(shop, days=40)
    assert computed(due(shop)) == {"hourly": "done", "monthly": "done"}
    assert computed(due(shop)) == {}
    assert set(runs_of(shop).values()) == {1}


def test_whatever_is_owed_is_told_also_when_nothing_is_due(shop: Shop, server: Recorder) -> None:
    shop.run("sync", "--as-of", "2026-01-01T00:00:01")
    shop.run("pause", "segment")
    shop.orders("eve")
    server.clear()
    said = due(shop)
    assert (said.code, server.calls) == (75, [])
    shop.run("resume", "segment")
    said = due(shop)
    assert (said.code, computed(said)) == (0, {})
    assert server.told() == {("hourly", "eve"): True, ("monthly", "eve"): True}


def test_a_selection_and_a_destination_restrict_what_is_due(tmp_path: Path, server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path / 'state.db'}", url=server.url, main=MAIN.replace(
        "destinations:\n", "defaults: {destinations: [segment]}\ndestinations:\n  out: {type: file, path: o.jsonl}\n"),
        hourly=scheduled("every 1h"), daily=scheduled("every 1d"),
        other="/* audiencesync\ndestinations: [out]\nschedule: every 1h\n*/\n" + BUYERS)
    shop.orders("ann")
    said = due(shop, "daily")
    assert (said.code, computed(said)) == (0, {"daily": "done"})
    said = due(shop, "--destination", "out")
    assert (said.code, computed(said)) == (0, {"other": "done"})
    assert server.told() == {("daily", "ann"): True}
    assert computed(due(shop)) == {"hourly": "done"}
    age(shop, minutes=61)
    assert computed(due(shop, "hourly")) == {"hourly": "done"}
    said = due(shop)
    assert computed(said) == {"other": "done"}, "of the slot that hourly has begun"
    instants = {run["key"]: run["as_of"] for run in shop.run("runs", "-o", "json").document["runs"][:2]}
    assert len(set(instants.values())) == 1
    assert due(shop, "dayly").code == 2


def test_of_manual_audiences_alone_nothing_is_ever_due(tmp_path: Path, server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path / 'state.db'}", url=server.url, buyers=scheduled("manual"))
    shop.orders("ann")
    said = due(shop)
    assert (said.code, computed(said), server.requests) == (0, {}, 0)
    assert due(shop, "buyers").code == 0
    assert shop.run("sync").code == 0
    assert server.told() == {("buyers", "ann"): True}


def test_an_instant_of_ones_own_is_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path / 'state.db'}")
    said = shop.run("sync", "--due", "--as-of", "2026-02-01", "-o", "json")
    assert (said.code, said.document["exit_code"]) == (2, 2)
    assert "--as-of" in said.err
    assert not (tmp_path / "state.db").exists()


def test_calls_at_the_same_time_compute_and_tell_once(tmp_path: Path, state_url: str, server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", state_url, url=server.url, main=PACED, x=scheduled("every 1h"),
                y=scheduled("every 1h"))
    shop.run("db", "upgrade")
    shop.orders(*USERS[:1000])
    for number in range(2):
        with ExitStack() as stack:
            running = [stack.enter_context(shop.start("sync", "--due", "-o", "json")) for _ in range(3)]
            done = [_finish(process) for process in running]
        assert {said.code for said in done} <= {0, 99}, [said.err for said in done]
        found = Counter(run["key"] for said in done for run in said.document["runs"])
        assert found == {"x": 1, "y": 1}
        assert due(shop, "--wait", "60s").code == 0
        assert len(server.calls) == len(server.told()) == 2000 + 2 * number
        shop.orders("eve")
        age(shop, minutes=61)
    assert len(runs_of(shop)) in (3, 4)
    assert set(runs_of(shop).values()) == {1}
    assert server.changed_message_ids() == server.violations == []


def _finish(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    return Said(process.returncode, out, err)


def test_what_a_killed_call_left_of_a_slot_is_completed_as_of_the_same_instant(shop: Shop, server: Recorder) -> None:
    shop.write("audiences/second.sql", scheduled("every 1h"))
    assert due(shop).code == 0
    age(shop, minutes=61)
    assert due(shop, AUDIENCESYNC_FAILPOINT="run.staged:2").code == -9
    said = due(shop)
    assert (said.code, computed(said)) == (0, {"second": "done"})
    rows = shop.run("runs", "-o", "json").document["runs"][:2]
    assert {(row["key"], row["as_of"]) for row in rows} == {
        (key, said.document["runs"][0]["as_of"]) for key in ("hourly", "second")}
    assert set(runs_of(shop).values()) == {1}
    assert server.changed_message_ids() == []


def test_when_its_time_is_spent_it_ends_with_75_and_the_next_call_goes_on_from_the_page(
        tmp_path: Path, state_url: str) -> None:
    with Recorder(latency=0.2) as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url, main=PACED, buyers=scheduled("every 1h"))
        shop.orders(*USERS)
        said = due(shop, "--max-duration", "1s")
        assert said.code == 75, said.err
        [sync] = said.document["syncs"]
        assert (sync["status"], sync["reason"]) == ("interrupted", "the time of --max-duration is spent")
        assert 0 < sync["remaining"] < 3000
        told, server.latency = len(server.calls), 0.0
        said = due(shop)
        assert (said.code, computed(said)) == (0, {})
        assert [one["sent"] for one in said.document["syncs"]] == [sync["remaining"]]
        assert len(server.told()) == 3000
        assert len(server.calls) == 3000 == told + sync["remaining"]


def test_when_its_time_is_spent_before_all_is_computed_the_next_call_computes_the_rest(
        tmp_path: Path, state_url: str, server: Recorder) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS user_id FROM n\n"
    shop = Shop(tmp_path / "shop", state_url, url=server.url, a_first=scheduled("every 1h"),
                b_endless=scheduled("every 1h", endless), c_last=scheduled("every 1h"))
    shop.orders("ann")
    said = due(shop, "--max-duration", "2s")
    assert (said.code, computed(said)) == (75, {"a_first": "done"})
    assert "asked to end" in said.document["errors"][0]["message"]
    assert said.document["syncs"][0]["reason"] == "the time of --max-duration is spent"
    shop.write("audiences/b_endless.sql", scheduled("every 1h"))
    said = due(shop)
    assert (said.code, computed(said)) == (0, {"b_endless": "done", "c_last": "done"})
    assert server.told() == {(key, "ann"): True for key in ("a_first", "b_endless", "c_last")}


def test_refused_users_are_tried_again_only_when_their_next_try_is_due(shop: Shop, server: Recorder) -> None:
    server.refuse = {"bob"}
    said = due(shop, "hourly")
    assert (said.code, said.document["rejected"]) == (3, 1)
    server.refuse = set()
    requests = server.requests
    said = due(shop, "hourly")
    assert (said.code, said.document["rejected"], server.requests) == (3, 1, requests)
    assert due(shop, "hourly", "--allow", "rejected").code == 0
    age(shop, hours=3)
    said = due(shop, "hourly")
    assert (said.code, said.document["rejected"]) == (0, 0)
    assert server.told()["hourly", "bob"] is True


def test_a_source_that_is_away_ends_with_75_and_is_asked_again_after_a_pause(shop: Shop, server: Recorder) -> None:
    due(shop)
    age(shop, minutes=61)
    (shop.root / "shop.db").rename(shop.root / "away.db")
    said = due(shop)
    assert (said.code, computed(said)) == (75, {"hourly": "unavailable"})
    assert "cannot be read" in said.err
    assert computed(due(shop)) == {}
    age(shop, seconds=40)
    assert computed(due(shop)) == {"hourly": "unavailable"}
    (shop.root / "away.db").rename(shop.root / "shop.db")
    shop.orders("eve")
    age(shop, seconds=80)
    said = due(shop)
    assert (said.code, computed(said)) == (0, {"hourly": "done"})
    assert server.told()["hourly", "eve"] is True


# a state that must exist


def _is_nothing(kind: str, url: str, root: Path) -> bool:
    """Whether there is no state, not even a beginning of one; a file that was there may be there."""
    if kind == "sqlite, missing":
        return list(root.glob("state.db*")) == []
    store = Store.open(url, create=False)
    names = inspect(store.engine).get_table_names()
    store.close()
    return names == []


@pytest.mark.parametrize("kind", ["sqlite, missing", "sqlite, empty", "postgresql"])
def test_a_state_that_must_exist_is_never_begun_anew(tmp_path: Path, request: Any, server: Recorder,
                                                     kind: str) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    if kind == "sqlite, empty":
        (tmp_path / "state.db").touch()
    if kind == "postgresql":
        url = request.getfixturevalue("postgres_url")
    shop = Shop(tmp_path / "shop", url, url=server.url, main=MAIN + "state_must_exist: true\n")
    shop.orders("ann")
    for words in (["sync", "--due"], ["sync"], ["backfill", "buyers"], ["pause", "buyers"], ["pause", "segment"]):
        said = warm.run(shop, *words, "-o", "json")
        assert (said.code, said.document["exit_code"]) == (75, 75), words
        assert "audiencesync db upgrade" in said.err
        assert _is_nothing(kind, url, tmp_path)
    for words in (["plan"], ["status"], ["status", "--check"], ["runs"], ["user", "ann"]):
        said = warm.run(shop, *words)
        assert said.code == 75, (words, "that all is well cannot be known")
        assert "is its disk mounted?" in said.err
        assert _is_nothing(kind, url, tmp_path)
    for words in (["validate"], ["db", "check"], ["schema"]):
        said = warm.run(shop, *words)
        assert said.code == 0, (words, said.err)
        assert _is_nothing(kind, url, tmp_path)
    assert server.requests == 0
    assert warm.run(shop, "db", "upgrade").code == 0
    assert due(shop).code == 0
    assert due(shop).code == 0
    assert server.told() == {("buyers", "ann"): True}


def test_a_service_whose_state_must_exist_ends_with_75_in_place_of_beginning_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    shop = Shop(tmp_path / "shop", url, main=MAIN + "state_must_exist: true\n")
    with shop.start("serve", "--listen", "127.0.0.1:0") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "db upgrade" in err
    assert _is_nothing("sqlite, missing", url, tmp_path)


# files that are wrong


@pytest.mark.parametrize(("main", "buyers", "place"), [
    (MAIN, scheduled("hourly"), "audiences/buyers.sql:2:11: error: 'hourly' is not a schedule"),
    (MAIN, scheduled("every 0s"), "audiences/buyers.sql:2:11: error: 'every 0s'"),
    (MAIN, scheduled("every 3h to 2h"), "audiences/buyers.sql:2:11: error: 'every 3h to 2h'"),
    (MAIN, scheduled('cron "0 25 * * *"'), "audiences/buyers.sql:2:11: error: "),
    (MAIN + "defaults: {schedule: every day}\n", BUYERS, "audiencesync.yml:6:22: error: 'day' is not a duration"),
    (MAIN + "timezone: Europe/Berln\n", BUYERS, "audiencesync.yml:6:11: error: 'Europe/Berln' is no time zone"),
    (MAIN + "  segment: {type: file, path: calls.jsonl}\n", BUYERS,
     "audiencesync.yml:6:3: error: the key 'segment' is given twice; it stands in line 5 already"),
])
def test_what_is_no_schedule_no_zone_or_named_twice_is_told_with_its_place(
        tmp_path: Path, main: str, buyers: str, place: str) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path / 'state.db'}", main=main, buyers=buyers)
    for words in (["validate"], ["sync"], ["sync", "--due"]):
        said = shop.run(*words)
        assert (said.code, place in said.err + said.out) == (2, True), said.err + said.out
    assert place.partition(": error")[0] in json.dumps(shop.run("sync", "--due", "-o", "json").document)
    assert not (tmp_path / "state.db").exists()

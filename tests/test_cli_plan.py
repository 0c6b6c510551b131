"""`plan` says exactly what `sync` then sends, and does nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import BUYERS, MAIN, Shop
from tests.servers import Recorder

CHEAP = "SELECT user_id FROM orders WHERE user_id < 'u3' GROUP BY user_id\n"


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def shop(tmp_path: Path, state_url: str, server: Recorder) -> Shop:
    made = Shop(tmp_path / "shop", state_url, url=server.url, buyers=BUYERS, cheap=CHEAP)
    made.orders("u1", "u2", "u3", "u4")
    return made


def _agree(shop: Shop, server: Recorder) -> int:
    """Plan, then sync; both must speak of the same calls. How many those were."""
    at = server.requests
    said = shop.run("plan", "-o", "json", "--as-of", "2026-06-01")
    assert (said.code, said.err, server.requests) == (0, "", at)
    document = said.document
    before = len(server.calls)
    done = shop.run("sync", "-o", "json", "--as-of", "2026-06-01").document
    [delivery] = document["destinations"]
    assert delivery["calls"] == len(server.calls) - before == sum(sync["sent"] for sync in done["syncs"])
    assert delivery["requests"] == server.requests - at
    assert delivery["users"] == len({call["userId"] for call in server.calls[before:]})
    assert {one["key"]: (one["entered"], one["exited"], one["members"]) for one in document["audiences"]} == {
        run["key"]: (run["entered"], run["exited"], run["members"]) for run in done["runs"]}
    return int(delivery["calls"])


def test_a_plan_is_what_sync_then_sends(shop: Shop, server: Recorder) -> None:
    assert _agree(shop, server) == 6
    assert _agree(shop, server) == 0
    shop.orders("u5", "u0")
    shop.forget("u1")
    assert _agree(shop, server) == 5


def test_a_plan_before_the_first_sync_makes_no_state(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db")
    shop.orders("u1")
    said = shop.run("plan")
    assert said.code == 0
    assert "initial" in said.out
    assert "Nothing was written" in said.out
    assert not list(shop.root.glob("audiencesync.db*"))


def test_a_plan_writes_nothing_into_the_state(shop: Shop) -> None:
    shop.run("sync")
    shop.orders("u9")
    before = shop.run("runs", "-o", "json").out
    shop.run("plan")
    assert shop.run("runs", "-o", "json").out == before
    assert shop.run("status", "-o", "json").document["destinations"][0]["pending"] == 0


def test_a_plan_for_a_pull_request_is_markdown(shop: Shop) -> None:
    said = shop.run("plan", "-o", "markdown", "buyers")
    assert said.code == 0
    assert said.out.startswith("### audiencesync plan\n\n| audience |")
    assert "| segment | buyers | initial | +4 |" in said.out


def test_a_plan_names_the_minutes_at_the_destinations_rate(tmp_path: Path, server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", url=server.url,
                main=MAIN.replace("timeout: 2s", "rate: 1"))
    shop.orders(*(f"u{number}" for number in range(150)))
    [delivery] = shop.run("plan", "-o", "json").document["destinations"]
    assert (delivery["seconds"], delivery["minutes"], delivery["rate"]) == (150, 2.5, "1")
    assert "about 3 minutes at 1 a second" in shop.run("plan").out


def test_a_plan_says_what_fails_and_plans_the_rest(shop: Shop) -> None:
    shop.write("audiences/broken.sql", "SELECT user_id FROM nowhere\n")
    said = shop.run("plan", "-o", "json")
    assert (said.code, said.document["exit_code"]) == (2, 2)
    assert "nowhere" in said.err
    assert [one["key"] for one in said.document["audiences"]] == ["buyers", "cheap"]


def test_a_plan_shows_a_paused_destination_and_an_audience_left_behind(shop: Shop) -> None:
    shop.run("sync")
    shop.run("pause", "segment", "--reason", "holiday")
    (shop.root / "audiences/cheap.sql").unlink()
    shop.orders("u7")
    document = shop.run("plan", "-o", "json").document
    assert document["left"] == ["cheap"]
    [sync] = document["syncs"]
    assert (sync["status"], sync["reason"], sync["entered"]) == ("paused", "holiday", 1)
    assert document["destinations"][0]["calls"] == 0

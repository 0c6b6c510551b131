"""What a person decides: pause and resume, with who, when and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from audiencesync.store.connect import Store
from audiencesync.store.tables import acts
from tests.commands import BUYERS, MAIN, Shop
from tests.servers import Recorder


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def shop(tmp_path: Path, state_url: str, server: Recorder) -> Shop:
    made = Shop(tmp_path / "shop", state_url, url=server.url)
    made.orders("u1", "u2", "u3")
    return made


def _acts(shop: Shop) -> list[tuple[str, str, str | None]]:
    store = Store.open(shop.environment["STATE"])
    with store.read() as connection:
        rows = connection.execute(select(acts).order_by(acts.c.id)).all()
    store.close()
    assert all("@" in row.who for row in rows)
    return [(row.command, row.subject, row.reason) for row in rows]


def test_a_paused_destination_gets_nothing_and_then_everything(shop: Shop, server: Recorder) -> None:
    assert "audiencesync resume segment" in shop.run("pause", "segment", "--reason", "moving house").out
    said = shop.run("sync", "-o", "json")
    assert said.code == 75
    assert server.requests == 0
    assert said.document["runs"][0]["members"] == 3, "audiences are still computed"
    assert "moving house" in said.document["syncs"][0]["reason"]
    assert shop.run("resume", "segment").code == 0
    assert shop.run("sync").code == 0
    assert len(server.told()) == 3
    assert _acts(shop) == [("pause", "segment", "moving house"), ("resume", "segment", None)]


def test_a_paused_audience_is_shown_and_is_no_error(tmp_path: Path, server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", url=server.url, buyers=BUYERS, others=BUYERS)
    shop.orders("u1")
    shop.run("pause", "buyers")
    said = shop.run("sync", "-o", "json")
    assert said.code == 0
    assert {run["key"]: run["status"] for run in said.document["runs"]} == {"buyers": "paused", "others": "done"}
    assert set(server.told()) == {("others", "u1")}
    shop.run("resume", "buyers")
    assert shop.run("sync").code == 0
    assert server.told()["buyers", "u1"] is True


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_an_unknown_name_ends_with_2_and_what_was_meant(tmp_path: Path, command: str) -> None:
    said = Shop(tmp_path / "shop", "sqlite:///audiencesync.db").run(command, "segmint", "-o", "json")
    assert said.code == 2
    assert "did you mean 'segment'?" in said.document["errors"][0]["message"]


def test_a_name_of_both_kinds_must_say_which(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", segment=BUYERS)
    said = shop.run("pause", "segment")
    assert said.code == 2
    assert "audience:segment" in said.err
    assert "destination:segment" in said.err
    assert shop.run("pause", "destination:segment", "-o", "json").document["kind"] == "destination"
    assert shop.run("pause", "audience:segment", "-o", "json").document["kind"] == "audience"


def test_another_account_is_held_until_somebody_says_what_it_is(shop: Shop, server: Recorder) -> None:
    shop.run("sync")
    shop.environment["WRITE_KEY"] = "renewed"
    shop.orders("u4")
    server.clear()
    assert shop.run("sync").code == 4
    assert server.calls == []
    assert shop.run("sync", "--allow", "held").code == 0
    assert any("--same-account" in wait["help"] for wait in shop.run("status", "-o", "json").document["waits"])
    said = shop.run("resume", "segment")
    assert said.code == 2
    assert "--new-account" in said.err
    assert shop.run("resume", "segment", "--same-account").code == 0
    assert shop.run("sync").code == 0
    assert server.told() == {("buyers", "u4"): True}


def test_a_new_account_is_told_everything_anew(shop: Shop, server: Recorder) -> None:
    server.refuse = {"u3"}
    shop.run("sync")
    server.refuse = set()
    shop.environment["WRITE_KEY"] = "another"
    server.clear()
    assert shop.run("resume", "segment", "--new-account").code == 0
    [word] = shop.run("user", "u1", "-o", "json").document["audiences"][0]["destinations"]
    assert word["told"] is None
    assert word["pending"] is True
    assert shop.run("rejected", "-o", "json").document["total"] == 0
    said = shop.run("sync", "-o", "json")
    assert [(sync["mode"], sync["sent"]) for sync in said.document["syncs"]] == [("initial", 3)]
    assert server.told() == {("buyers", user): True for user in ("u1", "u2", "u3")}
    assert ("new-account", "segment", "told everything anew") in _acts(shop)


def test_a_new_account_gives_up_a_sync_that_was_stopped_half_way(tmp_path: Path, state_url: str) -> None:
    main = MAIN.replace("timeout: 2s", "concurrency: 1, rate: 900")
    with Recorder() as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url, main=main)
        users = [f"u{number:05}" for number in range(1500)]
        shop.orders(*users)
        process = shop.start("sync", AUDIENCESYNC_FAILPOINT="page.acknowledged:1")
        process.communicate(timeout=30)
        shop.environment["WRITE_KEY"] = "another"
        said = shop.run("resume", "segment", "--new-account", "--wait", "5s")
        assert said.code == 0
        assert "1 unfinished sync" in said.out
        server.clear()
        assert shop.run("sync").code == 0
        assert server.told() == {("buyers", user): True for user in users}


def test_a_new_account_waits_for_whoever_is_sending(shop: Shop) -> None:
    from audiencesync.store import leases

    shop.run("sync")
    store = Store.open(shop.environment["STATE"])
    leases.acquire(store, "destination:segment", holder="another host/1/1")
    assert shop.run("resume", "segment", "--new-account").code == 99
    assert "a process is at work there now" in shop.run("pause", "segment").out
    store.close()


def test_an_account_is_no_matter_of_an_audience(shop: Shop) -> None:
    assert shop.run("resume", "buyers", "--same-account").code == 2

"""The commands that read: status, runs, show, user, rejected; they change nothing and make nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.commands import BUYERS, MAIN, NOWHERE, Shop
from tests.servers import Fault, Recorder


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder(write_key="wk") as recorder:
        yield recorder


@pytest.fixture
def shop(tmp_path: Path, state_url: str, server: Recorder) -> Shop:
    made = Shop(tmp_path / "shop", state_url, url=server.url)
    made.orders("u1", "u2", "u3")
    return made


def _waits(shop: Shop) -> list[tuple[str, str, str]]:
    return [(wait["what"], wait["why"], wait["help"]) for wait in shop.run("status", "-o", "json").document["waits"]]


def _word(shop: Shop, user: str) -> Any:
    """What the one destination knows of the user in the one audience."""
    return shop.run("user", user, "-o", "json").document["audiences"][0]["destinations"][0]


@pytest.mark.parametrize("words", [("status",), ("runs",), ("show", "buyers"), ("user", "u1"), ("rejected",)])
def test_reading_commands_work_before_the_first_sync_and_make_no_state(tmp_path: Path, words: tuple[str, ...]) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db")
    for form in ("text", "json"):
        said = shop.run(*words, "-o", form)
        assert (said.code, said.err) == (0, "")
        assert said.out
    assert not list(shop.root.glob("audiencesync.db*"))


def test_reading_an_empty_postgresql_state_makes_no_tables(tmp_path: Path, postgres_url: str) -> None:
    import psycopg

    assert Shop(tmp_path / "shop", postgres_url).run("status").code == 0
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


@pytest.mark.parametrize(("revision", "what"), [("0000", "newer"), ("9999", "newer")])
def test_a_state_of_another_version_is_refused(tmp_path: Path, revision: str, what: str) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db")
    shop.run("sync")
    with closing(sqlite3.connect(shop.root / "audiencesync.db")) as state, state:
        state.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    said = shop.run("status", "-o", "json")
    assert said.code == 2
    assert what in said.err
    assert said.document["exit_code"] == 2


def test_runs_lists_the_newest_first_with_the_rows_of_sync(shop: Shop) -> None:
    first = shop.run("sync", "-o", "json").document["runs"][0]
    shop.orders("u4")
    second = shop.run("sync", "-o", "json").document["runs"][0]
    found = shop.run("runs", "-o", "json").document["runs"]
    assert [{name: row[name] for name in first} for row in found] == [second, first]
    assert all(row["started"].endswith("Z") and row["ended"].endswith("Z") for row in found)
    assert len(shop.run("runs", "buyers", "--limit", "1", "-o", "json").document["runs"]) == 1
    assert shop.run("runs", "buyerz").code == 2


def test_a_failed_run_is_listed_with_its_error_and_waited_for_in_status(shop: Shop) -> None:
    shop.run("sync")
    shop.write("audiences/buyers.sql", "SELECT user_id FROM gone\n")
    shop.run("sync")
    [failed, _] = shop.run("runs", "-o", "json").document["runs"]
    assert failed["status"] == "failed"
    assert "gone" in failed["error"]
    [(what, why, help_)] = _waits(shop)
    assert what == "audience buyers"
    assert "its last run failed" in why
    assert "audiencesync sync buyers" in help_
    document = shop.run("status", "-o", "json").document
    assert document["audiences"][0]["last_run"]["members"] == 3, "the members of the last good run stay"
    shop.write("audiences/buyers.sql", BUYERS)
    shop.run("sync")
    assert _waits(shop) == []


def test_status_shows_where_a_destination_stands(shop: Shop) -> None:
    shop.run("sync")
    [standing] = shop.run("status", "-o", "json").document["destinations"]
    assert {name: standing[name] for name in ("destination", "key", "position", "run", "mode", "pending", "rejected")} \
        == {"destination": "segment", "key": "buyers", "position": 1, "run": 1, "mode": "incremental", "pending": 0,
            "rejected": 0}
    assert "nothing waits" in shop.run("status").out


def test_status_counts_exactly_what_is_still_to_be_told(shop: Shop) -> None:
    shop.run("sync")
    shop.run("pause", "segment", "--reason", "holiday")
    shop.orders("u4", "u5")
    shop.forget("u1")
    assert shop.run("sync").code == 75
    [standing] = shop.run("status", "-o", "json").document["destinations"]
    assert (standing["position"], standing["run"], standing["pending"]) == (1, 2, 3)
    waits = _waits(shop)
    assert ("destination segment", "paused: holiday", "audiencesync resume segment") in waits
    assert ("buyers at segment", "3 calls due", "audiencesync sync") in waits
    shop.run("resume", "segment")
    assert shop.run("sync", "-o", "json").document["syncs"][0]["sent"] == 3
    assert _waits(shop) == []


def test_status_and_user_tell_a_sync_that_was_killed_and_what_is_unresolved(shop: Shop) -> None:
    shop.write("audiencesync.yml", MAIN.replace("timeout: 2s", "concurrency: 1, rate: 900"))
    shop.orders(*(f"v{number:05}" for number in range(4000)))
    shop.start("sync", AUDIENCESYNC_FAILPOINT="page.acknowledged:1").communicate(timeout=30)
    [standing] = shop.run("status", "-o", "json").document["destinations"]
    assert standing["open"]
    assert standing["unresolved"]
    assert (standing["mode"], standing["told"], standing["total"], standing["pending"]) == ("initial", 900, 4003, 3103)
    assert any("900 of 4,003 told" in why and "may or may not have arrived" in why for _, why, _ in _waits(shop))
    first, claimed, last = (_word(shop, user) for user in ("u1", "v00900", "v03999"))
    assert (first["told"]["value"], first["unresolved"], first["pending"]) == (True, None, None)
    assert (claimed["told"], claimed["unresolved"], claimed["pending"]) == (None, True, None)
    assert (last["told"], last["unresolved"], last["pending"]) == (None, None, True)


def test_status_says_until_when_a_late_packet_is_waited_for(shop: Shop, server: Recorder) -> None:
    shop.write("audiencesync.yml", MAIN.replace("settle: 0s", "settle: 10m"))
    server.script = [Fault("accept_then_drop")]
    assert shop.run("sync").code == 0
    shop.orders("u4")
    said = shop.run("sync", "-o", "json")
    assert said.code == 75
    [sync] = said.document["syncs"]
    assert (sync["status"], sync["keys"]) == ("waiting", ["buyers"])
    [wait] = shop.run("status", "-o", "json").document["waits"]
    assert "settle" in wait["why"]
    assert wait["until"] == sync["until"]


def test_status_tells_of_an_audience_whose_file_is_gone(shop: Shop) -> None:
    shop.run("sync")
    (shop.root / "audiences/buyers.sql").unlink()
    shop.write("audiences/others.sql", BUYERS)
    document = shop.run("status", "-o", "json").document
    assert {one["key"]: (one["file"], one["last_run"] is not None) for one in document["audiences"]} == {
        "buyers": (False, True), "others": (True, False)}
    assert [wait["what"] for wait in document["waits"]] == ["audience buyers"]
    assert shop.run("show", "buyers").code == 0
    assert len(shop.run("runs", "buyers", "-o", "json").document["runs"]) == 1
    assert "file is gone" in shop.run("status").out


def test_show_gives_the_definition_the_runs_and_who_moved(shop: Shop) -> None:
    shop.write("audiences/buyers.sql", "/* audiencesync\ndescription: Bought something.\nvars: {since: now - 30d}\n*/\n"
                                       + BUYERS)
    shop.run("sync")
    shop.orders("u4")
    shop.forget("u1")
    shop.run("sync")
    document = shop.run("show", "buyers", "-o", "json").document
    assert document["definition"]["description"] == "Bought something."
    assert document["definition"]["vars"] == {"since": "now - 30d"}
    assert document["entered"] == {"run": 2, "users": ["u4"]}
    assert document["exited"] == {"run": 2, "users": ["u1"]}
    assert document["members"] == 3
    assert len(document["runs"]) == 2
    text = shop.run("show", "buyers").out
    assert BUYERS.strip() in text
    assert "exited with run 2: u1" in text
    said = shop.run("show", "buyerz")
    assert said.code == 2
    assert "did you mean 'buyers'?" in said.err


def test_user_tells_the_whole_story_of_one_who_came_and_went(shop: Shop) -> None:
    shop.forget("u1")
    shop.run("sync", "--as-of", "2026-02-01")
    shop.orders("u1")
    shop.run("sync", "--as-of", "2026-02-02")
    shop.forget("u1")
    shop.run("sync", "--as-of", "2026-02-03")
    document = shop.run("user", "u1", "-o", "json").document
    [audience] = document["audiences"]
    assert document["seen"]
    assert not audience["member"]
    assert (audience["since_run"], audience["since"]) == (3, "2026-02-03T00:00:00Z")
    assert audience["history"] == [{"since_run": 2, "since": "2026-02-02T00:00:00Z", "until_run": 3,
                                    "until": "2026-02-03T00:00:00Z"}]
    [word] = audience["destinations"]
    assert (word["told"]["value"], word["told"]["run"], word["told"]["mode"]) == (False, 3, "incremental")
    assert word["pending"] is None
    assert word["rejected"] is None
    text = shop.run("user", "u1").out
    assert "buyers: out, since run 3" in text
    assert "told false as of run 3" in text


def test_user_finds_exactly_this_id_and_says_when_it_was_never_seen(shop: Shop) -> None:
    shop.run("sync")
    for other in ("U1", "u", "u1 ", "u%", "nobody"):
        said = shop.run("user", other)
        assert said.code == 0
        assert "never seen" in said.out
    assert shop.run("user", "u1", "-o", "json").document["seen"] is True


def test_user_shows_a_change_that_is_pending_and_one_that_is_refused(shop: Shop, server: Recorder) -> None:
    shop.run("sync")
    shop.run("pause", "segment")
    shop.forget("u1")
    shop.run("sync")
    word = _word(shop, "u1")
    assert (word["told"]["value"], word["pending"]) == (True, False)
    shop.run("resume", "segment")
    server.refuse = {"u1"}
    assert shop.run("sync").code == 3
    word = _word(shop, "u1")
    assert word["told"]["value"] is True
    assert word["pending"] is None
    assert word["rejected"]["status"] == 400
    assert word["rejected"]["tries"] == 1
    assert "refused since" in shop.run("user", "u1").out
    shop.run("sync")
    assert _word(shop, "u1")["rejected"]["tries"] == 2
    server.refuse = set()
    shop.run("sync")
    word = _word(shop, "u1")
    assert word["told"]["value"] is False
    assert word["rejected"] is None


def test_user_knows_nothing_told_where_a_change_came_and_went_between_two_syncs(shop: Shop) -> None:
    shop.forget("u1")
    shop.run("sync")
    shop.run("pause", "segment")
    shop.orders("u1")
    shop.run("sync")
    shop.forget("u1")
    shop.run("sync")
    shop.run("resume", "segment")
    shop.orders("u9")
    shop.run("sync")
    word = _word(shop, "u1")
    assert word["told"] is None
    assert word["pending"] is None
    shop.run("backfill", "buyers")
    word = _word(shop, "u1")
    assert (word["told"]["value"], word["told"]["mode"]) == (False, "backfill")


def test_a_changed_column_does_not_break_a_membership_in_two(shop: Shop) -> None:
    shop.write("audiences/buyers.sql", "/* audiencesync\ninclude: [at]\n*/\n"
                                       "SELECT user_id, max(at) AS at FROM orders WHERE at <= :now GROUP BY user_id\n")
    shop.run("sync")
    shop.orders("u1", at="2026-01-05 00:00:00")
    shop.run("sync")
    [audience] = shop.run("user", "u1", "-o", "json").document["audiences"]
    assert [(one["since_run"], one["until_run"]) for one in audience["history"]] == [(1, None)]
    assert shop.run("show", "buyers", "-o", "json").document["entered"]["run"] == 1


def test_an_id_that_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    said = Shop(tmp_path / "shop", "sqlite:///audiencesync.db").run("user", "\udcff")
    assert said.code == 2
    assert "UTF-8" in said.err


def test_rejected_lists_who_why_and_when_next(shop: Shop, server: Recorder) -> None:
    server.refuse = {"u1", "u3"}
    shop.run("sync")
    document = shop.run("rejected", "-o", "json").document
    assert [(row["user_id"], row["key"], row["destination"], row["status"], row["tries"])
            for row in document["rejected"]] == [(user, "buyers", "segment", 400, 1) for user in ("u1", "u3")]
    assert document["total"] == 2
    assert all(row["reason"] and row["since"].endswith("Z") and row["next_try"].endswith("Z")
               for row in document["rejected"])
    said = shop.run("rejected", "buyers", "--destination", "segment", "--limit", "1")
    assert "u1" in said.out
    assert "u3" not in said.out
    assert "1 more" in said.out
    assert shop.run("rejected", "--destination", "segmnt").code == 2
    assert any("2 users refused" in why for _, why, _ in _waits(shop))


def test_times_are_shown_in_the_zone_of_the_project(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", main=MAIN + "timezone: Europe/Berlin\n", url=NOWHERE)
    shop.run("sync", "--as-of", "2026-07-01T12:00:00Z")
    assert "2026-07-01 14:00:00 CEST" in shop.run("runs").out
    assert shop.run("runs", "-o", "json").document["runs"][0]["as_of"] == "2026-07-01T12:00:00Z"

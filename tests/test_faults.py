"""Whatever fails outside, through the real command: its exit code, what it says, an exact state, and the way back."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.commands import BUYERS, MAIN, NOWHERE, Said, Shop
from tests.databases import WALLED, PostgresServer
from tests.servers import Fault, Recorder, user_of

USERS = [f"u{number:04}" for number in range(1500)]


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def shop(tmp_path: Path, state_url: str, server: Recorder) -> Shop:
    made = Shop(tmp_path / "shop", state_url, url=server.url)
    made.orders(*USERS)
    return made


def check_words(said: Said, *words: str) -> None:
    """One clear message: all of these words, and never a traceback or what is secret."""
    everything = said.out + said.err
    assert all(word in everything for word in words), everything
    assert "Traceback" not in everything
    assert "this is a bug" not in everything
    assert "hunter2" not in everything


def check_exact(said: Said, server: Recorder) -> None:
    """What the report says of each sync is what the server got."""
    for one in said.document["syncs"]:
        if one["mode"]:
            assert one["sent"] + one["rejected"] + one["remaining"] == one["total"], one
    assert sum(one["sent"] for one in said.document["syncs"]) <= len(server.unique_calls)


def check_healed(shop: Shop, server: Recorder, *words: str) -> None:
    """After it is mended, the next sync tells all that is left: destination == audience, each decision once."""
    if words:
        assert warm.run(shop, *words).code == 0
    done = warm.run(shop, "sync", "-o", "json")
    assert done.code == 0, done.out + done.err
    assert server.told() == {("buyers", user): True for user in USERS}
    assert len(server.unique_calls) == len(USERS)
    assert server.changed_message_ids() == []
    assert server.violations == []
    requests = server.requests
    assert warm.run(shop, "sync").code == 0
    assert server.requests == requests


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_status_that_refuses_calls_rejects_those_alone_and_they_are_tried_again(shop: Shop, server: Recorder,
                                                                                 status: int) -> None:
    server.script = lambda _, request: status if b'"u0003"' in request.body else None
    said = warm.run(shop, "sync", "-o", "json")
    assert (said.code, said.document["rejected"]) == (3, 1)
    check_words(said)
    check_exact(said, server)
    assert {user_of(call) for call in server.calls} == {*USERS} - {"u0003"}
    listed = warm.run(shop, "rejected")
    check_words(listed, "u0003", str(status))
    server.script = []
    check_healed(shop, server)


@pytest.mark.parametrize(("status", "setting"), [(401, "write_key"), (403, "write_key"), (404, "url"), (308, "url")])
def test_a_status_that_refuses_the_account_pauses_the_destination_and_keeps_everything(
        shop: Shop, server: Recorder, status: int, setting: str) -> None:
    server.script = lambda number, _: status if number else None  # not before something was told
    first = warm.run(shop, "sync", "-o", "json")
    assert first.code == 75
    check_words(first, str(status), setting, "audiencesync resume segment")
    check_exact(first, server)
    assert first.document["rejected"] == 0
    requests = server.requests
    assert requests < 5
    again = warm.run(shop, "sync", "-o", "json")
    assert (again.code, server.requests) == (75, requests)
    check_words(again, "paused", "audiencesync resume segment")
    check_words(warm.run(shop, "status"), "audiencesync resume segment")
    server.script = []
    check_healed(shop, server, "resume", "segment")


def test_a_short_pause_that_is_asked_for_is_sat_out(shop: Shop, server: Recorder) -> None:
    server.script = [Fault(status=429, headers={"Retry-After": "1"})]
    began = time.monotonic()
    said = warm.run(shop, "sync", "-o", "json")
    assert said.code == 0, said.err
    assert time.monotonic() - began >= 1.0
    check_healed(shop, server)


def test_a_long_pause_that_is_asked_for_ends_the_sync_and_is_kept_by_the_next_ones(shop: Shop,
                                                                                  server: Recorder) -> None:
    server.script = lambda number, _: Fault(status=429, headers={"Retry-After": "3600"}) if number else None
    first = warm.run(shop, "sync", "-o", "json")
    assert first.code == 75
    check_words(first, "429")
    check_exact(first, server)
    [until] = {one["until"] for one in first.document["syncs"]}
    assert until
    requests = server.requests
    again = warm.run(shop, "sync", "-o", "json")
    assert (again.code, server.requests) == (75, requests)
    assert [one["until"] for one in again.document["syncs"]] == [until]
    check_words(again, "429", "after that")
    check_words(warm.run(shop, "status"), "429")
    server.script = []
    check_healed(shop, server, "resume", "segment")


STORMS: dict[str, tuple[int | str | Fault, str]] = {
    "500": (500, "500"),
    "503": (Fault(status=503, headers={"Retry-After": "0"}), "503"),
    "cut before it was read": ("drop", "no sensible answer"),
    "cut after it was taken": (Fault("accept_then_drop", taken=True), "no sensible answer"),
    "no end": (Fault("drip", taken=True), "within 1 s"),
    "silence": (Fault("hang", taken=True), "within 1 s"),
    "no HTTP": ("garbage", "no sensible answer"),
    "refused": (200, "cannot be reached"),
}
"""What a server does to every request, and what is said of it."""


def test_a_destination_that_never_answers_well_is_given_up_after_few_requests_and_loses_nothing(tmp_path: Path) -> None:
    """All at once, since what they do is wait."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Recorder(lambda _, __, fault=fault: fault))
                   for name, (fault, _) in STORMS.items()}
        shops: dict[str, Shop] = {}
        running: dict[str, subprocess.Popen[str]] = {}
        for name, server in servers.items():
            shops[name] = Shop(tmp_path / name, "sqlite:///state.db", url=NOWHERE if name == "refused" else server.url,
                               main=MAIN.replace("timeout: 2s", "timeout: 1s"))
            shops[name].orders(*USERS)
            running[name] = stack.enter_context(shops[name].start("sync", "-o", "json"))
        for name, process in running.items():
            out, err = process.communicate(timeout=200)
            said, server = Said(process.returncode, out, err), servers[name]
            assert said.code == 75, (name, out, err)
            check_words(said, STORMS[name][1], "run the same command again")
            assert [(one["sent"], one["remaining"]) for one in said.document["syncs"]] == [(0, len(USERS))], name
            assert server.requests < 20, name
            shops[name].environment["SEGMENT"] = server.url
            server.script = []
            check_healed(shops[name], server)


def test_an_unanswered_attempt_holds_the_next_sync_until_it_can_no_longer_land(tmp_path: Path, state_url: str,
                                                                              server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", state_url, url=server.url, main=MAIN.replace("settle: 0s", "settle: 1h"))
    shop.orders(*USERS)
    server.script = [Fault("accept_then_drop", taken=True)]
    assert warm.run(shop, "sync").code == 0  # the retry of the same bytes succeeds
    shop.forget(USERS[0])
    requests = server.requests
    said = warm.run(shop, "sync", "-o", "json")
    assert (said.code, server.requests) == (75, requests)
    check_words(said, "settle", "after that")
    assert all(one["until"] for one in said.document["syncs"])
    assert server.changed_message_ids() == []


def test_a_state_that_is_locked_for_long_ends_with_75_and_is_left_as_it_was(tmp_path: Path, server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path}/state.db", url=server.url)
    shop.orders(*USERS)
    assert warm.run(shop, "db", "upgrade").code == 0
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = warm.run(shop, "sync", "-o", "json")
        other.execute("ROLLBACK")
    assert (said.code, server.requests) == (75, 0)
    check_words(said, "state", "locked")
    check_healed(shop, server)


@pytest.mark.parametrize("state", ["postgresql+psycopg://me:hunter2@127.0.0.1:9/none", "sqlite:////no/such/place/s.db"])
def test_a_state_that_is_away_ends_with_75_and_sends_nothing(tmp_path: Path, server: Recorder, state: str) -> None:
    shop = Shop(tmp_path / "shop", state, url=server.url)
    said = warm.run(shop, "sync", "-o", "json")
    assert (said.code, server.requests) == (75, 0)
    check_words(said, "state")


def test_a_state_that_goes_away_in_the_middle_ends_with_75_and_the_next_sync_goes_on(
        tmp_path: Path, postgres_server: PostgresServer, server: Recorder) -> None:
    server.latency = 0.3
    with postgres_server.database() as url:
        shop = Shop(tmp_path / "shop", url, url=server.url, main=MAIN.replace("timeout: 2s", "timeout: 5s, rate: 300"))
        shop.orders(*USERS)
        name = url.rpartition("/")[2]
        with shop.start("sync", "-o", "json") as process:
            wait_for(lambda: server.requests > 0, process)
            postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            out, err = process.communicate(timeout=60)
        said = Said(process.returncode, out, err)
        assert said.code == 75, (out, err)
        check_words(said, "state")
        postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        server.latency = 0.0
        check_healed(shop, server)


def test_a_source_that_is_away_or_refuses_us_ends_with_75_and_is_read_again_later(
        tmp_path: Path, postgres_server: PostgresServer, postgres_url: str, server: Recorder) -> None:
    postgres_server.execute(f"DROP ROLE IF EXISTS {WALLED}", f"CREATE ROLE {WALLED} LOGIN PASSWORD 'right'")
    name = postgres_url.rpartition("/")[2]
    postgres_server.execute("CREATE TABLE orders (user_id text, at timestamptz)", f"GRANT SELECT ON orders TO {WALLED}",
                            "INSERT INTO orders SELECT 'u' || to_char(n, 'FM0000'), '2026-01-01' "
                            f"FROM generate_series(0, {len(USERS) - 1}) AS n", database=name)
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path}/state.db", url=server.url,
                main=MAIN.replace('"sqlite:///shop.db"', '"${SOURCE}"'))
    wrong = {"postgresql+psycopg://me:hunter2@127.0.0.1:9/none": "source",
             postgres_server.url(name, role=WALLED, password="hunter2"): "password",
             f"sqlite:///{tmp_path}/none.db": "none.db"}
    for source, word in wrong.items():
        shop.environment["SOURCE"] = source
        said = warm.run(shop, "sync", "-o", "json")
        assert (said.code, server.requests) == (75, 0)
        assert [row["status"] for row in said.document["runs"]] == ["failed"]
        check_words(said, word)
    assert not (tmp_path / "none.db").exists()
    shop.environment["SOURCE"] = postgres_server.url(name, role=WALLED, password="right")
    check_healed(shop, server)


BAD = {
    "syntax": ("SELECT user_id FORM orders", "FORM"),
    "missing_table": ("SELECT user_id FROM nothing", "nothing"),
    "two_statements": ("SELECT user_id FROM orders; SELECT user_id FROM orders", "more than one statement"),
    "a_write": ("DELETE FROM orders RETURNING user_id", "read"),
    "an_attachment": ("ATTACH 'other.db' AS other", "read"),
    "null_id": ("SELECT user_id FROM orders UNION ALL SELECT NULL", "NULL"),
    "blank_id": ("SELECT user_id FROM orders UNION ALL SELECT ' '", "blank"),
    "float_id": ("SELECT 1.5 AS user_id", "floating-point"),
    "nul_in_id": ("SELECT 'a' || char(0) || 'b' AS user_id", "NUL"),
    "no_id_column": ("SELECT at AS moment FROM orders", "no column user_id"),
    "two_id_columns": ("SELECT user_id, user_id FROM orders", "two id columns"),
    "a_failure_late": ("SELECT user_id, abs(-9223372036854775808) FROM orders", "overflow"),
}
"""What stands in an audience's file, and what is said of it."""


def test_sql_or_data_that_is_wrong_ends_with_2_and_the_other_audiences_are_told(tmp_path: Path, state_url: str,
                                                                               server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", state_url, url=server.url, buyers=BUYERS,
                changed="SELECT user_id AS anonymous_id FROM orders", **dict.fromkeys(BAD, BUYERS))
    shop.orders(*USERS[:20])
    before = warm.run(shop, "sync", "--as-of", "2026-02-01", "-o", "json")
    assert before.code == 0, before.err
    for key, (sql, _) in BAD.items():
        shop.write(f"audiences/{key}.sql", sql)
    shop.write("audiences/changed.sql", BUYERS)  # another id column than the one it was told with
    shop.orders(*USERS[20:])
    server.clear()
    said = warm.run(shop, "sync", "--as-of", "2026-02-02", "-o", "json")
    assert said.code == 2
    runs = {row["key"]: row for row in said.document["runs"]}
    assert {key for key, row in runs.items() if row["status"] == "failed"} == {*BAD, "changed"}
    for key, (_, word) in {**BAD, "changed": ("", "anonymous_id")}.items():
        [line] = [row["message"] for row in said.document["errors"] if f"{key}.sql" in row["message"]]
        assert word in line, line
        assert word in runs[key]["error"]
    check_words(said)
    assert server.told() == {("buyers", user): True for user in USERS[20:]}
    shop.write("audiences/changed.sql", "SELECT user_id AS anonymous_id FROM orders")
    for key in BAD:
        shop.write(f"audiences/{key}.sql", BUYERS)
    assert warm.run(shop, "sync", "--as-of", "2026-02-03").code == 0
    assert server.told() == {(key, user): True for key in {*BAD, "changed", "buyers"} for user in USERS[20:]}


def test_a_sync_after_one_as_of_the_future_says_so_in_place_of_doing_nothing_for_years(tmp_path: Path,
                                                                                      server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", f"sqlite:///{tmp_path}/state.db", url=server.url)
    shop.orders(*USERS)
    assert warm.run(shop, "sync", "--as-of", "2300-01-01").code == 0
    said = warm.run(shop, "sync", "-o", "json")
    assert said.code == 2
    check_words(said, "2300-01-01", "lies before its last run")


def test_a_call_over_the_limit_is_rejected_alone_and_told_when_it_is_short_again(tmp_path: Path, state_url: str,
                                                                                server: Recorder) -> None:
    sql = "/* audiencesync\ninclude: [note]\n*/\nSELECT user_id, {} AS note FROM orders\n"
    shop = Shop(tmp_path / "shop", state_url, url=server.url,
                buyers=sql.format("CASE user_id WHEN 'u0007' THEN replace(hex(zeroblob(20000)), '0', 'x') END"))
    shop.orders(*USERS)
    said = warm.run(shop, "sync", "-o", "json")
    assert (said.code, said.document["rejected"]) == (3, 1)
    check_words(warm.run(shop, "rejected"), "u0007", "too large")
    assert {user_of(call) for call in server.calls} == {*USERS} - {"u0007"}
    shop.write("audiences/buyers.sql", sql.format("'short'"))
    check_healed(shop, server)


def test_a_signal_ends_a_slow_initial_sync_at_a_page_and_nothing_is_sent_twice(tmp_path: Path, state_url: str,
                                                                              server: Recorder) -> None:
    shop = Shop(tmp_path / "shop", state_url, url=server.url, main=MAIN.replace("timeout: 2s", "rate: 250"))
    shop.orders(*USERS)
    with shop.start("sync", "-o", "json") as process:
        wait_for(lambda: server.requests > 1, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    said = Said(process.returncode, out, err)
    assert said.code == 75, (out, err)
    check_words(said, "SIGTERM", "run the same command again")
    [one] = said.document["syncs"]
    assert 250 <= one["sent"] == len(server.calls) < len(USERS)
    assert one["sent"] % 250 == 0
    shop.write("audiencesync.yml", MAIN)
    rest = warm.run(shop, "sync", "-o", "json")
    assert [one["sent"] for one in rest.document["syncs"] if one["sent"]] == [len(USERS) - one["sent"]]
    assert len(server.calls) == len(USERS)
    check_healed(shop, server)


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Until it is so, while the process lives."""
    while not ready():
        assert process.poll() is None, json.dumps(process.communicate())
        time.sleep(0.01)

"""Several processes at once: one works, the others wait or say so, and nobody's word is said twice or lost."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from tests import warm
from tests.commands import MAIN, Said, Shop
from tests.servers import Recorder

USERS = [f"u{number:04}" for number in range(2000)]
SLOW = MAIN.replace("settle: 0s, timeout: 2s", "settle: 0s, timeout: 5s, rate: 500")


def finish(process: subprocess.Popen[str]) -> Said:
    """How it ended."""
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    assert "this is a bug" not in out + err
    return Said(process.returncode, out, err)


def check_told_once(server: Recorder) -> None:
    """Everybody was told, once, and not even the bytes of a request came twice."""
    assert server.told() == {("buyers", user): True for user in USERS}
    assert len(server.calls) == len(USERS)
    assert server.violations == []


def wait_for_request(server: Recorder, process: subprocess.Popen[str]) -> None:
    """Until the process sends."""
    while not server.requests:
        assert process.poll() is None
        time.sleep(0.01)


def test_of_two_syncs_one_works_and_the_other_says_so_or_waits(tmp_path: Path, state_url: str) -> None:
    with Recorder() as server, ExitStack() as stack:
        shop = Shop(tmp_path / "shop", state_url, url=server.url, main=SLOW)
        shop.orders(*USERS)
        first = stack.enter_context(shop.start("sync", "-o", "json"))
        wait_for_request(server, first)
        other = warm.run(shop, "sync", "-o", "json")
        assert other.code == 99, other.err
        assert [error["exit_code"] for error in other.document["errors"]] == [99]
        assert "--wait" in other.err
        patient = stack.enter_context(shop.start("sync", "--wait", "60s", "-o", "json"))
        done = [finish(first), finish(patient)]
        assert [said.code for said in done] == [0, 0], [said.err for said in done]
        assert sum(one["sent"] for said in done for one in said.document["syncs"]) == len(USERS)
        check_told_once(server)
        assert warm.run(shop, "sync").code == 0
        check_told_once(server)


def test_a_status_is_shown_while_a_sync_is_at_work(tmp_path: Path, state_url: str) -> None:
    with Recorder() as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url, main=SLOW)
        shop.orders(*USERS)
        with shop.start("sync", "-o", "json") as process:
            wait_for_request(server, process)
            for words in (["status"], ["user", USERS[0]], ["plan"], ["runs"]):
                said = warm.run(shop, *words, "-o", "json")
                assert said.code == 0, said.err
            assert finish(process).code == 0
        check_told_once(server)


def test_six_processes_may_start_at_once_on_a_new_state(tmp_path: Path, state_url: str) -> None:
    with Recorder() as server, ExitStack() as stack:
        shop = Shop(tmp_path / "shop", state_url, url=server.url)
        shop.orders(*USERS)
        running = [stack.enter_context(shop.start("sync", "--wait", "100s", "-o", "json")) for _ in range(6)]
        done = [finish(process) for process in running]
        assert [said.code for said in done] == [0] * 6, [said.err for said in done]
        assert sum(one["sent"] for said in done for one in said.document["syncs"]) == len(USERS)
        check_told_once(server)
    engine = create_engine(state_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
        assert connection.execute(text("SELECT count(*) FROM computations")).scalar() == 1
        numbers = connection.execute(text("SELECT number FROM runs ORDER BY number")).scalars().all()
    engine.dispose()
    assert list(numbers) == list(range(1, len(numbers) + 1))


def test_six_upgrades_at_once_are_one_migration(tmp_path: Path, state_url: str) -> None:
    shop = Shop(tmp_path / "shop", state_url)
    with ExitStack() as stack:
        running = [stack.enter_context(shop.start("db", "upgrade", "-o", "json")) for _ in range(6)]
        done = [finish(process) for process in running]
    assert [said.code for said in done] == [0] * 6, [said.err for said in done]
    engine = create_engine(state_url)
    assert "memberships" in inspect(engine).get_table_names()
    engine.dispose()
    assert warm.run(shop, "db", "check").code == 0


@pytest.mark.soak
def test_a_holder_that_slept_past_its_lease_sends_and_changes_nothing_when_it_wakes(tmp_path: Path,
                                                                                   state_url: str) -> None:
    with Recorder() as server, ExitStack() as stack:
        shop = Shop(tmp_path / "shop", state_url, url=server.url, main=SLOW)
        shop.orders(*USERS)
        sleeper = stack.enter_context(shop.start("sync", "-o", "json"))
        wait_for_request(server, sleeper)
        sleeper.send_signal(signal.SIGSTOP)
        assert warm.run(shop, "sync").code == 99  # a process that is stopped still lives
        heir = warm.run(shop, "sync", "--wait", "60s", "-o", "json")
        assert heir.code == 0, heir.err
        assert server.told() == {("buyers", user): True for user in USERS}
        requests = server.requests
        sleeper.send_signal(signal.SIGCONT)
        woken = finish(sleeper)
        assert woken.code == 75, woken.err
        assert "took segment over" in woken.err
        assert server.requests == requests
        assert server.changed_message_ids() == []
        assert warm.run(shop, "sync").code == 0
        assert server.requests == requests

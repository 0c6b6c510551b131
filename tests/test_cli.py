"""The command line as a whole: help, selection, exit codes, one JSON document, signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from audiencesync.cli import COMMANDS, cli
from tests.commands import BUYERS, MAIN, NOWHERE, Shop
from tests.servers import Recorder


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder(write_key="wk") as recorder:
        yield recorder


@pytest.fixture
def shop(tmp_path: Path, state_url: str, server: Recorder) -> Shop:
    made = Shop(tmp_path / "shop", state_url, url=server.url)
    made.orders("u1", "u2", "u3")
    return made


def _here(tmp_path: Path, **options: str) -> Shop:
    """A shop whose state is a file of its own."""
    return Shop(tmp_path / "shop", "sqlite:///audiencesync.db", **options)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_command_says_of_itself(name: str) -> None:
    with click.Context(cli) as context:
        command = cli.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=1000) == COMMANDS[name][1]


def test_help_imports_nothing_but_click() -> None:
    script = ("import sys\nfrom audiencesync.cli import cli\n"
              "try:\n    cli.main(['--help'], prog_name='audiencesync')\nexcept SystemExit:\n    pass\n"
              "print(sorted(n for n in sys.modules if n.split('.')[0] in "
              "('sqlalchemy', 'pydantic', 'httpx', 'alembic', 'rich', 'orjson', 'yaml', 'sqlglot', 'asyncio')), "
              "file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_a_misspelt_command_or_option_is_named_with_what_was_meant(tmp_path: Path) -> None:
    shop = _here(tmp_path)
    said = shop.run("snyc")
    assert (said.code, said.out) == (2, "")
    assert "did you mean 'sync'?" in said.err
    said = shop.run("sync", "--as-off", "now")
    assert said.code == 2
    assert "--as-of" in said.err


def test_the_version_is_told_without_a_project() -> None:
    done = subprocess.run([sys.executable, "-m", "audiencesync", "--version"], capture_output=True, text=True,
                          check=True)
    assert done.stdout.startswith("audiencesync 0.")


def test_the_project_is_found_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = _here(tmp_path)
    monkeypatch.setenv("AUDIENCESYNC_PROJECT", str(shop.root))
    done = subprocess.run([sys.executable, "-m", "audiencesync", "validate"], capture_output=True, text=True,
                          check=False, env={**shop.environment, "AUDIENCESYNC_PROJECT": str(shop.root)})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_first_sync_tells_every_member_and_the_next_one_only_what_changed(shop: Shop, server: Recorder) -> None:
    said = shop.run("sync", "-o", "json", "--as-of", "2026-02-01")
    assert said.code == 0
    [run], [sync] = said.document["runs"], said.document["syncs"]
    assert run == {"key": "buyers", "run": 1, "as_of": "2026-02-01T00:00:00Z", "status": "done", "members": 3,
                   "entered": 3, "exited": 0, "changed": 3, "duplicates": 0, "error": None}
    assert (sync["destination"], sync["mode"], sync["status"], sync["sent"], sync["rejected"], sync["remaining"]) == (
        "segment", "initial", "done", 3, 0, 0)
    shop.orders("u4")
    shop.forget("u1")
    said = shop.run("sync", "-o", "json", "--as-of", "2026-02-01T02:00:00+02:00")
    [run], [sync] = said.document["runs"], said.document["syncs"]
    assert (run["run"], run["entered"], run["exited"], run["changed"]) == (2, 1, 1, 2)
    assert (sync["mode"], sync["sent"]) == ("incremental", 2)
    assert server.told() == {("buyers", "u1"): False, ("buyers", "u2"): True, ("buyers", "u3"): True,
                             ("buyers", "u4"): True}
    assert said.document["errors"] == []
    assert said.document["exit_code"] == 0


def test_nothing_changed_sends_nothing_and_ends_with_0(shop: Shop, server: Recorder) -> None:
    shop.run("sync")
    server.clear()
    said = shop.run("sync", "-o", "json")
    assert said.code == 0
    assert server.calls == []
    assert [sync["sent"] for sync in said.document["syncs"]] == [0]


def test_piped_output_is_one_summary_and_no_progress(shop: Shop) -> None:
    said = shop.run("sync")
    assert said.code == 0
    assert said.err == ""
    assert "buyers" in said.out
    assert "initial" in said.out
    assert "\x1b" not in said.out


def test_a_terminal_is_shown_how_far_a_sync_is(tmp_path: Path, server: Recorder) -> None:
    shop = _here(tmp_path, url=server.url)
    shop.orders("u1", "u2")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "audiencesync", "--project", str(shop.root), "sync", "-o", "json"]
    with subprocess.Popen(command, env={**os.environ, **shop.environment, "TERM": "xterm", "NO_COLOR": "1"},
                          stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        seen = _drained(ours)
        assert process.stdout
        assert json.loads(process.stdout.read())["exit_code"] == 0
    assert "1 of 1 computed" in seen
    assert "of 2 told" in seen


def _drained(terminal: int) -> str:
    """All that is written to a terminal until nobody has it open any more."""
    found = b""
    try:
        while piece := os.read(terminal, 4096):
            found += piece
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(terminal)
    return found.decode()


def test_a_backfill_sends_everybody_again_and_false_to_former_members(shop: Shop, server: Recorder) -> None:
    shop.run("sync")
    shop.forget("u1")
    shop.run("sync")
    server.clear()
    said = shop.run("backfill", "buyers", "-o", "json")
    assert said.code == 0
    assert said.document["runs"] == []
    assert [(sync["mode"], sync["sent"]) for sync in said.document["syncs"]] == [("backfill", 3)]
    assert server.told() == {("buyers", "u1"): False, ("buyers", "u2"): True, ("buyers", "u3"): True}
    assert shop.run("backfill").code == 2


def test_a_selection_computes_only_what_it_means(tmp_path: Path, server: Recorder) -> None:
    shop = _here(tmp_path, url=server.url, buyers=BUYERS, others=BUYERS)
    said = shop.run("sync", "b*", "-o", "json")
    assert [run["key"] for run in said.document["runs"]] == ["buyers"]
    said = shop.run("sync", "buyerz", "-o", "json")
    assert said.code == 2
    assert "did you mean 'buyers'?" in said.document["errors"][0]["message"]


def test_a_destination_can_be_chosen_and_must_be_there(tmp_path: Path) -> None:
    shop = _here(tmp_path, main=MAIN + "  out: {type: file, path: calls.jsonl}\n")
    shop.orders("u1")
    said = shop.run("sync", "--destination", "out", "-o", "json")
    assert said.code == 0
    assert [sync["destination"] for sync in said.document["syncs"]] == ["out"]
    said = shop.run("sync", "--destination", "outt")
    assert said.code == 2
    assert "did you mean 'out'?" in said.err


@pytest.mark.parametrize(("words", "what"), [
    (("--as-of", "yesterday"), "is not a moment"),
    (("--wait", "60"), "is not a duration"),
    (("--allow", "everything"), "there are rejected and held"),
    (("-o", "xml"), "xml"),
])
def test_a_wrong_value_ends_with_2_and_says_how_it_is_written(
        tmp_path: Path, words: tuple[str, ...], what: str) -> None:
    said = _here(tmp_path).run("sync", *words)
    assert said.code == 2
    assert what in said.err


def test_a_wrong_value_leaves_one_json_document_too(tmp_path: Path) -> None:
    said = _here(tmp_path).run("sync", "--as-of", "yesterday", "-o", "json")
    assert (said.code, said.document["exit_code"]) == (2, 2)
    assert "is not a moment" in said.document["errors"][0]["message"]


def test_one_audience_that_fails_is_an_error_and_the_others_are_synced(tmp_path: Path, server: Recorder) -> None:
    shop = _here(tmp_path, url=server.url, buyers=BUYERS, broken="SELECT user_id FROM nowhere\n")
    shop.orders("u1")
    said = shop.run("sync", "-o", "json")
    assert said.code == 2
    assert "nowhere" in said.err
    assert {run["key"]: run["status"] for run in said.document["runs"]} == {"buyers": "done", "broken": "failed"}
    assert said.document["errors"][0]["exit_code"] == said.document["exit_code"] == 2
    assert server.told() == {("buyers", "u1"): True}


def test_a_project_with_mistakes_ends_with_2_and_one_json_document(tmp_path: Path) -> None:
    shop = _here(tmp_path, main=MAIN + "nane: x\n")
    said = shop.run("sync", "-o", "json")
    assert said.code == 2
    assert "audiencesync.yml:6:1: error: " in said.err
    assert said.document["runs"] == said.document["syncs"] == []
    assert said.document["exit_code"] == said.document["errors"][0]["exit_code"] == 2
    assert "Traceback" not in said.err


def test_a_run_before_the_last_one_ends_with_2(shop: Shop) -> None:
    shop.run("sync", "--as-of", "2026-03-01")
    said = shop.run("sync", "--as-of", "2026-02-01", "-o", "json")
    assert said.code == 2
    assert "lies before its last run" in said.document["errors"][0]["message"]


def test_a_source_that_is_away_ends_with_75(tmp_path: Path) -> None:
    shop = _here(tmp_path)
    (shop.root / "shop.db").unlink()
    said = shop.run("sync", "-o", "json")
    assert said.code == 75
    assert said.document["runs"][0]["status"] == "failed"


def test_a_destination_that_is_away_ends_with_75_and_the_next_sync_goes_on(tmp_path: Path, server: Recorder) -> None:
    shop = _here(tmp_path, url=NOWHERE, main=MAIN.replace("timeout: 2s", "timeout: 1s"))
    shop.orders("u1", "u2")
    said = shop.run("sync", "-o", "json")
    assert said.code == 75
    assert [(sync["sent"], sync["remaining"]) for sync in said.document["syncs"]] == [(0, 2)]
    assert said.document["syncs"][0]["help"]


def test_a_state_that_is_away_ends_with_75(tmp_path: Path) -> None:
    said = Shop(tmp_path / "shop", "postgresql+psycopg://nobody@127.0.0.1:9/none").run("sync", "-o", "json")
    assert said.code == 75
    assert said.document["exit_code"] == 75
    assert "state" in said.err


def test_refused_users_end_with_3_which_can_be_allowed(shop: Shop, server: Recorder) -> None:
    server.refuse = {"u2"}
    said = shop.run("sync", "-o", "json")
    assert (said.code, said.document["rejected"]) == (3, 1)
    assert shop.run("sync", "--allow", "rejected").code == 0
    server.refuse = set()
    assert shop.run("sync").code == 0
    assert server.told()["buyers", "u2"] is True


def test_refused_credentials_pause_the_destination_and_end_with_75(shop: Shop, server: Recorder) -> None:
    server.write_key = "another"
    said = shop.run("sync", "-o", "json")
    assert said.code == 75
    assert said.document["syncs"][0]["status"] == "paused"
    assert "audiencesync resume segment" in said.document["syncs"][0]["help"]


def test_another_process_at_work_ends_with_99(shop: Shop, server: Recorder) -> None:
    from audiencesync.store import leases
    from audiencesync.store.connect import Store

    shop.run("sync")
    store = Store.open(shop.environment["STATE"])
    leases.acquire(store, "destination:segment", holder="another host/1/1")
    shop.orders("u9")
    said = shop.run("sync", "-o", "json")
    store.close()
    assert said.code == 99
    assert "--wait" in said.err
    assert said.document["errors"][0]["exit_code"] == 99


def test_a_bug_is_one_line_without_anybodys_data_and_ends_with_70(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the secret is 4711")

    monkeypatch.setattr("audiencesync.sync.sync", broken)
    said = _here(tmp_path).run("sync", "-o", "json")
    assert said.code == 70
    assert said.document["exit_code"] == 70
    assert "RuntimeError" in said.err
    assert "4711" not in said.err + said.out
    assert said.err.count("\n") == 1
    monkeypatch.setenv("AUDIENCESYNC_DEBUG", "1")
    assert "Traceback" in _here(tmp_path).run("sync").err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_sync_between_two_pages_and_the_next_one_loses_nothing(tmp_path: Path,
                                                                              number: signal.Signals) -> None:
    users = [f"u{number:05}" for number in range(3000)]
    with Recorder(write_key="wk", latency=0.2) as server:
        main = MAIN.replace("timeout: 2s", "timeout: 5s, concurrency: 1, rate: 900")
        shop = _here(tmp_path, url=server.url, main=main)
        shop.orders(*users)
        process = shop.start("sync", "-o", "json")
        while server.requests < 1:
            assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 75, err
        [sync] = json.loads(out)["syncs"]
        assert sync["status"] == "interrupted"
        assert number.name in sync["reason"]
        assert 0 < sync["remaining"] < 3000
        server.latency = 0.0
        assert shop.run("sync").code == 0
        assert server.told() == {("buyers", user): True for user in users}
        assert server.changed_message_ids() == []


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    shop = _here(tmp_path)
    shop.run("sync")
    process = shop.start("runs")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == ""
    process.stderr.close()

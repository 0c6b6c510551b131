"""The demo: whole, in a folder of its own, and its parts: the shop, the server, the plain queries."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from audiencesync import demo
from audiencesync.demo import files
from audiencesync.demo.clock import open_project
from audiencesync.demo.server import Receiver, Told
from audiencesync.demo.shop import build_shop
from audiencesync.demo.truth import Truth, came_and_went
from audiencesync.errors import UsageError

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEY = "wk"


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a folder."""
    return subprocess.run([sys.executable, "-m", "audiencesync", *arguments], cwd=directory, capture_output=True,
                          text=True, timeout=300, check=False)


def test_the_demo_ends_exact_and_leaves_a_project_whose_suggested_commands_work(tmp_path: Path) -> None:
    done = command(tmp_path, "demo", "here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    said = done.stdout
    assert "\x1b" not in said
    assert re.search(r"exact: 3 audiences, [\d,]+ memberships true", said)
    assert re.search(r"The server has 2,\d\d\d of 6,\d\d\d calls", said)
    assert "calls: 0 lost" in said
    assert "drops them: 0 with another body" in said
    project = tmp_path / "here"
    assert {path.name for path in project.iterdir()} >= {".env", "audiencesync.yml", "audiencesync.db", "shop.db"}
    assert {path.stem for path in (project / "audiences").glob("*.sql")} == set(files.AUDIENCES)
    suggested = re.findall(r"^   (audiencesync (?:test|plan|sync --|status|show|user).*?)(?:  |$)", said, re.MULTILINE)
    assert len(suggested) == 6
    for line in suggested:
        ran = command(project, *line.split()[1:])
        assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
        assert ran.stderr == "", line
    calls = [json.loads(line) for line in (project / "calls.jsonl").read_text().splitlines()]
    assert len(calls) > 5000
    tell_another_account(project)


def tell_another_account(project: Path) -> None:
    """What the demo says of the way to the real Segment, with another server in its place."""
    with Receiver("real") as receiver:
        settings = f"SEGMENT_WRITE_KEY=real\nSEGMENT_URL={receiver.url}\n"
        (project / ".env").write_text(settings)
        held = command(project, "sync")
        assert (held.returncode, receiver.arrived) == (4, 0), held.stdout + held.stderr
        assert command(project, "resume", "segment", "--new-account").returncode == 0
        done = command(project, "sync", "-o", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        truth = Truth(project / "shop.db", open_project(project, {}).audiences)
        truth.look(datetime.fromisoformat(json.loads(done.stdout)["runs"][0]["as_of"]))
        assert list(truth.disagreements(receiver)) == []


def test_the_tests_that_the_demo_ships_pass_and_notice_a_change(tmp_path: Path) -> None:
    files.write_project(tmp_path)
    done = command(tmp_path, "test")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "2 tests: 2 passed" in done.stdout
    definition = tmp_path / "audiences/high_value.sql"
    definition.write_text(definition.read_text().replace("OR refunded_at > :now", ""))
    done = command(tmp_path, "test")
    assert done.returncode == 2
    assert "missing     later: expected, but not in the result" in done.stdout


@pytest.mark.parametrize("taken", ["a file in it", "a file in its place"])
def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path, taken: str) -> None:
    where = tmp_path / "demo"
    if taken == "a file in it":
        where.mkdir()
        (where / "mine").touch()
    else:
        where.touch()
    with pytest.raises(UsageError, match="an empty or a new folder"):
        demo.run(where, echo=print)
    assert list(tmp_path.rglob("*")) in ([where, where / "mine"], [where])


def test_without_a_name_the_current_folder_is_used_when_it_is_empty(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo._empty_folder(None) == tmp_path.resolve()
    (tmp_path / "something").touch()
    assert demo._empty_folder(None) == tmp_path.resolve() / demo.DIRECTORY


def test_the_same_seed_gives_the_same_shop_moved_in_time(tmp_path: Path) -> None:
    def dump(name: str, end: datetime, seed: int) -> tuple[list[Any], list[Any]]:
        build_shop(tmp_path / name, end, seed=seed, users=300)
        shop = sqlite3.connect(tmp_path / name)
        users = shop.execute("SELECT * FROM users").fetchall()
        orders = shop.execute("SELECT user_id, items, total, unixepoch(completed_at) - ?, unixepoch(refunded_at) - ? "
                              "FROM orders ORDER BY order_id", (int(end.timestamp()),) * 2).fetchall()
        shop.close()
        return users, orders

    first = dump("a.db", NOON, 1)
    assert dump("b.db", NOON, 1) == first
    assert dump("c.db", NOON + timedelta(days=100), 1) == first
    assert dump("d.db", NOON, 2) != first
    assert len({user[2] for user in first[0]}) == 300
    assert all(-90 * 86400 - 1 <= order[3] <= 0 for order in first[1])


def test_the_project_has_no_mistakes_and_no_warnings_before_and_after(tmp_path: Path) -> None:
    files.write_project(tmp_path)
    before = open_project(tmp_path, {"SEGMENT_URL": "http://127.0.0.1:1/v1/batch"})
    files.settle_in(tmp_path)
    after = open_project(tmp_path, {})
    assert before.warnings == after.warnings == ()
    assert [audience.key for audience in after.audiences] == sorted(files.AUDIENCES)
    assert {audience.destinations for audience in before.audiences} == {("segment",)}
    assert {audience.destinations for audience in after.audiences} == {("segment", "file")}
    assert after.destinations["segment"].settle == timedelta(minutes=15)


def a_call(number: int = 1, *, key: str = "vip", value: object = True, **more: object) -> dict[str, Any]:
    return {"type": "identify", "messageId": f"m{number}", "userId": f"u{number}",
            "timestamp": "2026-11-22T12:00:00.000Z", "traits": {key: value},
            "context": {"personas": {"computation_key": key}}, **more}


def post(receiver: Receiver, body: bytes, *, key: str = KEY, path: str = "/v1/batch") -> int:
    connection = http.client.HTTPConnection(urlsplit(receiver.url).netloc, timeout=10)
    basic = base64.b64encode(f"{key}:".encode()).decode()
    try:
        connection.request("POST", path, body, {"Authorization": f"Basic {basic}"})
        return connection.getresponse().status
    finally:
        connection.close()


def batch(*calls: object) -> bytes:
    return json.dumps({"batch": calls}, separators=(",", ":")).encode()


def test_the_server_takes_a_batch_once_and_sees_a_changed_body() -> None:
    with Receiver(KEY) as receiver:
        assert post(receiver, batch(a_call(1), a_call(2, value=False))) == 200
        assert post(receiver, batch(a_call(1))) == 200
        assert (receiver.arrived, len(receiver.history), receiver.changed) == (3, 2, set())
        assert receiver.told == {("vip", "u1"): True, ("vip", "u2"): False}
        assert post(receiver, batch(a_call(1, value=False))) == 200
        assert receiver.changed == {"m1"}
        assert receiver.told[("vip", "u1")] is True


@pytest.mark.parametrize(("body", "why"), [
    (b"", "empty"),
    (b"{", "no JSON"),
    (b"[]", "no batch"),
    (b'{"batch":{}}', "no list"),
    (b'{"batch":[]}', "no calls"),
    (batch("text"), "no call"),
    (batch(a_call(type="track")), "no identify"),
    (batch(a_call(value=1)), "no boolean"),
    (batch(a_call(userId="")), "no user"),
    (batch(a_call(messageId="m" * 101)), "a long messageId"),
    (batch(a_call(context={})), "no computation"),
    (batch(a_call(more="x" * 32_000)), "a large call"),
    (batch(*(a_call(number) for number in range(2501))), "too many calls, and too large"),
    (batch(*({"i": number} for number in range(2501))), "too many calls"),
    (batch(*(a_call(number, more="x" * 30_000) for number in range(17))), "a large body"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_the_server_refuses_what_segment_would_drop(body: bytes, why: str) -> None:
    with Receiver(KEY) as receiver:
        assert post(receiver, body) == 400, why
        assert receiver.arrived == 0


def test_the_server_wants_its_write_key_and_its_path() -> None:
    with Receiver(KEY) as receiver:
        assert post(receiver, batch(a_call()), key="other") == 401
        assert post(receiver, batch(a_call()), path="/v1/track") == 404
        assert receiver.arrived == 0


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    """The plain queries of the demo's project over a small shop, looked at once."""
    files.write_project(tmp_path)
    build_shop(tmp_path / "shop.db", NOON, users=500)
    found = Truth(tmp_path / "shop.db", open_project(tmp_path, {}).audiences)
    found.look(NOON - timedelta(days=1))
    return found


def told(receiver: Receiver, pairs: set[tuple[str, str]], *, value: bool, start: int = 0) -> None:
    calls = [a_call(number, key=key, value=value, userId=user)
             for number, (key, user) in enumerate(sorted(pairs), start)]
    for at in range(0, len(calls), 500):
        receiver.take(batch(*calls[at:at + 500]))


def test_plain_queries_agree_with_a_server_that_was_told_all_changes(truth: Truth) -> None:
    receiver = Receiver(KEY)
    before = truth.members
    told(receiver, before, value=True)
    truth.look(NOON)
    assert truth.members != before
    told(receiver, truth.members - before, value=True, start=10_000)
    told(receiver, before - truth.members, value=False, start=20_000)
    assert list(truth.disagreements(receiver)) == []


def test_every_kind_of_disagreement_is_named(truth: Truth) -> None:
    receiver = Receiver(KEY)
    before = truth.members
    told(receiver, before | {("vip", "nobody")}, value=True)
    receiver.take(batch(a_call(0, value=False)))
    truth.look(NOON)
    said = " ".join(truth.disagreements(receiver))
    for words in ("never told", "still true", "without ever being members", "two bodies", "memberships changed"):
        assert words in said


def test_one_who_came_and_went_is_the_first_told_both() -> None:
    def call(user: str, value: bool) -> Told:
        return Told("vip", user, value, "")

    history = [call("left", False), call("came", True), call("both", True), call("both", False), call("came", False)]
    assert came_and_went(history) == (call("both", True), call("both", False))
    with pytest.raises(LookupError):
        came_and_went(history[:3])


def test_nothing_that_is_set_outside_leads_out_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audiencesync.demo.command import environment_for

    for name in ("SEGMENT_URL", "SEGMENT_WRITE_KEY", "AUDIENCESYNC_PROJECT", "AUDIENCESYNC_FAILPOINT"):
        monkeypatch.setenv(name, "real")
    found = environment_for(tmp_path, "http://127.0.0.1:1/v1/batch", "demo")
    assert "real" not in found.values()
    assert found["PATH"] == os.environ["PATH"]

"""What goes wrong with some users, one audience or one slow step never keeps the others from being told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from audiencesync import failpoints
from audiencesync.delivery import machine
from audiencesync.report import exit_code
from tests.projects import Premises, by_status, outcomes
from tests.servers import Recorder


@pytest.fixture
def house(tmp_path: Path, state_url: str) -> Iterator[Premises]:
    with Recorder() as server:
        made = Premises(tmp_path, state_url, {"a": server}, "w", "x")
        yield made
        made.store.close()


def test_users_refused_for_good_never_look_like_a_refusal_of_the_account(
        house: Premises, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their retries come first at the next sync, and nobody else in it was accepted so far."""
    monkeypatch.setattr(machine, "HOPELESS", 20)
    server = house.servers["a"]
    bad = {f"a{number:02}" for number in range(30)}
    server.refuse = bad
    house.members("x", ["zoe"])
    house.sync()
    for member in ("zia", "zeb"):
        house.members("x", [*bad, "zoe", member])
        report = house.sync()
        assert (report.rejected, exit_code(report)) == (30, 3)
        assert server.told()["x", member]


def test_an_account_that_takes_nothing_at_all_is_asked_no_further(
        house: Premises, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "HOPELESS", 20)
    server = house.servers["a"]
    everyone = {f"u{number:03}" for number in range(200)}
    server.refuse = everyone
    house.members("x", everyone)
    [outcome] = by_status(house.sync(), "paused")
    assert "every one of" in outcome.reason
    assert server.requests < 100


def test_an_audience_whose_calls_break_the_server_keeps_no_other_from_being_told(
        house: Premises, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ATTEMPTS", 1)
    server = house.servers["a"]
    server.script = lambda _number, request: 500 if b'"computation_key":"w"' in request.body else None
    house.members("w", ["ann"])
    house.sync("w")
    house.members("x", ["bob"])
    for _ in range(2):
        report = house.sync()
        assert exit_code(report) == 75
    assert server.told() == {("x", "bob"): True}
    server.script = ()
    house.sync()
    assert exit_code(house.sync()) == 0
    assert server.told() == {("w", "ann"): True, ("x", "bob"): True}


def test_after_a_crash_a_sync_with_nothing_to_send_does_not_wait_for_what_may_still_arrive(house: Premises) -> None:
    house.settle_on("a", settle=timedelta(hours=1))
    house.members("x", ["ann", "bob"])

    def crash(name: str) -> None:
        if name == "page.claimed":
            raise KeyboardInterrupt

    failpoints.install(crash)
    with pytest.raises(KeyboardInterrupt):
        house.sync()
    failpoints.install(None)
    report = house.sync()
    assert exit_code(report) == 0, "who was claimed is told again, and the newer run changes nothing"
    assert house.servers["a"].told() == {("x", "ann"): True, ("x", "bob"): True}
    house.members("x", ["ann"])
    waiting = house.sync()
    assert exit_code(waiting) == 75
    assert [(one.keys, one.until is not None) for one in by_status(waiting, "waiting")] == [(("x",), True)]
    assert outcomes(house.sync("w")) == [("a", "incremental", "done", 0)], "others do not wait"

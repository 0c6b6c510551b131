"""`verify` at every destination that can be read back: what drifted, who is gone, how often and how fast it asks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from audiencesync.store import identities, leases
from audiencesync.store.connect import Store
from tests.fakes.crisp import CrispFake
from tests.fakes.planhat import PlanhatFake
from tests.loopback import Fault, Request
from tests.test_preflight import AUDIENCES, FAST, Town, town

NAMES = ("planhat", "usercom", "crisp", "richpanel")
USERS = [f"u{number}" for number in range(6)]


def find(server: Any, user: str) -> tuple[dict[Any, Any], Any, dict[str, Any]]:
    """The people of a server, the name of one among them, and where his traits stand."""
    for name, person in server.people.items():
        email = str(person.get("email", ""))
        if email == f"{user}@example.com" or user in (name, person.get("custom_id"), person.get("externalId")):
            return server.people, name, person.get("custom") or person.get("attributes") or person.get("data") or person
    raise AssertionError(user)


def change(server: Any, user: str, key: str, value: object) -> None:
    """Somebody there changes a value by hand."""
    find(server, user)[2][key] = value


def remove(server: Any, user: str) -> None:
    """Somebody there deletes a person."""
    if isinstance(server, CrispFake):
        server.remove(f"{user}@example.com")
    else:
        people, name, _ = find(server, user)
        del people[name]


def told(it: Town) -> Any:
    """Everybody was told, one of them that he left; the server."""
    it.shop.orders(*USERS, "gone")
    assert it.run("sync", "--as-of", "2026-02-01").code == 0
    it.shop.forget("gone")
    assert it.run("sync", "--as-of", "2026-02-02").code == 0
    [server] = it.servers.values()
    return server


def verified(it: Town, name: str, *words: str, code: int = 0) -> Any:
    """The document of `verify`, whose exit code is this."""
    said = it.run("verify", name, *words, "-o", "json")
    assert said.code == said.document["exit_code"] == code, said.out + said.err
    return said.document


@pytest.mark.parametrize("name", NAMES)
def test_all_as_told_and_nobody_is_told_anything(tmp_path: Path, name: str) -> None:
    with town(tmp_path, "sqlite:///s.db", name) as it:
        told(it)
        it.listen()
        found = verified(it, name)
        assert (found["drift"], found["waiting"]) == ([], [])
        assert found["people"] + found["left_out"] == 7
        assert found["values"] >= 8
        assert {request.method for _, request in it.asked} == {"GET"}
        assert len(it.asked) == found["people"] + 1
        text = it.run("verify", name)
        assert (text.code, "all as told" in text.out) == (0, True)


@pytest.mark.parametrize("name", NAMES)
def test_what_differs_is_listed(tmp_path: Path, name: str) -> None:
    with town(tmp_path, "sqlite:///s.db", name) as it:
        server = told(it)
        change(server, "u3", "vip", False)
        change(server, "u4", "vip", "true")
        change(server, "u0", "lapsed", 1)
        readable = name != "richpanel"  # whose people are found by their email, which is not kept of one who left
        change(server, "gone", "vip", True)
        remove(server, "u2")
        found = verified(it, name, code=3)
        rows = {(one["user"], one["key"]): (one["told"], one["found"], one["there"]) for one in found["drift"]}
        expected: dict[tuple[str, str], object] = {
            ("u0", "lapsed"): (True, 1, True), ("u2", "vip"): (True, None, False), ("u3", "vip"): (True, False, True),
            ("u4", "vip"): (True, "true", True)}
        assert rows == expected | ({("gone", "vip"): (False, True, True)} if readable else {})
        assert list(rows) == sorted(rows)
        text = it.run("verify", name)
        assert text.code == 3
        assert f"{len(rows)} not as told" in text.out
        assert f"audiencesync backfill --destination {name}" in text.out
        assert [line.split() for line in text.out.splitlines() if line.startswith(("u2", "u3"))] == [
            ["u2", "vip", "true", "not", "there"], ["u3", "vip", "true", "false"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_backfill_makes_whoever_was_found_to_be_gone(tmp_path: Path, state_url: str, name: str) -> None:
    with town(tmp_path, state_url, name) as it:
        server = told(it)
        remove(server, "u1")
        remove(server, "u5")
        assert {one["user"] for one in verified(it, name, code=3)["drift"]} == {"u1", "u5"}
        assert it.run("backfill", "*", "--destination", name).code == 0
        assert find(server, "u1")[2]["vip"] is True
        assert find(server, "u5")[2]["vip"] is True
        assert verified(it, name)["drift"] == []
        assert server.violations == []


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_bounds_people_and_requests(tmp_path: Path, name: str) -> None:
    with town(tmp_path, "sqlite:///s.db", name) as it:
        told(it)
        it.listen()
        for sample in (1, 3):
            it.asked.clear()
            said = it.run("verify", name, "--sample", str(sample), "-o", "json")
            left = name == "richpanel" and "can be read back" in said.err  # only one who left was drawn
            assert said.code == (2 if left else 0), said.err
            assert said.document.get("people", 0) <= sample
            assert len(it.asked) <= sample + 1
        for wrong in ("0", "-1", "many"):
            assert it.run("verify", name, "--sample", wrong).code == 2


def test_of_many_audiences_each_is_seen_at_times(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "usercom") as it:
        server = told(it)
        for user in USERS[:2]:
            change(server, user, "lapsed", False)
        seen = set[int]()
        while seen != {0, 3}:  # each draw is even, so this ends
            seen.add(it.run("verify", "usercom", "--sample", "1").code)


def _slow(it: Town, name: str, rate: str) -> list[float]:
    """When requests arrive from now on, at this rate."""
    arrivals: list[float] = []
    config = it.shop.root / "audiencesync.yml"
    config.write_text(config.read_text().replace(FAST, f"rate: {rate}"))
    it.servers[name].script = lambda *_: arrivals.append(time.monotonic())
    return arrivals


@pytest.mark.parametrize("name", NAMES)
def test_the_destinations_rate_is_kept(tmp_path: Path, name: str) -> None:
    with town(tmp_path, "sqlite:///s.db", name, vip=AUDIENCES["vip"]) as it:
        told(it)
        arrivals = _slow(it, name, "3/500ms")
        verified(it, name)
        assert len(arrivals) >= 7
        assert all(later - first > 0.48 for first, later in zip(arrivals, arrivals[3:], strict=False))


def test_the_rate_is_shared_with_the_command_before(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "usercom", vip=AUDIENCES["vip"]) as it:
        told(it)
        arrivals = _slow(it, "usercom", "4/2s")
        for _ in range(2):
            verified(it, "usercom", "--sample", "2")
        it.run("backfill", "vip")
        assert len(arrivals) >= 7
        assert all(later - first > 1.95 for first, later in zip(arrivals, arrivals[4:], strict=False))


@pytest.mark.parametrize("name", NAMES)
def test_a_full_window_is_waited_for(tmp_path: Path, name: str) -> None:
    """The command before used the limit up, and a server that minds it answers 429 to whoever does not wait."""
    with town(tmp_path, "sqlite:///s.db", name, vip=AUDIENCES["vip"]) as it:
        told(it)
        arrivals = _slow(it, name, "3/2s")

        def strict(*_: object) -> int | None:
            now = time.monotonic()
            arrivals.append(now)
            return 429 if sum(now - one < 1.95 for one in arrivals) > 3 else None

        it.servers[name].script = strict
        assert it.run("backfill", "vip", "--destination", name).code == 0
        verified(it, name, "--sample", "2")
        verified(it, name, "--sample", "2")


def test_who_is_gone_costs_no_more_than_the_rate(tmp_path: Path) -> None:
    """User.com is asked twice for him: by his number, then by his id."""
    with town(tmp_path, "sqlite:///s.db", "usercom", vip=AUDIENCES["vip"]) as it:
        server = told(it)
        for user in USERS:
            remove(server, user)
        arrivals = _slow(it, "usercom", "4/500ms")
        assert len(verified(it, "usercom", code=3)["drift"]) == len(USERS)
        assert len(arrivals) == 2 * len(USERS) + 2
        assert all(later - first > 0.48 for first, later in zip(arrivals, arrivals[4:], strict=False))


def test_rejected_users_and_syncs_under_way_are_left_out(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "planhat", fakes={"planhat": PlanhatFake(invalid=["u1"])}) as it:
        server = it.servers["planhat"]
        it.shop.orders(*USERS)
        assert it.run("sync", "--as-of", "2026-02-01").code == 3
        found = verified(it, "planhat")
        assert (found["people"], found["waiting"]) == (5, [])
        server.script = lambda _number, request: 401 if request.method == "PUT" else None
        it.shop.orders("u6", "u7")
        assert it.run("sync", "vip", "--as-of", "2026-02-02").code == 75
        server.script = ()
        it.run("resume", "planhat")
        found = verified(it, "planhat")
        assert found["waiting"] == ["vip"]
        assert found["people"] == 1, "of the other audience, without the one who is rejected"
        assert "vip: a sync of it is under way" in it.run("verify", "planhat").out


def test_an_initial_sync_under_way_is_spoken_of(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "richpanel", vip=AUDIENCES["vip"]) as it:
        it.shop.orders(*(f"u{number:03}" for number in range(150)))
        it.servers["richpanel"].script = lambda number, _request: 401 if number > 60 else None
        assert it.run("sync").code == 75
        it.servers["richpanel"].script = ()
        assert "is not asked: " in it.run("verify", "richpanel").err, "it is paused"
        it.run("resume", "richpanel")
        assert verified(it, "richpanel")["waiting"] == ["vip"]


def test_who_cannot_be_read_back_says_so(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "segment") as it:
        it.shop.orders(*USERS)
        assert it.run("sync").code == 0
        before = it.servers["segment"].requests
        said = it.run("verify", "segment")
        assert said.code == 2
        assert "segment cannot be read back: the API of a segment destination does not allow it" in said.err
        assert it.run("verify", "segment", "-o", "json").document["exit_code"] == 2
        assert it.servers["segment"].requests == before
        assert it.run("verify", "sgment").code == 2


def test_nobody_found_is_no_agreement(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "richpanel",
              vip="SELECT user_id FROM orders WHERE 1 GROUP BY user_id\n") as it:
        told(it)
        said = it.run("verify", "richpanel")
        assert said.code == 2
        assert "none of the users drawn (7) can be read back" in said.err


@pytest.mark.parametrize("name", NAMES)
def test_before_anybody_was_told_nobody_is_asked(tmp_path: Path, name: str) -> None:
    with town(tmp_path, "sqlite:///s.db", name) as it:
        found = verified(it, name)
        assert (found["people"], found["drift"]) == (0, [])
        assert it.servers[name].requests == 0
        assert not list(it.shop.root.glob("s.db*"))


@pytest.mark.parametrize(("name", "how"), [(name, how) for name in NAMES for how in ("503", "later")]
                         + [("planhat", "drop"), ("richpanel", "429")])
def test_a_destination_that_is_away_is_75_and_nobody_is_forgotten(tmp_path: Path, name: str, how: str) -> None:
    with town(tmp_path, "sqlite:///s.db", name) as it:
        server = told(it)
        remove(server, "u1")
        begin = server.requests

        def script(number: int, _request: Request) -> Fault | int | str | None:
            if how == "later":
                return 502 if number - begin > 4 else None
            return "drop" if how == "drop" else int(how)

        server.script = script
        said = it.run("verify", name, "-o", "json")
        assert said.code == said.document["exit_code"] == 75, said.out
        assert said.document["drift"] == []
        assert f"{name}: " in said.err
        server.script = ()
        assert {one["user"] for one in verified(it, name, code=3)["drift"]} == {"u1"}


def test_a_held_lease_is_99(tmp_path: Path, state_url: str) -> None:
    name = "usercom"
    with town(tmp_path, state_url, name) as it:
        told(it)
        store = Store.open(state_url)
        try:
            lease = leases.acquire(store, f"destination:{name}", holder=leases.this_process())
            before = it.servers[name].requests
            said = it.run("verify", name)
            assert said.code == 99
            assert "--wait" not in said.err, "it has no such option"
            assert it.servers[name].requests == before
            leases.release(store, lease)
        finally:
            store.close()
        assert verified(it, name)["drift"] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_key_or_address_makes_nobody_look_gone(tmp_path: Path, name: str) -> None:
    """What answers 404 to everything is no reason to forget anybody."""
    with town(tmp_path, "sqlite:///s.db", name) as it:
        server = told(it)
        server.script = lambda *_: Fault(status=404, body=b"<h1>Not Found</h1>")
        assert it.run("verify", name).code == 2
        server.script = lambda *_: 401
        said = it.run("verify", name)
        assert said.code == 2
        assert "401" in said.err
        server.script = ()
        assert verified(it, name)["drift"] == []


def test_another_account_is_not_asked(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "planhat") as it:
        server = told(it)
        server.people.clear()
        server.token = it.shop.environment["PLANHAT"] = "ph_of_another_tenant"
        before = server.requests
        said = it.run("verify", "planhat")
        assert said.code == 2
        assert "--same-account" in said.err
        assert server.requests == before


def test_a_paused_destination_gets_no_request(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "usercom") as it:
        told(it)
        it.run("pause", "usercom", "--reason", "their maintenance")
        before = it.servers["usercom"].requests
        said = it.run("verify", "usercom")
        assert said.code == 75
        assert "their maintenance; audiencesync resume usercom" in said.err
        assert it.servers["usercom"].requests == before


def test_the_requests_of_the_day_are_counted_and_kept(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "crisp", vip=AUDIENCES["vip"]) as it:
        server = told(it)
        config = it.shop.root / "audiencesync.yml"
        config.write_text(config.read_text().replace(FAST, f"{FAST}, daily_requests: {server.requests + 12}"))
        quota = server.requests + 12
        codes = [it.run("verify", "crisp").code for _ in range(3)]
        assert codes == [0, 75, 75]
        assert server.requests <= quota
        said = it.run("verify", "crisp")
        assert "requests of this day are used up" in said.err


def test_what_all_people_have_in_common_is_not_forgotten_with_one(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "crisp", fakes={"crisp": CrispFake(cap=2)}, vip=AUDIENCES["vip"]) as it:
        server = told(it)
        it.shop.forget("u3", "u4", "u5")
        assert it.run("sync").code == 0
        store = Store.open(state_url)
        try:
            known = identities.known(store, "crisp", ["size", "u:u1", "u:u2"])
            assert {*known} == {"size", "u:u1", "u:u2"}, "a batch was too large"
            remove(server, "u1")
            verified(it, "crisp", code=3)
            del known["u:u1"]
            assert identities.known(store, "crisp", ["size", "u:u1", "u:u2"]) == known
        finally:
            store.close()


def test_a_wild_value_is_one_document_and_one_short_row(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "planhat") as it:
        server = told(it)
        change(server, "u3", "vip", {"nested": ["x" * 500, None, "\x1b[31m"]})
        found = verified(it, "planhat", code=3)
        assert {*found} == {"destination", "people", "values", "left_out", "drift", "waiting", "exit_code"}
        text = it.run("verify", "planhat").out
        assert max(map(len, text.splitlines())) < 150
        assert "\x1b" not in text


def test_who_is_gone_takes_nobody_elses_email_along(tmp_path: Path) -> None:
    """A user who once had an email's trait, and whose enduser is gone, is made anew beside the one who has it now."""
    sql = ("/* audiencesync\ninclude: [email, company_id]\n*/\nSELECT user_id, 'same@example.com' AS email, "
           "'acme' AS company_id FROM orders WHERE at <= :now GROUP BY user_id\n")
    with town(tmp_path, "sqlite:///s.db", "planhat", vip=sql) as it:
        server = it.servers["planhat"]
        it.shop.orders("a", "b")
        it.run("sync", "--as-of", "2026-02-01")
        it.shop.forget("a")
        it.run("sync", "--as-of", "2026-02-02")
        remove(server, "b")
        verified(it, "planhat", code=3)
        it.run("backfill", "vip")
        assert {person.get("externalId") for person in server.people.values()} == {"a", "b"}

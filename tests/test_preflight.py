"""`doctor` before anything is sent: reach, keys, fields, clocks and hours at every destination, writing nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from audiencesync.report.words import lasting
from audiencesync.store import accounts, leases
from audiencesync.store.connect import Store
from tests.commands import Said, Shop
from tests.fakes.base import Fake
from tests.fakes.crisp import IDENTIFIER, WEBSITE, CrispFake
from tests.fakes.crisp import KEY as CRISP
from tests.fakes.planhat import TOKEN, PlanhatFake
from tests.fakes.richpanel import KEY as RICHPANEL
from tests.fakes.richpanel import RichpanelFake
from tests.fakes.usercom import KEY as USERCOM
from tests.fakes.usercom import UserComFake
from tests.loopback import Answer, Fault, Loopback, Request
from tests.servers import Recorder

MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
defaults: {guard: {max_exit: 100%}}
destinations:
"""
SECRETS = {"WRITE_KEY": "wk_of_segment_0123", "PLANHAT": TOKEN, "USERCOM": USERCOM, "IDENTIFIER": IDENTIFIER,
           "CRISP": CRISP, "RICHPANEL": RICHPANEL}
SETTINGS = {
    "segment": 'type: segment, write_key: "${WRITE_KEY}"',
    "planhat": 'type: planhat, api_token: "${PLANHAT}"',
    "usercom": 'type: usercom, api_key: "${USERCOM}"',
    "crisp": f'type: crisp, website_id: "{WEBSITE}", identifier: "${{IDENTIFIER}}", key: "${{CRISP}}"',
    "richpanel": 'type: richpanel, api_key: "${RICHPANEL}"',
}
KINDS: dict[str, type[Any]] = {"segment": Recorder, "planhat": PlanhatFake, "usercom": UserComFake, "crisp": CrispFake,
                               "richpanel": RichpanelFake}
ALL = tuple(KINDS)
FAST = "rate: 100000"
SQL = ("/* audiencesync\ninclude: [email, company_id]\n*/\n"
       "SELECT user_id, user_id || '@example.com' AS email, 'acme' AS company_id FROM orders WHERE {}"
       " GROUP BY user_id\n")
AUDIENCES = {"vip": SQL.format("1"), "lapsed": SQL.format("user_id < 'u2'")}
TENANT = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Town:
    """A shop and the servers that its destinations are."""

    def __init__(self, shop: Shop, servers: Mapping[str, Any]) -> None:
        self.shop, self.servers = shop, servers
        self.asked: list[tuple[str, Request]] = []

    def listen(self) -> None:
        """Take note of every request from now on."""
        for name, server in self.servers.items():
            def note(_number: int, request: Request, name: str = name) -> None:
                self.asked.append((name, request))

            server.script = note

    def run(self, *words: str) -> Said:
        """A command, of whose output nothing is a secret or somebody's email."""
        said = self.shop.run(*words)
        for name in SECRETS:
            assert self.shop.environment[name] not in said.out + said.err, (words, said.out, said.err)
        assert "@example.com" not in said.out + said.err
        return said

    def doctor(self, *words: str, code: int = 0) -> list[tuple[str, str, str]]:
        """(name, status, words) of each check, the same in text and as one JSON document."""
        said = self.run("doctor", *words, "-o", "json")
        assert (said.code, said.document["exit_code"]) == (code, code), said.out + said.err
        return [(one["name"], one["status"], one["words"]) for one in said.document["checks"]]


@contextmanager
def town(root: Path, state: str, *names: str, settings: Mapping[str, str] | None = None,
         fakes: Mapping[str, Loopback] | None = None, more: str = FAST, secrets: Mapping[str, str] | None = None,
         **audiences: str) -> Iterator[Town]:
    """A shop with these destinations, whose servers, settings and secrets may be others than usual."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context((fakes or {}).get(name) or KINDS[name]()) for name in names}
        lines = [f'  {name}: {{{(settings or {}).get(name, SETTINGS[name])}, url: "{server.url}", timeout: 3s, '
                 f'settle: 0s{", " + more if more else ""}}}\n' for name, server in servers.items()]
        shop = Shop(root / "shop", state, main=MAIN + "".join(lines), **(audiences or AUDIENCES))
        shop.environment |= {**SECRETS, **(secrets or {})}
        yield Town(shop, servers)


def schemas(servers: Mapping[str, Any]) -> Any:
    """All that the servers have."""
    return deepcopy([(getattr(one, "fields", None), getattr(one, "attributes", None), getattr(one, "people", None))
                     for one in servers.values()])


def said_of(checks: list[tuple[str, str, str]], name: str, status: str = "") -> str:
    """What was said of a destination."""
    return "\n".join(words for of, how, words in checks if of == name and status in ("", how))


def test_doctor_asks_everybody_and_changes_nothing(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, *ALL) as it:
        before = schemas(it.servers)
        it.listen()
        checks = it.doctor()
        assert {name for name, _ in it.asked} == {*ALL}
        assert {request.method for _, request in it.asked} <= {"GET", "HEAD"}
        assert schemas(it.servers) == before
        assert not (tmp_path / "state.db").exists()
        for name in ("planhat", "usercom"):
            for key in AUDIENCES:
                assert f"{key}: " in said_of(checks, name, "warn")
            assert said_of(checks, name, "warn").count("the next sync declares it, or: audiencesync doctor --fix") == 2
        assert "fail" not in {status for _, status, _ in checks}
        text = it.run("doctor").out.splitlines()
        assert [line.split(": ", 1)[1] for line in text] == [words for _, _, words in checks]


def test_fix_makes_the_fields_and_the_next_doctor_finds_them(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, *ALL) as it:
        checks = it.doctor("--fix")
        assert it.servers["usercom"].attributes == dict.fromkeys(AUDIENCES, "boolean")
        assert {(one["name"], one["type"], one["parent"]) for one in it.servers["planhat"].fields} == {
            (key, "checkbox", "EndUser") for key in AUDIENCES}
        assert said_of(checks, "planhat", "ok").count("made as a checkbox of endusers") == 2
        before = schemas(it.servers)
        it.listen()
        checks = it.doctor()
        it.doctor("--fix")
        assert schemas(it.servers) == before
        assert {request.method for _, request in it.asked} <= {"GET", "HEAD"}
        for key in AUDIENCES:
            assert f"{key}: a boolean attribute" in said_of(checks, "usercom", "ok")
            assert f"{key}: a checkbox of endusers" in said_of(checks, "planhat", "ok")
        assert it.servers["planhat"].violations == it.servers["usercom"].violations == []


def test_a_field_of_another_type_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    fakes = {"planhat": PlanhatFake(fields=[{"name": "vip", "type": "text", "parent": "EndUser"}]),
             "usercom": UserComFake(attributes={"vip": "string", "lapsed": "boolean"})}
    with town(tmp_path, "sqlite:///s.db", *ALL, fakes=fakes) as it:
        checks = it.doctor(code=2)
        assert "vip is of type text" in said_of(checks, "planhat", "fail")
        assert "vip is of type string" in said_of(checks, "usercom", "fail")
        assert "lapsed: " in said_of(checks, "usercom", "ok")
        assert "lapsed: " in said_of(checks, "planhat", "warn")
        assert {name for name, status, _ in checks if status == "fail"} == {"planhat", "usercom"}
        assert "initial sync of vip" in said_of(checks, "richpanel", "ok")
        checks = it.doctor("--fix", code=2)
        assert "lapsed: made" in said_of(checks, "planhat", "ok")


@pytest.mark.parametrize("name", ["planhat", "usercom"])
def test_fields_that_nobody_may_create_hold_until_they_are_fixed(tmp_path: Path, state_url: str, name: str) -> None:
    settings = {name: SETTINGS[name] + ", create_fields: false"}
    with town(tmp_path, state_url, name, settings=settings, vip=AUDIENCES["vip"]) as it:
        it.shop.orders("u1", "u2")
        for _ in range(2):
            done = it.run("sync", "-o", "json")
            assert done.code == 4
            [held] = done.document["syncs"]
            assert (held["status"], held["sent"]) == ("held", 0)
            assert "vip" in str(held)
        assert not it.servers[name].people
        checks = it.doctor()
        assert "vip: " in said_of(checks, name, "warn")
        assert "; to declare it: audiencesync doctor --fix" in said_of(checks, name, "warn")
        assert it.run("plan", "-o", "json").document["syncs"][0]["status"] == "held"
        it.doctor("--fix")
        assert it.run("sync").code == 0
        assert len(it.servers[name].holds()) == 2
        assert all(it.servers[name].holds().values())


def test_a_field_that_vanished_is_declared_by_fix_sooner_than_by_a_sync(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "usercom") as it:
        it.shop.orders("u1")
        assert it.run("sync").code == 0
        it.servers["usercom"].attributes.clear()
        said = said_of(it.doctor(), "usercom", "warn")
        assert said.count("once a day: audiencesync doctor --fix") == 2
        assert "the next sync" not in said
        it.doctor("--fix")
        assert it.servers["usercom"].attributes == dict.fromkeys(AUDIENCES, "boolean")


def test_what_was_made_before_an_error_is_told_and_remembered(tmp_path: Path, state_url: str) -> None:
    made: list[Request] = []

    def second_fails(_number: int, request: Request) -> int | None:
        made.extend([request] if request.method == "POST" else [])
        return 503 if len(made) == 2 else None

    settings = {"planhat": SETTINGS["planhat"] + ", create_fields: false"}
    with town(tmp_path, state_url, "planhat", settings=settings) as it:
        it.shop.orders("u1", "u3")
        assert it.run("sync").code == 4
        it.servers["planhat"].script = second_fails
        checks = it.doctor("--fix", code=75)
        assert "made as a checkbox" in said_of(checks, "planhat", "ok")
        assert "503" in said_of(checks, "planhat", "fail")
        it.servers["planhat"].script = ()
        [field] = it.servers["planhat"].fields
        statuses = {one["key"]: one["status"] for one in it.run("plan", "-o", "json").document["syncs"]}
        assert statuses == {key: "ready" if key == field["name"] else "held" for key in AUDIENCES}


def test_what_fix_cannot_make_is_a_failure(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "planhat", fakes={"planhat": PlanhatFake(parent="endUser",
                                                                                  strict_parent=True)}) as it:
        said = said_of(it.doctor("--fix", code=2), "planhat", "fail")
        assert said.count("it cannot be made as a checkbox") == 2
        assert "check field_parent" in said
        assert "sync declares" not in said


MENUS = {"planhat": "Service Accounts", "usercom": "App settings > Advanced > Public REST API keys",
         "crisp": "Settings > Workspace Settings > Advanced", "richpanel": "Settings > Integrations > API Keys"}
WRONG: dict[str, tuple[dict[str, str], Fake | None, str, int]] = {
    "planhat, tenant token": ({"PLANHAT": TENANT}, None, MENUS["planhat"], 401),
    "planhat, a typo": ({"PLANHAT": "ph_other"}, None, "check api_token", 401),
    "planhat, another region": ({}, PlanhatFake(elsewhere=True), "another region's tokens are refused", 401),
    "usercom, Segment API key": ({"USERCOM": "segment_key_0123"}, None, MENUS["usercom"], 401),
    "usercom, revoked": ({}, UserComFake(revoked=True), "App settings > Advanced > Domains", 403),
    "crisp, auto-set key": ({"IDENTIFIER": WEBSITE, "CRISP": WEBSITE}, None, MENUS["crisp"], 0),
    "crisp, no token": ({"IDENTIFIER": "no_uuid_at_all"}, None, MENUS["crisp"], 401),
    "crisp, a typo": ({"CRISP": "f" * 64}, None, "check identifier, key and tier", 401),
    "crisp, not installed": ({}, CrispFake(installed=False), "a plugin is installed on this very website", 403),
    "richpanel, Data Sources key": ({"RICHPANEL": "ds_0123"}, None, MENUS["richpanel"], 401),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_key_is_told_with_the_menu_of_the_right_one(tmp_path: Path, case: str) -> None:
    name = case.partition(",")[0]
    secrets, fake, words, status = WRONG[case]
    other = "richpanel" if name != "richpanel" else "crisp"
    with town(tmp_path, "sqlite:///s.db", name, other, secrets=secrets, fakes={name: fake} if fake else {}) as it:
        checks = it.doctor(code=2)
        said = said_of(checks, name, "fail")
        assert words in said
        assert not status or f" {status}" in said
        assert "initial sync of vip" in said_of(checks, other)
        assert "lapsed" not in said_of(checks, name), "it is not asked for fields"


def test_one_that_is_away_hides_no_other(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", *ALL) as it:
        it.servers["usercom"].script = lambda *_: Fault("drop")
        it.servers["segment"].script = lambda *_: 503
        checks = it.doctor(code=75)
        assert {name for name, status, _ in checks if status == "fail"} == {"usercom"}, "a 503 is an answer"
        for name in ("planhat", "crisp", "richpanel"):
            assert "initial sync of lapsed" in said_of(checks, name)


def test_without_the_state_the_destinations_are_looked_at_all_the_same(tmp_path: Path) -> None:
    with town(tmp_path, "postgresql+psycopg://nobody@127.0.0.1:9/none", "planhat", "crisp") as it:
        checks = it.doctor(code=75)
        assert {name for name, status, _ in checks if status == "fail"} == {"state"}
        assert "vip: no custom field" in said_of(checks, "planhat", "warn")
        assert "initial sync" not in said_of(checks, "crisp"), "nobody knows what it was told"


def test_a_state_that_must_exist_and_does_not_fails_once(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "planhat") as it:
        it.shop.write("audiencesync.yml", (it.shop.root / "audiencesync.yml").read_text() + "state_must_exist: true\n")
        checks = it.doctor(code=75)
        assert [name for name, status, _ in checks if status == "fail"] == ["state"]
        assert "audiencesync db upgrade" in said_of(checks, "state")


def skewed(kind: type[Any], by: timedelta) -> Fake:
    """A server whose clock is wrong."""

    class Skewed(kind):  # type: ignore[misc]
        def answer(self, request: Request, *, taken: bool) -> Answer:
            said: Answer = super().answer(request, taken=taken)
            now = format_datetime(datetime.now(UTC) + by, usegmt=True)
            return said._replace(headers={**said.headers, "Date": now})

    made: Fake = Skewed()
    return made


@pytest.mark.parametrize("by", [timedelta(hours=1), timedelta(minutes=-50), timedelta(seconds=20)])
def test_clocks_that_differ_are_told(tmp_path: Path, by: timedelta) -> None:
    names = ("planhat", "usercom", "crisp", "richpanel")
    with town(tmp_path, "sqlite:///s.db", *names, fakes={name: skewed(KINDS[name], by) for name in names}) as it:
        checks = it.doctor()
        for name in names:
            said = said_of(checks, name, "warn")
            skew = re.search(r"its clock is ([+-]\d+) s from ours", said)
            assert (skew is not None) == (abs(by) > timedelta(minutes=1)), said
            assert skew is None or float(skew[1]) == pytest.approx(by.total_seconds(), abs=10)


def estimates(it: Town, name: str, key: str) -> str:
    """What doctor says of an initial sync."""
    [line] = [words for of, _, words in it.doctor() if of == name and f"initial sync of {key} " in words]
    return line


def test_hours_of_initial_syncs_are_told_before_and_agree_with_the_plan(tmp_path: Path, state_url: str) -> None:
    settings = {"crisp": SETTINGS["crisp"] + ", daily_requests: 100"}
    with town(tmp_path, state_url, "crisp", "richpanel", "segment", settings=settings, more="",
              vip=AUDIENCES["vip"]) as it:
        line = estimates(it, "richpanel", "vip")
        assert "not run yet: for each 1,000 members" in line
        assert "1,000 requests, about 10 minutes at 50/30s" in line
        line = estimates(it, "crisp", "vip")
        assert "about 20.5 days at 5/1s and 100 requests a day" in line
        assert "as long as it takes to answer" in estimates(it, "segment", "vip")
        it.shop.orders(*(f"u{number:04}" for number in range(1000)))
        text, said = it.run("plan").out, it.run("plan", "-o", "json")
        assert "richpanel: the initial sync of vip takes about 10 minutes of that" in text
        seconds = {one["destination"]: one["seconds"] for one in said.document["syncs"]}
        assert seconds["richpanel"] == pytest.approx(600, rel=0.02)
        assert seconds["crisp"] == pytest.approx(20.5 * 86400, rel=0.02)
        assert seconds["segment"] is None
        assert not it.asked
        it.shop.orders(*(f"v{number:04}" for number in range(500)))
        assert it.run("sync", "--destination", "segment").code == 0
        assert "(1,500 members) takes 1,500 requests, about 15 minutes" in estimates(it, "richpanel", "vip")
        assert "vip" not in said_of(it.doctor(), "segment"), "it had its initial sync"


@pytest.mark.parametrize("name", ["planhat", "usercom", "crisp", "richpanel"])
def test_an_estimate_is_about_what_is_then_sent(tmp_path: Path, name: str) -> None:
    with town(tmp_path, "sqlite:///s.db", name, "segment", vip=AUDIENCES["vip"]) as it:
        it.shop.orders(*(f"u{number:03}" for number in range(120)))
        assert it.run("sync", "--destination", "segment").code == 0
        it.doctor("--fix")
        line = estimates(it, name, "vip")
        planned = it.run("plan", "-o", "json").document["destinations"]
        before = it.servers[name].requests
        assert it.run("sync").code == 0
        sent = it.servers[name].requests - before
        assert len(it.servers[name].holds()) >= 120
        assert f"takes {sent:,} request" in line
        assert next(one["requests"] for one in planned if one["destination"] == name) == sent


def test_several_initial_syncs_are_also_told_together(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "richpanel", more="") as it:
        assert "these initial syncs together take 2,000 requests, about 20 minutes" in said_of(it.doctor(), "richpanel")


def test_of_an_initial_sync_that_was_begun_the_rest_is_told(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "richpanel", vip=AUDIENCES["vip"]) as it:
        it.shop.orders(*(f"u{number:03}" for number in range(400)))
        it.servers["richpanel"].script = lambda number, _request: 401 if number > 200 else None
        assert it.run("sync").code == 75
        it.servers["richpanel"].script = ()
        line = estimates(it, "richpanel", "vip")
        left = int(line.partition("begun, with another ")[2].split()[0])
        assert 200 <= left <= 300
        assert it.run("resume", "richpanel").code == 0
        assert it.run("sync").code == 0
        assert "initial sync" not in said_of(it.doctor(), "richpanel")


def test_ids_that_a_destination_does_not_know_are_a_failure(tmp_path: Path) -> None:
    with town(tmp_path, "sqlite:///s.db", "richpanel",
              visitors="SELECT user_id AS anonymous_id FROM orders GROUP BY user_id\n") as it:
        it.shop.orders("u1")
        assert it.run("sync").code == 4
        checks = it.doctor(code=2)
        assert "visitors: richpanel knows nobody by anonymous_id" in said_of(checks, "richpanel", "fail")
        assert "initial sync" not in said_of(checks, "richpanel")


def never_too_fast(arrivals: list[float], limit: int, seconds: float) -> bool:
    """Whether no window of so many seconds has more arrivals than the limit."""
    return all(later - first > seconds - 0.05 for first, later in zip(arrivals, arrivals[limit:], strict=False))


@pytest.mark.parametrize("name", ["planhat", "usercom", "crisp", "richpanel"])
def test_no_window_has_more_than_the_limit_whichever_command_asks(tmp_path: Path, state_url: str, name: str) -> None:
    with town(tmp_path, state_url, name) as it:
        it.shop.orders("u1", "u3")
        assert it.run("sync", "--as-of", "2026-02-01").code == 0
        config = it.shop.root / "audiencesync.yml"
        config.write_text(config.read_text().replace(FAST, "rate: 4/2s"))
        arrivals: list[float] = []
        it.servers[name].script = lambda *_: arrivals.append(time.monotonic())
        it.shop.orders("u4", "u5")
        assert it.run("sync", "--as-of", "2026-02-02").code == 0
        it.doctor()
        it.doctor("--fix")
        assert it.run("verify", name).code == 0
        assert it.run("verify", name, "--sample", "1").code == 0
        it.doctor()
        assert len(arrivals) > 9
        assert never_too_fast(arrivals, 4, 2.0), arrivals


@pytest.mark.parametrize("name", ["planhat", "usercom"])
def test_fields_are_made_no_faster_than_the_limit(tmp_path: Path, state_url: str, name: str) -> None:
    keys = {f"vip{number}": AUDIENCES["vip"] for number in range(6)}
    with town(tmp_path, state_url, name, more="rate: 4/2s", **keys) as it:
        assert it.run("db", "upgrade").code == 0
        arrivals: list[float] = []
        it.servers[name].script = lambda *_: arrivals.append(time.monotonic())
        it.doctor()
        made = len(arrivals)
        it.doctor("--fix")
        assert len(arrivals) - made >= 1 + 1 + 6
        assert "warn" not in {status for of, status, words in it.doctor() if of == name and "settle" not in words}
        assert never_too_fast(arrivals, 4, 2.0), arrivals


def test_the_days_requests_are_never_exceeded(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "crisp", "richpanel", vip=AUDIENCES["vip"]) as it:
        it.shop.orders("u1", "u2")
        assert it.run("sync").code == 0
        server, config = it.servers["crisp"], it.shop.root / "audiencesync.yml"
        quota = server.requests + 2
        config.write_text(config.read_text().replace(FAST, f"{FAST}, daily_requests: {quota}", 1))
        for _ in range(2):
            assert "takes the token" in said_of(it.doctor(), "crisp", "ok")
        before = it.servers["richpanel"].requests
        for _ in range(2):
            said = said_of(it.doctor(), "crisp", "warn")
            assert f"not asked now: the {quota} requests of this day are used up; it ends at midnight UTC" in said
        assert it.run("verify", "crisp").code == 75
        assert server.requests == quota
        assert it.servers["richpanel"].requests == before + 2


def test_where_a_process_is_at_work_nobody_is_asked(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "usercom", "richpanel") as it:
        assert it.run("db", "upgrade").code == 0
        store = Store.open(state_url)
        try:
            lease = leases.acquire(store, "destination:usercom", holder=leases.this_process())
            checks = it.doctor()
            assert "not asked now: a process is at work there" in said_of(checks, "usercom", "warn")
            assert "initial sync of vip" in said_of(checks, "usercom", "ok"), "which needs no request"
            assert it.servers["usercom"].requests == 0
            assert it.servers["richpanel"].requests == 1
            with store.write() as connection:
                leases.guard(store, connection, lease)
            leases.release(store, lease)
        finally:
            store.close()
        assert "not asked" not in said_of(it.doctor(), "usercom")
        assert it.servers["usercom"].requests == 2


def test_one_that_asked_to_come_back_later_is_left_alone(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "planhat") as it:
        assert it.run("db", "upgrade").code == 0
        store = Store.open(state_url)
        try:
            for hours, asked in ((1, False), (-1, True)):
                accounts.note(store, "planhat", retry_at=datetime.now(UTC) + timedelta(hours=hours),
                              retry_reason="too many requests")
                said = said_of(it.doctor(), "planhat", "warn")
                assert (it.servers["planhat"].requests > 0) == asked
                assert ("not asked now: it is not to be asked before" in said) != asked
        finally:
            store.close()


def test_a_turn_that_is_hours_away_is_not_waited_for(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "richpanel", more="rate: 2/1h") as it:
        assert it.run("db", "upgrade").code == 0
        said = [said_of(it.doctor(), "richpanel", "warn") for _ in range(2)]
        assert all("its limits are used up, and the next request may leave only in " in one for one in said)
        assert it.servers["richpanel"].requests == 1


def test_without_a_state_nothing_is_waited_for(tmp_path: Path, state_url: str) -> None:
    with town(tmp_path, state_url, "planhat", "richpanel", more="rate: 1/1h") as it:
        for count in (1, 2):
            it.doctor()
            assert it.servers["richpanel"].requests == count


def test_what_is_left_of_the_day_is_in_the_estimate(tmp_path: Path, state_url: str) -> None:
    settings = {"crisp": SETTINGS["crisp"] + ", daily_requests: 9000"}
    with town(tmp_path, state_url, "crisp", settings=settings, more="rate: 200/1m", vip=AUDIENCES["vip"]) as it:
        assert it.run("db", "upgrade").code == 0
        store = Store.open(state_url)
        try:
            for left in (13, 5000):
                now = datetime.now(UTC)
                accounts.note(store, "crisp", day=now.date().isoformat(), used=9000 - left)
                line = estimates(it, "crisp", "vip")
                requests = int(line.partition(" takes ")[2].split()[0].replace(",", ""))
                assert line.endswith(f" at 200/1m and 9,000 requests a day ({left - 1:,} left today)")
                midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
                wait = (midnight - now).total_seconds() if left == 13 else 0.0
                seconds = wait + (requests - (left - 1 if wait else 0)) / 200 * 60
                assert any(lasting(seconds - passed) in line for passed in (0, 30)), line
        finally:
            store.close()

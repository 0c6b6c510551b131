"""Real orders at all five destinations at once, which fail in every way while we are killed: they end up exact."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from datetime import date, timedelta
from pathlib import Path

import orjson

from tests import warm
from tests.commands import Shop
from tests.fakes.base import Fake
from tests.fakes.crisp import IDENTIFIER, WEBSITE, CrispFake
from tests.fakes.crisp import KEY as CRISP
from tests.fakes.planhat import TOKEN, PlanhatFake
from tests.fakes.richpanel import KEY as RICHPANEL
from tests.fakes.richpanel import RichpanelFake
from tests.fakes.usercom import KEY as USERCOM
from tests.fakes.usercom import UserComFake
from tests.loopback import Fault, Loopback, Request
from tests.servers import Recorder
from tests.test_replay import AUDIENCES, SPRING, orders, truth

__all__ = ["orders"]

MAIN = """\
name: cdnow
source: {{url: "sqlite:///orders.db"}}
state: ${{STATE}}
defaults: {{guard: {{max_exit: 100%}}}}
destinations:
  segment: {{type: segment, write_key: wk, url: "{segment}", {fast}}}
  planhat: {{type: planhat, api_token: "{planhat_token}", url: "{planhat}", batch: 50, {fast}}}
  usercom: {{type: usercom, api_key: "{usercom_key}", url: "{usercom}", {fast}}}
  crisp: {{type: crisp, website_id: "{website}", identifier: "{identifier}", key: "{crisp_key}", url: "{crisp}",
          {fast}}}
  richpanel: {{type: richpanel, api_key: "{richpanel_key}", url: "{richpanel}", {fast}}}
"""
FAST = "settle: 0s, timeout: 3s, rate: 100000"
EVERY = 60
"""One customer of so many takes part."""

KILLS = [["request.answered:40", "page.claimed:2", "request.sending:9"],
         ["page.acknowledging:2", "request.answered:15"],
         ["sync.closing:2", "page.acknowledged:3"], ["request.sending:3", "sync.opened:4", "sync.closed:3"], []]
"""Where the process is killed, one attempt after another, at each of the days."""

Pair = tuple[str, str]


def audiences() -> dict[str, str]:
    """Those of the plain replay, of some customers, with what these destinations need of each."""
    some = f" WHERE CAST(user_id AS INTEGER) % {EVERY} = 0"
    columns = "user_id, 'c' || user_id || '@example.com' AS email, 'acme' AS company_id, 'Customer ' || user_id AS name"
    found = {}
    for key, text in AUDIENCES.items():
        header, _, sql = text.partition("*/")
        found[key] = (header.replace("vars:", "include: [email, company_id, name]\nvars:")
                      + f"*/\nSELECT {columns} FROM ({sql}){some}")
    return found


def failing(seed: int) -> Callable[[int, Request], Fault | int | str | None]:
    """Five requests in a hundred go wrong, each in another way."""
    draw, lock = random.Random(seed), threading.Lock()
    kinds = [500, 503, Fault(status=429, headers={"Retry-After": "0"}), "accept_then_drop", "truncated", "drop",
             Fault(status=502, body=b"<html>Bad gateway</html>", taken=True)]

    def script(_number: int, _request: Request) -> Fault | int | str | None:
        with lock:
            return draw.choice(kinds) if draw.random() < 0.05 else None
    return script


def told(server: Loopback) -> Mapping[Pair, object]:
    """What people have there, by (user id, key)."""
    if isinstance(server, Recorder):
        return {(user, key): value for (key, user), value in server.told().items()}
    assert isinstance(server, Fake)
    return {(name.removeprefix("c").removesuffix("@example.com"), key): value
            for (name, key), value in server.holds().items()}


def check(server: Loopback, now: set[Pair], ever: set[Pair]) -> None:
    """Exactly the members hold true, and everybody else who ever was one holds false or nothing."""
    held = {pair: value for pair, value in told(server).items() if pair[1] in AUDIENCES}
    assert {pair for pair, value in held.items() if value} == now
    assert all(value is True or value is False for value in held.values()), "booleans, never anything else"
    left = {pair for pair in ever - now if pair in held}
    assert all(held[pair] is False for pair in left)
    assert len(left) == len(ever - now), "who was told true was told false"


def test_all_destinations_hold_exactly_the_audiences_after_every_kind_of_fault(
        tmp_path: Path, orders: Path, state_url: str) -> None:
    with ExitStack() as stack:
        plain = stack.enter_context(closing(sqlite3.connect(orders)))
        kinds: dict[str, Loopback] = {"segment": Recorder(), "planhat": PlanhatFake(), "usercom": UserComFake(),
                                      "crisp": CrispFake(), "richpanel": RichpanelFake()}
        servers = {name: stack.enter_context(kind) for name, kind in kinds.items()}
        main = MAIN.format(fast=FAST, planhat_token=TOKEN, usercom_key=USERCOM, crisp_key=CRISP, website=WEBSITE,
                           identifier=IDENTIFIER, richpanel_key=RICHPANEL,
                           **{name: server.url for name, server in servers.items()})
        shop = Shop(tmp_path / "cdnow", state_url, main=main, **audiences())
        shutil.copy(orders, shop.root / "orders.db")
        with closing(sqlite3.connect(shop.root / "orders.db")) as copy:
            copy.execute("CREATE INDEX by_customer ON orders (customer)")
        ever: set[Pair] = set()
        killed = 0
        for number, day in enumerate(SPRING + timedelta(days=days) for days in (0, 12, 24, 45, 75)):
            now = members(plain, day)
            ever |= now
            for seed, server in enumerate(servers.values()):
                server.script = failing(100 * number + seed) if number < 4 else ()
            done, often = warm.run_killed(shop, KILLS[number], "sync", "--as-of", f"{day}T23:59:59Z", "-o", "json")
            killed += often
            assert done.code == 0, (day, done.out, done.err)
            for server in servers.values():
                check(server, now, ever)
        assert killed > 6
        assert len(ever - now) > 30
        assert len(now) > 20
        before = {name: server.requests for name, server in servers.items()}
        assert warm.run(shop, "sync", "--as-of", f"{day}T23:59:59Z").code == 0
        assert {name: server.requests for name, server in servers.items()} == before, "nothing changed, nothing is sent"
        for server in servers.values():
            assert server.violations == []
        assert servers["segment"].changed_message_ids() == []
        for name in ("planhat", "usercom", "crisp"):
            verified = warm.run(shop, "verify", name, "--sample", "60", "-o", "json")
            assert verified.code == 0, (verified.out, verified.err)
            assert orjson.loads(verified.out)["people"] > 20


def members(plain: sqlite3.Connection, day: date) -> set[Pair]:
    """(user, key) of those who take part."""
    return {(user, key) for key, user in truth(plain, day) if int(user) % EVERY == 0}

"""Where people are found by their email it may change, be shared and be swapped: nobody there holds a stale value."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from audiencesync.destinations.crisp import Crisp
from audiencesync.destinations.planhat import Planhat
from tests.commands import Shop
from tests.fakes.base import Fake
from tests.fakes.crisp import IDENTIFIER, WEBSITE, CrispFake
from tests.fakes.crisp import KEY as CRISP
from tests.fakes.planhat import TOKEN, PlanhatFake

MAIN = """\
name: shop
source: {{url: "sqlite:///shop.db"}}
state: ${{STATE}}
defaults: {{guard: {{max_exit: 100%, min_exits: 1000}}}}
destinations:
  there: {{{settings}, url: "{url}", settle: 0s, timeout: 5s, rate: 100000}}
"""
SQL = ("/* audiencesync\ninclude: [email, company_id]\n*/\n"
       "SELECT user_id, email, 'acme' AS company_id FROM people WHERE {key}\n")
KINDS: dict[str, tuple[type[Any], str]] = {
    "crisp": (CrispFake, f'type: crisp, website_id: "{WEBSITE}", identifier: "{IDENTIFIER}", key: "{CRISP}"'),
    "planhat": (PlanhatFake, f'type: planhat, api_token: "{TOKEN}", match: email'),
}
KEYS = ("vip", "lapsed")
USERS = [f"u{number}" for number in range(14)]
EMAILS = [f"e{number}@example.com" for number in range(11)]


class Town:
    """People with emails and memberships, and the project that tells of them."""

    def __init__(self, root: Path, state: str, kind: str, fake: Fake) -> None:
        self.fake, self.people = fake, dict[str, tuple[str | None, set[str]]]()
        self.shop = Shop(root / "town", state, main=MAIN.format(settings=KINDS[kind][1], url=fake.url),
                         **{key: SQL.format(key=key) for key in KEYS})
        self.hour = 0

    def write(self) -> None:
        with closing(sqlite3.connect(self.shop.root / "shop.db")) as shop, shop:
            shop.execute("DROP TABLE IF EXISTS people")
            shop.execute("CREATE TABLE people (user_id TEXT, email TEXT, vip INTEGER, lapsed INTEGER)")
            rows = [(user, email, *(key in keys for key in KEYS)) for user, (email, keys) in self.people.items()]
            shop.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", rows)

    def sync(self, *keys: str) -> int:
        self.hour += 1
        done = self.shop.run("sync", *keys, "--as-of", f"2026-01-{1 + self.hour // 24:02}T{self.hour % 24:02}:00:00Z")
        assert done.code in (0, 3), done.out + done.err
        return done.code

    def expected(self) -> set[tuple[str, str]]:
        return {(email, key) for email, keys in self.people.values() if email for key in keys}

    def true(self) -> set[tuple[str, str]]:
        emails = {(name, key): value for (name, key), value in self.fake.holds().items() if key in KEYS}
        assert all(isinstance(value, bool) for value in emails.values())
        return {pair for pair, value in emails.items() if value}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("page", "seed"), [
    (1, 0), (5, 1), *(pytest.param(page, seed, marks=pytest.mark.soak) for page in (1, 4, 1000) for seed in range(40))])
def test_whatever_becomes_of_emails_nobody_is_left_with_a_stale_value(
        tmp_path: Path, state_url: str, kind: str, page: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for destination in (Crisp, Planhat):
        monkeypatch.setattr(destination, "page", page)
    rng = random.Random(f"{kind} {page} {seed}")
    with KINDS[kind][0]() as fake:
        town = Town(tmp_path, state_url, kind, fake)
        for user in USERS:
            town.people[user] = (rng.choice(EMAILS), {key for key in KEYS if rng.random() < 0.5})
        for _ in range(4):
            town.write()
            for _ in range(4):  # who was refused for somebody else's sake is tried again
                if not town.sync():
                    break
            assert town.true() == town.expected()
            change(town, rng)
        assert fake.violations == []


def change(town: Town, rng: random.Random) -> None:
    """Some come and go, some change their email, two swap theirs, and one's becomes another's."""
    for user in rng.sample(USERS, 5):
        email, keys = town.people[user]
        town.people[user] = (email, keys ^ {rng.choice(KEYS)})
    for user in rng.sample(USERS, 3):
        town.people[user] = (rng.choice(EMAILS), town.people[user][1])
    one, two = rng.sample(USERS, 2)
    (first, mine), (second, others) = town.people[one], town.people[two]
    town.people[one], town.people[two] = (second, mine), (first, others)

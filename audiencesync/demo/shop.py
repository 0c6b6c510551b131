"""A shop made from a seed: people, what they ordered, and what they sent back."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

SEED = 4
USERS = 15_000
DAYS = 90
"""How far back the orders go."""

_REFUNDED = 0.08
_SCHEMA = """
CREATE TABLE users (user_id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, country TEXT NOT NULL);
CREATE TABLE orders (
  order_id INTEGER PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users, items INTEGER NOT NULL,
  total REAL NOT NULL, completed_at TEXT NOT NULL, refunded_at TEXT);
CREATE INDEX orders_of_user ON orders (user_id, completed_at);
"""
_FIRST = ("Ada", "Amir", "Bea", "Carlos", "Chloe", "Daniel", "Elif", "Emma", "Farid", "Freya", "Grace", "Hugo", "Ines",
          "Ivan", "Jana", "Jonas", "Kofi", "Lea", "Lina", "Luca", "Maya", "Mia", "Nina", "Noah", "Olga", "Omar", "Paul",
          "Priya", "Rosa", "Sam", "Sofia", "Tom", "Uma", "Vera", "Wei", "Yuki", "Zoe")
_LAST = ("Ahmed", "Bauer", "Brown", "Costa", "Demir", "Diaz", "Fischer", "Garcia", "Haas", "Ito", "Jansen", "Kaya",
         "Keller", "Khan", "Kim", "Lang", "Lopez", "Meyer", "Moreau", "Nguyen", "Novak", "Okafor", "Patel", "Rossi",
         "Sato", "Schmidt", "Silva", "Singh", "Smith", "Tanaka", "Weber", "Yilmaz", "Zhang")
_DOMAINS = ("example.com", "example.org", "example.net")
"""Reserved for examples, so that none of these addresses is anybody's."""

_COUNTRIES = ("DE", "FR", "GB", "US", "ES", "TR", "JP")


def build_shop(path: Path, end: datetime, *, seed: int = SEED, users: int = USERS) -> tuple[int, int]:
    """Write the shop into a new SQLite file, its last orders just before `end` (UTC); how many users and orders.

    The same seed gives the same shop, moved in time as a whole.
    """
    made = random.Random(seed)  # noqa: S311 - made-up data, no secret
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.executescript(_SCHEMA)
        people = [_user(made, number) for number in range(users)]
        shop.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", people)
        orders = sorted((order for person in people for order in _orders(made, person[0], end)),
                        key=lambda order: (order[3], order[0]))
        shop.executemany("INSERT INTO orders (user_id, items, total, completed_at, refunded_at) VALUES (?, ?, ?, ?, ?)",
                         orders)
    return len(people), len(orders)


def _user(made: random.Random, number: int) -> tuple[str, str, str, str]:
    first, last = made.choice(_FIRST), made.choice(_LAST)
    email = f"{first}.{last}{number}@{made.choice(_DOMAINS)}".lower()
    return f"u{number + 10_000}", f"{first} {last}", email, made.choice(_COUNTRIES)


def _orders(made: random.Random, user_id: str, end: datetime) -> Iterator[tuple[str, int, float, str, str | None]]:
    """One person's orders: most order once in a while, some often, many never."""
    a_day = max(made.gammavariate(0.5, 2.6), 0.001) / DAYS
    ago = made.expovariate(a_day)
    while ago < DAYS:
        items = 1 + min(11, int(made.expovariate(0.6)))
        total = round(items * made.lognormvariate(3.2, 0.6), 2)
        refunded = None
        if made.random() < _REFUNDED:
            refunded = ago - made.lognormvariate(-1.0, 1.0)
        yield (user_id, items, total, _stamp(end, ago),
               _stamp(end, refunded) if refunded is not None and refunded > 0 else None)
        ago += made.expovariate(a_day)


def _stamp(end: datetime, days_ago: float) -> str:
    """The text that SQLite compares as a moment."""
    return f"{end - timedelta(days=days_ago):%Y-%m-%d %H:%M:%S}"

"""What five numeric traits of a million users cost beside an audience of them, when 1 % of either changed.

    python bench/traits.py [--users 1000000] [--repeats 3]

Both are synced in turn, in processes of their own, from one SQLite source to one sink, each with a state of its own;
ratios are of CPU. It ends with 1 when the sync of the changes costs more than twice that of the audience.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import uuid
from contextlib import ExitStack, closing
from pathlib import Path

from bench import MEGABYTES, RATIO, SECONDS, Cost, Folder, Sink, Table, against, median

AUDIENCE = "SELECT user_id FROM users WHERE here\n"
TRAIT = "/* audiencesync\nkind: trait\n*/\nSELECT user_id, orders, revenue, items, rating, days FROM users\n"
LIMIT = 2.0


def make(path: Path, users: int) -> None:
    """Users with random ids, five numbers each, whole ones and others."""
    draw = random.Random(users)
    rows = ((str(uuid.UUID(int=draw.getrandbits(128), version=4)), 1, draw.randrange(100),
             draw.randrange(10**7) / 100, draw.randrange(1000), draw.randrange(50) / 10, draw.randrange(2000))
            for _ in range(users))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE users (user_id TEXT, here INT, orders INT, revenue REAL, items INT, "
                           "rating REAL, days INT)")
        connection.executemany("INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def change(path: Path) -> int:
    """Let 1 % of the users be in or out, and as many have another revenue; how many each."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE users SET here = 1 - here, revenue = revenue + 0.25 WHERE abs(random()) % 100 = 0")
        return int(connection.execute("SELECT changes()").fetchone()[0])


def main() -> int:
    """Print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--users", type=int, default=1_000_000)
    words.add_argument("--repeats", type=int, default=3)
    chosen = words.parse_args()
    table = Table()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source, sink = root / "users.db", Sink()
        stack.callback(sink.close)
        make(source, chosen.users)
        found = {"audience": Folder(root / "audience", source, sink, f"sqlite:///{root}/audience/state.db"),
                 "traits": Folder(root / "traits", source, sink, f"sqlite:///{root}/traits/state.db")}
        for name, sql in (("audience", AUDIENCE), ("traits", TRAIT)):
            (found[name].root / "audiences/everybody.sql").write_text(sql)
        first = {name: folder.sync(chosen.users) for name, folder in found.items()}
        rest: dict[str, list[Cost]] = {name: [] for name in found}
        again: dict[str, list[Cost]] = {name: [] for name in found}
        for _ in range(chosen.repeats):
            changed = change(source)
            for name, folder in found.items():
                rest[name].append(folder.sync(changed))
            for name, folder in found.items():
                again[name].append(folder.sync(0))
    said, audience = f"{chosen.users:,} users", rest["audience"]
    table.add(f"{said}: an audience of which 1 % changed, CPU", median([cost.cpu for cost in audience]), SECONDS)
    table.add(f"{said}: five traits, of which 1 % changed, beside it", against(rest["traits"], audience), RATIO, LIMIT)
    table.add(f"{said}: five traits, no change, beside the audience", against(again["traits"], again["audience"]),
              RATIO)
    table.add(f"{said}: five traits, initial sync, beside the audience", first["traits"].cpu / first["audience"].cpu,
              RATIO)
    table.add(f"{said}: five traits, peak memory", max(cost.peak for cost in (first["traits"], *rest["traits"])),
              MEGABYTES)
    return 0 if table.kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""What 100,000 users cost each destination: requests, and hours at its real limits, beside those of a naive script.

    python bench/destinations.py [--users 100000] [NAME...]

The servers are the fakes of the tests, on loopback, at full speed. Naive is one request for each user and trait, which
is what a script with an identify call a user would make; on Crisp and User.com it would also look each user up first,
which is not counted against it.

NAME is one of planhat, usercom, crisp, richpanel, segment, coalesce (Segment with `coalesce: true`); all of them unless
given. They take from seconds (planhat) to minutes (usercom, richpanel): the servers are Python.
"""

from __future__ import annotations

import argparse
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import orjson  # noqa: E402 - the tests' servers are found by the path above

from audiencesync.delivery import Cost  # noqa: E402
from audiencesync.destinations import registry  # noqa: E402
from tests.fakes.crisp import IDENTIFIER, WEBSITE, CrispFake  # noqa: E402
from tests.fakes.crisp import KEY as CRISP  # noqa: E402
from tests.fakes.planhat import TOKEN, PlanhatFake  # noqa: E402
from tests.fakes.richpanel import KEY as RICHPANEL  # noqa: E402
from tests.fakes.richpanel import RichpanelFake  # noqa: E402
from tests.fakes.usercom import KEY as USERCOM  # noqa: E402
from tests.fakes.usercom import UserComFake  # noqa: E402
from tests.servers import Answer, Recorder, Request, keys_of, user_of  # noqa: E402

COMMAND = str(Path(sys.executable).with_name("audiencesync"))
SQL = ("/* audiencesync\ninclude: [{include}]\n*/\n"
       "SELECT user_id, user_id || '@example.com' AS email, 'acme' AS company_id FROM users WHERE inside >= {number}\n")
HEADER = ("destination", "audiences", "sync", "requests", "of which", "MB sent", "naive", "at its limits",
          "naive at its limits", "here", "CPU")


class SegmentServer(Recorder):
    """Keeps what users were told last, and no bodies; `items` are the identify calls, which Segment's limit counts."""

    def __init__(self) -> None:
        super().__init__(strict=False, keep=False)
        self.received = self.items = 0
        self.routes: Counter[str] = Counter()
        self._held: dict[tuple[str, str], object] = {}

    def answer(self, request: Request, *, taken: bool) -> Answer:
        """As Segment's, and note what the calls say."""
        calls = orjson.loads(request.body)["batch"]
        with self._lock:
            self.routes[f"{request.method} {request.path}"] += 1
            self.received += len(request.body)
            self.items += len(calls)
            self._held |= {(user_of(call), key): call["traits"][key] for call in calls for key in keys_of(call)}
        return super().answer(request, taken=taken)

    def holds(self) -> dict[tuple[str, str], object]:
        """What users were told last."""
        return self._held


@dataclass(frozen=True)
class Case:
    """What the table calls it, its destination and settings, how many audiences go there, and what they include.

    `known` says that it knows everybody already, though we have never met them there.
    """

    name: str
    type: str
    fake: Callable[[], Any]
    settings: dict[str, Any]
    audiences: int
    include: str = "email"
    known: bool = False


CASES = [
    Case("planhat", "planhat", PlanhatFake, {"api_token": TOKEN}, 3, include="email, company_id"),
    Case("usercom", "usercom", UserComFake, {"api_key": USERCOM}, 1),
    Case("crisp", "crisp", lambda: CrispFake(page_size=50),
         {"website_id": WEBSITE, "identifier": IDENTIFIER, "key": CRISP}, 1, known=True),
    Case("richpanel", "richpanel", RichpanelFake, {"api_key": RICHPANEL}, 3),
    Case("segment", "segment", SegmentServer, {"write_key": "wk"}, 3, include=""),
    Case("coalesce", "segment", SegmentServer, {"write_key": "wk", "coalesce": True}, 3, include=""),
]


def measure(case: Case, users: int) -> list[list[str]]:
    """An initial sync, one without a change, and one in which everybody leaves; a row of the table for each."""
    with tempfile.TemporaryDirectory() as folder, case.fake() as fake:
        root = Path(folder)
        with closing(sqlite3.connect(root / "shop.db")) as shop, shop:
            shop.execute("CREATE TABLE users (user_id TEXT PRIMARY KEY, inside INTEGER)")
            shop.executemany("INSERT INTO users VALUES (?, ?)",
                             [(f"u{number:07}", case.audiences) for number in range(users)])
        if case.known and isinstance(fake, CrispFake):
            for number in range(users):
                fake.add(f"u{number:07}@example.com")
        (root / "audiences").mkdir()
        for number in range(1, case.audiences + 1):
            (root / "audiences" / f"audience_{number}.sql").write_text(SQL.format(number=number, include=case.include))
        settings = {"type": case.type, **case.settings, "url": fake.url, "rate": 10**9, "settle": "0s",
                    "timeout": "120s"}
        if case.name == "crisp":
            settings["daily_requests"] = 10**9
        (root / "audiencesync.yml").write_bytes(orjson.dumps({
            "name": "bench", "source": {"url": "sqlite:///shop.db"}, "destinations": {case.name: settings},
            "defaults": {"guard": {"max_exit": "100%"}}}))
        rows = [row(case, users, fake, "everybody enters", root)]
        rows.append(row(case, 0, fake, "nobody changes", root))
        with closing(sqlite3.connect(root / "shop.db")) as shop, shop:
            shop.execute("UPDATE users SET inside = 0 WHERE user_id > 'u0000000'")
        rows.append(row(case, users - 1, fake, "all but one leave", root))
        held = list(fake.holds().values())
        assert held.count(True) == case.audiences, "nobody holds a stale true"
        assert held.count(False) == (users - 1) * case.audiences, "everybody was told"
        assert fake.violations == []
        return rows


def row(case: Case, users: int, fake: Any, what: str, root: Path) -> list[str]:
    """One sync and what it took; `users` changed in each audience."""
    before = fake.requests, fake.received, getattr(fake, "items", 0), Counter(fake.routes)
    began, cpu = perf_counter(), spent()
    said = subprocess.run([COMMAND, "--project", str(root), "sync", "-o", "json"], env={**os.environ},
                          capture_output=True, check=False)
    seconds, requests = perf_counter() - began, fake.requests - before[0]
    if said.returncode:
        raise SystemExit(said.stderr.decode() + said.stdout.decode())
    naive = users * case.audiences
    kind = registry()[case.type]
    real = kind.model_validate({**kind.example, **case.settings})
    routes = "; ".join(f"{count:,} {route}" for route, count in (Counter(fake.routes) - before[3]).items())
    return [case.name, str(case.audiences), what, f"{requests:,}", routes, f"{(fake.received - before[1]) / 1e6:.1f}",
            f"{naive:,}", duration(real, requests, getattr(fake, "items", 0) - before[2]), duration(real, naive, naive),
            f"{seconds:.0f} s", f"{spent() - cpu:.0f} s"]


def spent() -> float:
    """CPU seconds of the syncs so far, without the servers, which are this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def duration(destination: Any, requests: int, items: int) -> str:
    """The time that so many requests and identify calls take at a destination's real limits."""
    seconds = Cost(requests, items=items).seconds(destination.limits(), destination.quota()) or 0.0
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--users", type=int, default=100_000)
    asked = parser.parse_args()
    print(f"{asked.users:,} users\n\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for case in CASES:
        if not asked.names or case.name in asked.names:
            for cells in measure(case, asked.users):
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

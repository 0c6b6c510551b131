"""What a sync costs, in ratios to the floor that were measured in the same run; README.md says how to read them."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

PYTHON = sys.executable
COMMAND = str(Path(PYTHON).with_name("audiencesync"))
MILLION = 1_000_000

PROJECT = """name: bench
source: {{url: "sqlite:///{source}"}}
state: {state}
destinations:
  segment: {{type: segment, write_key: bench, url: "http://127.0.0.1:{port}/v1/batch"}}
"""
AUDIENCE = "/* audiencesync\nname: Everybody\nkey: everybody\ndestinations: [segment]\n*/\nSELECT user_id FROM users\n"


@dataclass(frozen=True)
class Cost:
    """What one process took, from start to exit: CPU and wall in seconds, its peak in MB, the bytes it wrote."""

    cpu: float
    wall: float
    peak: float
    written: int


def measure(*words: object) -> Cost:
    """Run a command to its end; it must end well."""
    began = perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([str(word) for word in words], stdout=said, stderr=said)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall = perf_counter() - began
        # write() and pwrite() of the process, so files alone: what goes to sockets is sent, not written
        counters = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{words} ended with {process.returncode}: {said.read().decode()}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, int(counters["wchar"]))


class Sink:
    """The destination, a process of its own so that its work is not counted."""

    def __init__(self, latency: float = 0.0) -> None:
        self._process = subprocess.Popen([PYTHON, HERE / "sink.py", str(latency)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True, bufsize=1)
        self.port = int(self._said())

    def calls(self) -> int:
        """How many calls arrived since this was last asked."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        return int(self._said().split()[1])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)

    def _said(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


class Folder:
    """A project whose one audience is everybody, with a state that is new whenever `fresh` was called."""

    def __init__(self, root: Path, source: Path, sink: Sink, state: str) -> None:
        self.root, self.sink, self._state = root, sink, state
        (root / "audiences").mkdir(parents=True)
        (root / "audiences/everybody.sql").write_text(AUDIENCE)
        (root / "audiencesync.yml").write_text(PROJECT.format(source=source, state=state, port=sink.port))

    def fresh(self) -> None:
        """Forget everything."""
        if self._state.startswith("sqlite"):
            for file in self.root.glob("state.db*"):
                file.unlink()
        else:
            from tests.databases import fill

            fill(self._state, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")

    def sync(self, told: int) -> Cost:
        """One sync, which must tell so many."""
        cost = self.run("sync", "-o", "json")
        calls = self.sink.calls()
        if calls != told:
            raise SystemExit(f"the sink was told {calls:,} calls in place of {told:,}")
        return cost

    def run(self, *words: str) -> Cost:
        """Any command in this project."""
        return measure(COMMAND, "--project", self.root, *words)


def make_source(path: Path, users: int) -> None:
    """Users with uuid ids in random order, the worst case, the same in every run."""
    draw = random.Random(users)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (user_id TEXT)")
        connection.executemany("INSERT INTO users VALUES (?)",
                               ((str(uuid.UUID(int=draw.getrandbits(128), version=4)),) for _ in range(users)))
    connection.close()


@dataclass
class Table:
    """The rows as they are printed: what, measured, limit (None: reported beside), whether it holds."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, what: str, value: float, form: str, limit: float | None = None, *, least: bool = False) -> None:
        """Print and keep a row; `least` where the limit is a floor."""
        held = limit is None or (value >= limit if least else value <= limit)
        bound = "" if limit is None else f"{'>=' if least else '<='} {form.format(limit)}"
        self.rows.append((what, form.format(value), bound, "" if limit is None else "ok" if held else "OVER"))
        print("  ".join((f"{what:70}", f"{form.format(value):>12}", f"{bound:>14}", self.rows[-1][3])), flush=True)

    @property
    def kept(self) -> bool:
        """Whether no limit is broken."""
        return all(row[3] != "OVER" for row in self.rows)

    def write(self, page: Path) -> None:
        """Put it in place of the page's one table."""
        rows = [f"| {' | '.join(row)} |" for row in self.rows]
        lines = ["| what | measured | limit | |", "|---|---:|---:|---|", *rows]
        before, _, rest = page.read_text().partition("\n| what |")
        after = rest.partition("\n\n")[2]
        page.write_text(before + "\n" + "\n".join(lines) + "\n\n" + after)


RATIO, MEGABYTES, SECONDS = "{:.2f} x", "{:.0f} MB", "{:.2f} s"


def median(values: list[float]) -> float:
    return statistics.median(values)


def against(costs: list[Cost], floors: list[Cost]) -> float:
    """The median of the ratios of CPU, each to the floor that ran just before it."""
    return median([cost.cpu / floor.cpu for cost, floor in zip(costs, floors, strict=True)])


@contextmanager
def folders(root: Path, source: Path, latency: float = 0.0, postgres: str | None = None) -> Iterator[dict[str, Folder]]:
    """A project for each kind of state, all with one sink."""
    sink = Sink(latency)
    try:
        found = {"SQLite": Folder(root / "sqlite", source, sink, f"sqlite:///{root}/sqlite/state.db")}
        if postgres:
            found["PostgreSQL"] = Folder(root / "postgresql", source, sink, postgres)
        yield found
    finally:
        sink.close()
        shutil.rmtree(root)


def syncs(table: Table, root: Path, users: int, repeats: int, limits: Mapping[str, float | None],
          postgres: str | None) -> None:
    """Initial syncs and syncs with no change beside the floor, interleaved."""
    source = root / f"users{users}.db"
    make_source(source, users)
    floors: list[Cost] = []
    with folders(root / f"with{users}", source, postgres=postgres) as found:
        first: dict[str, list[Cost]] = {name: [] for name in found}
        second: dict[str, list[Cost]] = {name: [] for name in found}
        for _ in range(repeats):
            floors.append(measure(PYTHON, HERE / "floor.py", source))
            for name, folder in found.items():
                folder.fresh()
                first[name].append(folder.sync(users))
                second[name].append(folder.sync(0))
        table.add(f"{users:,} users: the floor, CPU", median([cost.cpu for cost in floors]), SECONDS)
        for name in found:
            mine = limits if name == "SQLite" else {}
            table.add(f"{users:,} users, {name}: initial sync, CPU", against(first[name], floors), RATIO,
                      mine.get("initial"))
            table.add(f"{users:,} users, {name}: sync with no change, CPU", against(second[name], floors), RATIO,
                      mine.get("unchanged"))
            table.add(f"{users:,} users, {name}: peak memory", max(cost.peak for cost in first[name] + second[name]),
                      MEGABYTES, mine.get("peak"))


def speed(table: Table, root: Path, users: int) -> None:
    """Calls a second over the whole process, with a slow destination."""
    source = root / f"users{users}.db"
    with folders(root / "slow", source, latency=0.05) as found:
        cost = found["SQLite"].sync(users)
    table.add("50 ms latency at the sink: calls a second, start-up included", users / cost.wall, "{:,.0f}", 7000,
              least=True)


def writes(table: Table, root: Path, users: int) -> None:
    """What claiming and acknowledging write: an initial sync whose members are known, less one with nothing to send."""
    source = root / f"users{users}.db"
    with folders(root / "writes", source) as found:
        folder = found["SQLite"]
        measure(COMMAND, "--project", folder.root, "db", "upgrade")
        folder.run("pause", "segment")
        allowed(lambda: folder.run("sync"))
        folder.run("resume", "segment")
        sending, resting = folder.sync(users), folder.sync(0)
    each = (sending.written - resting.written) / users
    table.add("SQLite: bytes written a member for claiming and acknowledging", each, "{:.1f}", 16)


def allowed(work: Callable[[], Cost]) -> None:
    """A paused destination makes a sync end with 75."""
    try:
        work()
    except SystemExit as error:
        if "ended with 75" not in str(error):
            raise


def help_page(table: Table, repeats: int) -> None:
    """The shortest command beside the import of its library."""
    ours, theirs = [], []
    for _ in range(repeats):
        theirs.append(measure(PYTHON, "-c", "import click"))
        ours.append(measure(COMMAND, "--help"))
    table.add("audiencesync --help beside python -c 'import click', CPU", against(ours, theirs), RATIO, 2)
    table.add("audiencesync --help beside python -c 'import click', wall",
              median([our.wall / their.wall for our, their in zip(ours, theirs, strict=True)]), RATIO, 2)


def main() -> int:
    """Print the table; end with 1 when a limit is broken."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--quick", action="store_true", help="leave the million users out")
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--no-postgres", action="store_true", help="SQLite alone")
    words.add_argument("--write", action="store_true", help="put the table into README.md in place of the one there")
    chosen = words.parse_args()
    table = Table()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = None
        if not chosen.no_postgres:
            from tests.databases import run_postgres

            postgres = stack.enter_context(stack.enter_context(run_postgres()).database())
        syncs(table, root, 200_000, chosen.repeats, {"initial": 1.5, "unchanged": 0.7, "peak": 120}, postgres)
        speed(table, root, 200_000)
        writes(table, root, 200_000)
        help_page(table, 4 * chosen.repeats)
        if not chosen.quick:
            syncs(table, root, MILLION, max(1, chosen.repeats // 2), {"initial": 1.0, "peak": 120}, postgres)
    if chosen.write:
        table.write(HERE / "README.md")
    return 0 if table.kept else 1


if __name__ == "__main__":
    sys.exit(main())

"""The real command line in forks of one process that has imported everything: starting Python is all that is saved.

A fork runs `main()` as `python -m audiencesync` does, with its own environment, and can be killed as any process can.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.commands import Said, Shop

PRELOAD = ("audiencesync.__main__", "audiencesync.cli.sync", "audiencesync.cli.acts", "audiencesync.cli.look",
           "audiencesync.sync", "audiencesync.http", "audiencesync.project", "audiencesync.destinations.segment",
           "audiencesync.source.sqlite", "audiencesync.store.migrate", "alembic.command", "alembic.config", "psycopg")
LONGEST = 120
"""Seconds after which a command is ended by SIGALRM: a test shall fail, not hang."""


class Kitchen:
    """The warm process; a command at a time."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen([sys.executable, "-m", "tests.warm", self._folder.name],
                                         cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True)

    def run(self, words: list[str], environment: Mapping[str, str]) -> Said:
        """One command to its end; a code below zero is the signal that ended it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([words, {**os.environ, **environment}]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err = (Path(self._folder.name, name).read_text() for name in ("out", "err"))
        return Said(code, out, err)

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()
        self._process.wait(10)
        self._folder.cleanup()


def run_killed(shop: Shop, points: Sequence[str], *words: str) -> tuple[Said, int]:
    """The same until it ends with 0, a dozen times at most, killed at these failpoints first; and how often it was.

    A run that is not killed may end with 75 alone: try again later.
    """
    killed = 0
    for attempt in range(12):
        point = {"AUDIENCESYNC_FAILPOINT": points[attempt]} if attempt < len(points) else {}
        done = run(shop, *words, **point)
        killed += done.code == -signal.SIGKILL
        assert done.code in (0, 75, -signal.SIGKILL), (words, done.out, done.err)
        if done.code == 0:
            break
    return done, killed


@cache
def kitchen() -> Kitchen:
    """The one of this test process, ended with it."""
    made = Kitchen()
    atexit.register(made.close)
    return made


def run(shop: Shop, *words: str, **more: str) -> Said:
    """The command line with these words in the shop's project, in a process of its own."""
    return kitchen().run(["--project", str(shop.root), *words], {**shop.environment, **more})


def serve(folder: Path) -> None:
    """Fork for each line of input, and say how the fork ended."""
    for name in PRELOAD:
        importlib.import_module(name)
    for line in sys.stdin:
        words, environment = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(words, environment, folder)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(words: list[str], environment: Mapping[str, str], folder: Path) -> None:
    """Be the command; never returns."""
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.alarm(LONGEST)
    importlib.reload(importlib.import_module("audiencesync.failpoints"))  # it looks at the environment when imported
    sys.argv = ["audiencesync", *words]
    sys.exit(importlib.import_module("audiencesync.__main__").main())


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

"""A small shop, its project, and the real command line, run in this process or in one of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from audiencesync.cli import cli

MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
destinations:
  segment: {type: segment, write_key: "${WRITE_KEY}", url: "${SEGMENT}", settle: 0s, timeout: 2s}
"""
BUYERS = "SELECT user_id FROM orders WHERE at <= :now GROUP BY user_id\n"
NOWHERE = "http://127.0.0.1:9/v1/batch"


class Said(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document of stdout."""
        return json.loads(self.out)


class Shop:
    """A project in a folder; `run` is the command line in this process."""

    def __init__(self, root: Path, state: str, *, url: str = NOWHERE, main: str = MAIN, write_key: str = "wk",
                 **audiences: str) -> None:
        self.root = root
        self.environment = {"STATE": state, "SEGMENT": url, "WRITE_KEY": write_key}
        root.mkdir(exist_ok=True)
        self.write("audiencesync.yml", main)
        for key, sql in (audiences or {"buyers": BUYERS}).items():
            self.write(f"audiences/{key}.sql", sql)
        with closing(sqlite3.connect(root / "shop.db", isolation_level=None)) as shop:
            shop.execute("CREATE TABLE IF NOT EXISTS orders (user_id TEXT, at TEXT)")

    def write(self, name: str, text: str) -> None:
        """Write one file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def orders(self, *users: str, at: str = "2026-01-01 00:00:00") -> None:
        """These users buy something."""
        with closing(sqlite3.connect(self.root / "shop.db")) as shop, shop:
            shop.executemany("INSERT INTO orders VALUES (?, ?)", [(user, at) for user in users])

    def forget(self, *users: str) -> None:
        """These users never bought anything."""
        with closing(sqlite3.connect(self.root / "shop.db")) as shop, shop:
            shop.executemany("DELETE FROM orders WHERE user_id = ?", [(user,) for user in users])

    def run(self, *words: str) -> Said:
        """The command line with these words after `--project`."""
        done = CliRunner().invoke(cli, ["--project", str(self.root), *words], env=self.environment)
        return Said(done.exit_code, done.stdout, done.stderr)

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """The same in a process of its own."""
        return subprocess.Popen([sys.executable, "-m", "audiencesync", "--project", str(self.root), *words],
                                env={**os.environ, **self.environment, **more}, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

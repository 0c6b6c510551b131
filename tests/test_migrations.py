"""Migrations: they say what the tables say, they are whole or not at all, and one process makes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect, select, text

from audiencesync.errors import UsageError
from audiencesync.store import migrate
from audiencesync.store.connect import Store
from audiencesync.store.tables import acts, metadata
from tests.commands import Shop

HOUSE = Path(__file__).parents[1]

UPGRADE = """
import sys
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
store = Store.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(upgrade(store))
"""

KILLED = """
import os, signal, sys
from sqlalchemy import Engine, event
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if sys.argv[2] in statement:
        os.kill(os.getpid(), signal.SIGKILL)

upgrade(Store.open(sys.argv[1]))
"""


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """The state, closed afterwards."""
    with closing(Store.open(url)) as store:
        yield store


def config(connection: Connection) -> Config:
    """What alembic's own commands need to work on this connection."""
    made = Config()
    made.set_main_option("script_location", str(migrate.DIRECTORY))
    made.set_main_option("path_separator", "os")
    made.attributes["connection"] = connection
    return made


def tables(store: Store) -> set[str]:
    """The tables there are."""
    with store.read() as connection:
        return set(inspect(connection).get_table_names())


def alembic(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Alembic's own command line, in the checkout."""
    return subprocess.run([sys.executable, "-m", "alembic", "-x", f"url={url}", *words], cwd=HOUSE, text=True,
                          capture_output=True, timeout=120, check=False)


def test_the_chain_has_one_head_and_the_files_are_numbered_in_its_order() -> None:
    scripts = ScriptDirectory(str(migrate.DIRECTORY))
    assert len(scripts.get_heads()) == 1
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == migrate.known()


def test_what_migrations_make_is_what_the_code_expects(state_url: str) -> None:
    with opened(state_url) as store:
        assert migrate.upgrade(store)
        assert tables(store) == {*metadata.tables, "alembic_version"}
        with store.write() as connection:
            command.check(config(connection))


def test_alembics_own_command_line_works_beside_the_program(state_url: str) -> None:
    for words, said in (("upgrade", "head"), ""), (("check",), "No new upgrade operations"), (("current",), "(head)"):
        done = alembic(state_url, *words)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    with opened(state_url) as store:
        assert migrate.check(store) == "ready"


def test_a_check_finds_what_the_tables_lack(state_url: str) -> None:
    with opened(state_url) as store:
        migrate.upgrade(store)
        with store.write() as connection:
            connection.execute(text("ALTER TABLE acts DROP COLUMN reason"))
    done = alembic(state_url, "check")
    assert done.returncode != 0
    assert "reason" in done.stdout + done.stderr


def test_a_second_upgrade_does_nothing_and_keeps_everything(state_url: str) -> None:
    with opened(state_url) as store:
        assert migrate.check(store) == "empty"
        assert migrate.upgrade(store)
        with store.write() as connection:
            connection.execute(insert(acts).values(at=store.now(connection), who="ann", command="pause", subject="x"))
        assert not migrate.upgrade(store)
        assert migrate.check(store) == "ready"
        with store.read() as connection:
            assert connection.execute(select(acts.c.who)).scalars().all() == ["ann"]


def test_down_to_nothing_and_up_again(state_url: str) -> None:
    with opened(state_url) as store:
        migrate.upgrade(store)
        with store.write() as connection:
            command.downgrade(config(connection), "base")
        assert tables(store) == {"alembic_version"}
        assert migrate.upgrade(store)
        with store.write() as connection:
            command.check(config(connection))


def test_a_state_newer_than_the_code_is_refused_by_every_command_and_left_as_it_is(state_url: str,
                                                                                   tmp_path: Path) -> None:
    with opened(state_url) as store:
        migrate.upgrade(store)
        with store.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(UsageError, match="newer audiencesync"):
            migrate.upgrade(store)
    shop = Shop(tmp_path / "shop", state_url)
    for words in ("sync",), ("backfill", "buyers"), ("status",), ("user", "ann"), ("db", "check"), ("db", "upgrade"):
        said = shop.run(*words)
        assert said.code == 2, words
        assert "9999" in said.err
        assert "install that version or a later one" in said.err
    with opened(state_url) as store, store.read() as connection:
        assert migrate.current(connection) == "9999"


@pytest.mark.parametrize("statement", ["CREATE TABLE acts", "CREATE TABLE memberships", "INSERT INTO alembic_version"])
def test_a_migration_killed_in_the_middle_leaves_nothing_and_the_next_one_is_whole(state_url: str,
                                                                                   statement: str) -> None:
    dead = subprocess.run([sys.executable, "-c", KILLED, state_url, statement], timeout=120, check=False)
    assert dead.returncode == -9
    with opened(state_url) as store:
        assert tables(store) == set()
        assert migrate.upgrade(store)
        with store.write() as connection:
            command.check(config(connection))


def test_of_six_processes_that_find_no_state_exactly_one_makes_it(state_url: str) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", UPGRADE, state_url], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, said
    assert sorted(out for out, _ in said) == ["False\n"] * 5 + ["True\n"]
    with opened(state_url) as store:
        assert migrate.check(store) == "ready"

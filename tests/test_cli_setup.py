"""Commands around a project: init, validate, doctor, db, schema."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from audiencesync.cli import cli
from tests.commands import MAIN, NOWHERE, Shop
from tests.databases import PostgresServer
from tests.servers import Recorder


def _run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, list(words))
    return done.exit_code, done.stdout, done.stderr


def test_what_init_writes_is_valid_at_once_and_syncs_when_there_are_orders(tmp_path: Path) -> None:
    root = tmp_path / "new"
    code, out, _ = _run("init", str(root))
    assert code == 0
    assert "audiencesync.yml" in out
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == {
        "audiencesync.yml", "audiences/order_completed_last_30days.sql", ".env.example", ".gitignore",
        "audiences/order_completed_last_30days.test.yml", ".audiencesync/schema.json"}
    code, out, err = _run("--project", str(root), "validate", "-o", "json")
    assert (code, json.loads(out)["problems"], err) == (0, [], "")
    assert _run("--project", str(root), "test")[0] == 0
    with closing(sqlite3.connect(root / "shop.db")) as shop, shop:
        shop.execute("CREATE TABLE orders (user_id TEXT, completed_at TEXT)")
        shop.execute("INSERT INTO orders VALUES ('u1', datetime('now', '-1 day'))")
    assert _run("--project", str(root), "sync")[0] == 0
    [call] = [json.loads(line) for line in (root / "calls.jsonl").read_text().splitlines()]
    assert call["traits"] == {"order_completed_last_30days": True}


def test_init_for_a_container_writes_its_files_and_begins_no_state_by_itself(tmp_path: Path) -> None:
    root = tmp_path / "new"
    assert _run("init", "--docker", str(root))[0] == 0
    assert {"Dockerfile", "compose.yml", "audiencesync.yml"} < {path.name for path in root.iterdir()}
    code, out, err = _run("--project", str(root), "validate", "-o", "json")
    assert (code, json.loads(out)["problems"], err) == (0, [], "")
    with closing(sqlite3.connect(root / "shop.db")) as shop, shop:
        shop.execute("CREATE TABLE orders (user_id TEXT, completed_at TEXT)")
        shop.execute("INSERT INTO orders VALUES ('u1', datetime('now', '-1 day'))")
    code, _, err = _run("--project", str(root), "sync")
    assert code == 75
    assert "audiencesync db upgrade" in err
    assert not (root / "calls.jsonl").exists()
    assert _run("--project", str(root), "db", "upgrade")[0] == 0
    assert _run("--project", str(root), "sync")[0] == 0
    assert (root / "calls.jsonl").read_text().count("\n") == 1


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "audiencesync.yml").write_text("mine")
    code, _, err = _run("init", str(tmp_path))
    assert code == 2
    assert "audiencesync.yml" in err
    assert [path.name for path in tmp_path.iterdir()] == ["audiencesync.yml"]
    assert (tmp_path / "audiencesync.yml").read_text() == "mine"


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yml"])
def test_init_for_a_container_overwrites_nothing_either(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    code, _, err = _run("init", "--docker", str(tmp_path))
    assert code == 2
    assert name in err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_init_leaves_a_gitignore_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    code, out, _ = _run("init", str(tmp_path))
    assert code == 0
    assert "left" in out
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_validate_prints_every_mistake_of_every_file_with_its_place(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", main=MAIN + "nane: x\n",
                one="/* audiencesync\nnmae: x\n*/\nSELECT 1\n")
    said = shop.run("validate")
    assert said.code == 2
    assert "audiencesync.yml:6:1: error: " in said.out
    assert "audiences/one.sql:2:1: error: " in said.out
    problems = shop.run("validate", "-o", "json").document["problems"]
    assert {(one["file"], one["line"], one["column"], one["severity"]) for one in problems} >= {
        ("audiencesync.yml", 6, 1, "error"), ("audiences/one.sql", 2, 1, "error")}


def test_validate_reads_the_sql_without_a_database(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", good="SELECT user_id FROM a\n",
                bad="SELEC user_id FROM a\n",
                clock="SELECT user_id FROM a WHERE at < CURRENT_TIMESTAMP\n")
    said = shop.run("validate")
    assert said.code == 2
    assert "audiences/bad.sql:1:" in said.out
    assert shop.run("validate", "good").code == 0
    said = shop.run("validate", "clock", "-o", "json")
    assert said.code == 0
    assert [one["severity"] for one in said.document["problems"]] == ["warning"]
    assert not (shop.root / "audiencesync.db").exists()


def test_validate_gives_the_warnings_of_a_project_their_place(tmp_path: Path) -> None:
    main = MAIN.replace("${WRITE_KEY}", "literal-key-of-ours")
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", main=main)
    [problem] = shop.run("validate", "-o", "json").document["problems"]
    assert (problem["file"], problem["line"], problem["severity"]) == ("audiencesync.yml", 5, "warning")
    assert "secret" in problem["message"]
    assert "literal-key-of-ours" not in shop.run("validate").out


def _checks(shop: Shop, code: int) -> dict[str, list[str]]:
    said = shop.run("doctor", "-o", "json")
    assert said.code == said.document["exit_code"] == code, said.out
    found: dict[str, list[str]] = {}
    for check in said.document["checks"]:
        found.setdefault(check["status"], []).append(check["name"])
    return found


def test_doctor_finds_everything_well_and_writes_nothing(tmp_path: Path, state_url: str) -> None:
    with Recorder() as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url, main=MAIN.replace("settle: 0s, ", ""))
        assert _checks(shop, 0).get("warn", []) == (["state"] if "postgresql" in state_url else []), "fsync is off here"
        assert not (tmp_path / "state.db").exists()
        shop.run("sync")
        assert server.calls == []
        found = _checks(shop, 0)
    assert {"program", "project", "state", "source", "segment"} <= set(found["ok"])


def test_doctor_names_each_thing_that_cannot_be_reached(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "postgresql+psycopg://nobody@127.0.0.1:9/none", url=NOWHERE)
    (shop.root / "shop.db").unlink()
    found = _checks(shop, 75)
    assert set(found["fail"]) == {"state", "source", "segment"}
    assert "settle is 0s" in shop.run("doctor").out


def test_doctor_stops_at_a_project_with_mistakes(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db", main=MAIN + "nane: x\n")
    assert _checks(shop, 2) == {"ok": ["program"], "fail": ["project"]}


def test_doctor_warns_of_a_server_that_forgets(tmp_path: Path, postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        database = url.rpartition("/")[2]
        postgres_server.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
        shop = Shop(tmp_path / "shop", url)
        said = shop.run("doctor")
    assert "warn state: synchronous_commit is off" in said.out


def test_doctor_finds_a_damaged_state(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db")
    shop.run("db", "upgrade")
    path = shop.root / "audiencesync.db"
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    assert "state" in _checks(shop, 75)["fail"]


def test_the_state_is_upgraded_and_checked(tmp_path: Path, state_url: str) -> None:
    shop = Shop(tmp_path / "shop", state_url)
    said = shop.run("db", "check", "-o", "json")
    assert (said.code, said.document["state"]) == (0, "empty")
    assert shop.run("db", "upgrade", "-o", "json").document["upgraded"] is True
    assert shop.run("db", "upgrade", "-o", "json").document["upgraded"] is False
    said = shop.run("db", "check", "-o", "json")
    assert (said.code, said.document["state"]) == (0, "ready")


def test_a_newer_state_is_refused_by_db_check(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///audiencesync.db")
    shop.run("db", "upgrade")
    with closing(sqlite3.connect(shop.root / "audiencesync.db")) as state, state:
        state.execute("UPDATE alembic_version SET version_num = '9999'")
    said = shop.run("db", "check")
    assert said.code == 2
    assert "newer" in said.err
    assert shop.run("sync").code == 2


def test_the_schema_is_printed_or_written_where_editors_find_it(tmp_path: Path) -> None:
    code, out, _ = _run("--project", str(tmp_path), "schema")
    assert code == 0
    assert "destinations" in json.loads(out)["properties"]
    code, out, _ = _run("--project", str(tmp_path), "schema", "--write")
    assert code == 0
    assert "yaml-language-server" in out
    assert json.loads((tmp_path / ".audiencesync/schema.json").read_text())["title"] == "audiencesync.yml"


@pytest.mark.parametrize("words", [("status",), ("doctor",), ("sync",)])
def test_a_folder_without_a_project_says_what_to_do(tmp_path: Path, words: tuple[str, ...]) -> None:
    code, out, err = _run("--project", str(tmp_path), *words)
    assert code == 2
    assert "audiencesync init" in out + err

"""What people install: the wheel, the sdist, and a package of somebody else's that adds a destination."""

from __future__ import annotations

import json
import os
import re
import site
import sqlite3
import subprocess
import sys
import tarfile
import venv
import zipfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from audiencesync import __version__
from tests.loopback import Answer, Loopback, Request

HOUSE = Path(__file__).parents[1]
README = (HOUSE / "README.md").read_text(encoding="utf-8")
NAME = f"audiencesync-{__version__}"

PROJECT = """\
name: shop
source: {url: "sqlite:///shop.db"}
destinations:
  trial: {type: file, path: calls.jsonl}
"""
BUYERS = "SELECT user_id FROM orders WHERE at <= :now GROUP BY user_id\n"


class Built(NamedTuple):
    """The two files that people get."""

    wheel: Path
    sdist: Path


class Installed(NamedTuple):
    """A fresh virtual environment that has the wheel, and from elsewhere only what the wheel depends on."""

    bin: Path

    def run(self, where: Path, *command: str, path: Path | None = None) -> str:
        """Run one of its programs in a folder and give its stdout; `path` is a further folder of packages."""
        environment = {**os.environ, "PYTHONPATH": str(path or ""), "PYTHONSAFEPATH": "1"}
        done = subprocess.run([str(self.bin / command[0]), *command[1:]], cwd=where, env=environment, text=True,
                              capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist of this checkout, and the wheel that is made from the sdist alone."""
    where = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", where, HOUSE], text=True,
                          capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(where / f"{NAME}-py3-none-any.whl", where / f"{NAME}.tar.gz")


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel installed without any network; what it depends on is lent by this environment."""
    where = tmp_path_factory.mktemp("fresh")
    venv.create(where, symlinks=True)
    made = Installed(where / "bin")
    done = subprocess.run([sys.executable, "-m", "pip", "--python", made.bin / "python", "install", "--no-index",
                           "--no-deps", built.wheel], text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # A path in a .pth file lends modules, but not that folder's own .pth files, so no editable install comes with it.
    [packages] = where.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text("".join(f"{folder}\n" for folder in site.getsitepackages()))
    return made


def shop(where: Path, main: str = PROJECT) -> Path:
    """A project of three buyers, in a folder that has nothing to do with the checkout."""
    (where / "audiences").mkdir()
    (where / "audiences/buyers.sql").write_text(BUYERS)
    (where / "audiencesync.yml").write_text(main)
    with closing(sqlite3.connect(where / "shop.db")) as database, database:
        database.execute("CREATE TABLE orders (user_id TEXT, at TEXT)")
        database.executemany("INSERT INTO orders VALUES (?, '2026-01-01')", [("ann",), ("bob",), ("cem",), ("ann",)])
    return where


def told(path: Path) -> list[tuple[str, bool]]:
    """The user and the value of each call in a file."""
    calls = [json.loads(line) for line in path.read_text().splitlines()]
    return [(call["userId"], call["traits"]["buyers"]) for call in calls]


def test_the_wheel_carries_the_migrations_and_the_entry_points_and_no_tests(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
        points = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    migrations = {f"audiencesync/_migrations/versions/{path.name}" for path in HOUSE.glob("migrations/versions/*.py")}
    assert migrations
    assert names >= {*migrations, "audiencesync/_migrations/env.py", f"{NAME}.dist-info/licenses/LICENSE"}
    assert "audiencesync = audiencesync.__main__:main" in points
    assert "[audiencesync.destinations]" in points
    assert {name.split("/")[0] for name in names} == {"audiencesync", f"{NAME}.dist-info"}


def test_the_sdist_carries_all_that_its_own_tests_need(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names >= {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "alembic.ini"}
    for folder in ("audiencesync", "migrations", "tests", "bench"):
        here = {path.relative_to(HOUSE).as_posix() for path in (HOUSE / folder).rglob("*.py")}
        assert here
        assert here <= names


def test_what_is_installed_says_who_it_is_and_where_it_lives(installed: Installed, tmp_path: Path) -> None:
    assert installed.run(tmp_path, "audiencesync", "--version") == f"audiencesync {__version__}\n"
    assert "Commands" in installed.run(tmp_path, "python", "-m", "audiencesync", "--help")
    where = installed.run(tmp_path, "python", "-c", "import audiencesync; print(audiencesync.__file__)")
    assert Path(where).is_relative_to(installed.bin.parent)


def test_what_is_installed_does_the_main_job_far_from_the_checkout(installed: Installed, tmp_path: Path) -> None:
    where = shop(tmp_path)
    first = json.loads(installed.run(where, "audiencesync", "sync", "-o", "json"))
    assert first["runs"][0]["members"] == 3
    assert told(where / "calls.jsonl") == [("ann", True), ("bob", True), ("cem", True)]
    with closing(sqlite3.connect(where / "shop.db")) as database, database:
        database.execute("DELETE FROM orders WHERE user_id = 'bob'")
    installed.run(where, "audiencesync", "sync")
    assert told(where / "calls.jsonl")[3:] == [("bob", False)]
    assert "at revision" in installed.run(where, "audiencesync", "db", "check")


def test_what_init_writes_passes_validate(installed: Installed, tmp_path: Path) -> None:
    installed.run(tmp_path, "audiencesync", "init", "shop")
    assert "all well" in installed.run(tmp_path / "shop", "audiencesync", "validate")


def test_the_first_command_of_the_readme_ends_with_an_exact_demo(installed: Installed, tmp_path: Path) -> None:
    first = README.split("```sh\n")[1].splitlines()[0]
    install, demo = first.split(" && .venv/bin/")[1:]
    assert install == "pip install ."
    assert "exact: 3 audiences" in installed.run(tmp_path, *demo.split())


class TheirServer(Loopback):
    """Plays somebody else's CRM: remembers the contacts it was told of, and refuses one of them."""

    path = "/v1/contacts"

    def answer(self, request: Request, *, taken: bool) -> Answer:
        contact = json.loads(request.body)
        if request.headers["authorization"] != "Bearer t0ken":
            return Answer(401)
        if contact["id"] == "bob":
            return Answer(400, b'{"error": "no such contact"}')
        self.contacts = {**getattr(self, "contacts", {}), contact["id"]: contact["attributes"]}
        return Answer()


def install_theirs(packages: Path, code: str, points: str) -> None:
    """A package of somebody else's, as pip leaves it: one file of code, and a folder that names its entry point."""
    info = packages / "their_crm-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / "their_crm.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-crm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points.replace("[project.entry-points.", "[").replace('"', ""))


def test_the_destination_of_the_readme_is_one_file_and_works(installed: Installed, tmp_path: Path) -> None:
    packages, where = tmp_path / "packages", tmp_path / "shop"
    [code], [points] = (re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) for language in ("python", "toml"))
    install_theirs(packages, code, points)
    where.mkdir()
    with TheirServer() as server:
        shop(where, PROJECT.replace("{type: file, path: calls.jsonl}", f"{{type: crm, url: '{server.url}', token: $T}}")
             .replace("$T", "'${TOKEN}'"))
        (where / ".env").write_text("TOKEN=t0ken\n")
        assert "all well" in installed.run(where, "audiencesync", "validate", path=packages)
        assert '"const": "crm"' in installed.run(where, "audiencesync", "schema", path=packages)
        done = json.loads(installed.run(where, "audiencesync", "sync", "--allow", "rejected", "-o", "json",
                                        path=packages))
        assert (done["syncs"][0]["sent"], done["rejected"]) == (2, 1)
        assert server.contacts == {"ann": {"buyers": True}, "cem": {"buyers": True}}
    refused = json.loads(installed.run(where, "audiencesync", "rejected", "-o", "json", path=packages))
    assert [(one["user_id"], one["status"]) for one in refused["rejected"]] == [("bob", 400)]

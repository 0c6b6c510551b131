"""Projects for tests: files in a folder, and a destination that no package ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from audiencesync.errors import Problem, ProjectError
from audiencesync.model import Channel, Content, Destination, Packer, Project
from audiencesync.project import load

MAIN = """\
name: shop
source: {url: "sqlite:///shop.db"}
destinations:
  toy: {type: toy, write_key: "${TOY_KEY}"}
"""
SQL = "SELECT user_id FROM orders WHERE at < :now\n"
ENVIRONMENT = {"TOY_KEY": "very-secret-value"}


class Toy(Destination):
    """A third party's destination."""

    type: ClassVar[str] = "toy"
    sends: ClassVar[tuple[str, ...]] = ("identify", "track", "both")
    example: ClassVar[Mapping[str, object]] = {"write_key": "abc"}

    write_key: str = Field(min_length=3)
    region: str = "us"
    gzip: bool = False
    path: Path | None = None

    def resolve(self, root: Path) -> Destination:
        """A path is the project's."""
        return self.model_copy(update={"path": root / self.path}) if self.path else self

    def packer(self, content: Content) -> Packer:
        """Never called here."""
        raise NotImplementedError

    def channel(self) -> Channel:
        """Never called here."""
        raise NotImplementedError


class Mailer(Toy):
    """Another one, which needs addresses."""

    type: ClassVar[str] = "mailer"
    needs: ClassVar[tuple[str, ...]] = ("email",)


REGISTRY = {"toy": Toy, "mailer": Mailer}


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files by their paths relative to `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def project(root: Path, main: str | bytes = MAIN, environment: Mapping[str, str] = ENVIRONMENT,
            **audiences: str | bytes) -> Project:
    """The project of `main` and one .sql file for each further argument."""
    named = {f"audiences/{name}.sql": text for name, text in (audiences or {"buyers": SQL}).items()}
    return load(write(root, {"audiencesync.yml": main, **named}), registry=REGISTRY, environment=environment)


def problems(root: Path, main: str | bytes = MAIN, environment: Mapping[str, str] = ENVIRONMENT,
             **audiences: str | bytes) -> tuple[Problem, ...]:
    """What is wrong with such a project."""
    try:
        project(root, main, environment, **audiences)
    except ProjectError as error:
        return error.problems
    return ()


def places(found: tuple[Problem, ...]) -> list[str]:
    """Problems as `file:line:column: message`."""
    return [f"{one.file}:{one.line}:{one.column}: {one.message}" for one in found]

"""The way from a folder to a checked Project: every mistake of every file is told at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from audiencesync.errors import ProjectError
from audiencesync.model import Destination, Project, SourceSettings, Variable
from audiencesync.project.definitions import Surroundings, read_definitions
from audiencesync.project.document import Document, parse
from audiencesync.project.environment import Variables, read_environment
from audiencesync.project.page import START, Page, did_you_mean, read_page
from audiencesync.project.settings import Defaults, ProjectFile, parse_variable
from audiencesync.project.validation import salvaged, validated

FILE = "audiencesync.yml"
Registry = Mapping[str, type[Destination]]
_FILE_URL = re.compile(r"(?P<scheme>(?:sqlite|duckdb)(?:\+\w+)?:///(?:file:)?)(?P<path>[^:?][^?]*)(?P<query>.*)")


def load(root: Path, *, registry: Registry, environment: Mapping[str, str] | None = None) -> Project:
    """The project in the folder `root`, with the destinations of `registry` (by type) and variables of `environment`.

    Raises ProjectError with the problems of all files; warnings alone are given as `Project.warnings`.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - resolving links would move ./.env and relative paths
    outside, secrets_page = read_environment(root, os.environ if environment is None else environment)
    page = _main_page(root)
    variables = Variables(page, outside)
    document = parse(page, page.text, expand=variables.expand) if page.text or not page.problems() else Document(page)
    settings = validated(ProjectFile, document.data, document, pieces=variables.pieces) if document.sound else None
    destinations = _Tables(document, variables, registry, root).made() if document.sound else None
    defaults, shared = _shared(settings, document)
    surroundings = Surroundings(destinations, defaults, shared)
    _check_defaults(surroundings, document)
    definitions, pages = read_definitions(root, surroundings)
    if document.sound and not pages:
        page.mistake(START, "there are no audiences yet", hint="write one as audiences/NAME.sql", severity="warning")
    problems = tuple(problem for page in (page, secrets_page, *pages) if page for problem in page.problems())
    if settings is None or any(problem.severity == "error" for problem in problems):
        raise ProjectError(problems)
    return Project(
        root=root, name=settings.name, timezone=settings.timezone, source=_source(settings, root),
        state=anchored(settings.state, root), audiences=tuple(definition.audience for definition in definitions),
        destinations={name: made for name, made in (destinations or {}).items() if made},
        warnings=tuple(str(problem) for problem in problems))


def anchored(url: str, root: Path) -> str:
    """A URL whose SQLite or DuckDB file, when relative, lies in `root`."""
    match = _FILE_URL.fullmatch(url)
    if match is None or PurePath(match["path"]).is_absolute() or match["path"].startswith("md:"):
        return url
    return f"{match['scheme']}{(root / match['path']).as_posix()}{match['query']}"


def _main_page(root: Path) -> Page:
    path = root / FILE
    if path.is_file():
        return read_page(root, path)
    page = Page(FILE, "")
    other = root / "audiencesync.yaml"
    hint = "rename audiencesync.yaml to audiencesync.yml" if other.exists() else "`audiencesync init` writes one"
    page.mistake(START, "there is no such file in the project's folder", hint=hint)
    return page


def _source(settings: ProjectFile, root: Path) -> SourceSettings:
    source = settings.source
    return SourceSettings(
        url=anchored(source.url, root), statement_timeout=source.statement_timeout.total_seconds(),
        lock_timeout=source.lock_timeout.total_seconds(), allow_files=source.allow_files)


def _shared(settings: ProjectFile | None, document: Document) -> tuple[Defaults, dict[str, Variable]]:
    """Defaults and variables; of a file with mistakes the defaults as far as they are sound, to check audiences by."""
    if settings:
        return settings.defaults, {name: parse_variable(value) for name, value in settings.vars.items()}
    defaults = document.data.get("defaults")
    return salvaged(Defaults, defaults) if isinstance(defaults, dict) else Defaults(), {}


@dataclass(frozen=True)
class _Tables:
    """Makes the destinations of a document."""

    document: Document
    variables: Variables
    registry: Registry
    root: Path

    def made(self) -> dict[str, Destination | None]:
        """Each destination by its name; None for one whose settings have mistakes."""
        tables = self.document.data.get("destinations")
        return {name: self._destination(name, table) if isinstance(table, dict) else None
                for name, table in (tables.items() if isinstance(tables, dict) else ())}

    def _destination(self, name: str, table: dict[str, object]) -> Destination | None:
        at, document = ("destinations", name), self.document
        kind = table.get("type")
        if (*at, "type") in document.broken:
            return None
        if not isinstance(kind, str) or kind not in self.registry:
            message = f"unknown type {kind!r}" if "type" in table else f"destination {name!r} has no type"
            document.mistake((*at, "type"), message, hint=did_you_mean(str(kind or ""), self.registry),
                             key="type" not in table)
            return None
        settings = {key: value for key, value in table.items() if key != "type"}
        made = validated(self.registry[kind], settings, document, at=at, pieces=self.variables.pieces)
        try:
            return made.resolve(self.root) if made else None
        except ValueError as error:
            document.mistake(at, f"{name!r}: {error}", key=True)
            return None


def _check_defaults(surroundings: Surroundings, document: Document) -> None:
    known = surroundings.destinations
    for index, name in enumerate(surroundings.defaults.destinations or ()):
        if known is not None and name not in known:
            document.mistake(("defaults", "destinations", index), f"unknown destination {name!r}",
                             hint=did_you_mean(name, known))

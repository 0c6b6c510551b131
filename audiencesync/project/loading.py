"""The way from a folder to a checked Project: every mistake of every file is told at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from audiencesync.errors import Problem, ProjectError
from audiencesync.model import Audience, Destination, Freshness, Project, SourceSettings, Variable
from audiencesync.project.channels import channels, check_channels
from audiencesync.project.definitions import Surroundings, read_definitions
from audiencesync.project.document import Document, parse
from audiencesync.project.environment import Variables, read_environment
from audiencesync.project.files import FILE, definition_files, is_file
from audiencesync.project.page import START, Page, did_you_mean, read_page
from audiencesync.project.settings import Defaults, ProjectFile
from audiencesync.project.validation import salvaged, validated
from audiencesync.project.values import parse_variable

Registry = Mapping[str, type[Destination]]
_FILE_URL = re.compile(r"(?P<scheme>(?:sqlite|duckdb)(?:\+\w+)?:///(?:file:)?)(?P<path>[^:?][^?]*)(?P<query>.*)")


@dataclass(frozen=True)
class Survey:
    """What the files say at this moment, also while some of them have mistakes.

    `project` is made of the audience files without an error; it is None when audiencesync.yml or .env has one, or when
    a folder cannot be looked into, because then nobody knows which audiences there are. `broken` are the paths, as in
    Audience.path, of the audience files with an error: what they mean is not known, but they are there.
    """

    project: Project | None
    problems: tuple[Problem, ...]
    broken: frozenset[Path]


def load(root: Path, *, registry: Registry, environment: Mapping[str, str] | None = None) -> Project:
    """The project in the folder `root`, with the destinations of `registry` (by type) and variables of `environment`.

    Raises ProjectError with the problems of all files; warnings alone are given as `Project.warnings`.
    """
    found = survey(root, registry=registry, environment=environment)
    if found.project is None or any(problem.severity == "error" for problem in found.problems):
        raise ProjectError(found.problems)
    return found.project


def survey(root: Path, *, registry: Registry, environment: Mapping[str, str] | None = None) -> Survey:
    """As much of the project as can be used, for a service that reads the files while people edit them; see `load`."""
    root = Path(os.path.abspath(root))  # noqa: PTH100 - resolving links would move ./.env and relative paths
    outside, secrets_page = read_environment(root, os.environ if environment is None else environment)
    page = _main_page(root)
    variables = Variables(page, outside)
    document = parse(page, page.text, expand=variables.expand) if page.text or not page.problems() else Document(page)
    settings = validated(ProjectFile, document.data, document, pieces=variables.pieces) if document.sound else None
    destinations = _Tables(document, variables, registry, root).made() if document.sound else None
    check_channels(document)
    defaults, shared = _shared(settings, document)
    surroundings = Surroundings(destinations, defaults, shared, settings.events if settings else None,
                                _backend(settings.source.url) if settings else None)
    _check_defaults(surroundings, document)
    paths, unread = definition_files(root)
    definitions, pages = read_definitions(root, paths, surroundings)
    if document.sound and not pages and not unread:
        page.mistake(START, "there are no audiences yet", hint="write one as audiences/NAME.sql", severity="warning")
    everywhere = [page, *([secrets_page] if secrets_page else []), *(_folder(root, error) for error in unread)]
    problems = tuple(problem for one in (*everywhere, *pages) for problem in one.problems())
    broken = frozenset(Path(one.file) for one in pages if one.has_errors())
    if settings is None or any(one.has_errors() for one in everywhere):
        return Survey(None, problems, broken)
    audiences = tuple(one.audience for one in definitions if one.audience.path not in broken)
    made = {name: destination for name, destination in (destinations or {}).items() if destination}
    project = _project(settings, root, audiences, made, problems)
    return Survey(replace(project, broken=tuple(sorted(map(str, broken)))), problems, broken)


def _project(settings: ProjectFile, root: Path, audiences: tuple[Audience, ...],
             destinations: Mapping[str, Destination], problems: Iterable[Problem]) -> Project:
    return Project(
        root=root, name=settings.name, timezone=settings.timezone, source=_source(settings, root),
        state=anchored(settings.state, root), audiences=audiences, destinations=destinations,
        warnings=tuple(str(problem) for problem in problems if problem.severity == "warning"),
        state_must_exist=settings.state_must_exist, retention=settings.retention, alerts=channels(settings.alerts))


def anchored(url: str, root: Path) -> str:
    """A URL whose SQLite or DuckDB file, when relative, lies in `root`."""
    match = _FILE_URL.fullmatch(url)
    if match is None or PurePath(match["path"]).is_absolute() or match["path"].startswith("md:"):
        return url
    return f"{match['scheme']}{(root / match['path']).as_posix()}{match['query']}"


def _backend(url: str) -> str:
    """SQLAlchemy's name of a database."""
    return url.partition("://")[0].partition("+")[0].lower()


def _main_page(root: Path) -> Page:
    path = root / FILE
    if is_file(path) and (page := read_page(root, path)):
        return page
    page = Page(FILE, "")
    other = root / "audiencesync.yaml"
    hint = "rename audiencesync.yaml to audiencesync.yml" if other.exists() else "`audiencesync init` writes one"
    page.mistake(START, "there is no such file in the project's folder", hint=hint)
    return page


def _folder(root: Path, error: OSError) -> Page:
    page = Page(Path(error.filename).relative_to(root).as_posix(), "")
    page.mistake(START, f"the folder cannot be read: {error.strerror}")
    return page


def _source(settings: ProjectFile, root: Path) -> SourceSettings:
    source = settings.source
    fresh = Freshness(source.fresh.sql, source.fresh.max_age) if source.fresh else None
    return SourceSettings(
        url=anchored(source.url, root), statement_timeout=source.statement_timeout.total_seconds(),
        lock_timeout=source.lock_timeout.total_seconds(), allow_files=source.allow_files, fresh=fresh)


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

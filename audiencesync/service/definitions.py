"""The definitions in force: read again when a file changes, and never worse than the last good ones."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from audiencesync.errors import Problem, ProjectError, UsageError
from audiencesync.model import Audience, Trouble
from audiencesync.project import Survey, check_sql, dialect_of, signature

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """What reading the files again has changed: keys of audiences."""

    added: frozenset[str]
    edited: frozenset[str]
    removed: frozenset[str]


class Definitions:
    """The project as it is in force, and what is wrong with its files; `version` grows with every change.

    `survey` reads the files. Raises ProjectError where audiencesync.yml itself cannot be used at the start.
    """

    def __init__(self, root: Path, survey: Callable[[], Survey]) -> None:
        self._root, self._survey = root, survey
        self._seen = self._still = signature(root)
        found = _with_sql(survey(), ())
        if found.project is None:
            raise ProjectError(found.problems)
        self.project = found.project
        self.version = 0
        self.troubles: tuple[Trouble, ...] = ()
        self._report(found)

    def refresh(self, *, now: bool = False) -> Change | None:
        """Read the files again if they changed and have stood still for a look, or `now`; what that changed."""
        found = signature(self._root)
        if not now and (found == self._seen or found != self._still):
            self._still = found
            return None
        read = _with_sql(self._survey(), self.project.audiences)
        if signature(self._root) != found:
            return None  # written while they were read: the next look sees to it
        self._seen = self._still = found
        self._report(read)
        return self._adopt(read)

    def _adopt(self, read: Survey) -> Change | None:
        if read.project is None:
            return None
        sound = {audience.key for audience in read.project.audiences}
        kept = tuple(audience for audience in self.project.audiences
                     if audience.path in read.broken and audience.key not in sound)
        project = replace(read.project, audiences=(*read.project.audiences, *kept))
        if project.state != self.project.state:
            LOGGER.warning("another state takes a restart; until then the former one is used")
            project = replace(project, state=self.project.state)
        before = {audience.key: audience for audience in self.project.audiences}
        after = {audience.key: audience for audience in project.audiences}
        same = before == after and replace(project, warnings=self.project.warnings,
                                           audiences=self.project.audiences) == self.project
        self.project = project
        if same:
            return None
        self.version += 1
        change = Change(frozenset(after.keys() - before.keys()),
                        frozenset(key for key in after.keys() & before.keys() if _differ(before[key], after[key])),
                        frozenset(before.keys() - after.keys()))
        LOGGER.info("definitions changed", extra={name: ",".join(sorted(keys)) for name, keys in (
            ("added", change.added), ("edited", change.edited), ("removed", change.removed)) if keys})
        for key in sorted(change.removed):
            LOGGER.warning("its file is gone, so it is computed no more; destinations keep what they were told. "
                           "audiencesync retire %s --clear tells everybody that it is over", key,
                           extra={"computation": key})
        return change

    def _report(self, read: Survey) -> None:
        """Say once what is wrong with each file, and remember since when."""
        first: dict[str, Problem] = {}
        for problem in read.problems:
            if problem.severity == "error":
                first.setdefault(problem.file, problem)
        before = {one.what: one for one in self.troubles}
        host = socket.gethostname()
        self.troubles = tuple(_trouble(problem, f"{file} on {host}", before) for file, problem in first.items())
        for one in self.troubles:
            if one.what not in before or before[one.what].why != one.why:
                LOGGER.error("a definition file has a mistake; its last good version stays in force",
                             extra={"file": one.what, "mistake": one.why})
        for what in before.keys() - {one.what for one in self.troubles}:
            LOGGER.info("a definition file is mended", extra={"file": what})


def _with_sql(read: Survey, known: Sequence[Audience]) -> Survey:
    """What was read, without the audiences whose SQL is none; those `known` already are not looked at again."""
    if read.project is None:
        return read
    fresh = [audience for audience in read.project.audiences if audience not in known]
    dialect = dialect_of(read.project.source.url)
    found = {audience.path: wrong for audience in fresh
             if (wrong := [one for one in check_sql(audience, dialect) if one.severity == "error"])}
    if not found:
        return read
    broken = read.broken | found.keys()
    project = replace(read.project, broken=tuple(sorted(map(str, broken))), audiences=tuple(
        audience for audience in read.project.audiences if audience.path not in found))
    return Survey(project, (*read.problems, *(one for wrong in found.values() for one in wrong)), broken)


def _trouble(problem: Problem, what: str, before: dict[str, Trouble]) -> Trouble:
    since = before[what].since if what in before else datetime.now(UTC)
    return Trouble("definitions", what, f"{problem.file}:{problem.line}:{problem.column}: {problem.message}",
                   "mend it; audiencesync validate shows every mistake", since=since)


def _differ(before: Audience, after: Audience) -> bool:
    """Whether what decides who is a member was changed."""
    return (before.sql, before.include, before.variables, before.kind) != (
        after.sql, after.include, after.variables, after.kind)


def checked_address(text: str) -> tuple[str, int]:
    """An address to listen at; raises UsageError for a text that is none."""
    from audiencesync.service.listener import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise UsageError(f"--listen: {error}") from None

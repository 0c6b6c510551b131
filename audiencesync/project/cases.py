"""Tests beside definitions: `x.test.yml` beside `x.sql`, each of its cases read and checked by itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from audiencesync.errors import Problem
from audiencesync.model import Audience, Project
from audiencesync.model.cases import Case
from audiencesync.project.document import Document, Loc, parse
from audiencesync.project.expectations import expectation
from audiencesync.project.files import FOLDERS
from audiencesync.project.fixtures import fixtures
from audiencesync.project.page import START, Page, did_you_mean, read_page
from audiencesync.project.validation import validated
from audiencesync.project.values import Text, Value, VariableName, parse_variable

ENDING = ".test.yml"
_OTHER_ENDING = ".test.yaml"


def _moment(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value.strip() if isinstance(value, str) else "")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("it is not a moment; write 2026-11-22T06:00:00Z (no zone means UTC)") from None


Moment = Annotated[datetime | None, BeforeValidator(_moment)]


class _Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _File(_Strict):
    """A file of tests; `now` is that of every case without one of its own."""

    now: Moment = None
    tests: tuple[dict[str, object], ...]


class _Case(_Strict):
    """One test."""

    name: Text
    description: str = ""
    now: Moment = None
    vars: dict[VariableName, Value] = Field(default={})
    given: dict[str, object] = Field(default={})
    expect: object = None
    error: Text | None = None


@dataclass(frozen=True)
class Cases:
    """The sound cases of the chosen definitions, in the order of the files, and everything wrong with the others."""

    found: tuple[tuple[Audience, Case], ...]
    problems: tuple[Problem, ...]


def read_cases(project: Project, chosen: Collection[Audience]) -> Cases:
    """The tests of the chosen definitions; where all are chosen, a test without a definition is a mistake."""
    pages: list[Page] = []
    found: list[tuple[Audience, Case]] = []
    tested = {audience.path.with_suffix("").as_posix(): audience for audience in project.audiences}
    wanted = {audience.key for audience in chosen}
    everything = len(wanted) == len(project.audiences)
    for path in _files(project.root):
        stem = path.relative_to(project.root).as_posix().removesuffix(_OTHER_ENDING).removesuffix(ENDING)
        audience = tested.get(stem)
        if (audience.key not in wanted if audience else not everything) or not (page := read_page(project.root, path)):
            continue
        pages.append(page)
        if path.name.lower().endswith(_OTHER_ENDING):
            page.mistake(START, f"a test file ends in {ENDING}", hint=f"rename it to {Path(stem).name}{ENDING}")
        elif audience is None:
            page.mistake(START, f"there is no definition beside it that it could test: {stem}.sql",
                         hint=did_you_mean(stem, tested, known="there are"))
        elif page.text or not page.problems():
            found += [(audience, case) for case in _cases(page, audience)]
    return Cases(tuple(found), tuple(problem for page in pages for problem in page.problems()))


def _files(root: Path) -> list[Path]:
    """Every test file in the project's folders, in order; what is hidden by a dot before its name is left out."""
    found: list[Path] = []
    for top in FOLDERS:
        for folder, folders, files in os.walk(root / top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(folder, name) for name in files
                      if name.lower().endswith((ENDING, _OTHER_ENDING)) and not name.startswith(".")]
    return sorted(found)


def _cases(page: Page, audience: Audience) -> Iterator[Case]:
    document = parse(page, page.text)
    file = validated(_File, document.data, document) if document.sound else None
    if file is None:
        return
    if not file.tests:
        document.mistake(("tests",), "there are no tests in it", key=True)
    names: dict[str, int] = {}
    for index, data in enumerate(file.tests):
        at: Loc = ("tests", index)
        before = len(page.problems())
        case = validated(_Case, data, document, at=at)
        if case is None:
            continue
        if case.name in names:
            document.mistake((*at, "name"), f"another test of that name begins in line {names[case.name]}")
        line = document.place(at).line
        names.setdefault(case.name, line)
        made = _made(case, document, at, audience, file.now)
        if made is not None and len(page.problems()) == before:
            yield made


def _made(case: _Case, document: Document, at: Loc, audience: Audience, now: datetime | None) -> Case | None:
    _check_variables(case.vars, document, (*at, "vars"), audience)
    given = fixtures(case.given, document, (*at, "given"))
    now = case.now or now
    if now is None:
        document.mistake(at, "the key 'now' is missing: at which moment is the definition asked?",
                         hint="write  now: 2026-11-22T00:00:00Z  here, or at the top of the file for all its tests")
        return None
    if ("expect" in case.model_fields_set) == (case.error is not None):
        document.mistake(at, "a test has either  expect:  or  error:",
                         hint="expect: [u1, u2] are the users in the result; error: is part of what a run says that "
                              "must fail")
        return None
    expected = None if case.error else expectation(case.expect, document, (*at, "expect"), audience)
    variables = {name: parse_variable(value) for name, value in case.vars.items()}
    return Case(case.name, Path(document.page.file), document.place(at).line, now, variables, given, expected,
                case.error or "")


def _check_variables(given: Mapping[str, object], document: Document, at: Loc, audience: Audience) -> None:
    for name in given:
        if name not in audience.variables:
            document.mistake((*at, name), f"{audience.key} has no variable {name!r}", key=True,
                             hint=did_you_mean(name, audience.variables)
                             or "variables are given under vars: in the definition's header or in audiencesync.yml")

"""From .sql files to audiences: the header, the key, the text after the header, and what files must not share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from audiencesync.model import ID_COLUMNS, Audience, Destination, Variable
from audiencesync.naming import key_of
from audiencesync.project.document import Document, Loc, parse
from audiencesync.project.files import DECLARED
from audiencesync.project.page import START, Page, Place, did_you_mean, read_page
from audiencesync.project.settings import Defaults, EventsTable, Header, merged_guard
from audiencesync.project.traits import FOLDER, check_send, check_trait, kind_of, missing_text, sending
from audiencesync.project.uses import check_uses
from audiencesync.project.validation import salvaged, validated
from audiencesync.project.values import parse_variable

_HEADER = re.compile(r"(?:\s|--[^\n]*(?:\n|\Z))*/\*\s*audiencesync(?=\s|\*/)(?P<yaml>.*?)(?P<end>\*/|\Z)", re.DOTALL)
_STRAY = re.compile(r"/\*\s*audiencesync(?=\s|\*/)")
_NOTHING = re.compile(r"--[^\n]*|/\*.*?\*/|[\s;]+", re.DOTALL)

H = TypeVar("H", bound=Header)


@dataclass(frozen=True)
class Surroundings:
    """What audiencesync.yml gives to every audience.

    `destinations` holds None for a name whose settings are wrong, and is None itself when no name is known. `backend`
    is SQLAlchemy's name of the source's database, None when it is not known.
    """

    destinations: Mapping[str, Destination | None] | None = None
    defaults: Defaults = field(default_factory=Defaults)
    variables: Mapping[str, Variable] = field(default_factory=dict)
    events: EventsTable | None = None
    backend: str | None = None


@dataclass(frozen=True)
class Definition:
    """An audience with the document of its header, for mistakes that show only beside the others."""

    audience: Audience
    document: Document

    @property
    def named_at(self) -> Loc:
        """Where its key comes from."""
        return ("key",) if "key" in self.document.data else ("name",)


def read_definitions(root: Path, paths: Iterable[Path],
                     surroundings: Surroundings) -> tuple[list[Definition], list[Page]]:
    """The audiences of these files, in their order, and the pages with their mistakes; without what is gone by now."""
    pages = [page for path in paths if (page := read_page(root, path))]
    read = [_read(page, surroundings) for page in pages if page.text or not page.problems()]
    definitions = [definition for definition in read if definition is not None]
    _check_together(definitions)
    sure = {definition.audience.path.as_posix() for definition in definitions}
    check_uses(definitions, {Path(page.file).stem for page in pages if page.file not in sure}, surroundings.backend)
    return definitions, pages


def _read(page: Page, surroundings: Surroundings) -> Definition | None:
    if page.file.lower().endswith(DECLARED):
        return _read_declared(page, surroundings)
    match = _HEADER.match(page.text)
    if match and not match["end"]:
        page.mistake(_place(page.text, page.text.rindex("audiencesync", 0, match.start("yaml"))),
                     "the comment with the header is not closed; write */ after it")
        return None
    if match and page.text[match.end():match.end() + 1].isdigit():
        page.mistake(_place(page.text, match.end() - 2), "*/ ends the comment, so the header is cut off here",
                     hint="write the steps of a cron schedule as ranges: 0-23/3 for */3 in hours, 0-59/5 in minutes")
        return None
    body = _body(page, match.end() if match else 0)
    before = re.sub(r"[^\n]", " ", page.text[:match.start("yaml")]) if match else ""
    document = parse(page, before + match["yaml"] if match else "", may_be_empty=True)
    if not document.sound:
        return None
    header, key, sound = _headed(Header, document, surroundings)
    if key is None:
        return None
    audience = _audience(header, header.kind or kind_of(page.file), key, Path(page.file), body, surroundings)
    if sound:
        _check_needs(audience, document, surroundings.destinations or {})
    return Definition(audience, document)


def _read_declared(page: Page, surroundings: Surroundings) -> Definition | None:
    """A trait without SQL, as if the SQL that it comes to were written in its file."""
    if kind_of(page.file) != "trait":
        page.mistake(START, f"a trait without SQL lies in the folder {FOLDER}",
                     hint="move it there; an audience is a .sql file, and its tests are a .test.yml")
        return None
    document = parse(page, page.text)
    if not document.sound:
        return None
    from audiencesync.project import declared

    header, key, sound = _headed(declared.DeclaredFile, document, surroundings)
    compiled = declared.compiled(header, key, document, surroundings.events, surroundings.backend)
    if key is None:
        return None
    body = _Body(compiled.sql if compiled else "", document.place(("trait",), key=True).line)
    audience = _audience(header, "trait", key, Path(page.file), body, surroundings)
    if compiled:
        audience = replace(audience, variables=compiled.variables, types={key: compiled.type})
    if sound:
        _check_needs(audience, document, surroundings.destinations or {})
    return Definition(audience, document)


def _headed(model: type[H], document: Document, surroundings: Surroundings) -> tuple[H, str | None, bool]:
    """A file's header as far as it is sound, its key, and whether there was no mistake in it."""
    checked = validated(model, document.data, document)
    header = checked or salvaged(model, document.data)
    key = _key(document.page, document, header)
    check_trait(header, header.kind or kind_of(document.page.file), document)
    _check_destinations(header, document, surroundings.destinations)
    return header, key, checked is not None


@dataclass(frozen=True)
class _Body:
    """The SQL of a file and the line on which it begins."""

    sql: str
    line: int


def _audience(header: Header, kind: str, key: str, path: Path, body: _Body, surroundings: Surroundings) -> Audience:
    defaults = surroundings.defaults
    chosen = defaults.destinations if header.destinations is None else header.destinations
    variables = {name: parse_variable(value) for name, value in header.vars.items()}
    return Audience(
        key=key, name=header.name or path.stem, sql=body.sql, path=path, line=body.line, kind=kind,
        description=header.description, owner=header.owner, tags=header.tags, include=header.include,
        destinations=tuple(surroundings.destinations or ()) if chosen is None else chosen,
        integrations=header.integrations, schedule=header.schedule or defaults.schedule,
        guard=merged_guard([defaults.guard, header.guard]), variables={**surroundings.variables, **variables},
        types=header.types, full_row=header.full_row, missing=missing_text(header.when_missing), uses=header.uses,
        send=sending(header), events=header.events.model_dump(exclude_none=True))


def _body(page: Page, end: int) -> _Body:
    """The text after the header, from its own line on and at its own columns."""
    if _NOTHING.sub("", page.text[end:]) == "":
        page.mistake(_place(page.text, max(0, len(page.text.rstrip()) - 1)), "there is no SQL in it",
                     hint="write a SELECT that gives a user_id" + (" after the header" if end else ""))
    stray = _STRAY.search(page.text, end)
    if stray:
        page.mistake(_place(page.text, stray.start()), "a header must be the first thing in the file, and the only one")
    blank = re.compile(r"(?:[ \t]*\n)*").match(page.text, end)
    begin = blank.end() if blank else end
    margin = end - page.text.rfind("\n", 0, end) - 1 if begin == end else 0
    return _Body(" " * margin + page.text[begin:].rstrip(), page.text.count("\n", 0, begin) + 1)


def _place(text: str, offset: int) -> Place:
    return Place(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def _key(page: Page, document: Document, header: Header) -> str | None:
    """The key, from key:, name: or the file's name; a file called otherwise is a warning."""
    if any(part in document.data and getattr(header, part) is None for part in ("key", "name")):
        return None
    stem = Path(page.file).stem
    try:
        key = header.key or key_of(header.name or stem)
    except ValueError as error:
        document.mistake(("name",), str(error))
        return None
    if key != stem:
        ending = Path(page.file).suffix
        document.mistake(("key",) if header.key else ("name",), f"the key is {key!r}, but the file is called {stem!r}",
                         hint=f"rename the file to {key}{ending}, or write  key: {stem}  to keep that key",
                         severity="warning")
    if key in header.include:
        document.mistake(("include", header.include.index(key)), f"{key!r} is the audience's own key")
    return key


def _check_destinations(header: Header, document: Document, known: Mapping[str, Destination | None] | None) -> None:
    for index, name in enumerate(header.destinations or ()):
        if known is not None and name not in known:
            document.mistake(("destinations", index), f"unknown destination {name!r}", hint=did_you_mean(name, known))


def _check_needs(audience: Audience, document: Document, known: Mapping[str, Destination | None]) -> None:
    check_send(audience, document, known)
    for name in audience.destinations:
        destination = known.get(name)
        for column in destination.needs if destination else ():
            if column not in audience.include and not _is_the_id(column, audience.sql):
                document.mistake(("include",), f"destination {name!r} needs the column {column!r}", key=True,
                                 hint="write the trait in SQL, or name other destinations" if audience.declared else
                                 f"write  include: [{', '.join([*audience.include, column])}]  in the header "
                                 "and select the column")


def _is_the_id(column: str, sql: str) -> bool:
    """Whether the column itself names the user, as far as the text tells: it speaks of none that would go before it."""
    if column not in ID_COLUMNS:
        return False
    before = ID_COLUMNS[:ID_COLUMNS.index(column)]
    return not re.search(rf"\b({'|'.join(before)})\b", sql, re.IGNORECASE)


def _check_together(definitions: Sequence[Definition]) -> None:
    """Keys are unique whatever their case, and no included column overwrites another audience's trait.

    Of two files that do not go together the later one has the mistake, so that one of them can be used.
    """
    owners: dict[str, Audience] = {}
    includers: dict[str, Audience] = {}
    for definition in definitions:
        audience, document = definition.audience, definition.document
        first, includer = owners.get(audience.key.casefold()), includers.get(audience.key.casefold())
        if first:
            document.mistake(definition.named_at, f"the key {audience.key!r} is taken by {first.path.as_posix()}",
                             hint="give one of them another name or key:")
        elif includer:
            document.mistake(definition.named_at, f"the key {audience.key!r} would be overwritten by the column of "
                             f"that name, which {includer.path.as_posix()} includes")
        for index, column in enumerate(audience.include):
            owner = owners.get(column.casefold())
            if owner and column not in ID_COLUMNS:
                document.mistake(("include", index), f"the column {column!r} would overwrite the audience of that key, "
                                 f"{owner.path.as_posix()}")
        owners.setdefault(audience.key.casefold(), audience)
        for column in audience.include:
            includers.setdefault(column.casefold(), audience)

"""YAML as data with the place of every key and value, without the surprises of YAML 1.1."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from audiencesync.project.page import START, Page, Place

Loc = tuple[str | int, ...]
Expand = Callable[[str, Loc, Place], str | None]

DEEPEST = 20
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")
_CONSTANTS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}
_HINTS = {
    "mapping values": "a text that contains ': ' must stand in quotes",
    "cannot start any token": "indent with spaces, not tabs; a text that begins with @, ` or % must stand in quotes",
    "did not find expected": "look at the indentation and for quotes or brackets left open",
    "unexpected end": "a quote is left open",
}


@dataclass
class Document:
    """A mapping read from a page; `broken` are the places whose value is already known to be wrong."""

    page: Page
    data: dict[str, object] = field(default_factory=dict)
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)
    broken: set[Loc] = field(default_factory=set)
    sound: bool = False

    def place(self, loc: Loc, *, key: bool = False) -> Place:
        """The place of a value (or key), or else of the nearest thing around it that the text has."""
        for length in range(len(loc), 0, -1):
            part = loc[:length]
            found = self.keys.get(part) if key else self.values.get(part, self.keys.get(part))
            if found is None:
                found = self.keys.get(part) or self.values.get(part)
            if found is not None:
                return found
        return START

    def mistake(self, loc: Loc, message: str, *, hint: str = "", key: bool = False, severity: str = "error") -> None:
        """Note what is wrong with the value (or key) at `loc`."""
        self.page.mistake(self.place(loc, key=key), message, hint=hint, severity=severity)


class _Refused(Exception):
    """The text cannot be read on from here; args: place, message, hint."""


def parse(page: Page, text: str, *, expand: Expand | None = None, may_be_empty: bool = False) -> Document:
    """Read `text`, which keeps the page's lines and columns; mistakes go to the page, `sound` says whether it is data.

    `expand` gets every scalar's text, location and place, and returns what a string becomes, None for a broken one.
    """
    document = Document(page)
    try:
        data = _Builder(document, text, expand).build()
    except _Refused as refused:
        place, message, hint = refused.args
        page.mistake(place, message, hint=hint)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        message = getattr(error, "problem", None) or str(error).partition("\n")[0]
        hint = next((hint for part, hint in _HINTS.items() if part in message), "")
        place = Place(mark.line + 1, mark.column + 1) if mark else START
        page.mistake(place, f"this is not YAML: {message}", hint=hint)
    else:
        document.sound = isinstance(data, dict) or (data is None and may_be_empty)
        if isinstance(data, dict):
            document.data = data
        elif document.sound:
            pass
        elif data is None:
            page.mistake(START, "there is nothing in it")
        else:
            page.mistake(START, "this is no mapping; write lines like  name: shop")
    if expand and not document.sound:
        page.hide_what_looks_secret()
    return document


class _Builder:
    """Builds data from the parser's events, which still know what the composer forgets: quotes, tags, aliases."""

    def __init__(self, document: Document, text: str, expand: Expand | None) -> None:
        self.document = document
        self.expand = expand
        self.events = yaml.parse(text, Loader=_LOADER)

    def build(self) -> object:
        """The one document of the stream, or None for an empty one."""
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        data = self._value(next(self.events), ())
        next(self.events)
        event = next(self.events)
        if isinstance(event, yaml.DocumentStartEvent):
            raise _Refused(_place(event), "a second YAML document begins here; one file holds one", "remove the ---")
        return data

    def _value(self, event: yaml.Event, loc: Loc) -> object:
        place = _place(event)
        if len(loc) > DEEPEST:
            raise _Refused(place, f"this is nested more than {DEEPEST} levels deep", "")
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(place, "aliases (*name) are not supported; write the value again",
                           "a text that begins with * must stand in quotes")
        if getattr(event, "tag", None) not in (None, "!"):
            self.document.broken.add(loc)
            self.document.page.mistake(place, "tags (!name) are not supported",
                                       hint="a text that begins with ! must stand in quotes")
        if loc and isinstance(loc[-1], int):
            self.document.values[loc] = place
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(loc)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(loc)
        assert isinstance(event, yaml.ScalarEvent)
        self.document.values[loc] = place
        return self._scalar(event, loc, place)

    def _scalar(self, event: yaml.ScalarEvent, loc: Loc, place: Place) -> object:
        value = _plain(event.value) if event.implicit[0] and not event.style else str(event.value)
        if self.expand is None:
            return value
        expanded = self.expand(event.value, loc, place)
        if expanded is None:
            self.document.broken.add(loc)
        return expanded or "" if isinstance(value, str) else value

    def _sequence(self, loc: Loc) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*loc, len(items))))
        return items

    def _mapping(self, loc: Loc) -> dict[str, object]:
        items: dict[str, object] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _Refused(_place(event), "a key must be a word",
                               "a text that begins with { or [ or * must stand in quotes")
            key = str(event.value)
            if key in items:
                self._again((*loc, key), _place(event))
            else:
                self.document.keys[*loc, key] = _place(event)
                items[key] = self._value(next(self.events), (*loc, key))
        return items

    def _again(self, loc: Loc, place: Place) -> None:
        """Say that a key is given twice; its second value is read, for its own mistakes, and thrown away."""
        first = self.document.keys[loc]
        self.document.page.mistake(place, f"the key {loc[-1]!r} is given twice; it stands in line {first.line} already")
        self._value(next(self.events), (*loc[:-1], -1, *loc[-2:]))


def _place(event: yaml.Event) -> Place:
    start, end = event.start_mark, event.end_mark
    assert start
    assert end
    if end.line == start.line:
        return Place(start.line + 1, start.column + 1, max(1, end.column - start.column))
    return Place(start.line + 1, start.column + 1, 1, end.line - start.line + (end.column > 0))


def _plain(text: str) -> object:
    """An unquoted scalar as YAML 1.2 reads it; yes, 12:30, 0123 and 2026-01-01 are text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text

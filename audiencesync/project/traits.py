"""What the header of a computed trait says besides an audience's, and what only an audience's may."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import orjson

from audiencesync.model import EVERYWHERE, Audience, Destination, spelt
from audiencesync.project.document import Document
from audiencesync.project.page import did_you_mean
from audiencesync.project.settings import Header

FOLDER = "traits"
_OWN = ("types", "full_row", "when_missing")


def kind_of(file: str) -> str:
    """The kind of a definition whose header does not say: what lies in the folder traits is one."""
    return "trait" if PurePath(file).parts[0] == FOLDER else "audience"


def check_trait(header: Header, kind: str, document: Document) -> None:
    """Keys of the other kind are mistakes, and so is an event that a definition of this kind never has."""
    if kind == "audience":
        for name in _OWN:
            if name in document.data:
                document.mistake((name,), f"{name} belongs to computed traits", key=True,
                                 hint="write  kind: trait  if each column besides the id is one")
    for name in header.events.model_dump(exclude_none=True):
        if (name == "computed") != (kind == "trait"):
            what = "an audience is entered and exited" if kind == "audience" else "a trait is computed"
            document.mistake(("events", name), f"{what}, so {name} never happens", key=True)


def check_send(audience: Audience, document: Document, known: Mapping[str, Destination | None]) -> None:
    """What a definition is told by must be what its destinations take."""
    for named, send in audience.send.items():
        everywhere = named == EVERYWHERE
        loc = ("send",) if everywhere else ("send", named)
        if not everywhere and known and named not in known:
            document.mistake(loc, f"unknown destination {named!r}", hint=did_you_mean(named, known), key=True)
        for name in audience.destinations if everywhere else (named,):
            destination = known.get(name)
            if destination is not None and send not in destination.sends:
                hint = f"name those that take it:  send: {{NAME: {send}}}" if everywhere else ""
                document.mistake(loc, _taken(name, destination), hint=hint)


def _taken(name: str, destination: Destination) -> str:
    return f"{name!r} is a {destination.type} destination, which takes {' or '.join(destination.sends)}"


def missing_text(when_missing: object) -> str:
    """What is told of each trait of a user who dropped out, as JSON text; empty for nothing."""
    if isinstance(when_missing, int | float) and not isinstance(when_missing, bool):
        return spelt(when_missing)
    words = {"clear": "null", "keep": ""}
    known = words.get(when_missing) if isinstance(when_missing, str) else None
    return orjson.dumps(when_missing).decode() if known is None else known


def sending(header: Header) -> Mapping[str, str]:
    """By destination: identify, track or both."""
    return header.send if isinstance(header.send, dict) else {EVERYWHERE: header.send}

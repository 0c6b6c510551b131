"""Values from outside the files: the environment, ./.env beside it, and `${VAR}` in audiencesync.yml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from audiencesync.project.document import Loc
from audiencesync.project.files import ENVIRONMENT
from audiencesync.project.page import Page, Place, nearest, read_page

_REFERENCE = re.compile(r"\$\$|\$\{(?:(?P<name>[A-Za-z_]\w*)(?P<or>:-(?P<default>[^}]*))?\}|(?P<bad>[^}]*\}?))")
_SECRET = re.compile(r"(?i)key$|^identifier$|token|passw|passphrase|secret|credential|authorization")
_URL_PASSWORD = re.compile(r"://[^/@:\s]*:[^/@\s]+@|[?&](?:password|token|secret|api_?key)=[^&\s]")


def read_environment(root: Path, environment: Mapping[str, str]) -> tuple[Mapping[str, str], Page | None]:
    """The environment with what ./.env adds to it, and .env's page where that cannot be read."""
    page = read_page(root, root / ENVIRONMENT)
    if page is None:
        return environment, None
    from io import StringIO

    from dotenv.parser import parse_stream

    added: dict[str, str] = {}
    for binding in parse_stream(StringIO(page.text)):
        if binding.error:
            page.hide(Place(1, 1, 1, len(page.lines)))
            page.mistake(Place(binding.original.line), "this is no line of a .env file; write NAME=value")
        elif binding.key and binding.value is not None:
            added[binding.key] = binding.value
    return {**added, **environment}, page


class Variables:
    """Replaces `${VAR}`, `${VAR:-default}` and `$$` in one page's strings, and knows what must never be shown.

    `pieces` are the texts that came from outside or are secret, by the place of the string they went into.
    """

    def __init__(self, page: Page, environment: Mapping[str, str]) -> None:
        self.page = page
        self.environment = environment
        self.pieces: dict[Loc, list[str]] = {}

    def expand(self, text: str, loc: Loc, place: Place) -> str | None:
        """The string with its variables' values; None when one is not set. A secret in the file itself is a warning."""
        self._warn_of_secret(text, loc, place)
        broken: list[bool] = []

        def replace(match: re.Match[str]) -> str:
            value = self._value(match, place)
            broken.append(value is None)
            if match["name"] and value:
                self.pieces.setdefault(loc, []).append(value)
            return value or ""

        expanded = _REFERENCE.sub(replace, text)
        if loc in self.pieces:
            self.pieces[loc].insert(0, expanded)
        return None if any(broken) else expanded

    def _value(self, match: re.Match[str], place: Place) -> str | None:
        if match[0] == "$$":
            return "$"
        name = match["name"]
        if name is None:
            self.page.mistake(self._at(match[0], place), "this is no variable; write ${NAME} or ${NAME:-default}",
                              hint="a dollar sign itself is written $$")
            return None
        value = self.environment.get(name)
        if value or match["or"]:
            return value or match["default"]
        state = "is not set" if value is None else "is empty"
        near = nearest(name, sorted(self.environment)) if value is None else ""
        self.page.mistake(self._at(match[0], place), f"environment variable {name} {state}",
                          hint=f"did you mean {near!r}?" if near else "set it in .env or in the environment")
        return None

    def _at(self, written: str, place: Place) -> Place:
        """The place of a reference inside its string."""
        for number in range(place.line, min(place.line + place.lines, len(self.page.lines) + 1)):
            column = self.page.lines[number - 1].find(written, place.column - 1 if number == place.line else 0)
            if column >= 0:
                return Place(number, column + 1, len(written))
        return place

    def _warn_of_secret(self, text: str, loc: Loc, place: Place) -> None:
        literal = _REFERENCE.sub(lambda match: match["default"] or "", text)
        words = [part for part in loc if isinstance(part, str)]
        field = words[-1] if words else ""
        receiver = words[:1] == ["alerts"] and (field == "url" or "://" in literal)
        if literal and (receiver or (len(loc) > 1 and _SECRET.search(field))):
            what = repr(field)
        elif _URL_PASSWORD.search(literal):
            what = f"the password in {field!r}"
        else:
            return
        self.page.hide(place)
        self.pieces.setdefault(loc, []).append(text)
        if receiver and any(match["name"] and not match["or"] for match in _REFERENCE.finditer(text)):
            return  # of a receiver's address only a part is secret, and that may well be what comes from outside
        self.page.mistake(place, f"{what} is a secret and stands in this file", severity="warning",
                          hint=f"write ${{{'_'.join(words[-2:]).upper()}}} and put the value "
                               "into .env or the environment")

"""A file as it is shown in problems: its lines, what of them must not be seen, and the mistakes found so far."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from audiencesync.errors import Problem

LONGEST_SNIPPET = 160
_SECRET_LINE = re.compile(r"(?i)(key|identifier|token|passw\w*|passphrase|secret|credentials?|authorization|url|state)"
                          r"(?P<end>[\"']?\s*:\s+).*")


class Place(NamedTuple):
    """Where something stands: line and column count from 1; the caret underlines `width`; it covers `lines`."""

    line: int = 1
    column: int = 1
    width: int = 1
    lines: int = 1


START = Place()


@dataclass
class Page:
    """One text file; `file` is its path relative to the project, problems are rendered when all masks are known."""

    file: str
    text: str
    _found: list[tuple[Place, str, str, str]] = field(default_factory=list)
    _hidden: list[Place] = field(default_factory=list)
    _guess_secrets: bool = False

    def __post_init__(self) -> None:
        """Split once."""
        self.lines = self.text.split("\n")

    def mistake(self, place: Place, message: str, *, hint: str = "", severity: str = "error") -> None:
        """Note what is wrong at a place."""
        self._found.append((place, message, hint, severity))

    def hide(self, place: Place) -> None:
        """Never show what stands at this place."""
        self._hidden.append(place)

    def hide_what_looks_secret(self) -> None:
        """Mask by the look of a line, for a text whose structure could not be read."""
        self._guess_secrets = True

    def problems(self) -> list[Problem]:
        """Everything found, in the order of the file."""
        return [Problem(self.file, place.line, place.column, message, hint, self._shown(place), place.width, severity)
                for place, message, hint, severity in sorted(self._found, key=lambda found: found[0][:2])]

    def has_errors(self) -> bool:
        """Whether anything found is more than a warning."""
        return any(severity == "error" for _, _, _, severity in self._found)

    def _shown(self, place: Place) -> str:
        if not 0 < place.line <= len(self.lines) or place.column > LONGEST_SNIPPET:
            return ""
        line = self.lines[place.line - 1]
        for hidden in self._hidden:
            if hidden.line <= place.line < hidden.line + hidden.lines:
                start = hidden.column - 1 if hidden.line == place.line else 0
                end = start + hidden.width if hidden.lines == 1 else len(line)
                line = line[:start] + "*" * len(line[start:end]) + line[end:]
        if self._guess_secrets:
            line = _SECRET_LINE.sub(lambda match: match[1] + match["end"] + "***", line)
        line = "".join(char if char.isprintable() else " " for char in line)
        return line if len(line) <= LONGEST_SNIPPET else line[:LONGEST_SNIPPET] + "..."


def read_page(root: Path, path: Path) -> Page | None:
    """Read one file as UTF-8 with any line ends; what cannot be read is a page with that mistake and no text.

    None for a file that is not there, also when it was a moment ago.
    """
    file = path.relative_to(root).as_posix()
    try:
        return Page(file, path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n"))
    except UnicodeDecodeError as error:
        page = Page(file, "")
        page.mistake(Place(error.object.count(b"\n", 0, error.start) + 1), "the file is not UTF-8; save it as UTF-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        page = Page(file, "")
        page.mistake(START, f"the file cannot be read: {error.strerror}")
    return page


def nearest(word: str, options: Iterable[str]) -> str:
    """The option most like `word`, or nothing when none is."""
    import difflib

    known = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(word.casefold(), known, n=1)
    return known[near[0]] if near else ""


def did_you_mean(word: str, options: Iterable[str], *, known: str = "known") -> str:
    """A hint that names the option most like `word`, and a few of the others."""
    choices = list(options)
    near = nearest(word, choices)
    listed = f"{known}: {', '.join(choices)}" if 0 < len(choices) <= 12 else ""
    return " ".join(part for part in (f"did you mean {near!r}?" if near else "", listed) if part)

"""Where alerts go, each place with a name of its own to be known by in logs and in the state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from audiencesync.model import AlertChannel
from audiencesync.project.document import Document
from audiencesync.project.settings import AlertTable


def check_channels(document: Document) -> None:
    """Names that people gave are unique; a file with other mistakes is told so too."""
    tables = document.data.get("alerts")
    first: dict[str, int] = {}
    for index, table in enumerate(tables if isinstance(tables, list) else ()):
        name = table.get("name") if isinstance(table, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            line = document.place(("alerts", first[name], "name")).line
            document.mistake(("alerts", index, "name"), f"two channels are called {name!r}; the first in line {line}")


def channels(tables: Sequence[AlertTable]) -> tuple[AlertChannel, ...]:
    """The channels; who has no name is called by his type, with a number from the second of that name on."""
    taken = {table.name for table in tables if table.name}
    made = []
    for table in tables:
        name = table.name or next(word for word in _names(table.type) if word not in taken)
        taken.add(name)
        made.append(AlertChannel(name=name, type=table.type, url=table.url, on=table.on))
    return tuple(made)


def _names(word: str) -> Iterator[str]:
    yield word
    yield from (f"{word}-{number}" for number in count(2))

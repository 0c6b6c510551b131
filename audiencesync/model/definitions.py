"""What people write down: the project, its source, its audiences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from audiencesync.model.destination import Destination

ID_COLUMNS = ("user_id", "anonymous_id", "email")
"""The columns that may name a user; the first that a result has is the one."""


EVERYWHERE = "*"
"""In place of a destination's name in `Audience.send`: all of them."""


@dataclass(frozen=True, slots=True)
class Ago:
    """A variable that is a moment: `now - 30d` is thirty days before the run's instant."""

    before: timedelta


Variable = str | int | float | bool | None | Ago


@dataclass(frozen=True, slots=True)
class Audience:
    """A definition, audience or computed trait: one file. `line` is that on which `sql` begins, for errors inside it.

    Of a computed trait: `types` says what columns are where the database does not; `full_row` that a change of one
    trait tells all; `missing` is what a user is told for each trait when he drops out of the result, as JSON text,
    empty for nothing. `uses` are the keys of computations whose members or values the SQL reads. `send` is identify,
    track or both, by destination; `events` are names of events other than Segment's (entered, exited, computed).
    """

    key: str
    name: str
    sql: str
    path: Path
    line: int = 1
    kind: str = "audience"
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    integrations: tuple[str, ...] = ()
    schedule: str = "every 2h to 3h"
    guard: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, Variable] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    full_row: bool = False
    missing: str = "null"
    uses: tuple[str, ...] = ()
    send: Mapping[str, str] = field(default_factory=dict)
    events: Mapping[str, str] = field(default_factory=dict)

    @property
    def declared(self) -> bool:
        """Whether the file is no SQL, so that nobody wrote `sql` and no line of the file is a line of it."""
        return self.path.suffix.lower() in {".yml", ".yaml"}

    def bindings(self, as_of: datetime) -> dict[str, object]:
        """The values of the query's parameters at `as_of`, which must know its time zone."""
        moments = {name: as_of - value.before if isinstance(value, Ago) else value
                   for name, value in self.variables.items()}
        return {**moments, "now": as_of}


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old the source's data may be: `sql` gives the instant of its newest row."""

    sql: str
    max_age: timedelta


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where audiences are asked; timeouts in seconds."""

    url: str
    statement_timeout: float = 600.0
    lock_timeout: float = 30.0
    allow_files: bool = False
    fresh: Freshness | None = None


@dataclass(frozen=True, slots=True)
class AlertChannel:
    """Where alerts go: `type` is slack or webhook, `url` a secret, `on` the kinds of trouble that are told."""

    name: str
    type: str
    url: str = field(repr=False)
    on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Project:
    """Everything audiencesync.yml and the .sql files say, checked.

    `broken` are files that were left out for their mistakes, so that nobody takes what they define for gone.
    """

    root: Path
    name: str
    timezone: str
    source: SourceSettings
    state: str
    audiences: tuple[Audience, ...]
    destinations: Mapping[str, Destination]
    warnings: tuple[str, ...] = ()
    state_must_exist: bool = False
    retention: timedelta = timedelta(days=90)
    alerts: tuple[AlertChannel, ...] = ()
    broken: tuple[str, ...] = ()


class Chunk(NamedTuple):
    """Some rows of a result: ids as text, and each row's included columns as the text of a JSON object.

    `values` are a computed trait's, each row's as the text of a JSON array in the order of the traits' names, in one
    spelling: equal values are equal texts.
    """

    ids: list[str]
    included: list[str] | None
    values: list[str] | None = None


class Shipped(NamedTuple):
    """A computation's members or values, as a table beside the source's own for a definition that `uses` it.

    `traits` are the kinds of its traits by name (number, string, boolean, timestamp, list), none of an audience;
    `chunks`, read once and ordered by user, hold the traits of each as the text of a JSON object in `values`.
    """

    name: str
    traits: Mapping[str, str]
    chunks: Iterable[Chunk]


def table_of(kind: str, key: str) -> str:
    """The name by which SQL reads a computation: `audience_vip`, `trait_lifetime_value`; other characters become _."""
    return f"{kind}_{re.sub('[^a-z0-9_]', '_', key.lower())}"

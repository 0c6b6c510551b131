"""What a declared trait says, checked; nothing here knows SQL."""

from __future__ import annotations

from dataclasses import dataclass

from audiencesync.model import Variable

Path = tuple[str, ...]
"""A property by its name, or the names that lead to it where objects are nested."""


@dataclass(frozen=True, slots=True)
class EventTable:
    """Where events lie: `table` may be `schema.table`, the others are columns of it.

    `event` is None where every row is the same event, `properties` where properties are columns of the table.
    """

    table: str
    user: str = "user_id"
    event: str | None = "event"
    at: str = "at"
    properties: str | None = "properties"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a property must be.

    `operator` is equals, not_equals, contains, less, greater, before, after, from (at or after) or exists; `values` are
    alternatives, of which one must hold; moments are ISO texts in UTC or Ago.
    """

    path: Path
    operator: str
    values: tuple[Variable, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """From when on and until when events count; None for no limit besides the run's own instant.

    `after` is left out of the window itself, `since` belongs to it; of the ends `before` is left out, `until` belongs.
    """

    after: Variable = None
    since: Variable = None
    before: Variable = None
    until: Variable = None


@dataclass(frozen=True, slots=True)
class Trait:
    """One declared trait: `kind` is what is computed, `type` string, number, boolean or timestamp.

    `path` is None for what needs no property: counters, and the time of a first or last event.
    """

    key: str
    kind: str
    event: str | None = None
    path: Path | None = None
    function: str = ""
    at_least: int = 1
    window: Window = Window()
    where: tuple[Condition, ...] = ()
    type: str = "string"

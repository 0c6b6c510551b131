"""Tests of definitions: what a case gives, what it expects, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from audiencesync.model.definitions import Variable

TYPES = ("text", "integer", "number", "boolean", "date", "timestamp", "timestamptz", "list", "json", "uuid")
"""What a fixture's column may be in every dialect; a type of the database's own may be written, too."""

SOMETIME = "time"
"""The type of a column that nobody declared and whose texts are all moments: each dialect has its own for them."""


@dataclass(frozen=True, slots=True)
class Fixture:
    """A table that exists for one case: `name` as SQL writes it (`orders`, `shop.orders`), `columns` with their types.

    Rows hold what YAML does, by column; what a row leaves out is NULL. `line` is the table's in the file of the case.
    """

    name: str
    columns: Mapping[str, str]
    rows: tuple[Mapping[str, object], ...]
    line: int = 1


@dataclass(frozen=True, slots=True)
class Expected:
    """The result that a case wants: by id the values of `columns`, which are included columns or traits.

    `id_kind` is empty where the ids stand without the name of their column. A value that is None stands for NULL.
    """

    id_kind: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Case:
    """One test of one definition: tables, a moment and variables, and the result or the error that must come of them.

    `expected` is None where `error`, a part of the message, is given. `path` is relative to the project.
    """

    name: str
    path: Path
    line: int
    now: datetime
    variables: Mapping[str, Variable]
    given: tuple[Fixture, ...]
    expected: Expected | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """What of a result is not as expected: a user is `missing` or `unexpected`, or a value of his is `different`."""

    kind: str
    user_id: str
    column: str = ""
    expected: object = None
    found: object = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case: `status` is passed, failed (not as expected), error (it could not be run) or unavailable.

    `message` says why, where differences do not.
    """

    key: str
    case: Case
    status: str
    message: str = ""
    differences: tuple[Difference, ...] = ()

"""What a test expects of a result: ids, or ids with values, in one of three ways to write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from audiencesync.model import ID_COLUMNS, Audience
from audiencesync.model.cases import Expected
from audiencesync.naming import key_of
from audiencesync.project.document import Document, Loc
from audiencesync.project.page import did_you_mean


def expectation(written: object, document: Document, at: Loc, audience: Audience) -> Expected:
    """`[u1, u2]`, `[{user_id: u1, email: a@b.co}]` or `{u1: {email: a@b.co}}`, which stands at `at`.

    Mistakes go to the page; what is returned then is not to be used. What one row names and another does not is NULL
    in the other.
    """
    reader = _Reader(document, audience)
    if isinstance(written, dict):
        for user, values in written.items():
            reader.take(user, values, (*at, user), (*at, user))
    elif isinstance(written, list):
        for index, item in enumerate(written):
            if isinstance(item, dict):
                reader.take_row(item, (*at, index))
            else:
                reader.take(item, {}, (*at, index), (*at, index))
    else:
        document.mistake(at, "'expect' is a list of users, such as [u1, u2], or of rows, such as "
                             "[{user_id: u1, email: a@b.co}]; [] is nobody")
    return Expected(reader.id_kind, tuple(reader.columns), reader.rows)


@dataclass
class _Reader:
    """Collects rows, and complains."""

    document: Document
    audience: Audience
    id_kind: str = ""
    columns: dict[str, None] = field(default_factory=dict)
    rows: dict[str, Mapping[str, object]] = field(default_factory=dict)

    def take_row(self, row: Mapping[str, object], at: Loc) -> None:
        """A row whose id is the first of the id columns that it has, as in a result."""
        kind = next((kind for kind in ID_COLUMNS if kind in row), "")
        if not kind:
            self.document.mistake(at, f"this row names no user; it needs one of {', '.join(ID_COLUMNS)}")
            return
        if self.id_kind and kind != self.id_kind:
            self.document.mistake((*at, kind), f"this row names its user by {kind}, others by {self.id_kind}", key=True)
        self.id_kind = self.id_kind or kind
        self.take(row[kind], {name: value for name, value in row.items() if name != kind}, (*at, kind), at)

    def take(self, user: object, values: object, at: Loc, around: Loc) -> None:
        """An id, and the values beside it, whose names stand under `around`."""
        if isinstance(user, bool) or not isinstance(user, str | int) or not str(user).strip():
            self.document.mistake(at, "an id is text or a whole number; put it in quotes")
            return
        if values is not None and not isinstance(values, dict):
            self.document.mistake(around, f"the values of {str(user)!r} are a mapping, such as {{email: a@b.co}}")
            return
        if str(user) in self.rows:
            self.document.mistake(at, f"{str(user)!r} is expected twice; a user is in a result once")
        self.rows[str(user)] = {self._column(name, (*around, name)): value for name, value in (values or {}).items()}
        self.columns.update(dict.fromkeys(self.rows[str(user)]))

    def _column(self, name: str, at: Loc) -> str:
        """The name under which the value travels: that of an included column, or the trait's."""
        included = self.audience.include
        if name in included:
            return name
        if self.audience.kind == "audience":
            self.document.mistake(at, f"{name!r} is no column that {self.audience.key} includes", key=True,
                                  hint=did_you_mean(name, included, known="included")
                                  or f"only what travels is compared; the header may say  include: [{name}]")
            return name
        try:
            return key_of(name)
        except ValueError:
            return name

"""What is put to Planhat: a row for each user, what its taking would teach, and the requests that rows make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from audiencesync.destinations.people import MISSING_COMPANY, UNKNOWN_USER, email_of, split
from audiencesync.destinations.told import plain_value
from audiencesync.model import Batch, Call, Content, Packed, Packer

PUT = "PUT /endusers"

MOST_BYTES = 32_000_000
"""Of one body (authentication and limits)."""

ID = "\0"
"""Stands in what a row teaches for the `_id` that the answer tells."""

PRETENDED = "0" * 24

FIELDS = {"first_name": "firstName", "last_name": "lastName", "name": "name", "title": "position", "phone": "phone"}
"""Segment's standard traits that an enduser has fields of its own for; the email is a matter of its own."""

WHY = {MISSING_COMPANY: "Planhat makes no enduser without a company that it knows, and it knows none of this user",
       UNKNOWN_USER: "Planhat does not know this user, and create_users is false"}

_AS_IT_IS = re.compile(r"extid-.+|srcid-.+|[0-9a-f]{24}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One user's part of a request: his calls, the traits of each, the JSON, and the values an answer may name it by.

    `taken`, `lost` and `clash` are what is learned when it is taken, when Planhat knows no such enduser, and when
    another has its email; `absent` is the code with which a member is refused when there is no such enduser, empty
    where he is packed again with what that taught, as he is after a clash that teaches.
    """

    calls: tuple[Call, ...]
    keys: tuple[tuple[str, ...], ...]
    body: bytes
    names: tuple[str, ...]
    taken: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    clash: Mapping[str, str] = field(default_factory=dict)
    absent: str = ""
    id: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all its traits."""
        return tuple(name for mine in self.keys for name in mine)

    def lessons(self, found: str = "") -> dict[str, str]:
        """What its being taken teaches, with the `_id` that was told or is known."""
        return {name: value.replace(ID, found or self.id) for name, value in self.taken.items()}


@dataclass(frozen=True, slots=True)
class Rows(Batch):
    """A request with its rows, so that its answer can be read without what the packer knew."""

    rows: tuple[Row, ...] = ()


class Ways(NamedTuple):
    """The settings that say how people are found and made; `company` is a column, `most` the rows of a request.

    `cleared` is what a trait becomes that a user has no more; where there are no `lists`, one becomes text.
    """

    create: bool
    park: bool
    company: str
    most: int
    bulk_by_email: bool
    cleared: str | None = None
    lists: bool = True


class Member(NamedTuple):
    """What the included columns of a member say: own fields, custom ones, his company and his email."""

    own: Mapping[str, Any]
    custom: Mapping[str, Any]
    company: str
    email: str


class RowPacker(Packer):
    """What both ways to find people share: columns to fields, rows to requests."""

    in_turn = True

    def __init__(self, ways: Ways, content: Content) -> None:
        self.ways, self.envelopes = ways, content.envelopes
        self.all_keys = sorted({*content.keys, *(one.key for one in content.envelopes)})

    def pack(self, calls: Sequence[Call]) -> Packed:
        """As with nothing known."""
        return self.pack_known(calls, {})

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """Everybody is there and everything is taken."""
        found = batch.rows if isinstance(batch, Rows) else ()
        return {name: value for row in found for name, value in row.lessons(PRETENDED).items()}

    def key(self, call: Call) -> str:
        """The computation's name."""
        return self.envelopes[call.span].key

    def email(self, call: Call) -> str:
        """The email of a call, in lower case; empty where there is none."""
        return email_of(call, self.envelopes[call.span].id_kind)

    def keys(self, calls: Iterable[Call]) -> tuple[tuple[str, ...], ...]:
        """The names of each call's traits."""
        return tuple(tuple(call.traits(self.key(call))) for call in calls)

    def traits(self, calls: Iterable[Call]) -> dict[str, object]:
        """What is told, by the names of custom fields."""
        return {name: self._value(value) for call in calls for name, value in call.traits(self.key(call)).items()}

    def nothing(self, calls: Iterable[Call]) -> dict[str, object]:
        """What is told to an enduser whom these computations say nothing of any more."""
        return {name: False if isinstance(call.value, bool) else self.ways.cleared for call in calls
                for name in (*call.traits(self.key(call)), *self.envelopes[call.span].traits)}

    def _value(self, value: object) -> object:
        if value is None or not self.ways.lists:
            return plain_value(value, nothing=self.ways.cleared)
        return value

    def member(self, calls: Iterable[Call]) -> Member:
        """The columns of those calls that tell something; what is NULL is left out, so that it empties no field."""
        own: dict[str, Any] = {}
        custom: dict[str, Any] = {}
        email = ""
        for call in calls:
            if not call.tells:
                continue
            standard, others = split(call.included)
            email = self.email(call) or email
            standard.pop("email", None)
            address = standard.pop("address", None)
            for part, value in (address.items() if isinstance(address, dict) else [("", address)]):
                others["_".join(filter(None, ("address", part)))] = value
            for name, value in standard.items():
                if value is not None and name in FIELDS:
                    own[FIELDS[name]] = value
                else:
                    others[name] = value
            custom |= {name: value for name, value in others.items() if value is not None}
        company = custom.pop(self.ways.company, None)
        named = isinstance(company, str | int) and not isinstance(company, bool)
        return Member(own, custom, company_ref(str(company).strip()) if named else "", email)

    def requests(self, rows: Sequence[Row], *, asks: bool = False) -> Iterator[Batch]:
        """Rows in as few requests as the limits allow."""
        start = size = 0
        for at, row in enumerate(rows):
            if at > start and (at - start == self.ways.most or size + len(row.body) + 1 > MOST_BYTES):
                yield request(rows[start:at], asks=asks)
                start, size = at, 0
            size += len(row.body) + 1
        if rows[start:]:
            yield request(rows[start:], asks=asks)


def request(rows: Sequence[Row], *, asks: bool = False) -> Rows:
    """The bulk upsert of these rows."""
    body = b"[" + b",".join(row.body for row in rows) + b"]"
    return Rows(tuple(call for row in rows for call in row.calls), body, PUT, asks, rows=tuple(rows))


def question(route: str, row: Row) -> Rows:
    """Look one enduser up; the row says what finding him, or not, teaches."""
    return Rows(row.calls, b"", f"GET /endusers{route}", asks=True, rows=(row,))


def company_ref(text: str) -> str:
    """A company as an enduser's companyId names it: by `_id`, extid-, srcid-; plain ids are external ones."""
    return text if not text or _AS_IT_IS.fullmatch(text) else f"extid-{text}"

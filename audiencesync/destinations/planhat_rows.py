"""What is put to Planhat: a row for each user, what its taking would teach, and people found by their external id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import (
    MISSING_COMPANY,
    UNKNOWN_USER,
    by_user,
    compact,
    email_of,
    refusal,
    split,
)
from audiencesync.model import Batch, Call, Content, Packed, Packer, Refusal

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
    """One user's part of a request: his calls, their keys, the JSON, and the values an answer may name it by.

    `taken`, `lost` and `clash` are what is learned when it is taken, when Planhat knows no such enduser, and when
    another has its email; `absent` is the code with which a member is refused when there is no such enduser, empty
    where he is packed again with what that taught, as he is after a clash that teaches.
    """

    calls: tuple[Call, ...]
    keys: tuple[str, ...]
    body: bytes
    names: tuple[str, ...]
    taken: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    clash: Mapping[str, str] = field(default_factory=dict)
    absent: str = ""
    id: str = ""

    def lessons(self, found: str = "") -> dict[str, str]:
        """What its being taken teaches, with the `_id` that was told or is known."""
        return {name: value.replace(ID, found or self.id) for name, value in self.taken.items()}


@dataclass(frozen=True, slots=True)
class Rows(Batch):
    """A request with its rows, so that its answer can be read without what the packer knew."""

    rows: tuple[Row, ...] = ()


class Ways(NamedTuple):
    """The settings that say how people are found and made; `company` is a column, `most` the rows of a request."""

    create: bool
    park: bool
    company: str
    most: int
    bulk_by_email: bool


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
        """The trait's name."""
        return self.envelopes[call.span].key

    def email(self, call: Call) -> str:
        """The email of a call, in lower case; empty where there is none."""
        return email_of(call, self.envelopes[call.span].id_kind)

    def keys(self, calls: Iterable[Call]) -> tuple[str, ...]:
        """The traits' names."""
        return tuple(map(self.key, calls))

    def traits(self, calls: Iterable[Call]) -> dict[str, bool]:
        """The booleans."""
        return {self.key(call): call.value for call in calls}

    def member(self, calls: Iterable[Call]) -> Member:
        """The columns of those calls that say true; what is NULL is left out, so that it never empties a field."""
        own: dict[str, Any] = {}
        custom: dict[str, Any] = {}
        email = ""
        for call in calls:
            if not call.value:
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


class ByExternalId(RowPacker):
    """People found by our user id, which is their external id; every pending trait of a user in one row.

    An email is only an attribute here. Planhat may still match by it, so that a second user with the same email would
    be taken for the first: `e:<email>` remembers whose it is, and any other user's row goes without it.
    """

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Who is known to be there, where that matters, and whose an email is."""
        for user, mine in by_user(calls):
            member = self.member(mine)
            if self._careful(mine, member):
                yield f"u:{user}"
            if member.email and self.ways.create:
                yield f"e:{member.email}"

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """One row a user; those who must be looked up first ask, those without need are done."""
        rows: list[Row] = []
        questions: list[Batch] = []
        refused: list[tuple[Call, Refusal]] = []
        done: list[Call] = []
        later: list[Call] = []
        claimed: set[str] = set()
        for user, mine in by_user(calls):
            member, me = self.member(mine), f"u:{user}"
            if (careful := self._careful(mine, member)) and not known.get(me):
                if me in known:
                    refused += [(call, refusal(self._absent(), WHY[self._absent()])) for call in mine if call.value]
                    done += [call for call in mine if not call.value]
                else:
                    questions.append(question(f"/extid-{in_path(user)}", Row(
                        tuple(mine), self.keys(mine), b"", (user,), taken={me: f"={ID}"}, lost={me: ""})))
                continue
            if not self.ways.create or known.get(f"e:{member.email}", user) not in ("", user):
                member = member._replace(email="")
            if member.email in claimed:
                later += mine
                continue
            claimed |= {member.email} - {""}
            rows.append(self._row(user, mine, member, careful=careful))
        return Packed((*questions, *self.requests(rows)), tuple(refused), tuple(done), tuple(later))

    def _careful(self, calls: Sequence[Call], member: Member) -> bool:
        """Whether it must be known that this user is there before anything is put."""
        homeless = not member.company and not member.email and any(call.value for call in calls)
        return not self.ways.create or (self.ways.park and homeless)

    def _absent(self) -> str:
        return MISSING_COMPANY if self.ways.create else UNKNOWN_USER

    def _row(self, user: str, calls: Sequence[Call], member: Member, *, careful: bool) -> Row:
        body: dict[str, Any] = {"externalId": user}
        taken = {f"u:{user}": f"={ID}"} if careful else {}
        lost = {f"u:{user}": ""} if careful else {}
        if member.email:
            body["email"] = member.email
            taken[f"e:{member.email}"] = user
        if member.company and self.ways.create:  # without company and email nobody can be made
            body["companyId"] = member.company
        body |= {**member.own, "custom": {**member.custom, **self.traits(calls)}}
        names = tuple(filter(None, (user, member.email)))
        return Row(tuple(calls), self.keys(calls), compact(body), names, taken, lost, absent=self._absent())

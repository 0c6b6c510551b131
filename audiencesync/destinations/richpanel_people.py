"""How identify calls become Richpanel's customers, a request each, and what its answers mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import orjson

from audiencesync.destinations.api import Api, in_path
from audiencesync.destinations.people import (
    IDENTITY_CONFLICT,
    MISSING_EMAIL,
    UNKNOWN_USER,
    by_user,
    compact,
    email_of,
    refusal,
    split,
)
from audiencesync.errors import NotThere, TakenAlready, Unanswered
from audiencesync.model import Batch, Call, Channel, Content, Packed, Packer, Receipt, Refusal

SAVE = "POST /v1/customers"
FIND = "GET /v1/customers/email/"

SESSION = "richpanel_session_id"
"""The included column that names the session of an event; no property of a customer."""

IDENTITY = ("uid", "appClientId", "id")
OWN = (*IDENTITY, "email", "name", "facebook", "twitter", "state", "city", "country", "phone")
"""A customer's own fields (Create/Update Customer), besides those that begin with billing and shipping."""

ANONYMOUS = refusal("anonymous_id", "Richpanel's uid is a user id or an email, and this audience has neither")
STRANGER = "Richpanel does not know this user, and create_users is false"
CLASH = "another customer of Richpanel has what names this one"


def is_own(name: str) -> bool:
    """Whether a field is one of Richpanel's own, so that no trait may have its name."""
    return name in OWN or name.startswith(("billing", "shipping"))


def is_others(user: str, email: str, known: Mapping[str, str]) -> bool:
    """Whether Richpanel said that this email is another customer's, so that it is no more sent with this user."""
    return known.get(f"c:{user}") == _mark(email)


class Row(NamedTuple):
    """What one user's calls say: his fields (with uid), his other columns and traits, his session, as of when."""

    calls: tuple[Call, ...]
    own: dict[str, Any]
    custom: dict[str, Any]
    session: str
    timestamp: str


def saves(rows: Sequence[Row], *, nesting: Literal["customer", "body"]) -> Iterator[Batch]:
    """A request for each row; `nesting` says where custom properties stand."""
    for row in rows:
        custom, beside = (row.custom, {}) if nesting == "customer" else ({}, row.custom)
        yield Batch(row.calls, compact({**beside, "customer": row.own | custom}), SAVE)


class CustomerPacker(Packer):
    """All traits of a user in one request; nobody is created by a false.

    `render` makes batches of rows; `create` says whether a true may create somebody.
    """

    def __init__(self, content: Content, render: Callable[[Sequence[Row]], Iterable[Batch]], *, create: bool) -> None:
        self._envelopes, self._render, self._create = content.envelopes, render, create
        self._kind = content.envelopes[0].id_kind if content.envelopes else "user_id"

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Who was told a true before, and whose email another customer has."""
        return dict.fromkeys(name for call in calls for name in (f"u:{call.user_id}", f"c:{call.user_id}"))

    def pack(self, calls: Sequence[Call]) -> Packed:
        """As when nothing is known of anybody."""
        return self.pack_known(calls, {})

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Each user in one request, or asked for, or refused, or done."""
        rows: list[Row] = []
        asking: list[Batch] = []
        refused: list[tuple[Call, Refusal]] = []
        done: list[Call] = []
        for user, mine in by_user(calls):
            email = next(filter(None, (email_of(call, self._kind) for call in mine)), "")
            if self._kind == "anonymous_id":
                refused += ((call, ANONYMOUS) for call in mine)
            elif not known.get(f"u:{user}") and not any(call.value for call in mine):
                done += mine
            elif known.get(f"u:{user}") or self._create:
                rows.append(self._row(user, mine, "" if is_others(user, email, known) else email))
            elif email:
                asking.append(Batch(tuple(mine), b"", FIND + in_path(email), asks=True))
            else:
                why = refusal(MISSING_EMAIL, "Richpanel finds customers by their email, and this user has none")
                refused += ((call, why) for call in mine if call.value)
                done += (call for call in mine if not call.value)
        return Packed((*asking, *self._render(rows)), tuple(refused), tuple(done))

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """That a user who is looked up is found."""
        return {f"u:{batch.calls[0].user_id}": "1"} if batch.asks else {}

    def _row(self, user: str, mine: Sequence[Call], email: str) -> Row:
        columns: dict[str, Any] = {}
        for call in mine:
            columns |= orjson.loads(call.included) if call.included else {}
        session = columns.pop(SESSION, None)
        own, custom = _fields(columns)
        own |= {"uid": user} | ({"email": email} if email else {})
        traits = {self._envelopes[call.span].key: call.value for call in mine}
        return Row(tuple(mine), own, custom | traits, "" if session is None else str(session),
                   self._envelopes[mine[0].span].timestamp)


class CustomerChannel(Channel):
    """Saves a customer, or looks one up; an email that another has is left out once."""

    def __init__(self, api: Api, *, create: bool) -> None:
        self._api, self._create = api, create

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """What became of the calls; whoever is told a true, or found, is remembered."""
        user = batch.calls[0].user_id
        try:
            reply = self._api.ask(batch.route, batch.body, seconds=seconds, person=batch.asks)
        except NotThere:
            return _refused(batch, UNKNOWN_USER, STRANGER)
        except TakenAlready as error:
            return self._taken(batch, error)
        said = reply.json()
        if not isinstance(said, dict):
            raise Unanswered(f"the answer {reply.status} shows no customer, so it says nothing", status=reply.status)
        if said.get("error"):
            return Receipt(again=range(len(batch.calls)), wait=reply.wait)
        if batch.asks and not _is_found(batch, customer(said)):
            return _refused(batch, UNKNOWN_USER, STRANGER, wait=reply.wait)
        if batch.asks and str(customer(said).get("uid") or user) != user:
            return _refused(batch, IDENTITY_CONFLICT, f"{CLASH}, and create_users is false", wait=reply.wait)
        told = batch.asks or any(call.value for call in batch.calls)
        return Receipt(learned={f"u:{user}": "1"} if told else {}, wait=reply.wait)

    def _taken(self, batch: Batch, error: TakenAlready) -> Receipt:
        """Again without the email, unless it is all that names him or that could create him."""
        said = orjson.loads(batch.body)["customer"]
        email, user = said.get("email", ""), batch.calls[0].user_id
        if email and self._create and email != _plain(user):
            return Receipt(learned={f"c:{user}": _mark(email)}, repack=range(len(batch.calls)))
        return _refused(batch, IDENTITY_CONFLICT, CLASH, status=error.status)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()


def _refused(batch: Batch, code: str, words: str, *, status: int | None = None, wait: float | None = None) -> Receipt:
    """A refusal of all calls; of a look-up only of what is true, since nobody has to be told of a false."""
    why = refusal(code, words, status)
    return Receipt({at: why for at, call in enumerate(batch.calls) if call.value or not batch.asks}, wait=wait)


def _is_found(batch: Batch, found: Mapping[str, Any]) -> bool:
    """Whether an answer to a look-up shows somebody, and, as far as it says so, the one with this email."""
    if found.get("email"):
        return batch.route == FIND + in_path(_plain(str(found["email"])))
    return bool(found.get("uid") or found.get("id"))


def _plain(text: str) -> str:
    return text.strip().lower()


def _mark(email: str) -> str:
    """A digest under which an email is remembered that another customer has."""
    return blake2b(email.encode(), digest_size=8).hexdigest()


def customer(said: Any) -> dict[str, Any]:
    """The customer of an answer, which may stand in a field of that name; empty when it shows none."""
    found = said.get("customer", said) if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}


def _fields(columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Included columns as Richpanel's own fields, without those that are empty, and as custom properties."""
    standard, custom = split(compact(columns).decode())
    standard.pop("email", None)
    parts = [str(standard.pop(name, None) or "").strip() for name in ("first_name", "last_name")]
    address = standard.pop("address", None)
    where = address if isinstance(address, dict) else {}
    own = {"name": standard.pop("name", None) or " ".join(filter(None, parts)), "phone": standard.pop("phone", None),
           **{name: where.get(name) for name in ("city", "state", "country")},
           **{name: custom.pop(name) for name in [*custom] if is_own(name)}}
    fit = {name: text for name, value in own.items() if value is not None and (text := str(value).strip())}
    return {name: text for name, text in fit.items() if name not in IDENTITY}, standard | custom

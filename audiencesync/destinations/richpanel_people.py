"""Saves Richpanel's customers by a request each, looks them up by email, and says what its answers mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson

from audiencesync.destinations.api import Api, in_path
from audiencesync.destinations.people import IDENTITY_CONFLICT, UNKNOWN_USER, compact, refusal
from audiencesync.destinations.richpanel_packer import FIND, Followed, Row, mark
from audiencesync.errors import NotThere, TakenAlready, Unanswered
from audiencesync.model import Batch, Channel, Receipt

SAVE = "POST /v1/customers"

STRANGER = "Richpanel does not know this user, and create_users is false"
CLASH = "another customer of Richpanel has what names this one"


def saves(rows: Sequence[Row], *, nesting: Literal["customer", "body"]) -> Iterator[Batch]:
    """A request for each row; `nesting` says where custom properties stand."""
    for row in rows:
        custom, beside = (row.custom, {}) if nesting == "customer" else ({}, row.custom)
        yield Followed(row.calls, compact({**beside, "customer": row.own | custom}), SAVE, next=row.next)


def taken(batch: Batch, *, wait: float | None) -> Receipt:
    """People who are saved: whoever is told something is remembered to be there, and an event may follow."""
    following = batch.next if isinstance(batch, Followed) else {}
    told = {f"u:{call.user_id}": "1" for call in batch.calls if call.tells}
    return Receipt(learned=told | dict.fromkeys(following.values(), ""), wait=wait, repack=[*following])


class CustomerChannel(Channel):
    """Saves a customer, or looks one up; an email that another has is left out once."""

    def __init__(self, api: Api, *, create: bool) -> None:
        self._api, self._create = api, create

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """What became of the calls; whoever is told something, or found, is remembered."""
        user = batch.calls[0].user_id
        try:
            reply = self._api.ask(batch.route, batch.body, seconds=seconds, person=batch.asks)
        except NotThere:
            return _refused(batch, UNKNOWN_USER, STRANGER)
        except TakenAlready as error:
            return self._taken_already(batch, error)
        said = reply.json()
        if not isinstance(said, dict):
            raise Unanswered(f"the answer {reply.status} shows no customer, so it says nothing", status=reply.status)
        if said.get("error"):
            return Receipt(again=range(len(batch.calls)), wait=reply.wait)
        if batch.asks and not _is_found(batch, customer(said)):
            return _refused(batch, UNKNOWN_USER, STRANGER, wait=reply.wait)
        if batch.asks and str(customer(said).get("uid") or user) != user:
            return _refused(batch, IDENTITY_CONFLICT, f"{CLASH}, and create_users is false", wait=reply.wait)
        return Receipt(learned={f"u:{user}": "1"}, wait=reply.wait) if batch.asks else taken(batch, wait=reply.wait)

    def _taken_already(self, batch: Batch, error: TakenAlready) -> Receipt:
        """Again without the email, unless it is all that names him or that could create him."""
        said = orjson.loads(batch.body)["customer"]
        email, user = said.get("email", ""), batch.calls[0].user_id
        if email and self._create and email != _plain(user):
            return Receipt(learned={f"c:{user}": mark(email)}, repack=range(len(batch.calls)))
        return _refused(batch, IDENTITY_CONFLICT, CLASH, status=error.status)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()


def _refused(batch: Batch, code: str, words: str, *, status: int | None = None, wait: float | None = None) -> Receipt:
    """A refusal of all calls; of a look-up only of what tells something, since nobody has to be told of a false."""
    why = refusal(code, words, status)
    return Receipt({at: why for at, call in enumerate(batch.calls) if call.tells or not batch.asks}, wait=wait)


def _is_found(batch: Batch, found: Mapping[str, Any]) -> bool:
    """Whether an answer to a look-up shows somebody, and, as far as it says so, the one with this email."""
    if found.get("email"):
        return batch.route == FIND + in_path(_plain(str(found["email"])))
    return bool(found.get("uid") or found.get("id"))


def _plain(text: str) -> str:
    return text.strip().lower()


def customer(said: Any) -> dict[str, Any]:
    """The customer of an answer, which may stand in a field of that name; empty when it shows none."""
    found = said.get("customer", said) if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}

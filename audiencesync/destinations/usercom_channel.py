"""Sends User.com's requests, and reads what the answers teach of people."""

from __future__ import annotations

from typing import Any

import orjson

from audiencesync.destinations.api import Api
from audiencesync.destinations.people import IDENTITY_CONFLICT, UNKNOWN_USER, refusal
from audiencesync.destinations.usercom_people import (
    BY_CUSTOM_ID,
    CREATE,
    MASS_BY_CUSTOM_ID,
    MASS_BY_NUMBER,
    SEARCH,
    columns_of,
    marks_of,
    memo,
    name_in,
    name_of,
    name_of_email,
    plain,
)
from audiencesync.errors import NotThere, TakenAlready, Unanswered
from audiencesync.model import Batch, Channel, Receipt


class UserComChannel(Channel):
    """One request for a batch; `create` says whether somebody whom User.com has forgotten is created anew."""

    def __init__(self, api: Api, *, create: bool) -> None:
        self._api, self._create = api, create

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """What became of the calls, and the number of whoever was created, changed or found."""
        try:
            reply = self._api.ask(batch.route, batch.body, seconds=seconds, person=batch.route != CREATE)
        except NotThere as error:
            return self._not_there(batch, error)
        except TakenAlready as error:
            if _mass(batch):
                raise
            clash = refusal(IDENTITY_CONFLICT, f"what names this user names another one there ({error})", error.status)
            return Receipt(refused=dict.fromkeys(range(len(batch.calls)), clash))
        if _mass(batch):
            said = reply.json() if reply.body.strip() else None
            unclear = isinstance(said, dict) and bool(said.get("errors"))
            return Receipt(again=range(len(batch.calls)) if unclear else (), wait=reply.wait)
        found = who(reply.json(), batch.route, batch.calls[0].user_id)
        if found is None and batch.asks:
            return _unknown(batch, wait=reply.wait)
        if found is None:
            raise Unanswered(f"the answer {reply.status} names no user, so it says nothing", status=reply.status)
        marks = {} if batch.asks else marks_of(columns_of(batch.calls))
        sent = {} if batch.asks else orjson.loads(batch.body)
        first = name_of_email(plain(str(sent.get("email") or ""))) if "custom_id" in sent else ""
        learned = {name_in(batch): memo(str(found["id"]), marks)} | ({first: batch.calls[0].user_id} if first else {})
        return Receipt(learned=learned, wait=reply.wait)

    def _not_there(self, batch: Batch, error: NotThere) -> Receipt:
        """A member is created anew where that may be; of mass updates the machine finds first who is meant."""
        if batch.asks:
            return _unknown(batch)
        if _mass(batch) and len(batch.calls) > 1:
            raise error
        user = batch.calls[0].user_id
        forgotten = {name_of(user, by_email=by_email): "" for by_email in (True, False)}
        if self._create and any(call.value for call in batch.calls):
            return Receipt(learned=forgotten, repack=range(len(batch.calls)))
        gone = refusal(UNKNOWN_USER, "User.com does not know this user any more", error.status)
        return Receipt(refused=dict.fromkeys(range(len(batch.calls)), gone), learned=forgotten)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()


def who(said: Any, route: str, user: str) -> dict[str, Any] | None:
    """The user that an answer shows, alone or in a list; None where nobody in it is the one who was looked up.

    Raises Unanswered for JSON that is neither.
    """
    listed = said if not isinstance(said, dict) else [said] if "id" in said else said.get("results", [])
    if not isinstance(listed, list):
        raise Unanswered("the answer shows no user, so it says nothing")
    shown = [one for one in listed if isinstance(one, dict) and one.get("id")]
    if SEARCH in route:
        shown = [one for one in shown if plain(str(one.get("email", user))) == plain(user)]
    elif BY_CUSTOM_ID in route:
        shown = [one for one in shown if str(one.get("custom_id", user)) == user]
    return next(iter(shown), None)


def _unknown(batch: Batch, wait: float | None = None) -> Receipt:
    why = refusal(UNKNOWN_USER, "User.com does not know this user, and create_users is false")
    return Receipt(refused={at: why for at, call in enumerate(batch.calls) if call.value}, wait=wait)


def _mass(batch: Batch) -> bool:
    return batch.route in (MASS_BY_CUSTOM_ID, MASS_BY_NUMBER)

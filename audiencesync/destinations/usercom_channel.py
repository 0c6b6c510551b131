"""Sends User.com's requests, and reads what the answers teach of people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from audiencesync.destinations.api import Api
from audiencesync.destinations.people import IDENTITY_CONFLICT, UNKNOWN_USER, refusal
from audiencesync.destinations.usercom_people import memo, name_in, name_of, name_of_email, plain
from audiencesync.destinations.usercom_requests import (
    BY_CUSTOM_ID,
    CREATE,
    MASS_BY_CUSTOM_ID,
    MASS_BY_NUMBER,
    SEARCH,
    Request,
    is_event,
    learned_of,
    name_of_nobody,
)
from audiencesync.errors import CallsRefused, NotThere, TakenAlready, Unanswered
from audiencesync.model import Batch, Channel, Receipt, Refusal

if TYPE_CHECKING:
    from audiencesync.http import Reply


class UserComChannel(Channel):
    """One request for a batch; `create` says whether somebody whom User.com has forgotten is created anew."""

    def __init__(self, api: Api, *, create: bool) -> None:
        self._api, self._create = api, create

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """What became of the calls, and the number of whoever was created, changed or found."""
        assert isinstance(batch, Request)
        try:
            reply = self._api.ask(batch.route, batch.body, seconds=seconds, person=batch.route != CREATE)
        except NotThere as error:
            return self._not_there(batch, error)
        except TakenAlready as error:
            if _mass(batch):
                raise
            clash = refusal(IDENTITY_CONFLICT, f"what names this user names another one there ({error})", error.status)
            return Receipt(refused=dict.fromkeys(range(len(batch.calls)), clash))
        except CallsRefused as error:
            if not is_event(batch):
                raise
            # it may be the number that is refused, so that he is looked up before he is tried again
            return Receipt(refused={0: Refusal(str(error), error.status)}, learned=_forgotten(batch))
        if is_event(batch):
            _took(reply)
            return Receipt(learned=batch.teaches, wait=reply.wait)
        if _mass(batch):
            said = reply.json() if reply.body.strip() else None
            unclear = isinstance(said, dict) and bool(said.get("errors"))
            return Receipt(again=range(len(batch.calls)) if unclear else (), wait=reply.wait,
                           learned={} if unclear else batch.teaches)
        return _found(batch, reply)

    def _not_there(self, batch: Request, error: NotThere) -> Receipt:
        """A member is created anew where that may be; of mass updates the machine finds first who is meant."""
        if _looks(batch):
            return _unknown(batch)
        if _mass(batch) and len(batch.calls) > 1:
            raise error
        if self._create and any(call.tells for call in batch.calls):
            return Receipt(learned=_forgotten(batch), repack=range(len(batch.calls)))
        gone = refusal(UNKNOWN_USER, "User.com does not know this user any more", error.status)
        return Receipt(refused=dict.fromkeys(range(len(batch.calls)), gone), learned=_forgotten(batch))

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


def _found(batch: Request, reply: Reply) -> Receipt:
    """What an answer about one user teaches of him; raises Unanswered when it names nobody."""
    found = who(reply.json(), batch.route, batch.calls[0].user_id)
    if found is None and _looks(batch):
        return _unknown(batch, wait=reply.wait)
    if found is None:
        raise Unanswered(f"the answer {reply.status} names no user, so it says nothing", status=reply.status)
    sent = {} if _looks(batch) else orjson.loads(batch.body)
    first = name_of_email(plain(str(sent.get("email") or ""))) if "custom_id" in sent else ""
    number = str(found["id"])
    learned = {name_in(batch): memo(number, batch.marks)} | ({first: batch.calls[0].user_id} if first else {})
    return Receipt(learned={**learned, **(learned_of(batch, number) if batch.asks else {})}, wait=reply.wait)


def _took(reply: Reply) -> None:
    """Raises Unanswered unless an answer says that an event was taken; it may say nothing at all."""
    said = reply.json() if reply.body.strip() else {}
    if not isinstance(said, dict) or said.get("errors"):
        raise Unanswered(f"the answer {reply.status} does not say that the event was taken", status=reply.status)


def _unknown(batch: Batch, wait: float | None = None) -> Receipt:
    why = refusal(UNKNOWN_USER, "User.com does not know this user, and create_users is false")
    return Receipt(refused={at: why for at, call in enumerate(batch.calls) if call.tells}, wait=wait,
                   learned={name_of_nobody(batch.calls[0].user_id): ""})


def _forgotten(batch: Batch) -> dict[str, str]:
    return {name_of(batch.calls[0].user_id, by_email=by_email): "" for by_email in (True, False)}


def _looks(batch: Batch) -> bool:
    return batch.route.startswith("GET ")


def _mass(batch: Batch) -> bool:
    return batch.route in (MASS_BY_CUSTOM_ID, MASS_BY_NUMBER)

"""Puts rows to Planhat and looks endusers up; what an answer says of single rows is read by planhat_answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from audiencesync.destinations.api import Api
from audiencesync.destinations.planhat_answers import is_answer, read
from audiencesync.destinations.planhat_rows import Rows
from audiencesync.errors import AccountRefused, CallsRefused, NotThere, Throttled, Unanswered
from audiencesync.model import Batch, Channel, Receipt, Refusal

COOL_DOWN = 60.0
"""Seconds to wait after a 429 that names none: the window of the soft limit."""


def enduser(api: Api, route: str, *, seconds: float) -> Mapping[str, Any] | None:
    """One enduser by a path or query after /endusers; None when there is none."""
    try:
        found = api.ask(f"GET /endusers{route}", seconds=seconds, person=True).json()
    except NotThere:
        return None
    if isinstance(found, list):
        found = next((one for one in found if isinstance(one, dict) and one.get("_id")), None)
        if found is None:
            return None
    if not isinstance(found, dict) or not isinstance(found.get("_id"), str):
        raise Unanswered("Planhat's answer to a look-up is no enduser")
    return found


class PlanhatChannel(Channel):
    """One thread's connection."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def send(self, batch: Batch, *, seconds: float) -> Mapping[int, Refusal] | Receipt:
        """One request within `seconds`; raises a DeliveryError for all of it."""
        assert isinstance(batch, Rows)
        try:
            receipt = self._put(batch, seconds) if batch.body else self._look_up(batch, seconds)
        except Throttled as error:
            error.wait = COOL_DOWN if error.wait is None else error.wait
            raise
        return receipt.refused if receipt == Receipt(receipt.refused) else receipt

    def _look_up(self, batch: Rows, seconds: float) -> Receipt:
        (row,) = batch.rows
        found = enduser(self._api, batch.route.removeprefix("GET /endusers"), seconds=seconds)
        return Receipt(learned=row.lost if found is None else row.lessons(found["_id"]))

    def _put(self, batch: Rows, seconds: float) -> Receipt:
        def quote(said: str) -> str:
            return self._api.quote(said, batch.body)

        try:
            reply = self._api.ask(batch.route, batch.body, seconds=seconds)
        except (CallsRefused, AccountRefused) as error:
            account = isinstance(error, AccountRefused)
            receipt = read(error.body, error.status, batch, quote, ok=False, account=account)
            if receipt is None:
                raise
            return receipt
        if not is_answer(reply.body):
            raise Unanswered(f"the answer {reply.status} is none of Planhat's, so it says nothing", status=reply.status)
        receipt = read(reply.body, reply.status, batch, quote, ok=True, partial=reply.partial)
        assert receipt is not None
        return replace(receipt, wait=reply.wait)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

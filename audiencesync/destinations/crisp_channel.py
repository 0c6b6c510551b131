"""Sends requests to Crisp, and reads what its answers teach: an envelope of `error`, `reason` and `data`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audiencesync.destinations.api import Api
from audiencesync.destinations.crisp_people import last_in, name_of_email, name_of_sure
from audiencesync.destinations.crisp_requests import ID, SIZE, Request
from audiencesync.errors import AccountRefused, CallsRefused, NotThere, TakenAlready, Throttled, Unanswered
from audiencesync.model import Batch, Channel, Receipt, Refusal

if TYPE_CHECKING:
    from audiencesync.http import Reply

PAUSE = 10.0
"""Seconds to wait after a 429 or 420, since Crisp says no Retry-After (bloom-backend waits as long)."""


class CrispChannel(Channel):
    """One thread's connection."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """One request, and what it taught; raises a DeliveryError for all of it."""
        assert isinstance(batch, Request)
        everybody = range(len(batch.calls))
        try:
            reply = self._api.ask(batch.route, batch.body, seconds=seconds, person=batch.kind in ("find", "change"))
            return Receipt(learned=_learned(batch, said_in(reply)), wait=reply.wait)
        except NotThere as error:
            says_so(error)
            if batch.missing is None or batch.unknown:
                why = batch.unknown or Refusal(str(error), error.status)
                return Receipt(refused=dict.fromkeys(everybody, why), learned=batch.missing or {})
            return Receipt(learned=batch.missing, repack=everybody)
        except TakenAlready:
            if batch.taken is None:
                raise
            return Receipt(learned=batch.taken, repack=everybody)
        except CallsRefused as error:
            if batch.kind == "batch":
                return _smaller(batch, error)
            if batch.refused is None:
                raise
            return Receipt(learned=batch.refused, repack=everybody)
        except Throttled as error:
            error.wait = PAUSE if error.wait is None else error.wait
            raise

    def close(self) -> None:
        """Close the connection."""
        self._api.close()


def said_in(reply: Reply) -> Any:
    """What an answer says; raises Unanswered when it is none of Crisp's, or says both yes and no."""
    said = reply.json() if reply.body.strip() else {"error": False}
    if not isinstance(said, dict) or said.get("error") is not False:
        raise Unanswered(f"the answer {reply.status} is not one of Crisp's, so it says nothing", status=reply.status)
    return said.get("data")


def says_so(error: NotThere) -> None:
    """Raises AccountRefused when it was not Crisp that said so: a wrong address is no reason to forget anybody."""
    if b'"error"' not in (error.body or str(error).encode()):
        raise AccountRefused(f"{error}; this is not Crisp's API: check url", status=error.status) from error


def _learned(request: Request, said: Any) -> Mapping[str, str]:
    if request.kind == "search":
        return {**(request.missing or {}), **_found(request, said)}
    if request.kind in ("find", "create"):
        person = said.get("people_id") if isinstance(said, dict) else None
        if not isinstance(person, str) or not person:
            raise Unanswered("Crisp's answer names no person, so it says nothing")
        return {name: person + value.removeprefix(ID) if value.startswith(ID) else value
                for name, value in request.teaches.items()}
    return request.teaches


def _found(request: Request, said: Any) -> Mapping[str, str]:
    """The people whom a search shows and who were sought; others are of a filter that was not understood."""
    missing = request.missing or {}
    listed = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    found = {str(one.get("email")).strip().lower(): one.get("people_id") for one in listed}
    shown = {email: person for email, person in found.items()
             if isinstance(person, str) and person and name_of_email(email) in missing}
    taught = {name_of_email(email): " ".join(filter(None, (person, last_in(missing[name_of_email(email)]))))
              for email, person in shown.items()}
    return taught | ({name_of_sure(email): "" for email in shown} if request.sure else {})


def _smaller(request: Request, error: CallsRefused) -> Receipt:
    """A batch of many may be too large, so that half of it is remembered as the size; one alone was not."""
    if len(request.calls) > 1:
        return Receipt(again=range(len(request.calls)), learned={SIZE: str(len(request.calls) // 2)})
    return Receipt(refused={0: Refusal(str(error), error.status)}, learned={SIZE: ""})

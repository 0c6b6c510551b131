"""User.com's requests, each with what its answer teaches, and the forms in which values travel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import compact
from audiencesync.destinations.told import Event, plain_value
from audiencesync.model import Batch, Call

CREATE = "POST /users/update_or_create/"
EVENT, EVENTS = "POST /events/", "/events/"
MASS_BY_CUSTOM_ID = "PUT /users-by-id/mass_update_custom_attributes/"
MASS_BY_NUMBER = "PUT /users/mass_update_custom_attributes/"
SEARCH, BY_CUSTOM_ID = "/users/search/?email=", "/users-by-id/"
"""The routes that are the same for everybody; each path ends in a slash."""


@dataclass(frozen=True, slots=True)
class Request(Batch):
    """One request, and what is known of its one user when it is taken.

    `told` are the names of the traits that he has been told then, `marks` the digests of his columns. What is learned
    of somebody whose number is known already, or of many, is what `teaches` says.
    """

    told: tuple[str, ...] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    teaches: Mapping[str, str] = field(default_factory=dict)


def mass(calls: Iterable[Call], ids: Sequence[int | str], name: str, value: bytes, *, by_number: bool, asks: bool,
         teaches: Mapping[str, str]) -> Request:
    """The same attribute of many users; `value` is JSON in a list of one."""
    body = compact({"ids": ids, "attribute": name})[:-1] + b',"value":' + value[1:-1] + b"}"
    return Request(tuple(calls), body, MASS_BY_NUMBER if by_number else MASS_BY_CUSTOM_ID, asks=asks, teaches=teaches)


def event(call: Call, number: str, what: Event, seconds: int, *, by_number: bool, nothing: str | None,
          asks: bool) -> Request:
    """One event of a user; the same instant each time it is sent."""
    data = {name: plain_value(value, nothing=nothing) for name, value in what.properties.items()}
    who = {"user_id": as_number(number)} if by_number else {}
    body = compact({**who, "name": what.name, "timestamp": seconds, "data": data})
    route = EVENT if by_number else f"POST {BY_CUSTOM_ID}{in_path(call.user_id)}{EVENTS}"
    return Request((call,), body, route, asks=asks, teaches={name_of_event(number, call, what.about): ""})


def is_event(batch: Batch) -> bool:
    """Whether a request says an event."""
    return batch.route.startswith("POST ") and batch.route.endswith(EVENTS)


def name_of_told(number: str, user: str, trait: str) -> str:
    """Where it stands within a page, without being written down, that the user of this number was told a trait."""
    return f"i:{number}:{len(trait)}:{trait}:{user}"


def name_of_event(number: str, call: Call, about: str) -> str:
    """Where it stands within a page, without being written down, that an event of this user was taken."""
    return f"n:{number}:{call.span}:{len(about)}:{about}:{call.user_id}"


def name_of_sure(user: str) -> str:
    """Where it stands within a page, without being written down, that a backfill found or made this user."""
    return f"a:{user}"


def name_of_nobody(user: str) -> str:
    """Where it stands within a page, without being written down, that User.com does not know this user."""
    return f"x:{user}"


def learned_of(request: Request, number: str) -> Mapping[str, str]:
    """What is learned for this page when the one user of a request turns out to have this number."""
    user = request.calls[0].user_id
    return {name_of_sure(user): ""} | {name_of_told(number, user, name): "" for name in request.told}


def as_number(text: str) -> int | str:
    """A user's number as a number."""
    return int(text) if text.isascii() and text.isdecimal() else text

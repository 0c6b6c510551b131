"""How identify calls become User.com's requests, and what its answers teach of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from audiencesync.destinations.api import Api, in_path
from audiencesync.destinations.people import (
    IDENTITY_CONFLICT,
    UNKNOWN_USER,
    by_user,
    by_value,
    compact,
    first_calls,
    refusal,
    split,
)
from audiencesync.errors import NotThere, TakenAlready, Unanswered
from audiencesync.model import Batch, Call, Channel, Content, Packed, Packer, Receipt

CREATE = "POST /users/update_or_create/"
MASS_BY_CUSTOM_ID = "PUT /users-by-id/mass_update_custom_attributes/"
MASS_BY_NUMBER = "PUT /users/mass_update_custom_attributes/"
SEARCH, BY_CUSTOM_ID = "/users/search/?email=", "/users-by-id/"
"""The routes that are the same for everybody; each path ends in a slash."""

GENDERS = {"u": 1, "unknown": 1, "m": 2, "male": 2, "f": 3, "female": 3}
"""User.com's numbers for what people write."""

LONGEST = {"first_name": 40, "last_name": 40, "phone_number": 64}
"""Characters of its own fields."""

IDENTITY = ("id", "custom_id", "user_id", "user_key")
"""Fields that say who a user is, so no included column is sent as one of them."""


class UserComPacker(Packer):
    """One request for each member who is new there or whose columns changed, mass updates for all others.

    `most` is how many users a mass update names, `by_number` whether by User.com's own numbers, `create` whether whom
    it does not know is created.
    """

    def __init__(self, content: Content, *, most: int, by_number: bool, create: bool) -> None:
        self._keys = [one.key for one in content.envelopes]
        self._by_email = any(one.id_kind == "email" for one in content.envelopes)
        self._most, self._create = most, create
        self._by_number = by_number or self._by_email

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Under which names it is remembered who these users are there."""
        return dict.fromkeys(_name(call.user_id, by_email=self._by_email) for call in calls)

    def pack(self, calls: Sequence[Call]) -> Packed:
        """As when nothing is known of anybody."""
        return self.pack_known(calls, {})

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Each user in one request of his own, or with one trait in a mass update and the others later."""
        alone: list[Batch] = []
        together: list[Call] = []
        done: list[Call] = []
        numbers: dict[str, str] = {}
        for user, mine in by_user(calls):
            number, told = _recall(known.get(_name(user, by_email=self._by_email), ""))
            numbers[user] = number
            columns = _columns(mine)
            if not any(call.value for call in mine):
                (together if number or not self._by_number else done).extend(mine)
            elif not number:
                alone.append(self._new(user, mine, columns))
            elif _marks(columns).items() - told.items():
                alone.append(Batch(tuple(mine), self._row(user, mine, columns), f"PUT /users/{in_path(number)}/"))
            else:
                together.extend(mine)
        first, later = first_calls(together)
        return Packed((*alone, *self._mass(first, numbers)), done=tuple(done), later=later)

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """That a user who is looked up is found."""
        return {_name_in(batch): _memo("0", {})} if batch.asks else {}

    def _new(self, user: str, mine: Sequence[Call], columns: Mapping[str, Any]) -> Batch:
        if self._create:
            return Batch(tuple(mine), self._row(user, mine, columns), CREATE)
        return Batch(tuple(mine), b"", _look_up(user, by_email=self._by_email), asks=True)

    def _row(self, user: str, mine: Sequence[Call], columns: Mapping[str, Any]) -> bytes:
        """Who he is, his columns, and all his traits at hand."""
        who_ = {"email": _email(user)} if self._by_email else {"custom_id": user}
        return compact(_fields(columns) | who_ | {self._keys[call.span]: call.value for call in mine})

    def _mass(self, calls: Sequence[Call], numbers: Mapping[str, str]) -> Iterable[Batch]:
        for span, value, mine in by_value(calls, self._most):
            users = [call.user_id for call in mine]
            ids = [_as_number(numbers[user]) for user in users] if self._by_number else users
            body = compact({"ids": ids, "attribute": self._keys[span], "value": value})
            yield Batch(tuple(mine), body, MASS_BY_NUMBER if self._by_number else MASS_BY_CUSTOM_ID)


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
        marks = {} if batch.asks else _marks(_columns(batch.calls))
        return Receipt(learned={_name_in(batch): _memo(str(found["id"]), marks)}, wait=reply.wait)

    def _not_there(self, batch: Batch, error: NotThere) -> Receipt:
        """A member is created anew where that may be; of mass updates the machine finds first who is meant."""
        if batch.asks:
            return _unknown(batch)
        if _mass(batch) and len(batch.calls) > 1:
            raise error
        user = batch.calls[0].user_id
        forgotten = {_name(user, by_email=by_email): "" for by_email in (True, False)}
        if self._create and any(call.value for call in batch.calls):
            return Receipt(learned=forgotten, repack=range(len(batch.calls)))
        gone = refusal(UNKNOWN_USER, "User.com does not know this user any more", error.status)
        return Receipt(refused=dict.fromkeys(range(len(batch.calls)), gone), learned=forgotten)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()


def ways_to(user: str, id_kind: str, known: Mapping[str, str]) -> Sequence[str]:
    """The routes by which a user may be read: by the number remembered of him, then by his id."""
    by_email = id_kind == "email"
    number, _ = _recall(known.get(_name(user, by_email=by_email), ""))
    return [*([f"GET /users/{in_path(number)}/"] if number else []), _look_up(user, by_email=by_email)]


def who(said: Any, route: str, user: str) -> dict[str, Any] | None:
    """The user that an answer shows, alone or in a list; None where nobody in it is the one who was looked up.

    Raises Unanswered for JSON that is neither.
    """
    listed = said if not isinstance(said, dict) else [said] if "id" in said else said.get("results", [])
    if not isinstance(listed, list):
        raise Unanswered("the answer shows no user, so it says nothing")
    shown = [one for one in listed if isinstance(one, dict) and one.get("id")]
    if SEARCH in route:
        shown = [one for one in shown if _email(str(one.get("email", user))) == _email(user)]
    elif BY_CUSTOM_ID in route:
        shown = [one for one in shown if str(one.get("custom_id", user)) == user]
    return next(iter(shown), None)


def _unknown(batch: Batch, wait: float | None = None) -> Receipt:
    why = refusal(UNKNOWN_USER, "User.com does not know this user, and create_users is false")
    return Receipt(refused={at: why for at, call in enumerate(batch.calls) if call.value}, wait=wait)


def _mass(batch: Batch) -> bool:
    return batch.route in (MASS_BY_CUSTOM_ID, MASS_BY_NUMBER)


def _look_up(user: str, *, by_email: bool) -> str:
    return f"GET {SEARCH}{in_path(_email(user))}" if by_email else f"GET {BY_CUSTOM_ID}{in_path(user)}/"


def _name(user: str, *, by_email: bool) -> str:
    """Under which name a user's number is remembered; an email may also be somebody's custom id."""
    return f"e:{_email(user)}" if by_email else f"u:{user}"


def _name_in(batch: Batch) -> str:
    """The name of the one user whom a request is about."""
    by_email = SEARCH in batch.route if batch.asks else "custom_id" not in orjson.loads(batch.body)
    return _name(batch.calls[0].user_id, by_email=by_email)


def _email(text: str) -> str:
    return text.strip().lower()


def _as_number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else text


def _columns(calls: Sequence[Call]) -> dict[str, Any]:
    """All included columns of one user's calls."""
    found: dict[str, Any] = {}
    for call in calls:
        found |= orjson.loads(call.included) if call.included and call.value else {}
    return found


def _marks(columns: Mapping[str, Any]) -> dict[str, str]:
    """A short digest of each column, by which it is seen that one changed; no values are remembered."""
    return {name: blake2b(orjson.dumps(value), digest_size=4).hexdigest() for name, value in columns.items()}


def _memo(number: str, told: Mapping[str, str]) -> str:
    return orjson.dumps({"id": number, "told": told}, option=orjson.OPT_SORT_KEYS).decode()


def _recall(memo: str) -> tuple[str, Mapping[str, str]]:
    """A user's number there and the digests of the columns last told; empty for somebody unknown."""
    if not memo:
        return "", {}
    found = orjson.loads(memo)
    return found["id"], found["told"]


def _fields(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Included columns as User.com's own fields and as attributes; what is empty or too long for a field is left out.

    It has no field for a whole name, so that is cut at its first blank where its parts are not given.
    """
    standard, custom = split(compact(columns).decode())
    whole = str(standard.pop("name", None) or "").strip()
    if whole and not (standard.get("first_name") or standard.get("last_name")):
        standard["first_name"], _, standard["last_name"] = whole.partition(" ")
    if isinstance(address := standard.get("address"), dict):
        del standard["address"]
        standard |= {"city": address.get("city"), "country": address.get("country"), "region": address.get("state")}
    standard["phone_number"] = standard.pop("phone", None)
    standard["gender"] = GENDERS.get(str(standard.get("gender")).strip().lower())
    own = {name: value if isinstance(value, int) else str(value).strip() for name, value in standard.items()
           if value is not None}
    fit = {name: value for name, value in own.items()
           if value != "" and (name not in LONGEST or len(str(value)) <= LONGEST[name])}
    return {name: value for name, value in custom.items() if name not in IDENTITY} | fit

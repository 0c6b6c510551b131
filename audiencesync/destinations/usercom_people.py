"""How identify calls become User.com's requests, and what its answers teach of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import (
    UNKNOWN_USER,
    by_user,
    by_value,
    compact,
    first_calls,
    refusal,
    split,
)
from audiencesync.model import Batch, Call, Content, Packed, Packer, Refusal

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


ROUTES = ("mass_update_custom_attributes", "mass_update_standard_attributes")
"""Where a look-up of users with these ids would lead."""

NO_WAY = refusal(UNKNOWN_USER, "this id is a word of User.com's own paths, so it cannot be looked up")


class UserComPacker(Packer):
    """One request for each member who is new there or whose columns changed, mass updates for all others.

    `most` is how many users a mass update names, `by_number` whether by User.com's own numbers, `create` whether whom
    it does not know is created. In a backfill nobody is trusted to be there still. Of two users with one email the
    first sends it: User.com might take the second for him (what `update_or_create` matches by is not published).
    """

    in_turn = True

    def __init__(self, content: Content, *, most: int, by_number: bool, create: bool) -> None:
        self._keys = [one.key for one in content.envelopes]
        self._by_email = any(one.id_kind == "email" for one in content.envelopes)
        self._most, self._create, self._anew = most, create, content.anew and create
        self._by_number = by_number or self._by_email

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Under which names it is remembered who these users are there."""
        found = dict.fromkeys(name_of(call.user_id, by_email=self._by_email) for call in calls)
        return found | dict.fromkeys(name_of_email(email) for call in calls if (email := sent_email([call])))

    def pack(self, calls: Sequence[Call]) -> Packed:
        """As when nothing is known of anybody."""
        return self.pack_known(calls, {})

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Each user in one request of his own, or with one trait in a mass update and the others later."""
        alone: list[Batch] = []
        together: list[Call] = []
        done: list[Call] = []
        refused: list[tuple[Call, Refusal]] = []
        numbers: dict[str, str] = {}
        owners: dict[str, str] = {}
        for user, mine in by_user(calls):
            number, told = _recall(known.get(name_of(user, by_email=self._by_email), ""))
            numbers[user] = number
            columns = columns_of(mine)
            email = name_of_email(sent_email(mine))
            if owners.setdefault(email, known.get(email) or user) != user:
                columns.pop("email", None)
            if not any(call.value for call in mine):
                (together if number or not self._by_number else done).extend(mine)
            elif not self._create and not number and user in ROUTES:
                refused += [(call, NO_WAY) for call in mine if call.value]
                done += [call for call in mine if not call.value]
            elif not number or self._anew:
                alone.append(self._new(user, mine, columns))
            elif marks_of(columns).items() - told.items():
                alone.append(Batch(tuple(mine), self._row(user, mine, columns), f"PUT /users/{in_path(number)}/"))
            else:
                together.extend(mine)
        first, later = first_calls(together)
        return Packed((*alone, *self._mass(first, numbers)), tuple(refused), tuple(done), later)

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """That a user who is looked up is found."""
        return {name_in(batch): memo("0", {})} if batch.asks else {}

    def _new(self, user: str, mine: Sequence[Call], columns: Mapping[str, Any]) -> Batch:
        if self._create:
            return Batch(tuple(mine), self._row(user, mine, columns), CREATE)
        return Batch(tuple(mine), b"", _look_up(user, by_email=self._by_email), asks=True)

    def _row(self, user: str, mine: Sequence[Call], columns: Mapping[str, Any]) -> bytes:
        """Who he is, his columns, and all his traits at hand."""
        who_ = {"email": plain(user)} if self._by_email else {"custom_id": user}
        return compact(_fields(columns) | who_ | {self._keys[call.span]: call.value for call in mine})

    def _mass(self, calls: Sequence[Call], numbers: Mapping[str, str]) -> Iterable[Batch]:
        for span, value, mine in by_value(calls, self._most):
            users = [call.user_id for call in mine]
            ids = [_as_number(numbers[user]) for user in users] if self._by_number else users
            body = compact({"ids": ids, "attribute": self._keys[span], "value": value})
            yield Batch(tuple(mine), body, MASS_BY_NUMBER if self._by_number else MASS_BY_CUSTOM_ID)


def ways_to(user: str, id_kind: str, known: Mapping[str, str]) -> Sequence[str]:
    """The routes by which a user may be read: by the number remembered of him, then by his id."""
    by_email = id_kind == "email"
    number, _ = _recall(known.get(name_of(user, by_email=by_email), ""))
    return [*([f"GET /users/{in_path(number)}/"] if number else []), _look_up(user, by_email=by_email)]


def _look_up(user: str, *, by_email: bool) -> str:
    return f"GET {SEARCH}{in_path(plain(user))}" if by_email else f"GET {BY_CUSTOM_ID}{in_path(user)}/"


def name_of(user: str, *, by_email: bool) -> str:
    """Under which name a user's number is remembered; an email may also be somebody's custom id."""
    return f"e:{plain(user)}" if by_email else f"u:{user}"


def name_in(batch: Batch) -> str:
    """The name of the one user whom a request is about."""
    by_email = SEARCH in batch.route if batch.asks else "custom_id" not in orjson.loads(batch.body)
    return name_of(batch.calls[0].user_id, by_email=by_email)


def name_of_email(email: str) -> str:
    """Under which name it is remembered who sent an email first, which is a digest of it; empty for none."""
    return email and f"m:{blake2b(email.encode(), digest_size=12).hexdigest()}"


def sent_email(calls: Sequence[Call]) -> str:
    """The email that goes along as a column; empty where there is none."""
    return plain(str(columns_of(calls).get("email") or ""))


def plain(text: str) -> str:
    """An email as it is compared."""
    return text.strip().lower()


def _as_number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else text


def columns_of(calls: Sequence[Call]) -> dict[str, Any]:
    """All included columns of one user's calls."""
    found: dict[str, Any] = {}
    for call in calls:
        found |= orjson.loads(call.included) if call.included and call.value else {}
    return found


def marks_of(columns: Mapping[str, Any]) -> dict[str, str]:
    """A short digest of each column, by which it is seen that one changed; no values are remembered."""
    return {name: blake2b(orjson.dumps(value), digest_size=4).hexdigest() for name, value in columns.items()}


def memo(number: str, told: Mapping[str, str]) -> str:
    """What is remembered of a user: his number there, and the digests of the columns that were told."""
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

"""Whom User.com is told about: what is remembered of a user there, and what included columns become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import compact, split
from audiencesync.destinations.usercom_requests import BY_CUSTOM_ID, SEARCH
from audiencesync.model import Batch, Call

GENDERS = {"u": 1, "unknown": 1, "m": 2, "male": 2, "f": 3, "female": 3}
"""User.com's numbers for what people write."""

LONGEST = {"first_name": 40, "last_name": 40, "phone_number": 64}
"""Characters of its own fields."""

IDENTITY = ("id", "custom_id", "user_id", "user_key")
"""Fields that say who a user is, so no included column is sent as one of them."""

ROUTES = ("mass_update_custom_attributes", "mass_update_standard_attributes")
"""Where a look-up of users with these ids would lead."""


def ways_to(user: str, id_kind: str, known: Mapping[str, str]) -> Sequence[str]:
    """The routes by which a user may be read: by the number remembered of him, then by his id."""
    by_email = id_kind == "email"
    number, _ = recall(known.get(name_of(user, by_email=by_email), ""))
    return [*([f"GET /users/{in_path(number)}/"] if number else []), look_up(user, by_email=by_email)]


def look_up(user: str, *, by_email: bool) -> str:
    """The route that shows a user by what identifies him."""
    return f"GET {SEARCH}{in_path(plain(user))}" if by_email else f"GET {BY_CUSTOM_ID}{in_path(user)}/"


def name_of(user: str, *, by_email: bool) -> str:
    """Under which name a user's number is remembered; an email may also be somebody's custom id."""
    return f"e:{plain(user)}" if by_email else f"u:{user}"


def name_in(batch: Batch) -> str:
    """The name of the one user whom a request is about."""
    by_email = SEARCH in batch.route if batch.route.startswith("GET ") else "custom_id" not in orjson.loads(batch.body)
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


def columns_of(calls: Sequence[Call]) -> dict[str, Any]:
    """All included columns of one user's calls."""
    found: dict[str, Any] = {}
    for call in calls:
        found |= orjson.loads(call.included) if call.included and call.tells else {}
    return found


def marks_of(columns: Mapping[str, Any]) -> dict[str, str]:
    """A short digest of each column, by which it is seen that one changed; no values are remembered."""
    return {name: blake2b(orjson.dumps(value), digest_size=4).hexdigest() for name, value in columns.items()}


def memo(number: str, told: Mapping[str, str]) -> str:
    """What is remembered of a user: his number there, and the digests of the columns that were told."""
    return orjson.dumps({"id": number, "told": told}, option=orjson.OPT_SORT_KEYS).decode()


def recall(memo: str) -> tuple[str, Mapping[str, str]]:
    """A user's number there and the digests of the columns last told; empty for somebody unknown."""
    if not memo:
        return "", {}
    found = orjson.loads(memo)
    return found["id"], found["told"]


def fields_of(columns: Mapping[str, Any]) -> dict[str, Any]:
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

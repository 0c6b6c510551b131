"""Whom Crisp is told about: what is remembered of a user and of an email there, and what included columns become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from audiencesync.destinations.people import compact, email_of, split
from audiencesync.model import Call, Person

SOUGHT, TAKEN = " sought ", " taken "
"""What stands under an email, with the sync's tag, that a search did not show, and that Crisp says is taken."""

OWN_FIELDS = ("phone", "avatar", "gender")
"""Segment's standard traits that are fields of Crisp's `person` under the same name (cr-go's structs)."""


class Remembered(NamedTuple):
    """A user as he is remembered: his person, the email, digests of columns, what is held for him there.

    `keys` are those of audiences, `values` the names of computed traits that have a value. `gone` is the tag of a sync
    in which Crisp did not know the person any more; without an `id` he is looked up.
    """

    id: str = ""
    email: str = ""
    profile: str = ""
    data: str = ""
    keys: tuple[str, ...] = ()
    gone: str = ""
    values: tuple[str, ...] = ()

    @property
    def held(self) -> tuple[str, ...]:
        """All that is held for him, by name."""
        return (*self.keys, *self.values)

    def holding(self, call: Call, names: Mapping[str, bool]) -> Remembered:
        """The same user after a call; `names` says of each that he was told whether he has it."""
        audience = isinstance(call.value, bool)
        others = tuple(one for one in (self.keys if audience else self.values) if one not in names)
        now = (*others, *(name for name, has in names.items() if has))
        return self._replace(keys=now) if audience else self._replace(values=now)


def recall(known: Mapping[str, str], user: str) -> Remembered:
    """What is remembered of a user; an empty one for a stranger."""
    found = orjson.loads(known.get(name_of_memo(user)) or "{}")
    return Remembered(id=known.get(name_of(user), ""), **found | {
        name: tuple(found.get(name, ())) for name in ("keys", "values")})


def memo(user: str, told: Remembered) -> Mapping[str, str]:
    """What is written down of a user, but for his person."""
    found = {name: value for name, value in told._asdict().items() if value and name != "id"}
    return {name_of_memo(user): orjson.dumps(found).decode()}


def name_of(user: str) -> str:
    """Where the people_id of a user is remembered."""
    return f"u:{user}"


def name_of_memo(user: str) -> str:
    """Where the rest is remembered that concerns a user: email, digests of columns, keys."""
    return f"m:{user}"


def name_of_email(email: str) -> str:
    """Where it is remembered whose an email is: a people_id, a blank, and our user who came there last."""
    return f"e:{email}"


def name_of_sure(email: str) -> str:
    """Where it stands within a page, without being written down, that a backfill found out whose an email is."""
    return f"a:{email}"


def name_of_holder(key: str, email: str) -> str:
    """Where it is remembered which of the users of an email is the one for whom its person has a trait."""
    return f"o:{key}:{email}"


def name_of_sharing(user: str) -> str:
    """Where it is remembered, for ever, that others have or had the same person as this user."""
    return f"s:{user}"


def person_at(known: Mapping[str, str], email: str) -> str:
    """Whose an email is, empty where that is not known; marks begin with a blank, so that they are nobody."""
    return known.get(name_of_email(email), "").partition(" ")[0]


def last_at(known: Mapping[str, str], email: str) -> str:
    """Our user who came to this email last, empty where there is none; a mark keeps him after its sync's tag."""
    return last_in(known.get(name_of_email(email), ""))


def last_in(value: str) -> str:
    """Our user in what stands under an email."""
    return "".join(value.split(" ", 3)[3:]) if value.startswith(" ") else value.partition(" ")[2]


def joined(known: Mapping[str, str], user: str, told: Remembered, person: str, email: str,
           others: Iterable[str] = ()) -> tuple[Remembered, Mapping[str, str]]:
    """A user who has this person from now on, as the last one who came there and `others` may; and what that teaches.

    Who came there before the last one is known to share by then.
    """
    name = name_of_email(email)
    same = {last_at(known, email), *others} - {"", user}
    teaches = {name_of(user): person, name: f"{person} {user}"}
    teaches |= {name_of_sharing(one): "1" for one in sorted((*same, user) if same else ())}
    return Remembered(person, email, gone=told.gone), teaches


def moved(known: Mapping[str, str], user: str, told: Remembered,
          email: str) -> tuple[Remembered, Mapping[str, str]]:
    """A user whose person has another email from now on, and what that teaches."""
    person = email if told.id == told.email else told.id
    joins = joined(known, user, told, person, email)[1]
    held = {name_of_holder(key, email): user for key in told.held}
    return told._replace(id=person, email=email), {**released(told), name_of_email(told.email): "", **joins, **held}


def released(told: Remembered) -> Mapping[str, str]:
    """What is learned when nothing is held for a user at his person any more."""
    return {name_of_holder(key, told.email): "" for key in told.held}


def without_others(person: Person) -> Person:
    """A user with what is remembered of him, but for the traits that are held for others who share his email."""
    return person._replace(known={name: value for name, value in person.known.items()
                                  if not name.startswith(name_of_holder("", "")[:2]) or value == person.user_id})


def name_of_told(person: str, call: Call) -> str:
    """Where it stands within a page, without being written down, that a call's traits were told to this person."""
    return f"i:{person}:{call.span}:{call.user_id}"


def name_of_event(person: str, call: Call, about: str) -> str:
    """Where it stands within a page, without being written down, that an event of this person was taken."""
    return f"n:{person}:{call.span}:{len(about)}:{about}:{call.user_id}"


class Columns(NamedTuple):
    """Included columns as Crisp takes them: fields of its own for a person, and custom data."""

    person: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def profile_digest(self) -> str:
        """By which a change of the person's own fields is known; empty when there are none."""
        return _digest(self.person)

    @property
    def data_digest(self) -> str:
        """By which a change of the custom data is known; empty when there are none."""
        return _digest(self.data)


def columns_of(included: str | None) -> Columns:
    """Columns cut in two; empty ones are left out, since Crisp refuses null, and lists and objects become text."""
    standard, custom = split(included)
    person = {name: str(standard[name]) for name in OWN_FIELDS if standard.get(name)}
    whole = standard.get("name") or " ".join(
        str(standard[name]) for name in ("first_name", "last_name") if standard.get(name))
    if whole:
        person["nickname"] = str(whole)
    address = standard.get("address")
    if isinstance(address, dict):
        address = ", ".join(str(part) for part in address.values() if part)
    if address:
        person["address"] = str(address)
    if standard.get("title"):
        custom["title"] = standard["title"]
    data = {name: orjson.dumps(value).decode() if isinstance(value, list | dict) else value
            for name, value in custom.items() if value is not None}
    return Columns(person, data)


def email_in(calls: Iterable[Call], id_kind: str) -> str:
    """The email of a member, from the first of his calls that has one; empty where none has. "n/a" is none."""
    found = (email_of(call, id_kind) for call in calls if call.tells)
    return next((email for email in found if "@" in email and not any(map(str.isspace, email))), "")


def _digest(columns: Mapping[str, Any]) -> str:
    if not columns:
        return ""
    ordered = compact(dict(sorted(columns.items())))
    return blake2b(ordered, digest_size=6).hexdigest()

"""What User.com's reference leaves open: mass updates, attributes that nobody declared, emails of two users."""

from __future__ import annotations

from collections.abc import Sequence

from audiencesync.destinations.usercom import UserCom
from audiencesync.destinations.usercom_requests import CREATE, MASS_BY_CUSTOM_ID
from audiencesync.errors import AccountRefused, CallsRefused, TakenAlready
from tests.live.question import Account, Question
from tests.live.talk import Talk, Unaskable


def someone(talk: Talk, **fields: object) -> str:
    """A throw-away user's custom id; raises CallsRefused when User.com will not have him with these fields."""
    name = talk.name()
    said = talk.ask(CREATE, {"custom_id": name, "email": talk.email(name), **fields})
    talk.later(name, f"DELETE /users/{said['id']}/")
    return name


def taken(talk: Talk, ids: Sequence[str], route: str = MASS_BY_CUSTOM_ID) -> bool:
    """Whether a mass update of these users is taken."""
    return talk.takes(route, {"ids": ids, "attribute": talk.keys()[0], "value": True})


def ids_of_a_mass_update(talk: Talk) -> str:
    """How many users one mass update may name."""
    return talk.largest(lambda ids: taken(talk, ids), lambda: someone(talk), talk.name)


def unknown_ids_of_a_mass_update(talk: Talk) -> str:
    """What becomes of a mass update in which one user is not known."""
    first, _ = talk.keys()
    known, unknown = someone(talk), talk.name()
    if not taken(talk, [known, unknown]):
        return "refused"
    if not talk.has(known, first):
        raise Unaskable("a mass update was taken, and nobody has it")
    there = talk.held(unknown)
    if there is None:
        return "ignored"
    talk.later(unknown, f"DELETE /users/{there['id']}/")
    return "created"


def method_of_a_mass_update(talk: Talk) -> str:
    """By which method a mass update is sent: the pages say both."""
    for method in ("PUT", "POST"):
        name = someone(talk)
        try:
            if taken(talk, [name], MASS_BY_CUSTOM_ID.replace("PUT", method)) and talk.has(name, talk.keys()[0]):
                return method
        except AccountRefused:  # 405 is none of a call's faults
            continue
    return "neither"


def undeclared_attributes(talk: Talk) -> str:
    """What becomes of an attribute that is not declared, as included columns are not."""
    key = talk.name().replace("-", "_")
    try:
        name = someone(talk, **{key: True})
    except CallsRefused:
        return "refused"
    value = (talk.held(name) or {}).get(key)
    return "dropped" if value is None else "boolean" if isinstance(value, bool) else "string"


def two_users_of_one_email(talk: Talk) -> str:
    """What becomes of a new custom id with an email that another user has."""
    first = someone(talk)
    try:
        second = someone(talk, email=talk.email(first))
    except TakenAlready:
        return "conflict"
    except CallsRefused:
        return "refused"
    return "one_person" if talk.held(first) is None or talk.held(second) is None else "two_people"


def emptying_an_attribute(talk: Talk) -> str:
    """What takes a user's value away: null, or an empty text."""
    key, _ = talk.keys()
    name = someone(talk, **{key: True})
    if not talk.has(name, key):
        raise Unaskable("an attribute was taken, and nobody has it")
    for reading, value in (("null", None), ("empty", "")):
        if talk.takes(MASS_BY_CUSTOM_ID, {"ids": [name], "attribute": key, "value": value}) and talk.until(
                lambda: (talk.held(name) or {}).get(key) is not True):
            return reading
    return "neither"


ACCOUNT = Account("USERCOM", UserCom, (
    Question(ids_of_a_mass_update, least="batch"),
    Question(unknown_ids_of_a_mass_update, "mass_update_by", "ignored", wrong={
        "created": "set it to id, else a false creates whom User.com does not know"}, hints={
        "refused": "such a batch is halved until it is clear who is meant, with id it names nobody unknown"}),
    Question(method_of_a_mass_update, assumes="PUT", wrong=dict.fromkeys(
        ("POST", "neither"), "no setting helps, the destination has to learn it")),
    Question(undeclared_attributes, "include", "dropped", wrong={
        "refused": "declare an attribute for each included column, or leave it out"}, hints={
        "string": "an included column becomes text, unless its attribute is declared"}),
    Question(emptying_an_attribute, "cleared", "null", wrong={
        "empty": "set it to empty, else a trait that is no more stays as it was",
        "neither": "a trait that is no more stays as it was: say when_missing: 0, or another value"}),
    Question(two_users_of_one_email, "include", "refused", wrong={
        "one_person": "leave email out where users share one, else they are told in each other's place"}),
), required={"KEY": "api_key", "SUBDOMAIN": "subdomain"})
"""User.com."""

"""What Planhat's reference leaves open: custom fields, errors, emails and counts of the bulk upsert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from audiencesync.destinations.planhat import Planhat
from audiencesync.destinations.planhat_answers import ERRORS, leaves
from audiencesync.destinations.planhat_rows import PUT
from audiencesync.errors import AccountRefused, CallsRefused
from tests.live.question import Account, Question
from tests.live.talk import Talk, Unaskable


def put(talk: Talk, *items: Mapping[str, object]) -> dict[str, Any]:
    """What the bulk upsert of these items says, be it a yes or a no; raises Unaskable when it says nothing."""
    try:
        said = talk.ask(PUT, items)
    except (CallsRefused, AccountRefused) as error:
        if not error.body.lstrip().startswith(b"{"):
            raise
        said = orjson.loads(error.body)
    if not isinstance(said, dict):
        raise Unaskable("the bulk upsert answers no object")
    return said


def errors_in(said: Mapping[str, Any]) -> list[object]:
    """Every entry of the lists of errors."""
    return [error for name in ERRORS for error in said.get(name) or ()]


def nobody_yet(talk: Talk, **fields: object) -> dict[str, object]:
    """An item of somebody new, who is taken away in the end; his company is that of the environment."""
    name = talk.name()
    talk.later(name, f"DELETE /endusers/extid-{name}")
    company = {"companyId": f"extid-{talk.extras['COMPANY']}"} if "COMPANY" in talk.extras else {}
    return {"externalId": name, "email": talk.email(name), **company, **fields}


def someone(talk: Talk, **fields: object) -> str:
    """A throw-away enduser's external id; raises Unaskable when Planhat does not make him."""
    item = nobody_yet(talk, **fields)
    said = put(talk, item)
    name = str(item["externalId"])
    if errors_in(said) or talk.until(lambda: talk.held(name)) is None:
        words = "; ".join(text for error in errors_in(said) for text in leaves(error) if name not in text)
        raise Unaskable(f"Planhat makes no enduser ({words}): give AUDIENCESYNC_LIVE_PLANHAT_COMPANY, the external id "
                        "of a company for throw-away people")
    return name


def people_of(talk: Talk, email: str) -> Sequence[Mapping[str, Any]]:
    """Everybody with this email."""
    found = talk.ask(f"GET /endusers?email={email}")
    return found if isinstance(found, list) else []


def custom_fields_of_a_row(talk: Talk) -> str:
    """Whether custom fields that a row does not name are kept."""
    first, second = talk.keys()
    name = someone(talk, custom={first: True})
    put(talk, {"externalId": name, "custom": {second: True}})
    if not talk.has(name, second):
        raise Unaskable("a custom field that was put does not show")
    return "merge" if (talk.held(name) or {}).get(first) is True else "replace"


def shape_of_errors(talk: Talk) -> str:
    """What stands in the lists of errors for a row that cannot be taken, beside one that can."""
    name, bad = someone(talk), nobody_yet(talk)
    nowhere = f"extid-{bad['externalId']}-nowhere"
    said = put(talk, {"externalId": name, "custom": {}}, {"externalId": bad["externalId"], "companyId": nowhere})
    errors = errors_in(said)
    if not errors:
        return "silent"
    if not any(bad["externalId"] in text for error in errors for text in leaves(error)):
        return "bare"
    return "string" if isinstance(errors[0], str) else "object"


def emails_in_bulk(talk: Talk) -> str:
    """Whether a row without external id finds an enduser by his email."""
    first, _ = talk.keys()
    name = someone(talk)
    put(talk, {"email": talk.email(name), "custom": {first: True}})
    return found_by_email(talk, name, "found" if talk.has(name, first) else "not_found")


def found_by_email(talk: Talk, name: str, reading: str) -> str:
    """The reading; whoever was made with somebody's email besides himself is taken away in the end."""
    for person in people_of(talk, talk.email(name)):
        if person.get("externalId") != name:
            talk.later(name, f"DELETE /endusers/{person['_id']}")
    return reading


def two_users_of_one_email(talk: Talk) -> str:
    """What becomes of a row with an external id that is new and an email that is not."""
    name = someone(talk)
    said = put(talk, nobody_yet(talk) | {"email": talk.email(name)})
    reading = "one_person" if talk.held(name) is None else "two_people" if said.get("created") else "refused"
    if reading == "refused" and not errors_in(said):
        reading = "kept"
    return found_by_email(talk, name, reading)


def spelling_of_parent(talk: Talk) -> str:
    """How custom fields of endusers spell their parent: as those that are there do, else as one that is made."""
    listed = talk.ask("GET /customfields?limit=500")
    found = [str(one["parent"]) for one in listed if str(one.get("parent")).lower() == "enduser"]
    if found:
        return found[0]
    try:
        talk.keys()
    except Unaskable:
        return "another"
    return str(talk.destination.field_parent)


def undeclared_custom_fields(talk: Talk) -> str:
    """What becomes of a row with a custom field that is not declared, as included columns are not."""
    key, name = talk.name().replace("-", "_"), someone(talk)
    said = put(talk, {"externalId": name, "custom": {key: True}})
    if errors_in(said):
        return "refused"
    return "taken" if talk.has(name, key) else "dropped"


NO_SETTING = "no setting helps, the destination has to learn it"

ACCOUNT = Account("PLANHAT", Planhat, (
    Question(custom_fields_of_a_row, assumes="merge", wrong={
        "replace": f"a row would empty all custom fields that it does not name; {NO_SETTING}"}),
    Question(shape_of_errors, "batch", "object", hints=dict.fromkeys(
        ("bare", "silent"), "no row is named, so each bad one is sought by halves: lower batch if there are many")),
    Question(emails_in_bulk, "bulk_by_email", "found", wrong={"not_found": "with match: email set it to false"}),
    Question(two_users_of_one_email, "match", "one_person"),
    Question(spelling_of_parent, "field_parent", "EndUser", wrong={
        "another": "no field of endusers is there to tell: make one in Planhat, and set it to what its parent says"}),
    Question(undeclared_custom_fields, "include", "taken", wrong={
        "refused": "declare a custom field for each included column, or leave it out"}),
), required={"TOKEN": "api_token"}, optional={"SUBDOMAIN": "subdomain"}, extras=("COMPANY",))
"""Planhat; people are made in the company with the external id COMPANY, unless their email's domain has one."""


"""What Crisp's reference leaves open: batches of data, lists of people, and creations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from audiencesync.destinations.crisp import Crisp
from audiencesync.destinations.crisp_requests import PER_PAGE, Desk
from audiencesync.errors import CallsRefused, TakenAlready
from tests.live.question import Account, Question
from tests.live.talk import KEYS, Talk, Unaskable

FIRST, SECOND = KEYS


class Someone(NamedTuple):
    """A throw-away person, by the name that his email begins with and by Crisp's."""

    name: str
    id: str


def people(talk: Talk, what: str) -> str:
    """The path of something about people."""
    return f"/website/{talk.destination.website_id}/people/{what}"


def someone(talk: Talk, name: str = "", person: dict[str, str] | None = None) -> Someone:
    """A new person; raises the DeliveryError of a creation that is not taken."""
    name = name or talk.name()
    said = talk.ask(f"POST {people(talk, 'profile')}", {
        "email": talk.email(name), "person": {"nickname": name} if person is None else person})
    found = str(said["data"]["people_id"])
    talk.later(name, f"DELETE {people(talk, f'profile/{found}')}")
    return Someone(name, found)


def batch(talk: Talk, profiles: Sequence[str], **data: object) -> bool:
    """Whether the same data for many people is taken."""
    route = f"PATCH /website/{talk.destination.website_id}/batch/data"
    return talk.takes(route, {"people": {"profiles": profiles}, "data": data})


def people_in_a_batch(talk: Talk) -> str:
    """How many people one batch may name."""
    return talk.largest(lambda ids: batch(talk, ids, **{FIRST: True}), lambda: someone(talk).id, lambda: str(uuid4()))


def kept(talk: Talk, write: Any) -> bool:
    """Whether writing the second key of a new person keeps the first."""
    who = someone(talk)
    talk.ask(f"PATCH {people(talk, f'data/{who.id}')}", {"data": {FIRST: True}})
    write(who)
    if not talk.has(who.name, SECOND):
        raise Unaskable("data that was taken does not show")
    return (talk.held(who.name) or {}).get(FIRST) is True


def other_keys_of_a_batch(talk: Talk) -> str:
    """Whether a batch keeps the data that it does not name, and if not, whether writing to one person does."""
    if kept(talk, lambda who: batch(talk, [who.id], **{SECOND: True})):
        return "merge"
    alone = kept(talk, lambda who: talk.ask(f"PATCH {people(talk, f'data/{who.id}')}", {"data": {SECOND: True}}))
    return "replace_in_batches" if alone else "replace"


def emails_in_a_batch(talk: Talk) -> str:
    """Whether a batch may name people by their email."""
    who = someone(talk)
    if not batch(talk, [talk.email(who.name)], **{FIRST: True}):
        return "refused"
    return "found" if talk.has(who.name, FIRST) else "ignored"


def listed(talk: Talk, page: int, query: str = "") -> int:
    """How many people a page of the list shows."""
    return len(talk.ask(f"GET {people(talk, f'profiles/{page}')}{query}")["data"])


def page_of_the_list(talk: Talk) -> str:
    """How many people a page shows unless asked for more; as many as there are, where they fill no page."""
    size = listed(talk, 1)
    return str(size) if listed(talk, 2) else f"{size} or more"


def longest_page_of_the_list(talk: Talk) -> str:
    """How many people a page shows of the most that searches ask for; 0 where that is refused."""
    try:
        size = listed(talk, 1, f"?per_page={PER_PAGE}")
    except CallsRefused:
        return "0"
    return str(size) if listed(talk, 2, f"?per_page={PER_PAGE}") else f"{size} or more"


def searches_by_email(talk: Talk) -> str:
    """Whether the list is searched as sync asks it to, beside people who are not sought."""
    someone(talk)
    email = talk.email(someone(talk).name)
    route = Desk(talk.destination.website_id).search([], [email], missing={}, likely={}, off="", sure=False).route

    def seen() -> list[str]:
        return [str(one.get("email")) for one in talk.ask(route)["data"]]

    try:
        shown = talk.until(lambda: [found for found in [seen()] if email in found])
    except CallsRefused:
        return "refused"
    return "not_shown" if not shown else "understood" if shown[0] == [email] else "ignored"


def creation_of_a_taken_email(talk: Talk) -> str:
    """What becomes of a creation with an email that somebody has."""
    who = someone(talk)
    try:
        again = someone(talk, who.name)
    except TakenAlready:
        return "conflict"
    except CallsRefused:
        return "refused"
    return "same_person" if again.id == who.id else "two_people"


def creation_without_nickname(talk: Talk) -> str:
    """Whether a creation needs a nickname."""
    try:
        someone(talk, person={})
    except CallsRefused:
        return "refused"
    return "taken"


def reading_after_writing(talk: Talk) -> str:
    """Whether what is read twice is new the second time, which a cache may prevent."""
    who = someone(talk)
    for key in KEYS:
        talk.ask(f"PATCH {people(talk, f'data/{who.id}')}", {"data": {key: True}})
        held = talk.held(who.name) or {}
    return "fresh" if held.get(SECOND) is True else "stale"


def emptying_data(talk: Talk) -> str:
    """Whether null takes a key away, which is tidier than an empty text."""
    who = someone(talk)
    path = people(talk, f"data/{who.id}")
    talk.ask(f"PATCH {path}", {"data": {FIRST: True}})
    if not talk.has(who.name, FIRST):
        raise Unaskable("data that was taken does not show")
    if not talk.takes(f"PATCH {path}", {"data": {FIRST: None}}):
        return "refused"
    gone = talk.until(lambda: not (talk.held(who.name) or {}).get(FIRST))
    return "null" if gone else "ignored"


UNSEEN = "members are then found one by one: search: 1 saves requests that tell nothing"

ACCOUNT = Account("CRISP", Crisp, (
    Question(people_in_a_batch, least="batch"),
    Question(other_keys_of_a_batch, "bulk", "merge", wrong={
        "replace_in_batches": "set it to off, else telling an audience empties all other custom data",
        "replace": "telling an audience empties all other custom data; no setting helps"}),
    Question(emails_in_a_batch, "people", "ignored", hints={"found": "with email nobody has to be looked up"}),
    Question(page_of_the_list, assumes="20"),
    Question(longest_page_of_the_list, least="search"),
    Question(searches_by_email, "search", "understood", wrong=dict.fromkeys(("ignored", "not_shown"), UNSEEN),
             hints={"refused": "one refused search in each sync, none with 1"}),
    Question(creation_of_a_taken_email, assumes="conflict", wrong=dict.fromkeys(
        ("refused", "two_people"), "whom a search does not show is refused, or there twice; no setting helps"), hints={
        "same_person": "better still"}),
    Question(creation_without_nickname, assumes="refused"),
    Question(emptying_data, "cleared", "refused", hints={"null": "with null a trait that is no more leaves nothing"}),
    Question(reading_after_writing, assumes="fresh", hints={"stale": "verify may see what was; try again later"}),
), required={"WEBSITE": "website_id", "IDENTIFIER": "identifier", "KEY": "key"}, optional={"TIER": "tier"})
"""Crisp."""

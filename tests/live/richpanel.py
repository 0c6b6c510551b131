"""What Richpanel's reference leaves open: where custom properties stand, and events that identify people."""

from __future__ import annotations

from audiencesync.destinations.api import in_path
from audiencesync.destinations.richpanel import Richpanel
from audiencesync.destinations.richpanel_people import FIND, SAVE, customer
from audiencesync.errors import CallsRefused
from audiencesync.model import Destination
from tests.live.question import Account, Question
from tests.live.talk import KEYS, Talk, Unaskable


def told(talk: Talk, by: Destination) -> str:
    """What becomes of a new customer told of his trait by this destination; he can only be told false in the end."""
    name = talk.name()
    try:
        talk.tell(name, by=by)
    except CallsRefused:
        return "refused"
    talk.later(name, lambda: (talk.tell(name, False, by=by), talk.left.append(f"{name} (customers cannot be deleted)")))
    return "held" if talk.has(name, KEYS[0]) else "not_held"


def nesting_of_properties(talk: Talk) -> str:
    """Where custom properties have to stand, so that a look-up shows them."""
    for nesting in ("customer", "body"):
        if told(talk, talk.destination.model_copy(update={"nesting": nesting})) == "held":
            return nesting
    return "neither"


def uid_in_look_ups(talk: Talk) -> str:
    """Whether a look-up by email says who it is in our words."""
    name = talk.name()
    talk.ask(SAVE, {"customer": {"uid": name, "email": talk.email(name)}})
    talk.later(name, lambda: talk.left.append(f"{name} (customers cannot be deleted)"))
    if talk.until(lambda: talk.held(name)) is None:
        raise Unaskable("a customer who was saved is not found by his email")
    found = customer(talk.ask(FIND + in_path(talk.email(name)), person=True))
    return "shown" if found.get("uid") == name else "hidden"


def identify_in_a_batch_of_events(talk: Talk) -> str:
    """Whether an event in a batch makes a customer and tells his trait."""
    events = Richpanel(api_key=talk.extras["APP_KEY"], api_secret=talk.extras["APP_SECRET"], transport="events",
                       url=talk.destination.url)
    found = told(talk, events)
    return {"held": "identified", "not_held": "dropped"}.get(found, found)


ACCOUNT = Account("RICHPANEL", Richpanel, (
    Question(nesting_of_properties, "nesting", "customer", wrong={
        "body": "set it to body",
        "neither": "look-ups show custom properties of neither place: see in Richpanel whether customers have them"}),
    Question(uid_in_look_ups, "create_users", "shown", hints={
        "hidden": "with false, a customer who has a user's email is taken for him"}),
    Question(identify_in_a_batch_of_events, "transport", "identified", hints=dict.fromkeys(
        ("dropped", "refused"), "events is of no use"), needs=("APP_KEY", "APP_SECRET")),
), required={"KEY": "api_key"}, extras=("APP_KEY", "APP_SECRET"))
"""Richpanel; the key and secret of a Data Source are for its events."""

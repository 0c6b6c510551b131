"""Fakes that play every reading of each guess, and which question has to find out which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes.base import reply
from tests.fakes.crisp import CrispFake
from tests.fakes.planhat import PlanhatFake
from tests.fakes.richpanel import RichpanelFake
from tests.fakes.usercom import UserComFake
from tests.live import ACCOUNTS, crisp, planhat, richpanel, segment, usercom
from tests.live.question import Question
from tests.loopback import Answer, Fault, Loopback, Request
from tests.servers import Recorder


class Forgetful(UserComFake):
    """Deletes users, and knows two more readings: of unknown ids (create) and of a shared email (one)."""

    def _users(self, method: str, names: list[str], query: Mapping[str, str], body: Any) -> Answer | None:
        if method == "DELETE" and len(names) == 1:
            return reply({}) if self.people.pop(int(names[0]), None) else reply({"detail": "Not found."}, 404)
        return super()._users(method, names, query, body)

    def handle(self, method: str, path: list[str], query: Mapping[str, str], body: Any, request: Request) -> Answer:
        return super().handle(method, path, query, body or {}, request)

    def _mass(self, body: dict[str, Any], kind: type) -> Answer:
        if self.unknown_ids == "create":
            for name in body["ids"]:
                if not self._of_custom_id(name):
                    self.person(name)
        return super()._mass(body, kind)

    def _update_or_create(self, body: dict[str, Any]) -> Answer:
        if self.clash == "one" and (other := self._of_email(body["email"])):
            other["custom_id"] = body["custom_id"]
        return super()._update_or_create(body)


class Alternative(CrispFake):
    """Knows more readings: batches alone replace data; a taken email is a 400, the same person, or another one."""

    def __init__(self, *args: Any, batches_keep: bool = True, taken: str = "conflict", per_page: bool = True,
                 shows: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches_keep, self.taken, self.per_page, self.shows = batches_keep, taken, per_page, shows
        for number in range(60):
            self.add(f"other{number}@example.org")

    def _wrong(self, what: str) -> Answer:
        answer = super()._wrong(what)
        self.violations = [one for one in self.violations if "null" not in one]  # which a question tries
        return answer

    def _batch(self, body: Any) -> Answer:
        self.keeps, keeps = self.keeps and self.batches_keep, self.keeps
        try:
            return super()._batch(body)
        finally:
            self.keeps = keeps

    def _create(self, body: Any) -> Answer:
        there = self._find(body["email"])
        if there is None or self.taken == "conflict":
            return super()._create(body)
        if self.taken == "refused":
            return reply({"error": True, "reason": "invalid_data", "data": {}}, 400)
        name = there["people_id"] if self.taken == "same_person" else self.add(f"{body['email']}.twice")
        return reply({"error": False, "reason": "added", "data": {"people_id": name}})

    def _list(self, number: int, query: Mapping[str, str]) -> Answer:
        if not self.per_page and "per_page" in query:
            return reply({"error": True, "reason": "invalid_data", "data": {}}, 400)
        if not self.shows and "search_filter" in query:
            return reply({"error": False, "reason": "listed", "data": []})
        return super()._list(number, query)


def no_put(_: int, request: Request) -> Fault | int | None:
    """A User.com without PUT."""
    return 405 if request.method == "PUT" else None


def no_mass_update(_: int, request: Request) -> Fault | int | None:
    """A User.com without mass updates."""
    return 405 if "mass_update" in request.path else None


class Posting(Forgetful):
    """Takes POST for mass updates, as one of its pages says."""

    def _by_custom_id(self, method: str, names: list[str], query: Mapping[str, str], body: Any) -> Answer | None:
        return super()._by_custom_id("PUT" if names[0].startswith("mass") else method, names, query, body)


def fields(parent: str) -> dict[str, Any]:
    """Switches of a Planhat with a custom field of endusers, and one of companies."""
    return {"parent": parent, "fields": [{"name": "size", "parent": "Company", "type": "number"},
                                         {"name": "vip", "parent": parent, "type": "checkbox"}]}


CASES: list[tuple[Question, Callable[..., Loopback], dict[str, Any], str]] = []
"""A question, a fake, the fake's switches, the reading that holds then."""

for question, fake, played in (
    (planhat.custom_fields_of_a_row, PlanhatFake, [({}, "merge"), ({"custom": "replace"}, "replace")]),
    (planhat.shape_of_errors, PlanhatFake, [
        ({}, "object"), *(({"errors": shape}, shape) for shape in ("string", "bare", "silent"))]),
    (planhat.emails_in_bulk, PlanhatFake, [
        ({}, "found"), ({"by_email": False}, "not_found"), ({"by_email": False, "unique": False}, "not_found")]),
    (planhat.two_users_of_one_email, PlanhatFake, [
        ({}, "one_person"), ({"by_email": False}, "refused"), ({"by_email": False, "unique": False}, "two_people")]),
    (planhat.spelling_of_parent, PlanhatFake, [
        ({}, "EndUser"), (fields("EndUser"), "EndUser"), (fields("enduser"), "enduser"),
        ({"parent": "End User", "strict_parent": True}, "another")]),
    (planhat.undeclared_custom_fields, PlanhatFake, [({}, "taken"), ({"undeclared": False}, "refused")]),
    (usercom.ids_of_a_mass_update, Forgetful, [
        ({}, "100"), ({"most": None}, "1000 or more"), ({"most": 30}, "30"), ({"most": 1}, "1"),
        ({"unknown_ids": "refuse"}, "100 or more"), ({"unknown_ids": "refuse", "most": 30}, "30")]),
    (usercom.unknown_ids_of_a_mass_update, Forgetful, [
        ({}, "ignored"), ({"unknown_ids": "refuse"}, "refused"), ({"unknown_ids": "create"}, "created")]),
    (usercom.method_of_a_mass_update, Forgetful, [({}, "PUT")]),
    (usercom.method_of_a_mass_update, Posting, [({"script": no_put}, "POST")]),
    (usercom.method_of_a_mass_update, Forgetful, [({"script": no_mass_update}, "neither")]),
    (usercom.undeclared_attributes, Forgetful, [
        ({}, "dropped"), ({"undeclared": "refuse"}, "refused"), ({"undeclared": "string"}, "string"),
        ({"undeclared": "string", "shows": "list"}, "string")]),
    (usercom.two_users_of_one_email, Forgetful, [
        ({}, "refused"), ({"clash": "409"}, "conflict"), ({"clash": "allow"}, "two_people"),
        ({"clash": "one"}, "one_person")]),
    (usercom.emptying_an_attribute, Forgetful, [
        ({}, "null"), ({"clears": "empty"}, "empty"), ({"clears": "never"}, "neither")]),
    (crisp.people_in_a_batch, Alternative, [
        ({}, "1000 or more"), ({"cap": 30}, "30"), ({"cap": 100}, "100"), ({"cap": 1}, "1")]),
    (crisp.other_keys_of_a_batch, Alternative, [
        ({}, "merge"), ({"keeps": False}, "replace"), ({"batches_keep": False}, "replace_in_batches")]),
    (crisp.emails_in_a_batch, Alternative, [({}, "ignored"), ({"emails": True}, "found")]),
    (crisp.page_of_the_list, Alternative, [({}, "20"), ({"page_size": 30}, "30")]),
    (crisp.longest_page_of_the_list, Alternative, [({}, "50"), ({"per_page": False}, "0")]),
    (crisp.searches_by_email, Alternative, [
        ({}, "understood"), ({"searches": "refused"}, "refused"), ({"shows": False}, "not_shown")]),
    (crisp.searches_by_email, CrispFake, [({}, "understood"), ({"searches": "ignored"}, "ignored")]),
    (crisp.creation_of_a_taken_email, Alternative, [
        ({}, "conflict"), *(({"taken": way}, way) for way in ("refused", "same_person", "two_people"))]),
    (crisp.creation_without_nickname, Alternative, [({}, "refused"), ({"nickname": False}, "taken")]),
    (crisp.emptying_data, Alternative, [({}, "refused"), ({"nulls": True}, "null")]),
    (crisp.reading_after_writing, Alternative, [({}, "fresh"), ({"stale": True}, "stale")]),
    (richpanel.nesting_of_properties, RichpanelFake, [
        ({}, "customer"), ({"nesting": "body"}, "body"), ({"script": lambda *_: 400}, "neither")]),
    (richpanel.uid_in_look_ups, RichpanelFake, [({}, "shown"), ({"shows": False}, "hidden")]),
    (richpanel.identify_in_a_batch_of_events, RichpanelFake, [
        ({}, "identified"), ({"most_events": 0}, "refused"), ({"most_events": 0, "always": True}, "dropped")]),
    (segment.a_wrong_write_key, Recorder, [
        ({}, "accepted"), ({"write_key": "wk"}, "refused"), ({"script": lambda *_: 400}, "calls_refused")]),
):
    asked = next(one for account in ACCOUNTS for one in account.questions if one.ask is question)
    CASES += [(asked, fake, switches, reading) for switches, reading in played]

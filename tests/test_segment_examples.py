"""What Segment's own documentation and captured calls show, told field by field by the real command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from audiencesync import __version__
from tests.commands import NOWHERE, Shop
from tests.databases import fill
from tests.loopback import Answer, Fault, Loopback, Request
from tests.servers import Recorder, user_of

MAIN = """\
name: spa
source: {{url: "sqlite:///shop.db"}}
state: ${{STATE}}
defaults: {{guard: {{max_exit: 100%}}}}
destinations:
  segment: {{type: segment, write_key: "${{WRITE_KEY}}", url: "${{SEGMENT}}", settle: 0s, timeout: 2s{more}}}
"""
NOON, LATER = "2026-05-03T19:42:50.066Z", "2026-05-04T00:00:00.000Z"
AUDIENCE = """\
/* audiencesync
include: [email]
integrations: [HubSpot]
{header}*/
SELECT user_id, email FROM people WHERE inside
"""
REVENUE = """\
/* audiencesync
kind: trait
{header}*/
SELECT user_id, revenue AS total_revenue_180_days FROM people WHERE inside
"""
TICKETS = """\
/* audiencesync
types: {has_open_ticket: boolean}
full_row: true
*/
SELECT user_id, has_open_ticket, num_tickets_90_days, avg_zendesk_rating_90_days FROM tickets
"""
PARTIAL = "eg_lcm_user_portal_roles_partial_access"

Call = Mapping[str, Any]
Told = tuple[str, str | None, str]
"""The type of a call, the name of its event, and its user."""


class Hook(Loopback):
    """A receiver of the webhook that refuses some users by their messageIds inside a 200, as it may."""

    def __init__(self, *refuse: str) -> None:
        super().__init__()
        self.refuse, self.calls = refuse, list[Call]()

    def answer(self, request: Request, *, taken: bool) -> Answer:
        assert taken
        calls = orjson.loads(request.body)["batch"]
        self.calls += [call for call in calls if user_of(call) not in self.refuse]
        errors = [{"messageId": call["messageId"], "reason": "unknown here"} for call in calls
                  if user_of(call) in self.refuse]
        return Answer(200, orjson.dumps({"errors": errors}))


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder
        assert recorder.violations == []
        assert recorder.changed_message_ids() == []


def make(root: Path, url: str = NOWHERE, more: str = "", *, main: str = MAIN, **files: str) -> Shop:
    """A project whose people are u123, with an email and 450.00 of revenue, and u124."""
    shop = Shop(root / "spa", f"sqlite:///{root / 'state.db'}", url=url, main=main.format(more=more), **files)
    fill(f"sqlite:///{shop.root / 'shop.db'}",
         "CREATE TABLE people (user_id TEXT, email TEXT, revenue NUMERIC, inside INT)",
         "INSERT INTO people VALUES ('u123', 'peter@drift.com', 450.00, 1), ('u124', NULL, 0.5, 1)")
    return shop


def leave(shop: Shop, *users: str) -> None:
    """These people are in no result any more."""
    fill(f"sqlite:///{shop.root / 'shop.db'}", *(f"UPDATE people SET inside = 0 WHERE user_id = '{user}'"
                                                  for user in users))


def synced(shop: Shop, code: int = 0, *, at: str = NOON) -> Any:
    done = shop.run("sync", "--as-of", at, "-o", "json")
    assert done.code == code, (done.out, done.err)
    return done.document


def of(calls: list[Any], user: str = "u123") -> list[dict[str, Any]]:
    """The calls of one user without messageIds, whose form and number Segment's rules are checked for elsewhere."""
    return [{name: value for name, value in call.items() if name != "messageId"} for call in calls
            if user_of(call) == user]


def context(class_: str, key: str, calls: list[Any]) -> dict[str, Any]:
    """The context that all calls of one computation share; its id is ours, with Segment's prefix."""
    found = {call["context"]["personas"]["computation_id"] for call in calls}
    assert all(one.startswith({"audience": "aud_", "trait": "tra_"}[class_]) and len(one) == 31 for one in found)
    [identity] = found
    return {"personas": {"computation_class": class_, "computation_id": identity, "computation_key": key,
                         "namespace": "spa", "space_id": "spa"},
            "integrations": {"personas": False}, "library": {"name": "audiencesync", "version": __version__}}


def test_an_audience_is_identified_as_in_the_captured_call(tmp_path: Path, server: Recorder) -> None:
    shop = make(tmp_path, server.url, **{PARTIAL: AUDIENCE.format(header="")})
    synced(shop)
    assert of(server.calls) == [{
        "type": "identify", "userId": "u123", "timestamp": NOON,
        "traits": {PARTIAL: True, "email": "peter@drift.com"},
        "context": context("audience", PARTIAL, server.calls), "integrations": {"All": False, "HubSpot": True}}]
    assert of(server.calls, "u124")[0]["traits"] == {PARTIAL: True}  # an email where there is one
    server.clear()
    leave(shop, "u123")
    synced(shop, at=LATER)
    assert [(call["timestamp"], call["traits"]) for call in server.calls] == [(LATER, {PARTIAL: False})]


def test_an_audience_is_entered_and_exited_as_in_the_captured_events(tmp_path: Path, server: Recorder) -> None:
    shop = make(tmp_path, server.url, test_audience=AUDIENCE.format(header="send: track\n"))
    synced(shop)
    personas = context("audience", "test_audience", server.calls)
    expected = {
        "type": "track", "event": "Audience Entered", "userId": "u123", "timestamp": NOON,
        "properties": {"audience_key": "test_audience", "test_audience": True},
        "context": {**personas, "traits": {"email": "peter@drift.com"}},
        "integrations": {"All": False, "HubSpot": True}}
    assert of(server.calls) == [expected]
    assert of(server.calls, "u124")[0]["context"] == personas
    server.clear()
    leave(shop, "u123")
    synced(shop, at=LATER)
    assert of(server.calls) == [{**expected, "event": "Audience Exited", "timestamp": LATER, "context": personas,
                                 "properties": {"audience_key": "test_audience", "test_audience": False}}]
    assert len(server.calls) == 1


def test_a_computed_trait_is_identified_and_computed_as_documented(tmp_path: Path, server: Recorder) -> None:
    shop = make(tmp_path, server.url, total_revenue_180_days=REVENUE.format(header="send: both\n"))
    synced(shop)
    key = "total_revenue_180_days"
    shared = {"userId": "u123", "timestamp": NOON, "context": context("trait", key, server.calls), "integrations": {}}
    assert of(server.calls) == [
        {"type": "identify", "traits": {key: 450.00}, **shared},
        {"type": "track", "event": "Trait Computed", "properties": {"trait_key": key, key: 450.00}, **shared}]
    server.clear()
    leave(shop, "u123")
    synced(shop, at=LATER)
    assert [call.get("traits", call.get("properties")) for call in server.calls] == [
        {key: None}, {"trait_key": key, key: None}]


def test_a_row_of_a_sql_trait_is_one_call_with_all_its_columns(tmp_path: Path, server: Recorder) -> None:
    shop = make(tmp_path, server.url, none="SELECT user_id FROM orders")
    shop.write("traits/support.sql", TICKETS)
    database = f"sqlite:///{shop.root / 'shop.db'}"
    fill(database, "CREATE TABLE tickets (user_id TEXT, has_open_ticket INT, num_tickets_90_days INT, "
         "avg_zendesk_rating_90_days REAL)", "INSERT INTO tickets VALUES ('u123', 1, 3, 8.0), ('u124', 0, 1, NULL)")
    synced(shop)
    documented = {"has_open_ticket": True, "num_tickets_90_days": 3, "avg_zendesk_rating_90_days": 8}
    assert of(server.calls) == [{
        "type": "identify", "userId": "u123", "timestamp": NOON, "traits": documented,
        "context": context("trait", "support", server.calls), "integrations": {}}]
    assert of(server.calls, "u124")[0]["traits"] == {
        "has_open_ticket": False, "num_tickets_90_days": 1, "avg_zendesk_rating_90_days": None}
    assert b'"avg_zendesk_rating_90_days":8,"has_open_ticket":true,"num_tickets_90_days":3}' in server.bodies[0]
    server.clear()
    fill(database, "UPDATE tickets SET num_tickets_90_days = 4 WHERE user_id = 'u123'")
    synced(shop, at=LATER)
    assert [call["traits"] for call in server.calls] == [{**documented, "num_tickets_90_days": 4}]
    server.clear()
    shop.write("traits/support.sql", TICKETS.replace("full_row: true\n", ""))
    fill(database, "UPDATE tickets SET num_tickets_90_days = 5")
    synced(shop, at="2026-05-05")
    assert [call["traits"] for call in server.calls] == [{"num_tickets_90_days": 5}] * 2


def test_events_of_a_sql_trait_name_the_column_that_each_is_about(tmp_path: Path, server: Recorder) -> None:
    shop = make(tmp_path, server.url, none="SELECT user_id FROM orders")
    shop.write("traits/people.sql", "/* audiencesync\nsend: track\ninclude: [email]\n*/\n"
               "SELECT user_id, email, revenue, inside AS logins FROM people WHERE user_id = 'u123'")
    synced(shop)
    assert [(call["event"], call["properties"], call["context"]["personas"]["computation_key"],
             call["context"]["traits"]) for call in server.calls] == [
        ("Trait Computed", {"trait_key": name, name: value}, name, {"email": "peter@drift.com"})
        for name, value in (("logins", 1), ("revenue", 450))]


BOTH = [("identify", None, "u123"), ("track", "Audience Entered", "u123"),
        ("identify", None, "u124"), ("track", "Audience Entered", "u124")]


def told(calls: list[Any]) -> list[Told]:
    return [(call["type"], call.get("event"), user_of(call)) for call in calls]


@pytest.mark.parametrize(("settings", "header", "expected"), [
    ("", "send: both\n", BOTH),
    (", send: both", "", BOTH),
    (", send: both, coalesce: true", "", BOTH),
    (", coalesce: true", "send: {segment: track}\n", BOTH[1::2]),
    ("", "send: {segment: track}\n", BOTH[1::2]),
    (", send: both", "send: {segment: identify}\n", BOTH[::2]),
    (", send: track", "send: {}\n", BOTH[1::2]),
    ("", "send: both\nevents: {entered: Came}\n", [(kind, event and "Came", user) for kind, event, user in BOTH]),
    (", send: track, events: {entered: Came in}", "", [("track", "Came in", "u123"), ("track", "Came in", "u124")]),
    (", send: track, events: {entered: Came in}", "events: {entered: Hello}\n",
     [("track", "Hello", "u123"), ("track", "Hello", "u124")]),
])
def test_the_header_goes_before_the_destination(
        tmp_path: Path, server: Recorder, settings: str, header: str, expected: list[Told]) -> None:
    shop = make(tmp_path, server.url, settings, buyers=AUDIENCE.format(header=header))
    done = synced(shop)
    assert told(server.calls) == expected
    assert sum(one["sent"] for one in done["syncs"]) == 2, done["syncs"]
    leave(shop, "u123", "u124")
    synced(shop, at=LATER)
    assert len(server.calls) == 2 * len(expected)
    assert {call.get("event") for call in server.calls[len(expected):]} <= {None, "Audience Exited"}


def test_traits_that_travel_together_leave_their_events_alone(tmp_path: Path, server: Recorder) -> None:
    """With `coalesce` an identify call is of several audiences, and an event of one."""
    plain = AUDIENCE.format(header="send: both\n")
    shop = make(tmp_path, server.url, ", coalesce: true", buyers=plain, vips=plain,
                total_revenue_180_days=REVENUE.format(header="send: both\n"),
                spenders=AUDIENCE.format(header="send: identify\n"))
    synced(shop)
    mine = of(server.calls)
    together = [call["traits"] for call in mine if call["type"] == "identify"]
    assert {name: value for traits in together for name, value in traits.items()} == {
        "buyers": True, "vips": True, "spenders": True, "email": "peter@drift.com", "total_revenue_180_days": 450}
    assert {"buyers": True, "vips": True, "email": "peter@drift.com"} in together
    assert sorted((call["event"], sorted(call["properties"])) for call in mine if call["type"] == "track") == [
        ("Audience Entered", ["audience_key", "buyers"]), ("Audience Entered", ["audience_key", "vips"]),
        ("Trait Computed", ["total_revenue_180_days", "trait_key"])]
    assert len({call["messageId"] for call in server.calls}) == len(server.calls)


@pytest.mark.parametrize("coalesce", ["", ", coalesce: true"])
def test_identify_and_event_have_ids_of_their_own_that_a_retry_repeats(tmp_path: Path, coalesce: str) -> None:
    lost = [Fault(status=503), Fault(status=502, taken=True)]
    with Recorder(lost) as server:
        shop = make(tmp_path, server.url, f", send: both{coalesce}", buyers=AUDIENCE.format(header=""),
                    total_revenue_180_days=REVENUE.format(header=""))
        for at in (NOON, LATER):
            synced(shop, at=at)
        assert server.requests > 2
        assert len(server.calls) == 16, "8 calls, and 8 of them twice"
        assert len(server.unique_calls) == len({call["messageId"] for call in server.calls}) == 8
        assert server.changed_message_ids() == []
        first = {call["messageId"] for call in server.calls}
        server.clear()
        assert shop.run("backfill", "*", "-o", "json").code == 0
        assert len(server.calls) == 8
        assert not first & {call["messageId"] for call in server.calls}, "another decision, another id"


@pytest.mark.parametrize("coalesce", ["", ", coalesce: true"])
def test_a_refused_user_is_refused_once_for_both_his_calls(tmp_path: Path, server: Recorder, coalesce: str) -> None:
    shop = make(tmp_path, server.url, f", send: both{coalesce}", buyers=AUDIENCE.format(header=""))
    fill(f"sqlite:///{shop.root / 'shop.db'}", *(f"INSERT INTO people VALUES ('v{number}', NULL, 1, 1)"
                                                  for number in range(6)))
    server.refuse = {"u124"}
    done = synced(shop, 3)
    [sync] = done["syncs"]
    assert sync["rejected"] == 1
    users = ["u123", *(f"v{number}" for number in range(6))]
    assert sorted(told(server.unique_calls)) == sorted(
        (kind, event, user) for user in users for kind, event in (("identify", None), ("track", "Audience Entered")))
    [rejected] = shop.run("rejected", "-o", "json").document["rejected"]
    assert (rejected["user_id"], rejected["status"]) == ("u124", 400), rejected
    server.refuse = set()
    server.clear()
    synced(shop, at=LATER)
    assert told(server.calls) == [("identify", None, "u124"), ("track", "Audience Entered", "u124")]
    assert shop.run("rejected", "-o", "json").document["rejected"] == []


def test_a_webhook_takes_both_and_refuses_by_either(tmp_path: Path) -> None:
    main = MAIN.replace('type: segment, write_key: "${{WRITE_KEY}}"', "type: webhook")
    with Hook("u124") as server:
        shop = make(tmp_path, server.url, ", send: both", main=main, buyers=AUDIENCE.format(header=""))
        done = synced(shop, 3)
        assert told(server.calls) == BOTH[:2]
        assert [one["rejected"] for one in done["syncs"]] == [1]
        [rejected] = shop.run("rejected", "-o", "json").document["rejected"]
        assert rejected["user_id"] == "u124"
        assert rejected["reason"] == "unknown here"


def test_a_file_has_a_line_for_either(tmp_path: Path) -> None:
    main = MAIN.replace('type: segment, write_key: "${{WRITE_KEY}}", url: "${{SEGMENT}}", settle: 0s, timeout: 2s',
                        "type: file, path: calls.jsonl")
    shop = make(tmp_path, main=main, more=", send: both", buyers=AUDIENCE.format(header=""))
    synced(shop)
    lines = [orjson.loads(line) for line in (shop.root / "calls.jsonl").read_bytes().splitlines()]
    assert told(lines) == BOTH
    assert len({line["messageId"] for line in lines}) == 4

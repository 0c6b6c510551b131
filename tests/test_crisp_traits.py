"""Crisp: computed traits of every kind in few requests, shared persons, and events."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from audiencesync.destinations.crisp import Crisp
from audiencesync.model import Call, Content, Envelope, Person
from audiencesync.testing import content, envelope
from audiencesync.testing.drive import Journal, drive, imagined
from audiencesync.testing.loopback import Fault, Request
from tests.calls import computed as computed_
from tests.calls import false, pure, true, unlucky
from tests.fakes.crisp import IDENTIFIER, KEY, WEBSITE, CrispFake

NAMES = ("first_at", "has_ticket", "labels", "revenue", "size")
SEARCH, CREATE = "GET people/profiles", "POST people/profile"
PROFILE, DATA, BATCH, EVENT = "PATCH people/profile", "PATCH people/data", "PATCH batch/data", "POST people/events"

FAULTS = [503, 429, "accept_then_drop", "drop"]


def trait(send: str = "identify", **other: object) -> Envelope:
    return envelope("orders", computation_class="trait", traits=NAMES, send=send, **other)


def vip(send: str = "identify") -> Envelope:
    return envelope("vip", send=send)


def computed(user: str, span: int = 0, *, email: str = "", **values: object) -> Call:
    gone = all(value is None for value in values.values())
    return computed_(user, span, columns=None if gone else {"email": email or f"{user}@x.co"}, **values)


def member(user: str, span: int = 0, *, email: str = "") -> Call:
    return true(user, span, email=email or f"{user}@x.co")


def at(server: CrispFake, **settings: object) -> Crisp:
    return Crisp.model_validate({"website_id": WEBSITE, "identifier": IDENTIFIER, "key": KEY, "url": server.url,
                                 "rate": "100000/1s", **settings})


def bring(server: CrispFake, calls: Sequence[Call], *spans: Envelope, before: Journal | None = None,
          what: Content | None = None, **settings: object) -> Journal:
    """A sync of these calls by a packer that is held to what packers promise; `journal.routes` are its requests."""
    server.routes.clear()
    made = what or content(*(spans or (trait(),)))
    remembered = before.remembered if before else {}
    destination = at(server, **settings)
    journal = drive(destination, pure(destination, made, remembered), sorted(calls, key=lambda call: call[:2]),
                    remembered=remembered, size=1000)
    assert server.violations == []
    return journal


def known(server: CrispFake, *users: str, **settings: object) -> Journal:
    """A sync that makes these users known, who hold nothing that is asked for here."""
    for user in users:
        server.add(f"{user}@x.co")
    journal = bring(server, [computed(user, greeted=True) for user in users], **settings)
    for person in server.people.values():
        person["data"].clear()
    return journal


def test_every_kind_of_value_arrives_and_is_read_back() -> None:
    with CrispFake() as server:
        values = {"revenue": 9.5, "size": "M", "has_ticket": False, "first_at": "2026-11-22T10:00:00Z",
                  "labels": ["a", "b"]}
        journal = bring(server, [computed("ann", **values)])
        assert server.routes == {CREATE: 1, DATA: 1}
        held = {**values, "labels": "a, b"}
        assert server.holds() == {("ann@x.co", name): value for name, value in held.items()}
        [(_, found)] = at(server).read_back([Person("ann", "user_id", None, journal.remembered)])
        assert found == held
        second = bring(server, [computed("ann", revenue=None) ], before=journal)
        assert second.accepted.total() == 1
        assert server.person("ann@x.co")["data"]["revenue"] == ""


def test_digits_that_no_double_holds_are_sent() -> None:
    with CrispFake() as server:
        first = known(server, "ann", "bob")
        journal = bring(server, [Call("ann", 0, '{"revenue":12345678901234567890.123456789}', '{"email":"ann@x.co"}')],
                        before=first)
        assert b'"revenue":12345678901234567890.123456789' in journal.sent[0].body


def test_null_takes_a_key_away_where_crisp_is_said_to_take_it() -> None:
    with CrispFake(nulls=True) as server:
        first = bring(server, [computed("ann", revenue=9.5, size="M")], cleared="null")
        bring(server, [computed("ann", revenue=None)], before=first, cleared="null")
        assert server.holds() == {("ann@x.co", "size"): "M"}


def test_a_null_creates_nobody() -> None:
    with CrispFake() as server:
        journal = bring(server, [computed("ann", revenue=None, size=None), computed("bob", size=None)])
        assert (journal.accepted.total(), journal.sent, server.people) == (2, [], {})


def test_what_differs_by_user_costs_a_request_a_user_with_all_his_traits() -> None:
    users = [f"u{number:02}" for number in range(60)]
    with CrispFake() as server:
        first = known(server, *users)
        bring(server, [call for at_, user in enumerate(users) for call in (
            computed(user, revenue=at_ + 0.5, size="SML"[at_ % 3]), member(user, 1))], trait(), vip(), before=first)
        assert server.routes == {DATA: 60}
        assert server.person("u07@x.co")["data"] == {"revenue": 7.5, "size": "M", "vip": True}


def test_somebody_deleted_there_is_made_again_with_what_is_his_alone() -> None:
    with CrispFake() as server:
        first = bring(server, [computed("ann", revenue=1.5), computed("bob", revenue=2.5)])
        server.remove("ann@x.co")
        second = bring(server, [computed("ann", revenue=3.5), computed("bob", revenue=None)], before=first)
        assert (second.refused, server.routes) == ([], {DATA: 3, CREATE: 1})
        assert server.person("ann@x.co")["data"] == {"revenue": 3.5}


def test_the_same_of_many_is_told_in_batches() -> None:
    users = [f"u{number:03}" for number in range(300)]
    with CrispFake() as server:
        first = known(server, *users)
        bring(server, [computed(user, size="SML"[at_ % 3], has_ticket=at_ % 2 == 0) for at_, user in enumerate(users)],
              before=first)
        assert server.routes == {BATCH: 6}
        assert server.person("u004@x.co")["data"] == {"size": "M", "has_ticket": True}


def test_true_one_and_text_are_told_apart() -> None:
    values = [True, 1, "true", "1", False, 0, "", None]
    with CrispFake() as server:
        users = [f"u{at_}" for at_ in range(len(values))]
        first = bring(server, [computed(user, size="M", x=5) for user in users])
        bring(server, [computed(user, x=value, size="L") for user, value in zip(users, values, strict=True)],
              before=first)
        found = [server.person(f"{user}@x.co")["data"]["x"] for user in users]
        assert [(type(value), value) for value in found[:-1]] == [(type(value), value) for value in values[:-1]]


def test_a_shared_person_holds_each_trait_for_one_of_them() -> None:
    with CrispFake() as server:
        first = bring(server, [computed("ann", email="home@x.co", revenue=1.5, size="M"),
                               computed("bob", email="home@x.co", revenue=2.5)])
        assert [(call.user_id, refusal.reason.partition(":")[0]) for call, refusal in first.refused] == [
            ("bob", "shared_email")]
        second = bring(server, [computed("ann", revenue=None), computed("bob", email="home@x.co", labels=["x"])],
                       before=first)
        third = bring(server, [computed("bob", email="home@x.co", revenue=2.5, size=None)], before=second)
        assert third.refused == []
        assert server.person("home@x.co")["data"] == {"revenue": 2.5, "size": "M", "labels": "x"}
        bring(server, [computed("ann", size=None, revenue=None)], before=third)
        assert server.person("home@x.co")["data"] == {"revenue": 2.5, "size": "", "labels": "x"}


def test_who_leaves_a_person_takes_his_values_with_him() -> None:
    with CrispFake() as server:
        both = (trait(), vip())
        server.add("lee@x.co")
        first = bring(server, [computed("ann", revenue=1.5, size="M"), member("ann", 1),
                               computed("bob", email="lee@x.co", labels=["x"])], *both)
        second = bring(server, [computed("ann", email="lee@x.co", revenue=1.5, size="M"),
                                member("ann", 1, email="lee@x.co")], *both, before=first)
        assert second.refused == []
        assert server.person("ann@x.co")["data"] == {"revenue": "", "size": "", "vip": False}
        assert server.person("lee@x.co")["data"] == {"revenue": 1.5, "size": "M", "vip": True, "labels": "x"}


def test_a_changed_email_moves_the_person_with_his_values() -> None:
    with CrispFake() as server:
        first = bring(server, [computed("ann", revenue=1.5)])
        bring(server, [computed("ann", email="new@x.co", size="M")], before=first)
        assert server.holds() == {("new@x.co", "revenue"): 1.5, ("new@x.co", "size"): "M"}


# events


def test_events_follow_the_data() -> None:
    with CrispFake() as server:
        first = bring(server, [member("ann"), member("bob")], vip("both"))
        assert server.routes == {SEARCH: 1, CREATE: 2, BATCH: 1, EVENT: 2}
        second = bring(server, [false("ann"), false("bob"), false("nobody")], vip("both"), before=first)
        assert second.accepted.total() == 3
        assert server.routes == {BATCH: 1, EVENT: 2}
        assert server.holds() == {("ann@x.co", "vip"): False, ("bob@x.co", "vip"): False}
        assert server.happened("ann@x.co") == [("Audience Entered", {"audience_key": "vip", "vip": True}),
                                               ("Audience Exited", {"audience_key": "vip", "vip": False})]


def test_a_computed_trait_is_an_event_for_each_value() -> None:
    with CrispFake() as server:
        first = bring(server, [computed("ann", revenue=9.5, size=None, labels=["a", "b"])], trait("both"))
        assert server.routes == {CREATE: 1, DATA: 1, EVENT: 3}
        bring(server, [computed("ann", revenue=None, size="M")], trait("both", events=("In", "Out", "Told")),
              before=first)
        assert server.happened("ann@x.co") == [
            ("Trait Computed", {"trait_key": "revenue", "revenue": 9.5}),
            ("Trait Computed", {"trait_key": "size", "size": ""}),
            ("Trait Computed", {"trait_key": "labels", "labels": "a, b"}),
            ("Told", {"trait_key": "revenue", "revenue": ""}), ("Told", {"trait_key": "size", "size": "M"})]


def test_events_alone_need_the_person_and_write_nothing() -> None:
    with CrispFake() as server:
        first = bring(server, [member("ann")], vip("track"))
        assert server.routes == {CREATE: 1, EVENT: 1}
        bring(server, [false("ann"), false("bob")], vip("track"), before=first)
        assert server.routes == {EVENT: 1}
        assert [text for text, _ in server.happened("ann@x.co")] == ["Audience Entered", "Audience Exited"]
        assert server.holds() == {}


@pytest.mark.parametrize("send", ["track", "both"])
def test_events_of_users_who_share_a_person(send: str) -> None:
    with CrispFake() as server:
        first = bring(server, [member("ann", email="home@x.co"), member("bob", email="home@x.co")], vip(send))
        told = 1 if send == "both" else 2
        assert (len(server.events), len(first.refused)) == (told, 2 - told)
        second = bring(server, [false("ann"), false("bob")], vip(send), before=first)
        assert second.accepted.total() == 2
        assert Counter(text for _, text, _ in server.events)["Audience Exited"] >= told
        assert server.holds() == ({("home@x.co", "vip"): False} if send == "both" else {})


@pytest.mark.parametrize("send", ["track", "both"])
@pytest.mark.parametrize("bulk", ["auto", "off"])
def test_an_event_of_somebody_deleted_there_comes_when_he_is_made_again(send: str, bulk: str) -> None:
    with CrispFake() as server:
        first = bring(server, [member("ann"), member("bob")], vip(send), bulk=bulk)
        server.remove("ann@x.co")
        server.events.clear()
        second = bring(server, [member("ann"), member("bob")], vip(send), before=first, bulk=bulk)
        assert second.refused == []
        assert [text for text, _ in server.happened("ann@x.co")] == ["Audience Entered"]
        assert server.holds() == ({(f"{user}@x.co", "vip"): True for user in ("ann", "bob")} if send == "both" else {})


def test_an_event_of_nobody_may_be_dropped_without_a_word() -> None:
    with CrispFake(drops=True) as server:
        first = bring(server, [member("ann")], vip("track"))
        assert len(server.events) == 1, "the person is made first"
        server.remove("ann@x.co")
        second = bring(server, [false("ann")], vip("track"), before=first)
        assert (second.accepted.total(), len(server.events)) == (1, 1)


def test_without_creation_events_go_to_whom_crisp_knows() -> None:
    with CrispFake() as server:
        server.add("ann@x.co")
        journal = bring(server, [member("ann"), member("bob")], vip("both"), create_users=False)
        assert [call.user_id for call, _ in journal.refused] == ["bob"]
        assert [text for text, _ in server.happened("ann@x.co")] == ["Audience Entered"]


def test_a_refused_event_refuses_the_call_alone() -> None:
    with CrispFake() as server:
        first = bring(server, [member("ann"), member("bob")], vip())
        ann = server.person("ann@x.co")["people_id"]
        server.script = lambda _, request: 400 if request.path.endswith(f"/events/{ann}") else None
        journal = bring(server, [false("ann"), false("bob")], vip("both"), before=first)
        assert [call.user_id for call, _ in journal.refused] == ["ann"]
        assert [call.user_id for call in journal.accepted] == ["bob"]


def test_an_event_without_an_answer_is_sent_again() -> None:
    dropped: list[int] = []

    def lost(number: int, request: Request) -> str | None:
        if "/events/" in request.path:
            dropped.append(number)
        return "accept_then_drop" if dropped == [number] else None

    with CrispFake() as server:
        first = bring(server, [member("ann")], vip())
        server.script = lost
        journal = bring(server, [false("ann")], vip("both"), before=first)
        assert (journal.accepted.total(), len(server.events)) == (1, 2)


def test_an_answer_that_is_none_of_crisps_takes_no_event() -> None:
    with CrispFake() as server:
        first = bring(server, [member("ann")], vip())
        server.script = lambda _, request: Fault(body=b"<html>") if "/events/" in request.path else None
        assert not bring(server, [false("ann")], vip("both"), before=first).accepted


def test_who_leaves_and_moves_at_once_has_his_event() -> None:
    both = (vip("both"), envelope("dormant", send="both"))
    with CrispFake() as server:
        server.add("lee@x.co")
        first = bring(server, [member("ann"), member("ann", 1), member("bob", email="lee@x.co")], *both)
        second = bring(server, [false("ann"), member("ann", 1, email="lee@x.co")], *both, before=first)
        assert second.refused == []
        assert server.holds() == {("ann@x.co", "vip"): False, ("ann@x.co", "dormant"): False,
                                  ("lee@x.co", "vip"): True, ("lee@x.co", "dormant"): True}
        assert ("Audience Exited", {"audience_key": "vip", "vip": False}) in server.happened("lee@x.co")


def test_a_backfill_makes_anew_who_is_lost_and_tells_events_once() -> None:
    what = content(vip("both"))
    with CrispFake() as server:
        first = bring(server, [member("ann"), member("bob")], what=what)
        for user in ("ann", "bob"):
            server.remove(f"{user}@x.co")
        server.events.clear()
        bring(server, [member("ann"), member("bob")], what=replace(what, anew=True), before=first)
        assert server.holds() == {(f"{user}@x.co", "vip"): True for user in ("ann", "bob")}
        assert len(server.events) == 2


def test_a_plan_counts_events() -> None:
    calls = [member(f"u{number:02}") for number in range(10)]
    made = Crisp.model_validate(Crisp.example)
    assert imagined(made.packer(content(vip("both"))), calls) == 1 + 10 + 1 + 10
    traits = [computed(f"u{number:02}", revenue=number + 0.5, size="M") for number in range(10)]
    assert imagined(made.packer(content(trait("both"))), traits) == 1 + 10 + 10 + 20


def test_packing_has_no_fields_to_declare() -> None:
    made = Crisp.model_validate(Crisp.example)
    assert list(made.prepare(["revenue"], create=True, kinds={"revenue": "number"})) == []
    packed = made.packer(content(trait())).pack_known([computed("ann", revenue=1.5)], {
        "u:ann": "p1", "m:ann": '{"email":"ann@x.co","values":["revenue"]}'})
    assert orjson.loads(packed.batches[0].body) == {"data": {"revenue": 1.5}}


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_each_change_has_its_event_at_least_once(seed: int) -> None:
    draw = random.Random(seed)
    spans = vip(draw.choice(["both", "track"])), trait("both")
    with CrispFake() as server:
        for members, sizes in unlucky(draw, server, FAULTS, member, computed,
                                      lambda calls, before: bring(server, calls, *spans, before=before)):
            for user, value in members.items():
                assert [data["vip"] for _, data in server.happened(f"{user}@x.co") if "vip" in data][-1:] == [value]
                assert server.holds().get((f"{user}@x.co", "vip"), value) is value
            for user, size in sizes.items():
                assert (server.holds()[f"{user}@x.co", "size"] or None) == size

"""User.com: computed traits of every kind in few requests, attributes of their types, and events."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from audiencesync.destinations.usercom import UserCom
from audiencesync.model import Call, Content, Envelope, Person
from audiencesync.testing import content, envelope
from audiencesync.testing.drive import Journal, drive, imagined
from audiencesync.testing.loopback import Fault, Request
from tests.calls import computed, false, pure, true, unlucky
from tests.fakes.usercom import KEY, UserComFake

KINDS = {"revenue": "number", "size": "string", "has_ticket": "boolean", "first_at": "timestamp", "labels": "list"}
MASS, ROW, CREATE, EVENT = ("PUT users-by-id/mass_update_custom_attributes", "PUT users/*",
                            "POST users/update_or_create", "POST events/*")

FAULTS = [503, 429, "accept_then_drop", "drop"]


def trait(send: str = "identify", **other: object) -> Envelope:
    return envelope("orders", computation_class="trait", traits=tuple(sorted(KINDS)), send=send, **other)


def at(server: UserComFake, **settings: object) -> UserCom:
    return UserCom.model_validate({"api_key": KEY, "url": server.url, "rate": "5000/1s", **settings})


def bring(server: UserComFake, calls: Sequence[Call], *spans: Envelope, before: Journal | None = None,
          what: Content | None = None, **settings: object) -> Journal:
    """A sync of these calls, its attributes declared first, its packer held to what packers promise."""
    destination, script = at(server, **settings), server.script
    server.script = ()
    assert {one.status for one in destination.prepare([*KINDS, "vip"], create=True, kinds=KINDS)} <= {"made", "ready"}
    server.routes.clear()
    server.script = script
    made = what or content(*(spans or (trait(),)))
    journal = drive(destination, pure(destination, made), sorted(calls, key=lambda call: call[:2]), size=1000,
                    remembered=before.remembered if before else {})
    assert server.violations == []
    return journal


def known(server: UserComFake, *users: str, **settings: object) -> Journal:
    """A sync that made these users known, who hold nothing that is asked for here."""
    return bring(server, [computed(user, has_ticket=False) for user in users], **settings)


def test_every_kind_of_value_arrives_and_is_read_back() -> None:
    with UserComFake() as server:
        values = {"revenue": 9.5, "size": "M", "has_ticket": True, "first_at": "2026-11-22T10:00:00Z",
                  "labels": ["a", "b"]}
        journal = bring(server, [computed("ann", **values)])
        assert server.routes == {CREATE: 1}
        held = {**values, "labels": "a, b"}
        assert server.holds() == {("ann", name): value for name, value in held.items()}
        [(_, found)] = at(server).read_back([Person("ann", "user_id", None, journal.remembered)])
        assert found is not None
        assert {name: found[name] for name in KINDS} == held
        assert server.attributes == {"revenue": "float", "size": "string", "has_ticket": "boolean",
                                     "first_at": "datetime", "labels": "string", "vip": "boolean"}


def test_digits_that_no_double_holds_are_sent() -> None:
    with UserComFake() as server:
        journal = bring(server, [Call("ann", 0, '{"revenue":12345678901234567890.123456789}', None)])
        assert b'"revenue":12345678901234567890.123456789' in journal.sent[0].body
        first = bring(server, [computed(user, size="M") for user in ("bob", "cem")], before=journal)
        second = bring(server, [Call(user, 0, '{"revenue":0.1000000000000000000001}', None) for user in (
            "ann", "bob", "cem")], before=first)
        assert b'"value":0.1000000000000000000001' in second.sent[0].body


@pytest.mark.parametrize("clears", ["null", "empty"])
def test_a_trait_that_is_no_more_is_emptied(clears: str) -> None:
    with UserComFake(clears=clears) as server:
        journal = bring(server, [computed("ann", revenue=9.5, size="M", labels=["a"], first_at="2026-11-22")],
                        cleared=clears)
        bring(server, [computed("ann", revenue=None, size=None, labels=None, first_at=None)], before=journal,
              cleared=clears)
        assert {value for (_, name), value in server.holds().items() if name != "has_ticket"} == {None}


def test_a_null_creates_nobody_and_no_request() -> None:
    with UserComFake() as server:
        journal = bring(server, [computed("ann", revenue=None, size=None), computed("bob", revenue=None)])
        assert (len(journal.accepted), server.people) == (2, {})
    with UserComFake() as server:
        journal = bring(server, [computed("ann", revenue=None)], mass_update_by="id")
        assert (len(journal.accepted), journal.sent) == (1, [])


def test_what_differs_by_user_costs_a_request_a_user_with_all_his_traits() -> None:
    users = [f"u{number:03}" for number in range(60)]
    with UserComFake() as server:
        first = known(server, *users)
        bring(server, [computed(user, revenue=at_ + 0.5, size="SML"[at_ % 3], has_ticket=at_ % 2 == 0)
                       for at_, user in enumerate(users)], before=first)
        assert server.routes == {ROW: 60}
        assert server.holds()["u007", "revenue"] == 7.5


def test_what_many_share_is_told_by_mass_updates_of_one_value_each() -> None:
    users = [f"u{number:03}" for number in range(400)]
    with UserComFake() as server:
        first = known(server, *users)
        second = bring(server, [computed(user, size="SML"[at_ % 3], has_ticket=at_ % 2 == 0)
                                for at_, user in enumerate(users)], before=first)
        assert server.routes == {MASS: 2 * 2 + 3 * 2}
        assert second.accepted.total() == 400
        assert server.holds() == {key: value for at_, user in enumerate(users) for key, value in (
            ((user, "size"), "SML"[at_ % 3]), ((user, "has_ticket"), at_ % 2 == 0))}


def test_shared_values_go_together_and_the_others_alone() -> None:
    users = [f"u{number:03}" for number in range(100)]
    with UserComFake() as server:
        first = known(server, *users)
        bring(server, [computed(user, size="M", **({"revenue": at_ + 0.5} if at_ < 10 else {}))
                       for at_, user in enumerate(users)], before=first)
        assert server.routes == {ROW: 10, MASS: 1}
        assert all(server.holds()[user, "size"] == "M" for user in users)


def test_true_and_one_are_two_values() -> None:
    with UserComFake() as server:
        first = known(server, "ann", "bob")
        bring(server, [Call("ann", 0, '{"revenue":1}', None), Call("bob", 0, '{"revenue":true}', None)], before=first)
        assert server.holds()["ann", "revenue"] == 1.0
        assert ("bob", "revenue") not in server.holds(), "which a float ignores"


def test_traits_and_audiences_of_one_user_go_in_one_request() -> None:
    with UserComFake() as server:
        first = known(server, "ann")
        vip = envelope("vip")
        bring(server, [computed("ann", revenue=1.5, size="M"), true("ann", 1)], trait(), vip, before=first)
        assert server.routes == {ROW: 1}
        assert server.holds()["ann", "vip"] is True


def test_many_traits_in_turn_never_stall() -> None:
    names = tuple(f"t{number:02}" for number in range(25))
    users = [f"u{number:02}" for number in range(40)]
    with UserComFake(attributes=dict.fromkeys(names, "boolean")) as server:
        first = known(server, *users)
        second = bring(server, [computed(user, **dict.fromkeys(names, True)) for user in users], before=first,
                       what=content(replace(trait(), traits=names)))
        assert (second.accepted.total(), second.refused) == (40, [])
        assert server.routes == {ROW: 40}
        third = bring(server, [computed(user, **dict.fromkeys(names[:10], False)) for user in users], before=first,
                      what=content(replace(trait(), traits=names)))
        assert (third.accepted.total(), server.routes) == (40, {MASS: 10})


@pytest.mark.parametrize("unknown_ids", ["ignore", "refuse"])
def test_one_bad_value_refuses_one_user(unknown_ids: str) -> None:
    def strict(_: int, request: Request) -> int | None:
        return 400 if b'"XXL"' in request.body else None

    users = [f"u{number:02}" for number in range(30)]
    with UserComFake(unknown_ids=unknown_ids) as server:
        first = known(server, *users)
        server.script = strict
        second = bring(server, [computed(user, size="XXL" if at_ == 3 else "M", has_ticket=True)
                                for at_, user in enumerate(users)], before=first)
        assert [call.user_id for call, _ in second.refused] == ["u03"]
        assert all(server.holds()[user, "size"] == "M" for user in users if user != "u03")


def test_a_user_deleted_there_is_made_anew_with_his_traits() -> None:
    with UserComFake(unknown_ids="refuse") as server:
        first = known(server, "ann", "bob", "cem")
        del server.people[5000]
        second = bring(server, [computed(user, size="M", has_ticket=True) for user in ("ann", "bob", "cem")],
                       before=first)
        assert second.refused == []
        assert {user for user, name in server.holds() if name == "size"} == {"ann", "bob", "cem"}


def test_types_are_declared_and_others_refused_by_name() -> None:
    there = {"revenue": "integer", "size": "string", "first_at": "date", "labels": "json", "has_ticket": "string"}
    with UserComFake(attributes=there) as server:
        found = {one.name: one for one in at(server).prepare([*KINDS, "new", "email"], create=True, kinds={
            **KINDS, "new": "", "email": "string"})}
        assert {name: one.status for name, one in found.items()} == {
            "revenue": "wrong", "size": "ready", "has_ticket": "wrong", "first_at": "wrong", "labels": "wrong",
            "new": "ready", "email": "wrong"}
        assert "attribute revenue is of type integer" in found["revenue"].words
        assert "float" in found["revenue"].words
        assert "with AS" in found["email"].words
        assert server.attributes == there
    with UserComFake() as server:
        assert {one.status for one in at(server).prepare(list(KINDS), create=False, kinds=KINDS)} == {"missing"}


# events


def test_events_of_an_audience_follow_the_attribute() -> None:
    vip = envelope("vip", send="both")
    with UserComFake() as server:
        first = bring(server, [true("ann"), true("bob")], vip)
        assert server.routes == {CREATE: 2, EVENT: 2}
        second = bring(server, [false("ann"), false("bob"), false("nobody")], vip, before=first)
        assert {call.user_id for call in second.accepted} == {"ann", "bob", "nobody"}
        assert server.routes == {MASS: 1, EVENT: 2, "GET users-by-id/*": 1}
        assert server.holds() == {("ann", "vip"): False, ("bob", "vip"): False}
        assert server.happened("ann") == [("Audience Entered", {"audience_key": "vip", "vip": True}),
                                          ("Audience Exited", {"audience_key": "vip", "vip": False})]
        assert {when for *_, when in server.events} == {1795305600}


def test_a_computed_trait_is_an_event_for_each_value() -> None:
    with UserComFake() as server:
        first = bring(server, [computed("ann", revenue=9.5, size=None, labels=["a", "b"])], trait("both"))
        assert server.routes == {CREATE: 1, EVENT: 3}
        bring(server, [computed("ann", revenue=None, size="M")], trait("both", events=("In", "Out", "Told")),
              before=first)
        assert server.routes == {ROW: 1, EVENT: 2}
        assert server.happened("ann") == [
            ("Trait Computed", {"trait_key": "revenue", "revenue": 9.5}),
            ("Trait Computed", {"trait_key": "size", "size": None}),
            ("Trait Computed", {"trait_key": "labels", "labels": "a, b"}),
            ("Told", {"trait_key": "revenue", "revenue": None}), ("Told", {"trait_key": "size", "size": "M"})]


def test_events_alone_need_the_user_and_tell_no_attribute() -> None:
    vip = envelope("vip", send="track")
    with UserComFake() as server:
        first = bring(server, [true("ann", email="ann@b.co")], vip)
        assert server.routes == {CREATE: 1, EVENT: 1}
        second = bring(server, [true("ann", email="new@b.co")], vip, before=first)
        assert server.routes == {EVENT: 1}
        assert server.people[5000]["email"] == "ann@b.co"
        bring(server, [false("ann")], vip, before=second)
        assert [name for name, _ in server.happened("ann")] == ["Audience Entered"] * 2 + ["Audience Exited"]
        assert server.holds() == {}


def test_without_creation_events_go_to_whom_it_knows() -> None:
    vip = envelope("vip", send="both")
    with UserComFake() as server:
        server.person("ann")
        journal = bring(server, [true("ann"), true("bob"), false("cem")], vip, create_users=False)
        assert [call.user_id for call, _ in journal.refused] == ["bob"]
        assert {call.user_id for call in journal.accepted} == {"ann", "cem"}
        assert [name for name, _ in server.happened("ann")] == ["Audience Entered"]
        assert server.holds() == {("ann", "vip"): True}


@pytest.mark.parametrize("nobody", [404, 400])
@pytest.mark.parametrize("send", ["track", "both"])
@pytest.mark.parametrize("by", ["custom_id", "id"])
def test_an_event_of_somebody_deleted_there_comes_when_he_is_made_again(nobody: int, send: str, by: str) -> None:
    vip = envelope("vip", send=send)
    with UserComFake(nobody=nobody) as server:
        first = bring(server, [true("ann"), true("bob")], vip, mass_update_by=by)
        del server.people[5000]
        server.events.clear()
        second = bring(server, [true("ann"), true("bob")], vip, before=first, mass_update_by=by)
        if nobody == 400:
            assert [call.user_id for call, _ in second.refused] == ["ann"]
            second = bring(server, [true("ann")], vip, before=second, mass_update_by=by)
        assert second.refused == []
        assert [name for name, _ in server.happened("ann")] == ["Audience Entered"]
        assert server.holds() == ({(user, "vip"): True for user in ("ann", "bob")} if send == "both" else {})


def test_a_refused_event_refuses_the_call_alone() -> None:
    def strict(_: int, request: Request) -> int | None:
        return 400 if request.path.endswith("/ann/events/") else None

    with UserComFake() as server:
        first = bring(server, [true("ann"), true("bob")], envelope("vip"))
        server.script = strict
        journal = bring(server, [false("ann"), false("bob")], envelope("vip", send="both"), before=first)
        assert [call.user_id for call, _ in journal.refused] == ["ann"]
        assert [call.user_id for call in journal.accepted] == ["bob"]


def test_an_event_without_an_answer_is_sent_again_with_the_same_instant() -> None:
    def lost(number: int, request: Request) -> str | None:
        return "accept_then_drop" if request.path.endswith("/events/") and not dropped.append(number) and len(
            dropped) == 1 else None

    dropped: list[int] = []
    with UserComFake() as server:
        first = bring(server, [true("ann")], envelope("vip"))
        server.script = lost
        journal = bring(server, [false("ann")], envelope("vip", send="both"), before=first)
        assert journal.accepted.total() == 1
        assert len(server.events) == 2
        assert server.events[0] == server.events[1]


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b'{"errors": {"name": ["no"]}}', b"[]"])
def test_an_answer_that_takes_no_event_is_no_yes(body: bytes) -> None:
    with UserComFake() as server:
        first = bring(server, [true("ann")], envelope("vip"))
        server.script = lambda _, request: Fault(body=body) if request.path.endswith("/events/") else None
        journal = bring(server, [false("ann")], envelope("vip", send="track"), before=first)
        assert not journal.accepted


def test_a_backfill_makes_anew_who_is_lost_and_tells_events_once() -> None:
    what = content(envelope("vip", send="both"))
    with UserComFake() as server:
        first = bring(server, [true("ann"), true("bob")], what=what)
        server.people.clear()
        server.events.clear()
        bring(server, [true("ann"), true("bob")], what=replace(what, anew=True), before=first)
        assert server.holds() == {("ann", "vip"): True, ("bob", "vip"): True}
        assert len(server.events) == 2
        assert server.routes == {CREATE: 2, EVENT: 2}


def test_users_named_by_email_have_events_too() -> None:
    vip = envelope("vip", send="both", id_kind="email")
    with UserComFake() as server:
        first = bring(server, [true("ann@b.co")], vip)
        bring(server, [false("ann@b.co"), false("bob@b.co")], vip, before=first)
        assert [name for _, name, _, _ in server.events] == ["Audience Entered", "Audience Exited"]


def test_a_plan_counts_events() -> None:
    users = [f"u{number:02}" for number in range(10)]
    destination = UserCom.model_validate(UserCom.example)
    assert imagined(destination.packer(content(envelope("vip", send="both"))), [true(user) for user in users]) == 20
    made = destination.packer(content(trait("both")))
    assert imagined(made, [computed(user, revenue=1.5, size="M") for user in users]) == 30


@pytest.mark.parametrize("send", ["track", "both"])
def test_packing_events_keeps_what_packers_promise(send: str) -> None:
    with UserComFake() as server:
        destination, spans = at(server), (envelope("vip", send=send), envelope("dormant"))
        list(destination.prepare(["vip", "dormant"], create=True))
        users = [f"u{number:02}" for number in range(8)]
        calls = [call for user in users for call in (true(user), true(user, 1))]
        journal = drive(destination, pure(destination, content(*spans)), calls)
        assert journal.accepted.total() == 16
        gone = [call for user in users for call in (false(user), false(user, 1))]
        again = drive(destination, pure(destination, content(*spans)), gone,
                      remembered=journal.remembered)
        assert again.accepted.total() == 16
        assert len(server.events) == 16
        assert orjson.loads(again.sent[-1].body)["data"] == {"audience_key": "vip", "vip": False}


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_each_change_has_its_event_at_least_once(seed: int) -> None:
    draw = random.Random(seed)
    spans = envelope("vip", send=draw.choice(["both", "track"])), trait("both")
    with UserComFake() as server:
        for members, sizes in unlucky(draw, server, FAULTS, true, computed,
                                      lambda calls, before: bring(server, calls, *spans, before=before)):
            for user, value in members.items():
                assert [data["vip"] for _, data in server.happened(user) if "vip" in data][-1:] == [value]
                assert server.holds().get((user, "vip"), value) is value
            for user, size in sizes.items():
                assert (server.holds()[user, "size"] or None) == size

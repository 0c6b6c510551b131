"""Richpanel: computed traits of every kind as properties of customers, and events, each after its user."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import orjson
import pytest
from pydantic import ValidationError

from audiencesync.destinations.richpanel import Richpanel
from audiencesync.model import Batch, Call, Content, exact
from audiencesync.testing import content, envelope
from audiencesync.testing.checked import Checked, unsealed
from audiencesync.testing.drive import Journal, drive
from tests.calls import false, true
from tests.fakes.richpanel import KEY, SECRET, RichpanelFake

SOURCE = {"events_key": "ds_key", "api_secret": SECRET}
LONG = "123456789012345678901234567890.12345678901234567890"
VALUES = ('{"revenue":9.5,"orders":3,"size":"XL \\"é\\"","open":false,"seen":"2026-01-02T03:04:05Z","tags":["a","b"],'
          f'"exact":{LONG}}}')


def computed(send: str = "identify", *, anew: bool = False) -> Content:
    """An audience and two computed traits, of which the second has one column."""
    names = ("revenue", "orders", "size", "open", "seen", "tags", "exact")
    return replace(content(
        envelope("vip", send=send), envelope("ltv", send=send, computation_class="trait", traits=names),
        envelope("visits", send=send, computation_class="trait", traits=("visits",))), anew=anew)


def ltv(user: str, value: str = VALUES, **columns: object) -> Call:
    return Call(user, 1, value, orjson.dumps(columns).decode() if columns else None)


def at(url: str, **settings: object) -> Richpanel:
    return Richpanel.model_validate({"api_key": KEY, "url": url, "rate": "100000/1s", **settings})


def bring(server: RichpanelFake, what: Content, *calls: Call, before: Journal | None = None,
          **settings: object) -> Journal:
    destination = at(server.url, **settings)
    packer = Checked(destination, what)
    journal = drive(destination, packer, sorted(calls, key=lambda call: call[:2]),
                    remembered=before.remembered if before else {})
    assert server.violations == []
    assert journal.stop.finished, journal.stop.reason
    return journal


def fake(**switches: object) -> RichpanelFake:
    return RichpanelFake(**{"data_source": "ds_key", **switches})  # type: ignore[arg-type]


def codes(journal: Journal) -> dict[str, str]:
    return {call.user_id: refusal.reason.partition(":")[0] for call, refusal in journal.refused}


def said(batch: Batch) -> list[dict]:
    return orjson.loads(unsealed(batch))["events"]


# values

@pytest.mark.parametrize("transport", ["rest", "events"])
def test_values_of_every_kind_travel_with_all_else_of_a_user(transport: str) -> None:
    settings = {"transport": "events", "api_secret": SECRET} if transport == "events" else {}
    with fake(data_source=KEY) as server:
        calls = [true("ann", email="a@b.co"), ltv("ann"), Call("ann", 2, '{"visits":7}', None)]
        journal = bring(server, computed(), *calls, **settings)
        assert len(journal.sent) == 1
        assert server.people["ann"] == {
            "id": "c0", "uid": "ann", "email": "a@b.co", "vip": True, "revenue": 9.5, "orders": 3, "size": 'XL "é"',
            "open": False, "seen": "2026-01-02T03:04:05Z", "tags": ["a", "b"], "exact": float(LONG), "visits": 7}


@pytest.mark.parametrize("transport", ["rest", "events"])
def test_a_long_decimal_keeps_its_digits(transport: str) -> None:
    settings = {"transport": "events", "api_secret": SECRET} if transport == "events" else {}
    [batch] = at("https://a.example", **settings).packer(computed()).pack([ltv("ann")]).batches
    text = batch.body if transport == "rest" else b64decode(orjson.loads(batch.body)["hs"])
    assert f'"exact":{LONG}'.encode() in text


@pytest.mark.parametrize(("nulls", "cleared"), [("clear", "null"), ("clear", "empty"), ("refused", "empty")])
def test_a_value_that_is_gone_is_cleared(nulls: str, cleared: str) -> None:
    with fake(nulls=nulls) as server:
        first = bring(server, computed(), ltv("ann"), cleared=cleared)
        bring(server, computed(), ltv("ann", '{"revenue":null,"orders":4,"tags":null}'), before=first, cleared=cleared)
        assert {name for _, name in server.holds()} == {"orders", "size", "open", "seen", "exact"}
        assert server.people["ann"]["orders"] == 4


def test_where_null_is_refused_it_is_a_rejection_that_names_the_trait() -> None:
    with fake(nulls="refused") as server:
        first = bring(server, computed(), ltv("ann"))
        later = bring(server, computed(), ltv("ann", '{"orders":null}'), before=first)
        assert "orders" in later.refused[0][1].reason


@pytest.mark.parametrize("send", ["identify", "track", "both"])
def test_nulls_and_falses_create_nobody(send: str) -> None:
    with fake() as server:
        journal = bring(server, computed(send), false("ann"), ltv("ann", '{"revenue":null,"size":null}'),
                        ltv("bob", '{"revenue":null}'), **SOURCE)
        assert (len(journal.accepted), journal.sent, {*server.people}) == (3, [], set())
        known = bring(server, computed(send), ltv("bob", '{"revenue":0}'), **SOURCE)
        later = bring(server, computed(send), ltv("bob", '{"revenue":null}'), before=known, **SOURCE)
        assert later.sent, "who is there is told"


def test_a_null_of_one_trait_travels_with_another_that_creates() -> None:
    with fake() as server:
        bring(server, computed(), ltv("ann", '{"revenue":null}'), Call("ann", 2, '{"visits":1}', None))
        assert server.holds() == {("ann", "visits"): 1}


def test_without_creation_who_is_told_a_value_is_looked_up() -> None:
    with fake() as server:
        server.people["ann"] = {"id": "c9", "uid": "ann", "email": "ann@b.co"}
        journal = bring(server, computed(), ltv("ann", email="ann@b.co"), ltv("bob", email="bob@b.co"), ltv("cem"),
                        ltv("dan", '{"revenue":null}'), create_users=False)
        assert codes(journal) == {"bob": "unknown_user", "cem": "missing_email"}
        assert {*server.people} == {"ann"}
        assert server.people["ann"]["revenue"] == 9.5


def test_names_of_its_own_fields_are_no_traits_of_any_kind() -> None:
    kinds = {"revenue": "number", "name": "string", "billing_total": "number", "tags": "list", "never": ""}
    traits = list(at("https://a.example").prepare(list(kinds), create=True, kinds=kinds))
    assert [trait.status for trait in traits] == ["ready", "wrong", "wrong", "ready", "ready"]


def test_what_is_read_back_is_as_it_is_held() -> None:
    from audiencesync.model import Person
    with fake() as server:
        bring(server, computed(), ltv("ann", email="ann@b.co"))
        [(_, held)] = at(server.url).read_back([Person("ann", "user_id", '{"email":"ann@b.co"}', {})])
        assert held is not None
        assert {name: held[name] for name in ("revenue", "tags", "open")} == {
            "revenue": 9.5, "tags": ["a", "b"], "open": False}


# events

def test_an_event_is_segments_in_richpanels_shape_and_names_nobody_by_email() -> None:
    calls = [true("ann", email="a@b.co", richpanel_session_id="s1"), ltv("ann", f'{{"exact":{LONG},"size":null}}')]
    packed = at("https://a.example", **SOURCE).packer(computed("track")).pack_known(calls, {"u:ann": "1"})
    [batch] = packed.batches
    assert batch.route == "POST /v2/bt"
    common = {"appClientId": "ds_key", "time": {"sentAt": 1795305600000}, "userProperties": {"uid": "ann"}}
    assert said(batch) == [
        {**common, "event": "Audience Entered", "did": "s1", "properties": {"audience_key": "vip", "vip": True}},
        {**common, "event": "Trait Computed", "properties": {"trait_key": "exact", "exact": float(LONG)}},
        {**common, "event": "Trait Computed", "properties": {"trait_key": "size", "size": None}}]
    assert f'"exact":{LONG}'.encode() in b64decode(orjson.loads(batch.body)["hs"])
    assert batch.merged == 3


def test_the_names_of_events_are_the_envelopes() -> None:
    what = content(envelope("vip", send="track", events=("In", "Out", "Is")))
    packer = at("https://a.example", **SOURCE).packer(what)
    [batch] = packer.pack_known([false("ann"), true("bob")], {"u:ann": "1", "u:bob": "1"}).batches
    assert [one["event"] for one in said(batch)] == ["Out", "In"]


@pytest.mark.parametrize("transport", ["rest", "events"])
@pytest.mark.parametrize("send", ["track", "both"])
def test_the_person_is_there_before_his_event(send: str, transport: str) -> None:
    ways = SOURCE if transport == "rest" else {"transport": "events", "api_secret": SECRET}
    with fake(data_source="ds_key" if transport == "rest" else KEY, strict=True) as server:
        first = bring(server, computed(send), true("ann", email="a@b.co", plan="gold"), ltv("ann", '{"orders":1}'),
                      true("bob"), false("cem"), **ways)
        assert first.refused == []
        assert server.said() == {("ann", "vip"): True, ("ann", "orders"): 1, ("bob", "vip"): True}
        traits = {name for _, name in server.holds()} - {"plan"}
        assert traits == ({"vip", "orders"} if send == "both" else set())
        assert (server.people["ann"]["email"], server.people["ann"]["plan"]) == ("a@b.co", "gold")
        assert {*first.remembered} == {"u:ann", "u:bob"}
        before = server.requests
        later = bring(server, computed(send), false("ann"), ltv("ann", '{"orders":2}'), before=first, **ways)
        assert len(later.accepted) == 2
        assert server.requests - before == (2 if send == "both" else 1)
        assert server.said()["ann", "orders"] == 2
        assert server.tracked[-2][1] == "Audience Exited"


def test_events_of_25_are_a_request_and_a_user_is_in_one_at_a_time() -> None:
    wide = orjson.dumps({f"t{number}": number for number in range(20)}).decode()
    users = [f"u{number:02}" for number in range(30)]
    what = content(envelope("vip", send="track"), envelope("wide", send="track", computation_class="trait"),
                   envelope("more", send="track", computation_class="trait"))
    calls = [*map(true, users), *(Call(user, span, wide, None) for user in users[:2] for span in (1, 2))]
    with fake() as server:
        journal = bring(server, what, *calls, **SOURCE)
        assert len(server.tracked) == 30 + 4 * 20
        sizes = [len(said(batch)) for batch in journal.sent if batch.route == "POST /v2/bt"]
        assert max(sizes) <= 25
        assert sum(sizes) == 110


def test_more_events_of_one_call_than_a_request_takes_are_told_one_request_after_the_other() -> None:
    wide = {f"t{number:02}": number if number % 2 else None for number in range(60)}
    what = content(envelope("wide", send="both", computation_class="trait"), envelope("vip", send="track"))
    calls = [Call("ann", 0, orjson.dumps(wide).decode(), None), true("ann", 1), true("bob", 1)]
    with fake() as server:
        journal = bring(server, what, *calls, **SOURCE)
        assert [len(said(batch)) for batch in journal.sent if batch.calls[0].user_id == "ann" and batch.merged] == [
            25, 25, 11]
        assert (journal.accepted, journal.refused) == (Counter(calls), [])
        assert [properties for user, _, properties in server.tracked if user == "ann"] == [
            *({"trait_key": name, name: value} for name, value in wide.items()), {"audience_key": "vip", "vip": True}]
        assert {*journal.remembered} == {"u:ann", "u:bob"}


def test_a_call_whose_later_event_is_refused_is_refused() -> None:
    wide = orjson.dumps({f"t{number:02}": number for number in range(60)}).decode()
    what = content(envelope("wide", send="track", computation_class="trait"))
    with fake() as server:
        batches = iter([None, 400])
        server.script = lambda _, request: next(batches, None) if request.path == "/v2/bt" else None
        journal = bring(server, what, Call("ann", 0, wide, None), **SOURCE)
        assert [call.user_id for call, _ in journal.refused] == ["ann"]
        assert not journal.accepted
        assert len(server.tracked) == 25


def test_a_refused_event_refuses_its_call_and_no_other() -> None:
    with fake(unwanted=["Trait Computed"]) as server:
        journal = bring(server, computed("both"), true("ann"), ltv("ann"), *map(true, ("bob", "cem")), **SOURCE)
        assert [(call.user_id, call.span) for call, _ in journal.refused] == [("ann", 1)]
        assert "Trait Computed" in journal.refused[0][1].reason
        assert server.said() == {(user, "vip"): True for user in ("ann", "bob", "cem")}


def test_a_call_is_taken_when_both_its_requests_were() -> None:
    with fake() as server:
        server.script = lambda _, request: 503 if request.path == "/v2/bt" else None
        destination = at(server.url, **SOURCE)
        journal = drive(destination, destination.packer(computed("both")), [true("ann")])
        assert not journal.stop.finished
        assert not journal.accepted
        assert server.holds() == {("ann", "vip"): True}, "the customer was saved, and nobody says that this was all"


def test_an_event_whose_answer_is_lost_is_repeated_as_it_was() -> None:
    with fake() as server:
        lost = iter(["accept_then_drop"])
        server.script = lambda _, request: next(lost, None) if request.path == "/v2/bt" else None
        journal = bring(server, computed("both"), true("ann"), **SOURCE)
        assert [type(error).__name__ for error in journal.errors] == ["Unanswered"]
        bodies = [batch.body for batch in journal.sent if batch.route == "POST /v2/bt"]
        assert len(bodies) == 2
        assert len({*bodies}) == 1, "with the same time, by which whoever looks may know it again"


def test_a_customer_whose_one_trait_is_refused_is_told_the_others_and_their_events() -> None:
    with fake(nulls="refused") as server:
        journal = bring(server, computed("both"), true("ann"), ltv("ann", '{"orders":null}'), **SOURCE)
        assert [call.span for call, _ in journal.refused] == [1]
        assert server.said() == {("ann", "vip"): True}


def test_a_backfill_of_events_makes_those_again_who_are_lost() -> None:
    with fake(strict=True) as server:
        first = bring(server, computed("track"), true("ann", email="a@b.co"), true("bob"), **SOURCE)
        server.people.clear()
        journal = bring(server, computed("track", anew=True), true("ann", email="a@b.co"), true("bob"), before=first,
                        **SOURCE)
        assert journal.refused == []
        assert {*server.people} == {"ann", "bob"}
        assert len(server.tracked) == 4


@pytest.mark.parametrize("send", ["track", "both"])
def test_without_creation_events_are_of_those_who_are_found(send: str) -> None:
    with fake(strict=True) as server:
        server.people["ann"] = {"id": "c9", "uid": "ann", "email": "ann@b.co"}
        journal = bring(server, computed(send), true("ann", email="ann@b.co"), true("bob", email="bob@b.co"),
                        create_users=False, **SOURCE)
        assert codes(journal) == {"bob": "unknown_user"}
        assert server.said() == {("ann", "vip"): True}
        assert {*server.people} == {"ann"}


def test_an_email_that_another_has_is_left_out_before_the_event() -> None:
    with fake() as server:
        server.people["eve"] = {"id": "c9", "uid": "eve", "email": "x@b.co"}
        journal = bring(server, computed("both"), true("ann", email="x@b.co"), **SOURCE)
        assert journal.refused == []
        assert server.said() == {("ann", "vip"): True}
        assert server.people["eve"]["email"] == "x@b.co"


def test_computations_of_one_user_may_be_told_in_different_ways() -> None:
    what = content(envelope("vip"), envelope("ltv", send="track", computation_class="trait"),
                   envelope("visits", send="both", computation_class="trait"))
    with fake() as server:
        journal = bring(server, what, true("ann"), ltv("ann", '{"orders":1}'), Call("ann", 2, '{"visits":7}', None),
                        **SOURCE)
        assert journal.refused == []
        assert server.holds() == {("ann", "vip"): True, ("ann", "visits"): 7}
        assert server.said() == {("ann", "orders"): 1, ("ann", "visits"): 7}
        later = bring(server, what, false("ann"), ltv("ann", '{"orders":null}'), before=journal, **SOURCE)
        assert later.refused == []
        assert (server.holds()["ann", "vip"], server.said()["ann", "orders"]) == (False, None)


def test_without_a_data_source_no_event_is_sent_and_the_reason_says_what_to_set() -> None:
    with RichpanelFake() as server:
        journal = bring(server, content(envelope("vip", send="both"), envelope("old")), true("ann"), true("ann", 1))
        assert codes(journal) == {"ann": "no_data_source"}
        assert "events_key" in journal.refused[0][1].reason
        assert server.holds() == {("ann", "old"): True}


@pytest.mark.parametrize(("settings", "right"), [
    ({"send": "track"}, False), ({"send": "both", "events_key": "k"}, False), ({"send": "both", **SOURCE}, True),
    ({"send": "track", "transport": "events", "api_secret": "s"}, True), ({"events_key": "two words"}, False)])
def test_events_want_the_key_and_the_secret_of_a_data_source(settings: Mapping[str, object], right: bool) -> None:
    given = {"api_key": KEY, **settings}
    if right:
        assert Richpanel.model_validate(given).send == settings["send"]
    else:
        with pytest.raises(ValidationError):
            Richpanel.model_validate(given)


def test_a_data_source_that_is_refused_pauses_and_is_not_named() -> None:
    with fake() as server:
        server.script = lambda _, request: 401 if request.path == "/v2/bt" else None
        destination = at(server.url, **SOURCE)
        journal = drive(destination, destination.packer(computed("both")), [true("ann")])
        assert journal.stop.pause
        assert "events_key" in journal.stop.reason
        assert not [word for word in ("ds_key", SECRET) if word in journal.stop.reason]


def test_the_fake_minds_values_as_they_are_told() -> None:
    assert exact(VALUES)["exact"] != float(LONG)

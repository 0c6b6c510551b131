"""Richpanel: the contract of destinations, one request a customer, whose email it is, its pace, and its events."""

from __future__ import annotations

from contextlib import closing
from time import monotonic

import orjson
import pytest
from pydantic import ValidationError

from audiencesync.delivery import Commit, Delivery, Pace, Read, Send, Stop
from audiencesync.destinations.richpanel import Richpanel
from audiencesync.destinations.richpanel_events import signed
from audiencesync.errors import AccountRefused, CallsRefused, Unanswered
from audiencesync.model import Call, Destination, Page, Person, Receipt
from audiencesync.sync.wire import Threads
from audiencesync.testing import HttpDestinationContract
from audiencesync.testing.drive import Journal, drive
from audiencesync.testing.loopback import Fault, Loopback, Script
from tests.calls import AWKWARD, KEYS, false, made, true
from tests.fakes.richpanel import KEY, SECRET, RichpanelFake

FAST = "100000/1s"


def at(url: str, **settings: object) -> Richpanel:
    return Richpanel.model_validate({**Richpanel.example, "url": url, "rate": FAST, **settings})


def bring(server: RichpanelFake, *calls: Call, before: Journal | None = None, kind: str = "user_id",
          **settings: object) -> Journal:
    """A sync of these calls."""
    destination = at(server.url, **settings)
    journal = drive(destination, destination.packer(made(kind=kind)), sorted(calls, key=lambda call: call[:2]),
                    remembered=before.remembered if before else {})
    assert server.violations == []
    return journal


def codes(journal: Journal) -> dict[str, str]:
    return {call.user_id: refusal.reason.partition(":")[0] for call, refusal in journal.refused}


class TestRichpanel(HttpDestinationContract):
    destination = Richpanel
    answers_json = True

    def at(self, url: str) -> Destination:
        return at(url)

    def server(self, script: Script = ()) -> Loopback:
        return RichpanelFake(script)


class TestRichpanelEvents(HttpDestinationContract):
    destination = Richpanel

    def made(self, **settings: object) -> Destination:
        return super().made(transport="events", api_secret=SECRET, **settings)

    def at(self, url: str) -> Destination:
        return at(url, transport="events", api_secret=SECRET)

    def server(self, script: Script = ()) -> Loopback:
        return RichpanelFake(script)

    test_what_was_told_is_read_back = test_values_are_read_back = None
    """Nobody is found by the key of events."""
    test_a_refused_user_loses_no_neighbour = None
    """The suite's server does not see whom a batch is about."""


def test_a_user_is_one_request_however_many_audiences_he_entered_or_left() -> None:
    users = [f"u{number:02}" for number in range(40)]
    with RichpanelFake() as server:
        first = bring(server, *(true(user, span, email=f"{user}@b.co") for user in users for span in range(3)))
        assert server.routes == {"POST /v1/customers": 40}
        bring(server, *(Call(user, span, span == 1, "{}" if span == 1 else None) for user in users
                        for span in range(3)), before=first)
        assert server.routes == {"POST /v1/customers": 80}
        assert server.holds() == {(user, key): key == "big_spender" for user in users for key in KEYS}


def test_the_body_is_the_documented_one() -> None:
    call = true("u123", email=" A@b.co ", name="Adam S", plan=3)
    [batch] = at("https://a.example").packer(made()).pack([call]).batches
    assert batch.route == "POST /v1/customers"
    assert orjson.loads(batch.body) == {
        "customer": {"uid": "u123", "email": "a@b.co", "name": "Adam S", "plan": 3, "vip": True}}


def test_columns_become_its_own_fields_and_custom_properties() -> None:
    columns = {"first_name": "Ann", "last_name": "Dyck", "phone": "+1 2", "address.city": "Brno", "address.zip": "1",
               "gender": "f", "uid": "evil", "id": 7, "appClientId": "x", "facebook": "ann.d", "email": None,
               "richpanel_session_id": "s"}
    with RichpanelFake() as server:
        bring(server, true("ann", **columns))
        assert server.people == {"ann": {
            "id": "c0", "uid": "ann", "name": "Ann Dyck", "phone": "+1 2", "city": "Brno", "gender": "f",
            "facebook": "ann.d", "vip": True}}


@pytest.mark.parametrize("nesting", ["customer", "body"])
def test_custom_properties_stand_where_the_setting_says(nesting: str) -> None:
    with RichpanelFake(nesting=nesting) as server:
        first = bring(server, true("ann", email="a@b.co", plan="gold"), nesting=nesting)
        bring(server, false("ann"), before=first, nesting=nesting)
        assert server.holds() == {("ann", "vip"): False, ("ann", "plan"): "gold"}
    with RichpanelFake(nesting={"customer": "body", "body": "customer"}[nesting]) as server:
        journal = bring(server, true("ann"), nesting=nesting)
        assert "unknown parameter" in journal.refused[0][1].reason


@pytest.mark.parametrize("user", AWKWARD)
def test_ids_of_any_letters_arrive(user: str) -> None:
    with RichpanelFake() as server:
        first = bring(server, true(user, email="o'brien+a/b@b.co"), true("zed"))
        bring(server, false(user), true(user, 1), before=first)
        assert server.holds() == {(user, "vip"): False, (user, "big_spender"): True, ("zed", "vip"): True}
        [(_, traits)] = at(server.url).read_back([Person(user, "user_id", '{"email":"o\'brien+a/b@b.co"}', {})])
        assert traits is not None
        assert traits["vip"] is False


def test_a_false_creates_nobody() -> None:
    with RichpanelFake() as server:
        journal = bring(server, false("ann"), false("bob", 1), true("cem"))
        assert (len(journal.accepted), len(journal.sent)) == (3, 1)
        assert {*server.people} == {"cem"}
        later = bring(server, false("ann"), false("cem"), before=journal)
        assert (len(later.accepted), len(later.sent)) == (2, 1)
        assert server.holds() == {("cem", "vip"): False}


def test_nobody_is_remembered_whose_true_was_refused() -> None:
    with RichpanelFake() as server:
        first = bring(server, true("ann", email="no address"), true("bob", email="bob@b.co"))
        assert {*first.remembered} == {"u:bob"}
        assert [call.user_id for call, _ in first.refused] == ["ann"]
        assert bring(server, false("ann"), before=first).sent == []


def test_an_anonymous_audience_is_refused_without_a_request() -> None:
    with RichpanelFake() as server:
        journal = bring(server, true("ann"), false("bob"), kind="anonymous_id")
        assert codes(journal) == {"ann": "anonymous_id", "bob": "anonymous_id"}
        assert server.requests == 0
    assert "anonymous_id" not in Richpanel.id_kinds


def test_an_email_that_names_a_user_is_his_uid_and_email() -> None:
    with RichpanelFake() as server:
        first = bring(server, true("Ann@b.co"), kind="email")
        bring(server, false("Ann@b.co"), before=first, kind="email")
        assert server.people == {"Ann@b.co": {"id": "c0", "uid": "Ann@b.co", "email": "ann@b.co", "vip": False}}


def test_an_email_of_another_customer_is_left_out_once_and_remembered() -> None:
    with RichpanelFake() as server:
        server.people["eve"] = {"id": "c9", "uid": "eve", "email": "shared@b.co"}
        calls = [true("ann", span, email="Shared@b.co", plan="gold") for span in range(3)]
        first = bring(server, *calls, true("bob", email="bob@b.co"))
        assert len(first.sent) == 3, "one for bob, two for ann"
        assert first.refused == []
        assert {key for user, key in server.holds() if user == "ann"} == {*KEYS, "plan"}
        assert "email" not in server.people["ann"]
        assert "shared" not in str(first.remembered)
        second = bring(server, true("ann", email="shared@b.co"), before=first)
        assert len(second.sent) == 1
        third = bring(server, true("ann", email="own@b.co"), before=second)
        assert (len(third.sent), server.people["ann"]["email"]) == (1, "own@b.co")
        people = [Person("ann", "user_id", '{"email":"shared@b.co"}', first.remembered)]
        assert list(at(server.url).read_back(people)) == [], "the email is another's, so its customer is"


def test_two_new_users_of_one_email_both_get_their_traits() -> None:
    with RichpanelFake() as server:
        journal = bring(server, true("ann", email="x@b.co"), true("bob", email="x@b.co"))
        assert journal.refused == []
        assert server.holds() == {("ann", "vip"): True, ("bob", "vip"): True}


def test_who_is_taken_even_without_an_email_is_rejected() -> None:
    with RichpanelFake() as server:
        server.script = lambda _, request: 409 if b'"ann"' in request.body else None
        journal = bring(server, true("ann", email="ann@b.co"), true("ann", 1, email="ann@b.co"), true("bob"))
        assert codes(journal) == {"ann": "identity_conflict"}
        assert [refusal.status for _, refusal in journal.refused] == [409, 409]
        assert len(journal.sent) == 3


def test_a_user_named_by_an_email_that_is_anothers_is_rejected_at_once() -> None:
    with RichpanelFake() as server:
        server.people["eve"] = {"id": "c9", "uid": "eve", "email": "ann@b.co"}
        journal = bring(server, true("ann@b.co"), kind="email")
        assert codes(journal) == {"ann@b.co": "identity_conflict"}
        assert {*server.people} == {"eve"}


@pytest.mark.parametrize("shows", [True, False])
def test_without_creation_users_are_looked_up_by_email(shows: bool) -> None:
    with RichpanelFake(shows=shows) as server:
        server.people["ann"] = {"id": "c9", "uid": "ann", "email": "ann+x@b.co"}
        journal = bring(server, true("ann", email="Ann+x@b.co"), true("ann", 1, email="Ann+x@b.co"),
                        true("bob", email="bob@b.co"), false("bob", 1), true("cem"), false("cem", 1),
                        create_users=False)
        assert codes(journal) == {"bob": "unknown_user", "cem": "missing_email"}
        assert {*journal.accepted} == {true("ann", email="Ann+x@b.co"), true("ann", 1, email="Ann+x@b.co"),
                                       false("bob", 1), false("cem", 1)}
        assert {*server.people} == {"ann"}
        assert server.holds() == {("ann", "vip"): True, ("ann", "big_spender"): True}
        later = bring(server, false("ann"), before=journal, create_users=False)
        assert [batch.route for batch in later.sent] == ["POST /v1/customers"]


@pytest.mark.parametrize("shows", [True, False])
def test_without_creation_the_email_of_another_uid_creates_nobody(shows: bool) -> None:
    with RichpanelFake(shows=shows) as server:
        server.people["eve"] = {"id": "c9", "uid": "eve", "email": "x@b.co"}
        journal = bring(server, true("ann", email="x@b.co"), create_users=False)
        assert codes(journal) == {"ann": "identity_conflict"}
        assert {*server.people} == {"eve"}


@pytest.mark.parametrize("answer", [b'{"message": "nobody"}', b'{"customer": null}', b"{}",
                                    b'{"customer": {"id": "c1", "uid": "ann", "email": "eve@b.co"}}'])
def test_a_look_up_that_shows_nobody_or_a_stranger_finds_nobody(answer: bytes) -> None:
    with RichpanelFake([Fault(body=answer)]) as server:
        journal = bring(server, true("ann", email="ann@b.co"), create_users=False)
        assert codes(journal) == {"ann": "unknown_user"}
        assert journal.remembered == {}


def test_a_bad_user_loses_no_neighbour() -> None:
    users = [f"u{number:03}" for number in range(120)]
    bad = {"u000", "u049", "u050", "u119"}
    with RichpanelFake() as server:
        journal = bring(server, *(true(user, span, email="nonsense" if user in bad else f"{user}@b.co")
                                  for user in users for span in (0, 2)))
        assert {*codes(journal)} == bad
        assert {user for user, _ in server.holds()} == {*users} - bad
        assert len(journal.accepted) == 2 * (len(users) - len(bad))
        assert not [refusal for _, refusal in journal.refused if "nonsense" in refusal.reason]


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b" ", b"[]", b'"ok"'])
def test_an_answer_that_shows_no_customer_is_none(answer: bytes) -> None:
    with RichpanelFake([Fault(body=answer, taken=False)]) as server, closing(at(server.url).channel()) as channel:
        [batch] = at(server.url).packer(made()).pack([true("ann")]).batches
        with pytest.raises(Unanswered):
            channel.send(batch, seconds=5)
        assert isinstance(receipt := channel.send(batch, seconds=5), Receipt)
        assert receipt.learned == {"u:ann": "1"}


def test_an_error_in_a_good_answer_is_no_yes() -> None:
    with RichpanelFake() as server:
        server.script = lambda _, request: Fault(body=b'{"error": "no"}') if b'"ann"' in request.body else None
        journal = bring(server, true("ann"), true("bob"))
        assert codes(journal) == {"ann": "unclear_answer"}
        assert {*journal.remembered} == {"u:bob"}


def test_a_key_of_its_own_fields_is_no_audience() -> None:
    traits = list(at("https://a.example").prepare(["vip", "email", "billing_city", "name"], create=True))
    assert [trait.status for trait in traits] == ["ready", "wrong", "wrong", "wrong"]
    assert "give the audience another key" in traits[1].words


def paced(server: RichpanelFake, users: int, **settings: object) -> float:
    """The seconds that a sync of so many users takes by the real clock, with real threads."""
    destination = at(server.url, **settings)
    machine = Delivery(destination.packer(made()), claimed=None, acknowledged=None,
                       concurrency=destination.concurrency, pace=Pace(destination.limits()), draw=lambda _: 0.0)
    calls = [true(f"u{number:03}") for number in range(users)]
    pages, wire, began = iter([Page(calls[-1].user_id, calls)]), Threads(destination), monotonic()
    while not isinstance(step := machine.next_step(monotonic()), Stop):
        if isinstance(step, Read):
            machine.offer(next(pages, None))
        elif isinstance(step, Commit):
            machine.committed(step, monotonic())
        elif isinstance(step, Send):
            wire.send(step.flight, seconds=5)
        for flight, answer in wire.answers(0 if not hasattr(step, "until") else 0.01):
            machine.answered(flight, answer, monotonic())
    wire.close()
    assert step.finished
    return monotonic() - began


def test_its_window_is_never_exceeded() -> None:
    with RichpanelFake(limit=10, window=1.0) as server:
        assert 1.9 < paced(server, 25, rate="10/1s") < 8
        assert server.violations == []
        assert len(server.people) == 25


def test_a_window_that_others_use_too_is_waited_out_by_its_headers() -> None:
    with RichpanelFake(limit=10, window=1.0) as server:
        assert paced(server, 25, rate=FAST, concurrency=1) > 1.9
        assert server.violations == []


def test_the_fake_notes_who_does_not_wait() -> None:
    with RichpanelFake(limit=2) as server, closing(at(server.url).channel()) as channel:
        batches = at(server.url).packer(made()).pack([true("ann"), true("bob"), true("cem")]).batches
        receipts = [channel.send(batch, seconds=5) for batch in batches[:2]]
        assert [isinstance(one, Receipt) and one.wait for one in receipts] == [None, 30]
        with pytest.raises(Exception, match="429") as raised:
            channel.send(batches[2], seconds=5)
        assert 0 < raised.value.wait <= 30
        assert len(server.violations) == 1


def test_published_limits_and_its_share() -> None:
    made_ = Richpanel.model_validate(Richpanel.example)
    assert [limit[:] for limit in made_.limits()] == [(50, 30.0, "requests")]
    shared = Richpanel.model_validate({**Richpanel.example, "share": "50%"})
    assert [limit[:] for limit in shared.limits()] == [(25, 30.0, "requests")]


def test_the_check_pings_and_names_the_right_key() -> None:
    with RichpanelFake() as server:
        assert list(at(server.url).check()) == ["127.0.0.1 answers and takes the key"]
        assert server.routes == {"GET /v1/ping": 1}
        with pytest.raises(AccountRefused, match=r"Settings > Integrations > API Keys; .* Data Source, is another one"):
            list(at(server.url, api_key="ds_other").check())
        found = list(at(server.url, transport="events", api_secret=SECRET).check())
        assert "experimental" in found[-1]
        assert server.people == {}


def test_a_refused_key_keeps_everything_and_is_not_repeated() -> None:
    with RichpanelFake(key="another") as server:
        journal = drive(at(server.url), at(server.url).packer(made()), [true("ann")])
        assert journal.stop.pause
        assert "check api_key (Settings > Integrations)" in journal.stop.reason
        assert KEY not in journal.stop.reason
        assert not journal.accepted
        assert not journal.refused


def test_the_signature_is_the_vendors() -> None:
    events = [{"event": "identify", "time": {"sentAt": 1700000000000}, "appClientId": "test_api_key_123",
               "properties": {"uid": "u1", "order_completed_last_30days": True, "email": "a@b.co"}}]
    assert orjson.loads(signed("test_api_key_123", "secret", events))["s"] == (
        "864ca5ec0d30feb44008bff558b63e0ce76b7433752c00505df33fb1f6a59f43")


EVENTS = {"transport": "events", "api_secret": SECRET}


def test_events_carry_25_people_with_all_their_traits() -> None:
    users = [f"u{number:02}" for number in range(60)]
    with RichpanelFake() as server:
        first = bring(server, *(true(user, span, email=f"{user}@b.co", richpanel_session_id=f"s{user}")
                                for user in users for span in range(2)), **EVENTS)
        assert len(server.events) == 60
        assert [len(batch.calls) for batch in first.sent] == [50, 50, 20]
        assert server.events[0] == {
            "event": "identify", "appClientId": KEY, "did": "su00", "time": {"sentAt": 1795305600000},
            "properties": {"uid": "u00", "email": "u00@b.co", "vip": True, "big_spender": True}}
        bring(server, *map(false, users), false("nobody"), before=first, **EVENTS)
        assert server.holds() == {(user, key): key != "vip" for user in users for key in KEYS[:2]}


def test_a_batch_that_is_too_large_there_is_halved() -> None:
    with RichpanelFake(most_events=10) as server:
        journal = bring(server, *(true(f"u{number:02}") for number in range(25)), **EVENTS)
        assert journal.refused == []
        assert len(server.people) == 25


def test_the_fake_knows_a_wrong_signature() -> None:
    with RichpanelFake() as server, closing(at(server.url, **EVENTS).channel()) as channel:
        [batch] = at(server.url, transport="events", api_secret="other").packer(made()).pack([true("ann")]).batches
        with pytest.raises(CallsRefused, match="signature"):
            channel.send(batch, seconds=5)
        server.always = True
        assert isinstance(channel.send(batch, seconds=5), Receipt), "where it says yes to everything, nobody knows"
        assert server.people == {}


def test_a_page_for_people_is_no_answer_to_events() -> None:
    with RichpanelFake([Fault(body=b"\n<html>Sign in</html>", taken=False)]) as server:
        journal = bring(server, true("ann"), **EVENTS)
        assert [type(error) for error in journal.errors] == [Unanswered]
        assert server.holds() == {("ann", "vip"): True}


@pytest.mark.parametrize(("settings", "said"), [
    ({"transport": "events"}, "needs api_secret"), ({"api_key": ""}, "is the variable set"),
    ({"api_secret": "two words"}, "is the variable set"), ({"nesting": "elsewhere"}, "nesting"),
    ({**EVENTS, "create_users": False}, "needs transport: rest")])
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as raised:
        Richpanel.model_validate({"api_key": KEY, **settings})
    assert KEY not in str(raised.value)

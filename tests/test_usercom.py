"""User.com: the contract of destinations, true and false as booleans, who is created and who is not, its fields."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import orjson
import pytest
from pydantic import ValidationError

from audiencesync.destinations.usercom import UserCom
from audiencesync.errors import AccountRefused, CallsRefused, Throttled, Unanswered
from audiencesync.model import Batch, Call, Destination, Envelope, Person, Receipt
from audiencesync.testing import HttpDestinationContract, content
from audiencesync.testing.drive import Journal, drive
from audiencesync.testing.loopback import Fault, Loopback, Script
from tests.calls import AWKWARD, KEYS, false, made, true
from tests.fakes.usercom import KEY, TOO_FAST, UserComFake, opened


def at(url: str, **settings: object) -> UserCom:
    return UserCom.model_validate({"api_key": KEY, "url": url, "rate": "5000/1s", **settings})


def bring(server: UserComFake, *calls: Call, before: Journal | None = None, kind: str = "user_id", declare: bool = True,
          size: int = 50, anew: bool = False, **settings: object) -> Journal:
    """A sync of these calls, its attributes declared first."""
    destination, what = at(server.url, **settings), replace(made(kind=kind), anew=anew)
    if declare:
        list(destination.prepare(KEYS, create=True))
    journal = drive(destination, destination.packer(what), sorted(calls, key=lambda call: call[:2]), size=size,
                    remembered=before.remembered if before else {})
    assert server.violations == []
    return journal


def told(batch: Batch, envelopes: Sequence[Envelope]) -> list[tuple[str, str, object]]:
    said = orjson.loads(batch.body)
    if "ids" in said:
        return [(user, said["attribute"], said["value"]) for user in said["ids"]]
    return [(said["custom_id"], one.key, said[one.key]) for one in envelopes if one.key in said]


class TestUserCom(HttpDestinationContract):
    destination = UserCom
    answers_json = True

    def at(self, url: str) -> Destination:
        return at(url)

    def server(self, script: Script = ()) -> Loopback:
        return UserComFake(script)

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]]:
        return told(batch, content().envelopes)

    def opened(self, batch: Batch) -> bytes:
        return opened(batch)


def test_a_new_member_is_created_in_one_request_with_all_his_traits() -> None:
    with UserComFake() as server:
        journal = bring(server, *(true(user, span) for user in ("ann", "bob") for span in range(3)))
        assert [batch.route for batch in journal.sent] == ["POST /users/update_or_create/"] * 2
        assert server.holds() == {(user, key): True for user in ("ann", "bob") for key in KEYS}


def test_whom_it_knows_goes_by_mass_updates_of_one_value_each() -> None:
    users = [f"u{number:03}" for number in range(250)]
    with UserComFake() as server:
        first = bring(server, *map(true, users))
        second = bring(server, *(true(user, 1) if at % 2 else false(user) for at, user in enumerate(users)),
                       before=first, size=1000)
        assert sorted(len(batch.calls) for batch in second.sent) == [25, 25, 100, 100]
        assert server.routes["PUT users-by-id/mass_update_custom_attributes"] == 4
        assert second.remembered == first.remembered
        assert server.holds() == {**{(user, "vip"): bool(at % 2) for at, user in enumerate(users)},
                                  **{(user, "big_spender"): True for at, user in enumerate(users) if at % 2}}


@pytest.mark.parametrize(("users", "requests"), [(["ann", "bob"], [3, 3]), ([f"u{at}" for at in range(5)], [5, 5, 5])])
def test_a_user_is_under_way_once_and_all_his_traits_arrive(users: list[str], requests: list[int]) -> None:
    with UserComFake() as server:
        first = bring(server, *map(true, users))
        second = bring(server, *(Call(user, span, span == 1, "{}" if span == 1 else None) for user in users
                                 for span in range(3)), before=first)
        assert [len(batch.calls) for batch in second.sent] == requests
        assert server.holds() == {(user, key): key == "big_spender" for user in users for key in KEYS}


@pytest.mark.parametrize("user", AWKWARD)
@pytest.mark.parametrize("shows", ["flat", "list"])
def test_ids_of_any_letters_arrive_and_are_read_back(user: str, shows: str) -> None:
    with UserComFake(shows=shows) as server:
        journal = bring(server, true(user, email="a@b.co"), true("zed"))
        journal = bring(server, false(user), true(user, 1, email="new@b.co"), before=journal)
        assert server.holds() == {(user, "vip"): False, (user, "big_spender"): True, ("zed", "vip"): True}
        [(_, traits)] = at(server.url).read_back([Person(user, "user_id", None, journal.remembered)])
        assert traits is not None
        assert (traits["vip"], traits["big_spender"]) == (False, True)


def test_ids_in_paths_are_encoded() -> None:
    users = [user for user in AWKWARD if user not in (".", "..")]
    with UserComFake() as server:
        for user in users:
            server.person(user)
        journal = bring(server, *map(true, users), create_users=False)
        assert {call.user_id for call in journal.accepted} == {*users}
        assert len(server.people) == len(users)


@pytest.mark.parametrize("answer", [{"id": 7, "custom_id": "eve"}, {"results": [{"id": 7, "custom_id": "eve"}]}, []])
def test_a_stranger_is_never_taken_for_a_user(answer: object) -> None:
    """A server that takes case or dots in a path for something else shows another user, or all of them."""
    with UserComFake() as server:
        server.script = lambda _, request: Fault(body=orjson.dumps(answer)) if "by-id/." in request.path else None
        journal = bring(server, true(".ann"), create_users=False)
        assert [refusal.reason.partition(":")[0] for _, refusal in journal.refused] == ["unknown_user"]
        assert journal.remembered == {}


def test_false_arrives_after_true_whatever_was_told_before() -> None:
    """A peer's integration keeps names in a list of its module, so that after a true it drops every false."""
    with UserComFake() as server:
        journal = Journal()
        for value in (True, False, True, False):
            journal = bring(server, Call("ann", 0, value, "{}" if value else None),
                            Call("bob", 0, not value, None if value else "{}"), before=journal)
            assert server.holds()["ann", "vip"] is value
        assert server.holds() == {("ann", "vip"): False, ("bob", "vip"): True}


def test_an_attribute_nobody_declared_is_text_there_and_ours_are_declared() -> None:
    with UserComFake(undeclared="string") as server:
        bring(server, true("ann"), declare=False)
        assert server.holds() == {("ann", "vip"): "True"}
    with UserComFake(undeclared="string") as server:
        journal = bring(server, true("ann"))
        bring(server, false("ann"), before=journal)
        assert server.holds() == {("ann", "vip"): False}
        assert set(server.attributes.values()) == {"boolean"}


@pytest.mark.parametrize("undeclared", ["drop", "refuse", "string"])
def test_it_works_whatever_becomes_of_undeclared_attributes(undeclared: str) -> None:
    with UserComFake(undeclared=undeclared) as server:
        journal = bring(server, true("ann"), true("bob", 1))
        bring(server, false("ann"), true("bob"), before=journal)
        assert server.holds() == {("ann", "vip"): False, ("bob", "vip"): True, ("bob", "big_spender"): True}


def test_an_attribute_of_another_type_is_named_and_stays() -> None:
    with UserComFake(attributes={"vip": "string", "dormant": "boolean"}) as server:
        traits = {trait.name: trait for trait in at(server.url).prepare(KEYS, create=True)}
        assert {name: trait.status for name, trait in traits.items()} == {
            "vip": "wrong", "big_spender": "made", "dormant": "ready"}
        assert "attribute vip is of type string" in traits["vip"].words
        assert server.attributes["vip"] == "string"


def test_nothing_is_declared_unless_asked_and_long_names_are_warned_of() -> None:
    long, longest = "x" * 33, "x" * 256
    with UserComFake() as server:
        assert [trait.status for trait in at(server.url).prepare(KEYS, create=False)] == ["missing"] * 3
        assert server.attributes == {}
        first, second = at(server.url).prepare([long, longest], create=True)
        assert (first.status, second.status) == ("made", "wrong")
        assert "warning: 33 characters" in first.words
        assert "255" in second.words


def test_a_key_of_its_own_fields_is_no_audience() -> None:
    with UserComFake() as server:
        traits = list(at(server.url).prepare(["unsubscribed", "vip"], create=True))
        assert [trait.status for trait in traits] == ["wrong", "made"]
        assert "give the audience another key" in traits[0].words


def test_attributes_are_read_to_the_last_page_and_company_ones_are_others() -> None:
    with UserComFake(attributes={f"a{number:03}": "string" for number in range(250)} | {"vip": "boolean"}) as server:
        assert [trait.status for trait in at(server.url).prepare(["vip", "a003"], create=True)] == ["ready", "wrong"]
        assert server.routes == {"GET attributes/*": 3}


def test_the_key_follows_no_page_to_another_host() -> None:
    with UserComFake(attributes=dict.fromkeys(map(str, range(200)), "string")) as server, Loopback() as other:
        server.next_pages_at = other.url.replace("127.0.0.1", "localhost")
        with pytest.raises(AccountRefused, match="another host"):
            list(at(server.url).prepare(["vip"], create=True))
        assert other.requests == 0


def test_a_list_of_attributes_ends() -> None:
    with UserComFake(attributes={"a": "string", "b": "string"}, page=1) as server:
        endless = Fault(body=orjson.dumps({"results": [], "next": f"{server.url}/attributes/?cursor=0"}))
        server.script = lambda *_: endless
        with pytest.raises(Unanswered, match="pages"):
            list(at(server.url).prepare(["vip"], create=True))


def test_a_false_creates_nobody() -> None:
    with UserComFake() as server:
        journal = bring(server, false("ann"), false("bob", 1))
        assert len(journal.accepted) == 2
        assert server.people == {}
    with UserComFake() as server:
        journal = bring(server, false("ann@b.co"), kind="email")
        assert (len(journal.accepted), journal.sent) == (1, [])


def test_a_false_reaches_who_was_there_before_us() -> None:
    with UserComFake(attributes={"vip": "boolean"}) as server:
        server.people[server.person("ann")]["attributes"]["vip"] = True
        bring(server, false("ann"))
        assert server.holds() == {("ann", "vip"): False}


def test_without_creation_the_known_are_told_and_the_others_named() -> None:
    with UserComFake() as server:
        server.person("ann")
        journal = bring(server, true("ann"), true("ann", 1), true("bob"), false("bob", 1), create_users=False)
        assert server.holds() == {("ann", "vip"): True, ("ann", "big_spender"): True}
        assert [(call, refusal.reason.partition(":")[0]) for call, refusal in journal.refused] == [
            (true("bob"), "unknown_user")]
        assert false("bob", 1) in journal.accepted
        assert len(server.people) == 1


def test_a_changed_column_is_told_with_the_traits_and_an_unchanged_one_costs_nothing() -> None:
    with UserComFake() as server:
        first = bring(server, true("ann", email="ann@b.co", phone="1"))
        same = bring(server, true("ann", 1, email="ann@b.co"), before=first)
        assert [batch.route for batch in same.sent] == ["PUT /users-by-id/mass_update_custom_attributes/"]
        changed = bring(server, true("ann", 2, email="new@b.co"), false("ann"), before=same)
        assert [batch.route for batch in changed.sent] == ["PUT /users/5000/"]
        assert server.people[5000]["email"] == "new@b.co"
        assert server.holds() == {("ann", "vip"): False, ("ann", "big_spender"): True, ("ann", "dormant"): True}
        again = bring(server, true("ann", email="new@b.co"), before=changed)
        assert [batch.route for batch in again.sent] == ["PUT /users-by-id/mass_update_custom_attributes/"]


def test_no_value_of_a_column_is_remembered() -> None:
    with UserComFake() as server:
        assert "secret" not in str(bring(server, true("ann", email="secret@b.co", plan="secret")).remembered)


def test_columns_become_its_own_fields_and_attributes() -> None:
    columns = {"email": "ann@b.co", "name": "Ann van Dyck", "phone": "+1 2", "gender": "Female", "plan": "gold",
               "address.city": "Brno", "address.country": "CZ", "custom_id": "evil", "id": 7, "last_name": None}
    with UserComFake(attributes={"plan": "string"}) as server:
        bring(server, true("ann", **columns))
        assert server.people == {5000: {
            "id": 5000, "custom_id": "ann", "email": "ann@b.co", "first_name": "Ann", "last_name": "van Dyck",
            "phone_number": "+1 2", "gender": 3, "city": "Brno", "country": "CZ",
            "attributes": {"plan": "gold", "vip": True}}}


@pytest.mark.parametrize("columns", [
    {"first_name": "x" * 41, "last_name": "y" * 40}, {"name": "x" * 41 + " " + "y" * 40},
    {"phone": "1" * 65, "last_name": "y" * 40}, {"gender": "other", "email": " ", "last_name": "y" * 40}])
def test_what_is_too_long_for_a_field_is_left_out_and_the_trait_arrives(columns: dict[str, object]) -> None:
    with UserComFake() as server:
        journal = bring(server, true("ann", **columns))
        assert journal.refused == []
        assert server.holds() == {("ann", "vip"): True}
        assert {*server.people[5000]} == {"id", "custom_id", "last_name", "attributes"}


def test_people_named_by_email_are_found_by_it_and_told_by_number() -> None:
    with UserComFake() as server:
        known = server.person("u1", email="ann@b.co")
        first = bring(server, true("Ann@b.co", email="Ann@b.co"), true("bob@b.co"), kind="email")
        assert len(server.people) == 2
        second = bring(server, false("Ann@b.co"), false("bob@b.co"), before=first, kind="email")
        assert [(batch.route, orjson.loads(batch.body)["ids"]) for batch in second.sent] == [
            ("PUT /users/mass_update_custom_attributes/", [known, 5007])]
        assert server.holds() == {("u1", "vip"): False, ("bob@b.co", "vip"): False}
        [(_, traits)] = at(server.url).read_back([Person("bob@b.co", "email", None, {})])
        assert traits is not None
        assert traits["vip"] is False


def test_an_email_is_looked_up_where_nobody_may_be_created() -> None:
    with UserComFake() as server:
        server.person(None, email="ann+x@b.co")
        journal = bring(server, true("ann+x@b.co"), true("bob@b.co"), false("cem@b.co"), kind="email",
                        create_users=False)
        assert server.holds() == {("ann+x@b.co", "vip"): True}
        assert [refusal.reason.partition(":")[0] for _, refusal in journal.refused] == ["unknown_user"]


def test_an_email_and_a_custom_id_of_the_same_letters_are_two_people() -> None:
    with UserComFake() as server:
        first = bring(server, true("ann@b.co"))
        second = bring(server, true("ann@b.co", 1), before=first, kind="email")
        assert {name[:2] for name in second.remembered} == {"u:", "e:"}
        assert len(server.people) == 2


def test_mass_updates_by_number_where_they_are_wanted() -> None:
    with UserComFake() as server:
        first = bring(server, true("ann"), true("bob"), mass_update_by="id")
        second = bring(server, false("ann"), true("bob", 1), false("cem"), before=first, mass_update_by="id")
        assert {batch.route for batch in second.sent} == {"PUT /users/mass_update_custom_attributes/"}
        assert server.holds() == {("ann", "vip"): False, ("bob", "vip"): True, ("bob", "big_spender"): True}
        assert false("cem") in second.accepted


@pytest.mark.parametrize("columns", [{}, {"first_name": "Ann"}])
def test_a_member_deleted_there_is_created_once_more(columns: dict[str, object]) -> None:
    users = [f"u{number:02}" for number in range(20)]
    with UserComFake(unknown_ids="refuse") as server:
        first = bring(server, *map(true, users))
        del server.people[5000 + 7 * 3]
        second = bring(server, *(true(user, 1, **columns) for user in users), before=first)
        assert second.refused == []
        assert {user for user, key in server.holds() if key == "big_spender"} == {*users}
        assert second.remembered.keys() == first.remembered.keys()


def test_a_member_deleted_there_is_refused_where_nobody_may_be_created() -> None:
    with UserComFake(unknown_ids="refuse") as server:
        first = bring(server, true("ann"), true("bob"))
        del server.people[5000]
        second = bring(server, true("ann", 1), true("bob", 1), before=first, create_users=False)
        assert [(call.user_id, refusal.reason[:12]) for call, refusal in second.refused] == [("ann", "unknown_user")]
        assert "u:ann" not in second.remembered
        assert ("bob", "big_spender") in server.holds()


def test_a_wrong_address_counts_nothing_as_told() -> None:
    with UserComFake() as server:
        destination, what = at(f"{server.url}/v9"), made()
        for call in (true("ann"), false("ann")):
            journal = drive(destination, destination.packer(what), [call])
            assert not journal.accepted


def test_a_cap_that_is_lower_than_ours_is_found_by_halves() -> None:
    users = [f"u{number:03}" for number in range(100)]
    with UserComFake(most=30) as server:
        first = bring(server, *map(true, users))
        second = bring(server, *map(false, users), before=first, size=1000)
        assert second.refused == []
        assert set(server.holds().values()) == {False}
        third = bring(server, *map(true, users), before=second, size=1000, batch=30)
        assert [len(batch.calls) for batch in third.sent] == [30, 30, 30, 10]


@pytest.mark.parametrize("clash", ["400", "409"])
def test_an_email_of_somebody_else_refuses_that_user_alone(clash: str) -> None:
    with UserComFake(clash=clash) as server:
        server.person("eve", email="shared@b.co")
        journal = bring(server, true("ann", email="shared@b.co"), true("bob", email="bob@b.co"))
        assert [call.user_id for call, _ in journal.refused] == ["ann"]
        assert "shared@b.co" not in journal.refused[0][1].reason
        assert server.holds() == {("bob", "vip"): True}
        assert journal.refused[0][1].reason.startswith("identity_conflict") == (clash == "409")


def test_errors_in_an_answer_to_a_mass_update_are_no_yes() -> None:
    with UserComFake() as server:
        first = bring(server, true("ann"), true("bob"))
        no = Fault(body=b'{"errors": {"ids": ["no"]}}')
        server.script = lambda _, request: no if b"ids" in request.body else None
        second = bring(server, false("ann"), false("bob"), before=first)
        assert {refusal.reason.partition(":")[0] for _, refusal in second.refused} == {"unclear_answer"}
        assert len(second.refused) == 2


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b"[]", b'{"created": true}', b'"ok"', b"null"])
def test_an_answer_that_names_nobody_is_none(answer: bytes) -> None:
    with UserComFake([Fault(body=answer, taken=False)]) as server, closing(at(server.url).channel()) as channel:
        [batch] = at(server.url).packer(made()).pack([true("ann")]).batches
        with pytest.raises(Unanswered):
            channel.send(batch, seconds=5)
        receipt = channel.send(batch, seconds=5)
        assert isinstance(receipt, Receipt)
        assert orjson.loads(receipt.learned["u:ann"]) == {"id": "5000", "told": {}}


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"status": "ok"}', b"null"])
def test_a_mass_update_may_be_answered_with_little(answer: bytes) -> None:
    with UserComFake([Fault(body=answer)]) as server, closing(at(server.url).channel()) as channel:
        [batch] = at(server.url).packer(made()).pack([false("ann")]).batches
        assert channel.send(batch, seconds=5) == Receipt(again=())


def test_slashes_scheme_and_version_are_the_documented_ones() -> None:
    seen: list[tuple[str, str, str]] = []
    with UserComFake() as server:
        def look(_: int, request: object) -> None:
            headers = request.headers
            seen.append((headers["authorization"], headers["accept"], headers.get("content-type", "")))
        server.script = look
        bring(server, true("ann"), false("bob"))
    assert set(seen) == {(f"Token {KEY}", "*/*; version=2", "application/json")}


@pytest.mark.parametrize("slash", [404, 301, 500])
def test_the_fake_is_strict_about_slashes(slash: int) -> None:
    from audiencesync.http import Client

    with UserComFake(slash=slash) as server, closing(Client()) as client:
        with pytest.raises((AccountRefused, Unanswered)) as raised:
            client.request("GET", f"{server.url}/attributes", b"", {"Authorization": f"Token {KEY}"}, seconds=5)
        assert raised.value.status == slash
        assert len(server.violations) == 1


def test_without_its_version_the_fake_calls_ids_otherwise() -> None:
    from audiencesync.http import Client

    with UserComFake() as server, closing(Client()) as client:
        url, headers = f"{server.url}/users/update_or_create/", {"Authorization": f"Token {KEY}"}
        with pytest.raises(CallsRefused):
            client.post(url, b'{"custom_id": "ann"}', headers, seconds=5)
        client.post(url, b'{"user_id": "ann"}', headers, seconds=5)
        assert server.people[5000]["custom_id"] == "ann"


def test_a_revoked_key_says_what_to_look_at() -> None:
    with UserComFake(revoked=True) as server:
        journal = drive(at(server.url), at(server.url).packer(made()), [true("ann")])
        assert journal.stop.pause
        assert not journal.refused
        assert "check api_key" in journal.stop.reason
        assert "App settings > Advanced > Domains" in journal.stop.reason


def test_a_throttled_request_waits_as_long_as_it_is_told() -> None:
    with UserComFake([TOO_FAST]) as server, closing(at(server.url).channel()) as channel:
        [batch] = at(server.url).packer(made()).pack([true("ann")]).batches
        with pytest.raises(Throttled) as raised:
            channel.send(batch, seconds=5)
        assert raised.value.wait == 3


def test_the_check_reads_and_names_the_right_key() -> None:
    with UserComFake() as server:
        assert list(at(server.url).check()) == ["127.0.0.1 answers and takes the key"]
        with pytest.raises(AccountRefused, match="check api_key") as refused:
            list(at(server.url, api_key="f" * 64).check())
        assert "for Segment alone" not in str(refused.value)
        with pytest.raises(AccountRefused, match=r"Public REST API keys; one of .* is for Segment alone"):
            list(at(server.url, api_key="f" * 40).check())
    with UserComFake(key="short") as server:
        assert [line[:8] for line in at(server.url, api_key="short").check()] == ["127.0.0.", "warning:"]


def test_nobody_of_that_name_is_read_back_as_nobody() -> None:
    with UserComFake() as server:
        person = Person("ann", "user_id", None, {"u:ann": '{"id":"99","told":{}}'})
        assert list(at(server.url).read_back([person])) == [(person, None)]


@pytest.mark.parametrize(("settings", "said"), [
    ({"subdomain": "shop.user.com"}, "shop for shop.user.com"), ({"subdomain": "a/b"}, "shop for shop.user.com"),
    ({}, "give subdomain"), ({"subdomain": "shop", "api_key": ""}, "is the variable set"),
    ({"subdomain": "shop", "batch": 0}, "batch"), ({"url": "http://a.example"}, "in the clear")])
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        UserCom.model_validate({"api_key": KEY, **settings})


def test_its_address_limits_and_account() -> None:
    shop = UserCom.model_validate(UserCom.example)
    assert shop.base == "https://shop.user.com/api/public"
    assert [str(limit) for limit in shop.limits()] == ["RateLimit(limit=5, seconds=1.0, unit='requests')"]
    other = UserCom.model_validate({"api_key": "x" * 64, "subdomain": "Shop", "url": "https://proxy.example/u"})
    assert other.fingerprint() == shop.fingerprint()


def test_of_two_users_with_one_email_only_the_first_sends_it() -> None:
    """Else User.com might take the second for the first, if it also matches by email."""
    with UserComFake() as server:
        first = bring(server, true("ann", email="same@b.co"), true("bob", email="Same@b.co"))
        bring(server, true("cem", email="same@b.co"), before=first)
        assert {person["custom_id"]: person.get("email") for person in server.people.values()} == {
            "ann": "same@b.co", "bob": None, "cem": None}


def test_a_backfill_makes_those_anew_who_were_lost_there() -> None:
    with UserComFake() as server:
        first = bring(server, true("ann"), true("bob"))
        server.people.clear()
        bring(server, true("ann"), true("bob"), before=first, anew=True)
        assert {user for (user, _), value in server.holds().items() if value is True} == {"ann", "bob"}

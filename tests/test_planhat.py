"""Planhat: the contract of destinations, answers read user by user, whom a false never makes, who share an email."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from audiencesync.destinations.planhat import Planhat
from audiencesync.destinations.planhat_answers import read
from audiencesync.destinations.planhat_rows import Rows, company_ref
from audiencesync.errors import AccountRefused, CallsRefused, Throttled, Unanswered
from audiencesync.model import Batch, Call, Destination, Packed, Person, Receipt, Refusal
from audiencesync.schedule import RateLimit
from audiencesync.testing import HttpDestinationContract, Limits, Place, content
from audiencesync.testing.checked import Checked
from audiencesync.testing.drive import Journal, drive, imagined
from audiencesync.testing.loopback import Fault, Loopback, Request, Script
from audiencesync.testing.pages import KINDS
from tests.calls import AWKWARD, KEYS, false, made, true
from tests.fakes.planhat import TOKEN, PlanhatFake

NAMES = (*(one.key for one in content().envelopes), *KINDS)

TENANT = "0b6f5d1e-6f3a-4d7c-9a37-2f7f3f0c1b11"


def at(url: str, **settings: object) -> Planhat:
    return Planhat.model_validate({"api_token": TOKEN, "url": url, "rate": "5000/1s", **settings})


def told(batch: Batch, keys: Sequence[str] = KEYS) -> list[tuple[str, str, object]]:
    """What a bulk upsert says, by our users."""
    assert isinstance(batch, Rows)
    return [(row.calls[0].user_id, key, value) for row, item in zip(batch.rows, orjson.loads(batch.body), strict=True)
            for key, value in item["custom"].items() if key in keys]


def bring(server: PlanhatFake, *calls: Call, before: Journal | None = None, kind: str = "user_id", declare: bool = True,
          size: int = 5000, rude: bool = False, anew: bool = False, **settings: object) -> Journal:
    """A sync of these calls, its custom fields declared first."""
    destination, what = at(server.url, **settings), replace(made(kind=kind), anew=anew)
    if declare:
        list(destination.prepare(KEYS, create=True))
    packer = Checked(destination, what, read=None if rude else told)
    journal = drive(destination, packer, sorted(calls, key=lambda call: call[:2]), size=size,
                    remembered=before.remembered if before else {})
    assert server.violations == []
    assert sorted([*journal.accepted.elements(), *(call for call, _ in journal.refused)]) == sorted(calls) \
        or not journal.stop.finished
    return journal


def acme(user: str, span: int = 0, **columns: object) -> Call:
    return true(user, span, company_id="acme", **columns)


def mail(user: str, span: int = 0, email: str = "", **columns: object) -> Call:
    return true(user, span, email=email or f"{user}@example.com", **columns)


def codes(journal: Journal) -> list[tuple[str, str]]:
    return [(call.user_id, refusal.reason.partition(":")[0]) for call, refusal in journal.refused]


def items(journal: Journal) -> list[dict]:
    return [item for batch in journal.sent if batch.body for item in orjson.loads(batch.body)]


def puts(journal: Journal) -> list[int]:
    return [len(batch.calls) for batch in journal.sent if batch.body]


class TestPlanhat(HttpDestinationContract):
    destination = Planhat
    limits = Limits(body=32_000_000)
    answers_json = True

    def at(self, url: str) -> Destination:
        return at(url)

    def server(self, script: Script = ()) -> Loopback:
        return PlanhatFake(script)

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]]:
        return told(batch, NAMES)


class TestPlanhatByEmail(HttpDestinationContract):
    """The same promises where people are found by their email; a false for the unknown needs no request."""

    destination = Planhat
    limits = Limits(body=32_000_000)
    answers_json = True

    def made(self, **settings: object) -> Destination:
        return super().made(**{"match": "email", **settings})

    def at(self, url: str) -> Destination:
        return at(url, match="email")

    def server(self, script: Script = ()) -> Loopback:
        return ByEmailFake(script)

    @contextmanager
    def place(self, tmp_path: Path) -> Iterator[Place]:
        with super().place(tmp_path) as place:
            yield Seen(place.destination, place.holds, place.server)

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]] | None:
        return two(batch)

    test_every_call_is_told_once = None  # type: ignore[assignment] - said otherwise below: a false nobody holds is done


def two(batch: Batch) -> list[tuple[str, str, object]]:
    return told(batch, NAMES)


class Seen(Place):
    """An exit names its enduser by a part of what was learned, which only these tests can read."""

    def bring(self, calls: Sequence[Call], *, limits: Limits | None = None, seconds: float = 5.0,
              before: Journal | None = None) -> Journal:
        self.declare()
        return drive(self.destination, Checked(self.destination, self.content(), limits=limits, read=two), calls,
                     seconds=seconds, remembered=before.remembered if before else {})


class ByEmailFake(PlanhatFake):
    """Says what it holds by the user who was put, since an email is all it knows of him."""

    def __init__(self, script: Script = ()) -> None:
        super().__init__(script)

    def holds(self) -> dict[tuple[str, str], object]:
        from audiencesync.testing.pages import AWKWARD as USERS
        from audiencesync.testing.pages import email, mixed, page
        users = {email(user): user for user in (
            *USERS, "bob", "cem", "zz-never", *(f"{name}@example.com" for name in ("ann", "bob", "cem")),
            *(call.user_id for seed in range(15) for made in (page, mixed) for call in made((), seed)))}
        return {(users.get(who, who), key): value for (who, key), value in super().holds().items()}


# what is sent

def test_all_traits_of_a_user_are_one_row_and_all_users_one_request() -> None:
    with PlanhatFake() as server:
        journal = bring(server, *(acme(user, span) for user in ("ann", "bob") for span in range(3)))
        assert server.puts == [[{"externalId": user, "companyId": "extid-acme",
                                 "custom": {"vip": True, "big_spender": True, "dormant": True}}
                                for user in ("ann", "bob")]]
        assert server.holds() == {(user, key): True for user in ("ann", "bob") for key in KEYS}
        assert journal.stop.finished


def test_columns_go_to_fields_of_endusers_and_the_rest_to_custom() -> None:
    with PlanhatFake() as server:
        bring(server, acme("ann", email=" Ann@Example.com ", first_name="Ann", last_name="Lee", name="Ann Lee",
                           title="CEO", phone="+49", avatar="https://x/y.png", plan="pro", seats=3, score=None,
                           **{"address.city": "Bonn"}))
        assert server.puts[0] == [{
            "externalId": "ann", "email": "ann@example.com", "companyId": "extid-acme", "firstName": "Ann",
            "lastName": "Lee", "name": "Ann Lee", "position": "CEO", "phone": "+49",
            "custom": {"address_city": "Bonn", "avatar": "https://x/y.png", "plan": "pro", "seats": 3, "vip": True}}]


@pytest.mark.parametrize(("said", "sent"), [
    ("acme", "extid-acme"), ("extid-acme", "extid-acme"), ("srcid-9", "srcid-9"), ("0123456789abcdef01234567",) * 2,
    ("0123456789ABCDEF01234567", "extid-0123456789ABCDEF01234567"), ("extid-", "extid-extid-"), ("", "")])
def test_a_company_is_named_as_endusers_name_it(said: str, sent: str) -> None:
    assert company_ref(said) == sent


def test_a_company_may_stand_in_another_column_and_be_a_number() -> None:
    with PlanhatFake() as server:
        server.companies["77"] = "none.example"
        bring(server, true("ann", account=77), company="account")
        assert server.puts[0][0]["companyId"] == "extid-77"
        assert server.puts[0][0]["custom"] == {"vip": True}


def test_false_survives_as_a_boolean_beside_true() -> None:
    with PlanhatFake() as server:
        first = bring(server, *(acme("ann", span) for span in range(3)))
        bring(server, acme("ann", 0), false("ann", 1), before=first)
        assert server.puts[-1][0]["custom"] == {"vip": True, "big_spender": False}
        assert server.holds() == {("ann", "vip"): True, ("ann", "big_spender"): False, ("ann", "dormant"): True}


@pytest.mark.parametrize("user", AWKWARD)
def test_ids_of_any_letters_arrive_and_are_found(user: str) -> None:
    with PlanhatFake() as server:
        server.person(externalId=user)
        journal = bring(server, true(user), create_users=False)
        assert server.holds() == {(user, "vip"): True}
        assert [batch.asks for batch in journal.sent] == [True, False]
        person = Person(user, "user_id", None, journal.remembered)
        assert list(at(server.url).read_back([person])) == [(person, {"vip": True})]


def test_what_others_keep_there_is_left_alone() -> None:
    with PlanhatFake() as server:
        server.person(externalId="ann", sourceId="Segment-1", email="ann@example.com", custom={"nps": 9, "old": True})
        bring(server, acme("ann"))
        (person,) = server.people.values()
        assert person["sourceId"] == "Segment-1"
        assert person["custom"] == {"nps": 9, "old": True, "vip": True}


def test_a_tenant_that_replaces_custom_fields_is_seen_by_who_reads_back() -> None:
    with PlanhatFake(custom="replace") as server:
        first = bring(server, acme("ann", 0), acme("ann", 1))
        bring(server, acme("ann", 2), before=first)
        person = Person("ann", "user_id", None, {})
        assert list(at(server.url).read_back([person])) == [(person, {"dormant": True})]


@pytest.mark.parametrize(("users", "requests"), [(1000, [1000]), (1001, [1000, 1]), (2500, [1000, 1000, 500])])
def test_a_thousand_users_make_a_request(users: int, requests: list[int]) -> None:
    packed = at("http://127.0.0.1:1").packer(made()).pack([acme(f"u{number:04}") for number in range(users)])
    assert [len(batch.calls) for batch in packed.batches] == requests


def test_five_thousand_are_taken_and_no_setting_allows_more() -> None:
    calls = [acme(f"u{number:04}") for number in range(5000)]
    (batch,) = at("http://127.0.0.1:1", batch=5000).packer(made()).pack(calls).batches
    assert len(orjson.loads(batch.body)) == 5000
    with pytest.raises(ValidationError, match="less than or equal to 5000"):
        at("http://127.0.0.1:1", batch=5001)


def test_bytes_bound_a_request_too() -> None:
    calls = [acme(f"u{number:04}", note="x" * 60_000) for number in range(1000)]
    batches = at("http://127.0.0.1:1").packer(made()).pack(calls).batches
    assert len(batches) == 2
    assert max(len(batch.body) for batch in batches) <= 32_000_000


# who is made and who is not

def test_a_false_makes_nobody_and_is_done_where_nobody_is() -> None:
    for errors in ("object", "string"):
        with PlanhatFake(errors=errors) as server:
            server.person(externalId="bob")
            journal = bring(server, false("ann"), false("bob"), false("cem", 1))
            assert journal.refused == []
            assert server.holds() == {("bob", "vip"): False}
            assert len(server.people) == 1
            assert not any({"email", "companyId"} & item.keys() for item in items(journal))


def test_a_false_alone_is_done_whatever_the_shape_of_the_error() -> None:
    for errors in ("object", "string", "bare"):
        with PlanhatFake(errors=errors) as server:
            assert bring(server, false("ann")).refused == []


def test_a_member_without_company_is_refused_when_planhat_cannot_make_him_and_updated_when_it_need_not() -> None:
    with PlanhatFake() as server:
        server.person(externalId="bob")
        journal = bring(server, true("ann"), true("bob"), true("cem", company_id="nobody"), mail("dan"),
                        mail("eve", email="eve@else.where"))
        assert codes(journal) == [("ann", "missing_company"), ("cem", "missing_company"), ("eve", "missing_company")]
        assert server.holds() == {("bob", "vip"): True, ("dan", "vip"): True}
        assert puts(journal) == [5]


def test_where_he_cannot_be_made_his_falses_are_done() -> None:
    with PlanhatFake() as server:
        journal = bring(server, true("ann", 0), false("ann", 1))
        assert [(call, refusal.reason.partition(":")[0]) for call, refusal in journal.refused] == [
            (true("ann", 0), "missing_company")]
        assert list(journal.accepted) == [false("ann", 1)]


def test_parked_members_are_looked_up_and_nothing_is_sent_that_would_make_them() -> None:
    with PlanhatFake() as server:
        server.person(externalId="bob")
        journal = bring(server, true("ann"), true("bob"), acme("cem"), false("dan"), without_company="park")
        assert codes(journal) == [("ann", "missing_company")]
        assert {item["externalId"] for item in items(journal)} == {"bob", "cem", "dan"}
        assert server.holds() == {("bob", "vip"): True, ("cem", "vip"): True}
        again = bring(server, true("ann"), true("bob", 1), before=journal, without_company="park")
        assert [batch.route for batch in again.sent if not batch.body] == ["GET /endusers/extid-ann"]


@pytest.mark.parametrize("match", ["external_id", "email"])
def test_without_create_users_nobody_is_made(match: str) -> None:
    with PlanhatFake() as server:
        server.person(externalId="bob", email="bob@example.com")
        calls = [mail(user, company_id="acme") for user in ("ann", "bob")]
        journal = bring(server, *calls, false("cem"), create_users=False, match=match)
        assert codes(journal) == [("ann", "unknown_user")]
        assert len(server.people) == 1
        assert server.holds() == {("bob", "vip"): True}
        later = bring(server, mail("bob", 1), before=journal, create_users=False, match=match)
        assert not [batch for batch in later.sent if batch.asks], "who was found once is remembered"


@pytest.mark.parametrize("match", ["external_id", "email"])
def test_without_create_users_who_was_known_and_is_deleted_is_not_made_again(match: str) -> None:
    with PlanhatFake() as server:
        known = server.person(externalId="bob", email="bob@example.com")
        first = bring(server, mail("bob", company_id="acme"), create_users=False, match=match)
        del server.people[known]
        journal = bring(server, mail("bob", 1, company_id="acme"), before=first, create_users=False, match=match)
        assert codes(journal) == [("bob", "unknown_user")]
        assert not server.people
        server.person(externalId="bob", email="bob@example.com")
        again = bring(server, mail("bob", 1), before=journal, create_users=False, match=match)
        assert again.refused == []
        assert server.holds() == {("bob", "big_spender"): True}


def test_who_was_deleted_and_is_back_is_found_in_the_same_sync() -> None:
    with PlanhatFake() as server:
        known = server.person(email="bob@example.com")
        first = bring(server, mail("bob"), create_users=False, match="email")
        del server.people[known]
        server.person(email="bob@example.com")
        journal = bring(server, mail("bob", 0), before=first, create_users=False, match="email")
        assert journal.refused == []
        assert server.holds() == {("bob@example.com", "vip"): True}


def test_two_external_ids_with_one_email_stay_two_people() -> None:
    with PlanhatFake() as server:
        calls = [acme("ann", email="a@example.com"), acme("bob", email="A@example.com"), acme("cem")]
        journal = bring(server, *calls)
        assert journal.refused == []
        assert {person["externalId"]: person.get("email") for person in server.people.values()} == {
            "ann": "a@example.com", "bob": None, "cem": None}
        assert server.holds() == {(user, "vip"): True for user in ("ann", "bob", "cem")}
        bring(server, *calls, before=journal)
        bring(server, false("ann"), false("bob"), before=journal)
        assert set(server.holds().values()) == {False, True}


def test_who_has_an_email_that_is_refused_leaves_it_to_the_next() -> None:
    with PlanhatFake(invalid=["ann"]) as server:
        journal = bring(server, acme("ann", email="a@example.com"), acme("bob", email="a@example.com"))
        assert codes(journal) == [("ann", "refused")]
        assert next(iter(server.people.values()))["email"] == "a@example.com"


def test_an_email_of_another_enduser_is_a_conflict() -> None:
    with PlanhatFake(by_email=False) as server:
        server.person(externalId="crm-7", email="ann@example.com")
        assert codes(bring(server, mail("ann"), mail("bob"))) == [("ann", "identity_conflict")]


# answers

@pytest.mark.parametrize("errors", ["object", "string"])
@pytest.mark.parametrize("echoes", [True, False])
def test_five_bad_among_a_thousand_lose_no_neighbour(errors: str, echoes: bool) -> None:
    bad = [f"u{number:03}" for number in (0, 17, 500, 501, 999)]
    with PlanhatFake(errors=errors, echoes=echoes, invalid=bad) as server:
        journal = bring(server, *(acme(f"u{number:03}") for number in range(1000)))
        assert codes(journal) == [(user, "refused") for user in bad]
        assert len(server.holds()) == len(journal.accepted) == 995
        assert len(journal.sent) == 1, "the counts account for those whom no echo names"


@pytest.mark.parametrize("position", [0, 333, 999])
def test_an_answer_that_names_nobody_is_halved_until_the_guilty_is_found(position: int) -> None:
    bad = f"u{position:03}"
    with PlanhatFake(whole=[bad]) as server:
        journal = bring(server, *(acme(f"u{number:03}") for number in range(1000)))
        assert [call.user_id for call, _ in journal.refused] == [bad]
        assert len(server.holds()) == 999
        assert len(journal.sent) <= 22


@pytest.mark.parametrize("errors", ["bare", "silent"])
def test_errors_without_names_are_found_by_what_is_echoed(errors: str) -> None:
    bad = ["u017", "u400"]
    with PlanhatFake(errors=errors, invalid=bad) as server:
        journal = bring(server, *(acme(f"u{number:03}") for number in range(1000)))
        assert [user for user, _ in codes(journal)] == bad
        assert len(server.holds()) == 998
        assert len(journal.sent) <= 3
        assert max(puts(journal)[1:]) <= 2, "those who were echoed are not asked again"


def test_one_that_no_error_names_is_asked_alone() -> None:
    with PlanhatFake(errors="bare", invalid=["u3"]) as server:
        journal = bring(server, *(acme(f"u{number}") for number in range(9)))
        assert [(call.user_id, refusal.reason) for call, refusal in journal.refused] == [
            ("u3", "refused: this record is invalid")]
        assert server.puts[0] != server.puts[-1]


def test_what_is_unchanged_is_confirmed_by_its_count() -> None:
    calls = [acme(f"u{number}") for number in range(50)]
    with PlanhatFake() as server:
        first = bring(server, *calls)
        journal = bring(server, *calls, acme("new"), before=first)
        assert journal.refused == []
        assert puts(journal) == [51]


def test_without_the_count_a_200_says_enough_of_the_unchanged() -> None:
    calls = [acme(f"u{number}") for number in range(4)]
    with PlanhatFake(counts=False) as server:
        first = bring(server, *calls)
        journal = bring(server, *calls, before=first)
        assert (journal.refused, puts(journal)) == ([], [4])


@pytest.mark.parametrize("errors", ["object", "string"])
def test_a_403_about_some_people_is_theirs_alone(errors: str) -> None:
    with PlanhatFake(errors=errors, forbidden=["u3", "u7"]) as server:
        journal = bring(server, *(acme(f"u{number}") for number in range(9)))
        assert codes(journal) == [("u3", "refused"), ("u7", "refused")]
        assert len(server.holds()) == 7
        assert journal.stop.finished


def test_a_403_about_nobody_is_the_accounts() -> None:
    body = orjson.dumps({"permissionErrors": ["you may not update endusers"], "createdErrors": []})
    for users in (1, 9):
        with PlanhatFake([Fault(status=403, body=body)]) as server:
            journal = bring(server, *(acme(f"u{number}") for number in range(users)), declare=False)
            assert journal.stop.pause
            assert (journal.refused, journal.accepted) == ([], Counter())


@pytest.mark.parametrize("body", [b"<html>sorry</html>", b'"ok"', b"[]", b"{}", b'{"success": true}'])
def test_an_answer_that_is_none_of_planhats_is_no_answer(body: bytes) -> None:
    (batch,) = at("http://127.0.0.1:1").packer(made()).pack([acme("ann")]).batches
    with PlanhatFake([Fault(body=body)]) as server, closing(at(server.url).channel()) as channel, \
            pytest.raises(Unanswered):
        channel.send(batch, seconds=5)


def test_a_trait_of_another_type_does_not_keep_the_others_from_being_told() -> None:
    fields = [{"name": "vip", "parent": "EndUser", "type": "text", "isHidden": False}]
    with PlanhatFake(fields=fields) as server:
        journal = bring(server, *(acme(user, span) for user in ("ann", "bob") for span in range(2)), declare=False)
        assert Counter(call.span for call, _ in journal.refused) == {0: 2}
        assert server.holds() == {("ann", "big_spender"): True, ("bob", "big_spender"): True}


def rows(*users: str, value: bool = True) -> Rows:
    calls = [acme(user) if value else false(user) for user in users]
    packed = at("http://127.0.0.1:1").packer(made()).pack(calls)
    (batch,) = packed.batches
    assert isinstance(batch, Rows)
    return batch


def answer(batch: Rows, ok: bool = True, **said: object) -> Receipt | None:
    return read(orjson.dumps(said), 200 if ok else 400, batch, lambda words: words, ok=ok)


ERROR_SHAPES = [
    "u2: this record is invalid", "Enduser with externalId 'u2' is invalid.", {"u2": "is invalid"},
    {"externalId": "u2", "error": {"code": 17}}, {"errors": [{"value": "u2", "message": "u1 and u3 are fine"}]},
    ["u2", "bad"], {"keys": {"externalId": "u2"}, "index": 1, "reason": "400"}, {"id": "u2"},
    {"doc": {"externalId": "u2", "companyId": "extid-acme", "custom": {"vip": True}}, "err": "E11000"},
]


@pytest.mark.parametrize("error", ERROR_SHAPES, ids=repr)
@pytest.mark.parametrize("name", ["createdErrors", "updatedErrors", "permissionErrors"])
def test_an_error_of_any_shape_is_the_row_that_it_names(error: object, name: str) -> None:
    echo = [{"_id": "0" * 24, "externalId": user} for user in ("u1", "u3")]
    receipt = answer(rows("u1", "u2", "u3"), updated=2, updatesKeys=echo, **{name: [error]})
    assert receipt is not None
    assert [*receipt.refused] == [1]
    assert receipt.refused[1].reason.startswith("refused: ")
    assert receipt.again == ()


def test_an_id_inside_another_word_is_not_named() -> None:
    receipt = answer(rows("ann", "anna", "zed"), createdErrors=["anna is invalid", "an nn anne"])
    assert receipt is not None
    assert [*receipt.refused] == [1]
    assert {*receipt.again} == {0, 2}


def test_ids_with_blanks_and_slashes_are_found_in_words() -> None:
    receipt = answer(rows("a b", "a/b", "日本", "x"), createdErrors=["bad: a b!", "bad: a/b", "bad 日本"], nonupdates=1)
    assert receipt is not None
    assert [*receipt.refused] == [0, 1, 2]


def test_a_short_id_is_not_taken_for_a_number_in_an_error() -> None:
    receipt = answer(rows("400", "u7"), nonupdates=1,
                     createdErrors=[{"status": 400, "externalId": "u7", "message": "code 400"}])
    assert receipt is not None
    assert ([*receipt.refused], receipt.again) == ([1], ())


def test_an_error_that_names_several_is_nobodys_yet() -> None:
    receipt = answer(rows("u1", "u2", "u3"), False, createdErrors=["u1 and u2 have the same key"],
                     updatesKeys=[{"externalId": "u3"}])
    assert receipt == Receipt({}, (0, 1), {})


def test_a_400_that_names_some_asks_the_others_again() -> None:
    error = {"externalId": "u2", "message": "bad"}
    receipt = answer(rows("u1", "u2", "u3"), False, createdErrors=[error], nonupdates=2)
    assert receipt is not None
    assert ([*receipt.refused], receipt.again) == ([1], (0, 2))


def test_a_400_that_says_nothing_of_people_is_left_to_be_halved() -> None:
    assert answer(rows("u1", "u2"), False, error="validation failed") is None
    assert read(b"<html>", 400, rows("u1"), str, ok=False) is None


@pytest.mark.parametrize(("said", "code"), [
    ("Missing required field companyId", "missing_company"), ("Company not found", "missing_company"),
    ("company extid-x does not exist", "missing_company"), ("email already exists", "identity_conflict"),
    ("Email must be unique", "identity_conflict"), ("vip must be a company", "refused"), ("E11000", "refused"),
    ("", "refused"), ("email does not exist", "refused")])
def test_words_are_read_for_a_code(said: str, code: str) -> None:
    receipt = answer(rows("u1", "u2"), createdErrors=[{"externalId": "u2", "message": said}],
                     insertsKeys=[{"externalId": "u1"}])
    assert receipt is not None
    assert receipt.refused[1].reason.partition(":")[0] == code


@pytest.mark.parametrize(("said", "done"), [
    ("Missing required field companyId", True), ("Enduser not found", True), ("email is required", True),
    ("unknown contact", True), ("Unknown custom field", False), ("vip: unknown user field", False), ("E11000", True)])
def test_a_false_is_done_where_an_error_means_that_nobody_is_there(said: str, done: bool) -> None:
    receipt = answer(rows("u1", "u2", value=False), createdErrors=[{"externalId": "u2", "message": said}],
                     updatesKeys=[{"externalId": "u1"}])
    assert receipt is not None
    assert (not receipt.refused) == done


WORDS = st.sampled_from(["u1", "u2", "x u3 y", "company", "é"])
JSON = st.recursive(st.none() | st.booleans() | st.integers(-1, 4) | WORDS,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["_id", "externalId", "u1", "message", "e"]), inner, max_size=3), max_leaves=8)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(said=st.dictionaries(st.sampled_from(["created", "createdErrors", "insertsKeys", "updated", "updatedErrors",
                                             "updatesKeys", "nonupdates", "modified", "permissionErrors"]), JSON),
       ok=st.booleans(), value=st.booleans())
def test_whatever_is_answered_each_call_has_one_fate(said: dict[str, object], ok: bool, value: bool) -> None:
    receipt = answer(rows("u1", "u2", "u3", value=value), ok, **said)
    if receipt is not None:
        fates = [*receipt.refused, *receipt.again, *receipt.repack]
        assert len(fates) == len(set(fates))
        assert set(fates) <= {0, 1, 2}
        assert all(isinstance(refusal, Refusal) for refusal in receipt.refused.values())


# people found by their email

def test_by_email_members_come_and_go() -> None:
    with PlanhatFake() as server:
        there = server.person(email="ann@example.com", externalId="crm-1")
        first = bring(server, mail("ann"), mail("bob", 1), true("cem"), false("dan"), match="email")
        assert codes(first) == [("cem", "missing_email")]
        assert server.holds() == {("crm-1", "vip"): True, ("bob@example.com", "big_spender"): True}
        assert server.people[there]["externalId"] == "crm-1"
        assert len(first.sent) == 1
        later = bring(server, false("ann"), false("bob", 1), false("bob", 0), before=first, match="email")
        assert server.holds() == {("crm-1", "vip"): False, ("bob@example.com", "big_spender"): False}
        assert len(items(later)) == 2
        assert not [name for name in later.remembered if name[:2] in ("u:", "o:")], "who left is not kept"


@pytest.mark.parametrize("settings_", [{"match": "email"}, {"kind": "email"}])
def test_the_same_again_keeps_who_was_told(settings_: dict[str, str]) -> None:
    user = "ann@example.com"
    with PlanhatFake() as server:
        first = bring(server, mail(user, email=user), **settings_)
        again = bring(server, mail(user, email=user), before=first, **settings_)
        assert again.remembered == first.remembered, "an unchanged enduser is counted, not echoed"
        bring(server, false(user), before=again, **settings_)
        assert server.holds() == {(user, "vip"): False}


def test_an_exit_finds_whom_no_echo_named() -> None:
    with PlanhatFake() as server:
        server.person(email="ann@example.com", companyId="extid-acme", custom={"vip": True})
        first = bring(server, mail("ann"), match="email")
        later = bring(server, false("ann"), before=first, match="email")
        assert server.holds() == {("ann@example.com", "vip"): False}
        assert [batch.route for batch in later.sent] == ["GET /endusers?email=ann%40example.com", "PUT /endusers"]
        server.people.clear()
        gone = bring(server, false("ann"), before=first, match="email")
        assert [batch.asks for batch in gone.sent] == [True]


def test_of_two_who_share_an_email_the_first_has_the_trait_until_he_leaves() -> None:
    with PlanhatFake() as server:
        first = bring(server, mail("ann", email="x@example.com"), mail("bob", email="X@example.com"),
                      mail("cem", 1, email="x@example.com"), match="email")
        assert codes(first) == [("bob", "shared_email")]
        assert server.holds() == {("x@example.com", "vip"): True, ("x@example.com", "big_spender"): True}
        assert len(server.people) == 1
        left = bring(server, false("bob"), before=first, match="email")
        assert left.sent == []
        assert server.holds()["x@example.com", "vip"] is True
        after = bring(server, false("ann"), mail("bob", email="x@example.com"), before=left, match="email")
        assert after.refused == []
        assert server.holds() == {("x@example.com", "vip"): True, ("x@example.com", "big_spender"): True}
        bring(server, false("bob"), before=after, match="email")
        assert server.holds() == {("x@example.com", "vip"): False, ("x@example.com", "big_spender"): True}


def test_who_takes_a_trait_over_waits_for_who_leaves_it_whatever_their_order() -> None:
    with PlanhatFake() as server:
        first = bring(server, mail("zoe", email="x@example.com"), match="email")
        after = bring(server, mail("ann", email="x@example.com"), false("zoe"), before=first, match="email")
        assert after.refused == []
        assert [item["custom"] for item in items(after)] == [{"vip": False}, {"vip": True}]
        assert server.holds() == {("x@example.com", "vip"): True}


def test_a_changed_email_moves_the_known_enduser() -> None:
    with PlanhatFake() as server:
        first = bring(server, mail("ann", email="old@example.com"), match="email")
        after = bring(server, mail("ann", email="new@example.com"), before=first, match="email")
        assert server.holds() == {("new@example.com", "vip"): True}
        assert len(after.sent) == 1
        bring(server, false("ann"), before=after, match="email")
        assert server.holds() == {("new@example.com", "vip"): False}


@pytest.mark.parametrize("errors", ["object", "string", "bare"])
def test_where_another_has_the_new_email_the_old_enduser_is_left_and_that_one_told(errors: str) -> None:
    with PlanhatFake(errors=errors) as server:
        server.person(email="new@example.com")
        first = bring(server, mail("ann", 0, email="old@example.com"), mail("ann", 1, email="old@example.com"),
                      match="email")
        after = bring(server, mail("ann", 0, email="new@example.com"), mail("ann", 1, email="new@example.com"),
                      before=first, match="email")
        assert after.refused == []
        assert server.holds() == {("old@example.com", "vip"): False, ("old@example.com", "big_spender"): False,
                                  ("new@example.com", "vip"): True, ("new@example.com", "big_spender"): True}
        assert len(after.sent) == 3
        bring(server, false("ann"), false("ann", 1), before=after, match="email")
        assert True not in server.holds().values()


def test_who_moves_to_somebody_elses_trait_is_refused_and_leaves_his_former_enduser() -> None:
    with PlanhatFake() as server:
        first = bring(server, mail("ann", email="old@example.com"), mail("bob", email="new@example.com"), match="email")
        after = bring(server, mail("ann", email="new@example.com"), before=first, match="email")
        assert codes(after) == [("ann", "shared_email")]
        assert bring(server, false("ann"), before=after, match="email").sent == []
        assert server.holds() == {("old@example.com", "vip"): False, ("new@example.com", "vip"): True}


def test_two_who_change_places_do_it_in_one_sync() -> None:
    with PlanhatFake() as server:
        first = bring(server, mail("ann", email="x@example.com"), mail("bob", email="y@example.com"), match="email")
        after = bring(server, mail("ann", email="y@example.com"), mail("bob", email="x@example.com"), before=first,
                      match="email")
        assert after.refused == []
        assert server.holds() == {("x@example.com", "vip"): True, ("y@example.com", "vip"): True}
        bring(server, false("ann"), before=after, match="email")
        assert server.holds() == {("x@example.com", "vip"): True, ("y@example.com", "vip"): False}


@pytest.mark.parametrize("email", ["old@example.com", "new@example.com"])
def test_an_enduser_who_was_deleted_is_made_again(email: str) -> None:
    with PlanhatFake() as server:
        first = bring(server, mail("ann", email="old@example.com"), match="email")
        server.people.clear()
        after = bring(server, mail("ann", email=email), before=first, match="email")
        assert after.refused == []
        assert server.holds() == {(email, "vip"): True}
        bring(server, false("ann"), before=after, match="email")
        assert server.holds() == {(email, "vip"): False}
        server.people.clear()
        assert bring(server, false("ann"), before=after, match="email").refused == []
        assert not server.people


def test_where_the_bulk_does_not_find_by_email_people_are_looked_up() -> None:
    with PlanhatFake(by_email=False) as server:
        server.person(email="ann@example.com")
        first = bring(server, mail("ann"), mail("bob"), match="email", bulk_by_email=False)
        assert server.holds() == {("ann@example.com", "vip"): True, ("bob@example.com", "vip"): True}
        assert len(server.people) == 2
        again = bring(server, mail("ann", 1), mail("bob", 0), before=first, match="email", bulk_by_email=False)
        assert server.holds()["ann@example.com", "big_spender"] is True
        assert (len(server.people), again.refused) == (2, [])


def test_emails_of_two_audiences_may_differ_for_one_user() -> None:
    with PlanhatFake() as server:
        journal = bring(server, mail("ann", 0, email="a@example.com"), mail("ann", 1, email="b@example.com"),
                        match="email")
        assert server.holds() == {("a@example.com", "vip"): True, ("b@example.com", "big_spender"): True}
        bring(server, false("ann", 0), false("ann", 1), before=journal, match="email")
        assert True not in server.holds().values()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(syncs=st.lists(st.dictionaries(st.tuples(st.sampled_from("abcd"), st.integers(0, 1)), st.sampled_from("xyz"),
                                      max_size=6), min_size=1, max_size=4),
       ways=st.sampled_from([{}, {"create_users": False}, {"bulk_by_email": False}]),
       errors=st.sampled_from(["object", "string"]))
def test_after_any_syncs_an_email_has_the_traits_of_who_has_it(
        syncs: list[dict[tuple[str, int], str]], ways: dict[str, object], errors: str) -> None:
    """Only changes are told, and whoever was refused; what was told under a former email is never left behind."""
    with PlanhatFake(errors=errors) as server:
        for email in "xyz":
            server.person(email=f"{email}@example.com")
        journal: Journal | None = None
        last: dict[tuple[str, int], str] = {}
        for members in [*syncs, {}]:
            refused = {(call.user_id, call.span) for call, _ in journal.refused} if journal else set()
            calls = [mail(user, span, email=f"{email}@example.com") for (user, span), email in members.items()
                     if last.get((user, span)) != email or (user, span) in refused]
            calls += [false(user, span) for user, span in last.keys() - members.keys()]
            journal = bring(server, *calls, before=journal, match="email", **ways)
            assert journal.stop.finished
            assert {code for _, code in codes(journal)} <= {"shared_email"}
            held = {(email[0], KEYS.index(key)) for (email, key), value in server.holds().items() if value}
            assert held == {(email, span) for (_, span), email in members.items()}
            last = members
        assert True not in server.holds().values(), "everybody left"


# a backfill, when people are lost there

@pytest.mark.parametrize("settings_", [{}, {"match": "email"}, {"match": "email", "bulk_by_email": False},
                                       {"kind": "email"}, {"without_company": "park"}], ids=str)
@pytest.mark.parametrize("errors", ["object", "string", "bare", "silent"])
@pytest.mark.parametrize("part", [1, 2, 40])
def test_a_backfill_makes_those_again_who_are_lost_with_their_columns(settings_: dict, errors: str, part: int) -> None:
    users = [f"u{number:02}@example.com" for number in range(40)]
    with PlanhatFake(errors=errors) as server:
        calls = [mail(user, span, email=user, plan="pro", name="N") for user in users for span in range(2)]
        first = bring(server, *calls, **settings_)
        whole = sorted((person["email"], person["name"], person["custom"]) for person in server.people.values())
        for lost in [*server.people][::part]:
            del server.people[lost]
        journal = bring(server, *calls, before=first, anew=True, **settings_)
        assert journal.refused == []
        assert sorted((person["email"], person["name"], person["custom"]) for person in server.people.values()) == whole
        bring(server, *(false(user, span) for user in users for span in range(2)), before=journal, **settings_)
        assert True not in server.holds().values()


@pytest.mark.parametrize("match", ["external_id", "email"])
def test_a_backfill_without_create_users_refuses_who_is_lost(match: str) -> None:
    with PlanhatFake() as server:
        for user in ("ann", "bob"):
            server.person(externalId=user, email=f"{user}@example.com")
        calls = [mail(user, company_id="acme") for user in ("ann", "bob")]
        first = bring(server, *calls, match=match, create_users=False)
        del server.people[next(iter(server.people))]
        journal = bring(server, *calls, before=first, anew=True, match=match, create_users=False)
        assert codes(journal) == [("ann", "unknown_user")]
        assert server.holds() == {("bob", "vip"): True}


@pytest.mark.parametrize("bulk", [True, False])
def test_a_backfill_makes_a_shared_enduser_again_and_each_keeps_what_is_his(bulk: bool) -> None:
    ways = {"match": "email", "bulk_by_email": bulk}
    with PlanhatFake() as server:
        calls = [mail("ann", 0, email="x@example.com"), mail("bob", 0, email="x@example.com"),
                 mail("bob", 1, email="x@example.com")]
        first = bring(server, *calls, **ways)
        server.people.clear()
        journal = bring(server, *calls, false("cem"), before=first, anew=True, **ways)
        assert codes(journal) == codes(first) == [("bob", "shared_email")]
        assert server.holds() == {("x@example.com", "vip"): True, ("x@example.com", "big_spender"): True}
        bring(server, false("ann"), false("bob", 1), before=journal, **ways)
        assert True not in server.holds().values()


# how it behaves

def test_an_unknown_speed_limit_is_waited_for_a_minute() -> None:
    (batch,) = at("http://127.0.0.1:1").packer(made()).pack([acme("ann")]).batches
    with PlanhatFake(limit=1, clock=lambda: 7.0) as server, closing(at(server.url).channel()) as channel:
        assert channel.send(batch, seconds=5) == {}
        with pytest.raises(Throttled) as raised:
            channel.send(batch, seconds=5)
        assert raised.value.wait == 60


def test_its_limits_are_the_published_ones_unless_others_are_set() -> None:
    free = Planhat.model_validate(Planhat.example)
    assert free.limits() == (RateLimit(200, 60.0, "requests"), RateLimit(150, 1.0, "requests"))
    assert at("http://127.0.0.1:1", rate="10/1s").limits() == (RateLimit(10, 1.0, "requests"),)
    assert free.concurrency == 2
    assert (free.follows("user_id"), at("http://127.0.0.1:1", match="email").follows("user_id")) == ("", "email")


def test_a_plan_counts_every_wave() -> None:
    packer = at("http://127.0.0.1:1", create_users=False).packer(made())
    assert imagined(packer, [acme("ann"), acme("bob")]) == 3
    assert imagined(at("http://127.0.0.1:1").packer(made()), [acme("ann"), false("bob")]) == 1
    by_email = at("http://127.0.0.1:1", match="email").packer(made())
    assert imagined(by_email, [mail("ann"), false("bob")]) == 1
    assert by_email.pack([false("bob")]) == Packed((), (), (false("bob"),))


def test_custom_fields_are_made_as_checkboxes_and_found_again() -> None:
    with PlanhatFake() as server:
        destination = at(server.url)
        assert [one.status for one in destination.prepare(KEYS, create=False)] == ["missing"] * 3
        assert [one.status for one in destination.prepare(KEYS, create=True)] == ["made"] * 3
        assert [one.status for one in destination.prepare(KEYS, create=True)] == ["ready"] * 3
        assert server.fields[0] == {"name": "vip", "parent": "EndUser", "type": "checkbox", "isHidden": False}
        assert server.violations == []


@pytest.mark.parametrize("parent", ["enduser", "endUser", "Enduser", "EndUser"])
def test_the_spelling_of_the_parent_is_found_out(parent: str) -> None:
    others = [{"name": f"f{number}", "parent": "Company", "type": "text"} for number in range(700)]
    fields = [*others, *({"name": name, "parent": parent, "type": "text"} for name in ("plan", "vip"))]
    with PlanhatFake(parent=parent, strict_parent=True, fields=fields) as server:
        found = list(at(server.url).prepare(("vip", "big_spender", "f3"), create=True))
        assert [one.status for one in found] == ["wrong", "made", "made"]
        assert "text" in found[0].words
        assert server.fields[-1]["parent"] == parent


def test_a_parent_that_is_refused_is_a_setting_to_mend() -> None:
    with PlanhatFake(parent="endusers", strict_parent=True) as server:
        (found,) = at(server.url).prepare(("vip",), create=True)
        assert (found.status, "field_parent" in found.words) == ("missing", True)
        (found,) = at(server.url, field_parent="endusers").prepare(("vip",), create=True)
        assert found.status == "made"


def test_undeclared_traits_are_refused_by_name_where_planhat_minds() -> None:
    with PlanhatFake(undeclared=False) as server:
        journal = bring(server, acme("ann"), declare=False)
        assert codes(journal) == [("ann", "refused")]


def test_a_check_reads_and_writes_nothing() -> None:
    with PlanhatFake() as server:
        assert list(at(server.url).check()) == ["Planhat takes api_token"]
        assert server.routes == {"GET /endusers": 1}


@pytest.mark.parametrize(("token", "words"), [(TENANT, ["tenant token", "Service Accounts", "Private Apps"]),
                                              ("ph_other", ["api_token", "subdomain"])])
def test_a_token_that_is_refused_is_told_from_the_tenants(token: str, words: list[str]) -> None:
    with PlanhatFake() as server, pytest.raises(AccountRefused) as raised:
        list(at(server.url, api_token=token).check())
    assert all(word in str(raised.value) for word in words)
    assert token not in str(raised.value)


def test_another_region_refuses_the_account_and_keeps_everything() -> None:
    with PlanhatFake(elsewhere=True) as server:
        journal = bring(server, acme("ann"), declare=False)
        assert journal.stop.pause
        assert "subdomain" in journal.stop.reason
        assert (journal.refused, journal.accepted) == ([], Counter())


def test_the_region_is_in_the_host_and_can_be_nothing_else() -> None:
    for bad in ("api.evil", "a/b", "", "-x", "api\n"):
        with pytest.raises(ValidationError):
            Planhat.model_validate({"api_token": TOKEN, "subdomain": bad})


def test_secrets_and_people_are_in_no_reason() -> None:
    def echo(number: int, request: Request) -> Fault:
        said = f"{request.headers['authorization']} ann-7 Bonn42 bad"
        return Fault(status=206, body=orjson.dumps({"createdErrors": [{"externalId": "ann-7", "message": said}]}))

    with PlanhatFake(echo) as server:
        journal = bring(server, acme("ann-7", city="Bonn42"), declare=False)
        (_, refusal), = journal.refused
        assert "bad" in refusal.reason
        assert not [word for word in (TOKEN, "ann-7", "Bonn42") if word in refusal.reason]


def test_who_is_not_there_is_read_back_as_nobody() -> None:
    with PlanhatFake() as server:
        journal = bring(server, mail("ann", 0), mail("ann", 1), match="email")
        destination = at(server.url, match="email")
        ann = Person("ann", "user_id", None, journal.remembered)
        bob = Person("bob", "user_id", '{"email": "bob@example.com"}', {})
        cem = Person("cem", "user_id", None, {})
        assert list(destination.read_back([ann, bob, cem])) == [(ann, {"vip": True, "big_spender": True}), (bob, None),
                                                                (cem, None)]


def read_as_told(server: PlanhatFake, journal: Journal, *calls: Call, kind: str = "user_id") -> object:
    """What is read back of one user, given what the core remembers of these calls of his."""
    destination, state = at(server.url, match="email"), journal.remembered
    packer = destination.packer(made(kind=kind))
    found = {name: state[name] for name in packer.names(calls) if name in state}
    found |= {name: state[name] for name in packer.more_names(calls, found) if name in state}
    ((_, held),) = destination.read_back([Person(calls[0].user_id, kind, None, found)])
    return held


def test_a_trait_of_another_with_the_same_email_is_not_read_back_as_ones_own() -> None:
    with PlanhatFake() as server:
        ours = [mail("ann", 0, email="x@example.com"), mail("bob", 1, email="x@example.com")]
        first = bring(server, *ours, match="email")
        assert read_as_told(server, first, false("bob", 0), ours[1]) == {"big_spender": True}
        assert read_as_told(server, first, ours[0], false("ann", 1)) == {"vip": True}
        left = bring(server, false("ann"), before=first, match="email")
        server.people[next(iter(server.people))]["custom"]["vip"] = True
        assert read_as_told(server, left, false("bob", 0), ours[1]) == {"vip": True, "big_spender": True}, "nobody's"


def test_ids_that_are_one_email_are_read_back_each_without_the_others_trait() -> None:
    with PlanhatFake() as server:
        first = bring(server, mail("x@example.com"), kind="email")
        assert read_as_told(server, first, false("X@example.com"), kind="email") == {}
        assert read_as_told(server, first, mail("x@example.com"), kind="email") == {"vip": True}


def test_a_single_refusal_of_a_whole_body_stays_what_it_is() -> None:
    with PlanhatFake(whole=["ann"]) as server, closing(at(server.url).channel()) as channel, \
            pytest.raises(CallsRefused):
        channel.send(rows("ann", "bob"), seconds=5)


def test_the_dock_answers_200_to_anything_which_is_why_it_is_not_used() -> None:
    import httpx
    with PlanhatFake(elsewhere=True) as server:
        assert httpx.post(f"{server.url}/dock/segment", json={"type": "identify"}).status_code == 200
        assert server.docked == [{"type": "identify"}]


@pytest.mark.parametrize("size", [5000, 5001])
def test_the_fake_takes_five_thousand_items_of_an_array_and_no_more(size: int) -> None:
    import httpx
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with PlanhatFake() as server:
        body = [{"externalId": str(number)} for number in range(size)]
        answered = httpx.put(f"{server.url}/endusers", json=body, headers=headers, timeout=60)
        assert answered.status_code == (206 if size == 5000 else 400)
        assert httpx.put(f"{server.url}/endusers", json=body[0], headers=headers).status_code == 400
        twice = httpx.put(f"{server.url}/endusers", json=[body[0], body[0]], headers=headers)
        assert (twice.status_code, len(twice.json()["updatedErrors"])) == (400, 4) or twice.status_code == 400

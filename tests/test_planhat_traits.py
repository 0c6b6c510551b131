"""Planhat: computed traits of every kind in custom fields of their types, also where users share an email."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiencesync.destinations.planhat import Planhat
from audiencesync.model import Call, Content, Person
from audiencesync.testing import content, envelope
from audiencesync.testing.checked import Checked
from audiencesync.testing.drive import Journal, drive
from tests.calls import false, true
from tests.fakes.planhat import TOKEN, PlanhatFake

LONG = "123456789012345678901234567890.12345678901234567890"
KINDS = {"vip": "boolean", "revenue": "number", "orders": "number", "size": "string", "open": "boolean",
         "seen": "timestamp", "tags": "list"}
VALUES = {"revenue": 9.5, "orders": 3, "size": 'XL "é"', "open": False, "seen": "2026-01-02T03:04:05Z",
          "tags": ["a", "b"]}


def computed(kind: str = "user_id") -> Content:
    """An audience and a computation of traits, and one more of a single trait."""
    what = content(envelope("vip", id_kind=kind),
                   envelope("ltv", id_kind=kind, computation_class="trait", traits=tuple(VALUES)),
                   envelope("visits", id_kind=kind, computation_class="trait", traits=("visits",)))
    return replace(what, keys=("vip", "ltv", "visits"))


def ltv(user: str, /, email: str = "", span: int = 1, **values: object) -> Call:
    """Values of a user of Acme; of one who dropped out where no email is given."""
    columns = orjson.dumps({"email": email, "company_id": "acme"}).decode() if email else None
    return Call(user, span, orjson.dumps(values).decode(), columns)


def at(url: str, **settings_: object) -> Planhat:
    return Planhat.model_validate({"api_token": TOKEN, "url": url, "rate": "5000/1s", **settings_})


def bring(server: PlanhatFake, *calls: Call, before: Journal | None = None, kind: str = "user_id",
          kinds: Mapping[str, str] = KINDS, **settings_: object) -> Journal:
    destination = at(server.url, **settings_)
    list(destination.prepare([*kinds], create=True, kinds=kinds))
    packer = Checked(destination, computed(kind))
    journal = drive(destination, packer, sorted(calls, key=lambda call: call[:2]), size=5000,
                    remembered=before.remembered if before else {})
    assert server.violations == []
    assert journal.stop.finished, journal.stop.reason
    return journal


def codes(journal: Journal) -> list[tuple[str, str]]:
    return [(call.user_id, refusal.reason.partition(":")[0]) for call, refusal in journal.refused]


def custom(server: PlanhatFake) -> list[dict[str, Any]]:
    return [person["custom"] for person in server.people.values()]


MAILS = [{}, {"match": "email"}]


@pytest.mark.parametrize("ways", MAILS, ids=str)
def test_values_of_every_kind_travel_in_one_row(ways: dict) -> None:
    with PlanhatFake() as server:
        journal = bring(server, true("ann", email="ann@example.com"), ltv("ann", "ann@example.com", **VALUES),
                        ltv("ann", "ann@example.com", 2, visits=7), **ways)
        assert [len(batch.calls) for batch in journal.sent] == [3]
        assert custom(server) == [{"vip": True, **VALUES, "visits": 7}]


@pytest.mark.parametrize("ways", MAILS, ids=str)
def test_a_long_decimal_keeps_its_digits(ways: dict) -> None:
    call = Call("ann", 1, f'{{"revenue":{LONG}}}', '{"email":"ann@example.com"}')
    [batch] = at("http://127.0.0.1:1", **ways).packer(computed()).pack([call]).batches
    assert f'"revenue":{LONG}'.encode() in batch.body


@pytest.mark.parametrize("ways", MAILS, ids=str)
@pytest.mark.parametrize(("nulls", "cleared"), [("clear", "null"), ("clear", "empty"), ("refused", "empty")])
def test_a_value_that_is_gone_is_cleared(ways: dict, nulls: str, cleared: str) -> None:
    with PlanhatFake(nulls=nulls) as server:
        first = bring(server, ltv("ann", "ann@example.com", **VALUES), **ways)
        later = bring(server, ltv("ann", "ann@example.com", revenue=10, tags=None, seen=None), before=first,
                      cleared=cleared, **ways)
        assert custom(server) == [{"revenue": 10, "orders": 3, "size": 'XL "é"', "open": False}]
        last = bring(server, ltv("ann", **dict.fromkeys(("revenue", "orders", "size", "open"))), before=later,
                     cleared=cleared, **ways)
        assert custom(server) == [{}]
        assert not [name for name in last.remembered if name[:2] in ("u:", "o:", "h:")], "who left is not kept"


def test_where_null_is_refused_it_is_a_rejection_that_names_the_trait() -> None:
    with PlanhatFake(nulls="refused") as server:
        first = bring(server, ltv("ann", "ann@example.com", **VALUES), true("ann", email="ann@example.com"))
        later = bring(server, ltv("ann", orders=None), false("ann"), before=first)
        assert codes(later) == [("ann", "refused")]
        assert "orders" in later.refused[0][1].reason
        assert custom(server) == [{**VALUES, "vip": False}]


@pytest.mark.parametrize("ways", [*MAILS, {"without_company": "park"}, {"create_users": False}], ids=str)
def test_nulls_make_nobody(ways: dict) -> None:
    with PlanhatFake() as server:
        journal = bring(server, ltv("ann", revenue=None), ltv("bob", "bob@example.com", revenue=None),
                        false("bob"), **ways)
        assert (len(journal.accepted), journal.refused, len(server.people)) == (3, [], 0)


@pytest.mark.parametrize("ways", MAILS, ids=str)
def test_a_null_makes_nobody_again_who_was_deleted(ways: dict) -> None:
    with PlanhatFake() as server:
        first = bring(server, ltv("ann", "ann@example.com", **VALUES), **ways)
        server.people.clear()
        later = bring(server, ltv("ann", "ann@example.com", revenue=None), before=first, **ways)
        assert (later.refused, len(server.people)) == ([], 0)


@pytest.mark.parametrize("match", ["external_id", "email"])
def test_without_create_users_nobody_is_made_by_a_value(match: str) -> None:
    with PlanhatFake() as server:
        server.person(externalId="bob", email="bob@example.com")
        journal = bring(server, *(ltv(user, f"{user}@example.com", revenue=1) for user in ("ann", "bob")),
                        create_users=False, match=match)
        assert codes(journal) == [("ann", "unknown_user")]
        assert custom(server) == [{"revenue": 1}]


@pytest.mark.parametrize("ways", MAILS, ids=str)
def test_a_last_value_reaches_who_dropped_out(ways: dict) -> None:
    """`when_missing: 0` is told without columns."""
    with PlanhatFake() as server:
        first = bring(server, ltv("ann", "ann@example.com", revenue=5), **ways)
        later = bring(server, ltv("ann", revenue=0), before=first, **ways)
        assert later.refused == []
        assert custom(server) == [{"revenue": 0}]


def test_a_last_value_of_who_was_never_told_has_nobody_to_go_to() -> None:
    with PlanhatFake() as server:
        assert codes(bring(server, ltv("ann", revenue=0), match="email")) == [("ann", "missing_email")]
        assert codes(bring(server, ltv("ann", revenue=0))) == [("ann", "missing_company")]


# fields

def test_fields_are_made_of_the_type_of_their_values_and_found_again() -> None:
    with PlanhatFake() as server:
        made = list(at(server.url).prepare([*KINDS], create=True, kinds=KINDS))
        assert {one.status for one in made} == {"made"}
        assert {one["name"]: one["type"] for one in server.fields} == {
            "vip": "checkbox", "revenue": "number", "orders": "number", "size": "text", "open": "checkbox",
            "seen": "date", "tags": "multipicklist"}
        assert {one.status for one in at(server.url).prepare([*KINDS], create=False, kinds=KINDS)} == {"ready"}


@pytest.mark.parametrize(("kind", "there", "status"), [
    ("number", "text", "wrong"), ("number", "checkbox", "wrong"), ("string", "number", "wrong"),
    ("string", "rich text", "ready"), ("string", "list", "ready"), ("timestamp", "day", "wrong"),
    ("timestamp", "date", "ready"), ("list", "list", "wrong"), ("boolean", "number", "wrong")])
def test_a_field_of_another_type_is_wrong_by_its_name(kind: str, there: str, status: str) -> None:
    with PlanhatFake(fields=[{"name": "x", "parent": "EndUser", "type": there}]) as server:
        (found,) = at(server.url).prepare(["x"], create=True, kinds={"x": kind})
        assert (found.name, found.status) == ("x", status)
        assert "x" in found.words or status == "ready"


def test_a_trait_that_nobody_has_is_declared_when_somebody_has() -> None:
    with PlanhatFake() as server:
        assert list(at(server.url).prepare(["x"], create=True, kinds={"x": ""})) == []
        (found,) = at(server.url).prepare(["x"], create=True, kinds={"x": "list"})
        assert found.status == "made"


def test_lists_may_be_texts() -> None:
    with PlanhatFake() as server:
        bring(server, ltv("ann", "ann@example.com", tags=["a", "b c"]), lists="text")
        assert custom(server) == [{"tags": "a, b c"}]
        assert [one["type"] for one in server.fields if one["name"] == "tags"] == ["text"]


def test_a_choice_that_planhat_does_not_know_is_a_rejection_that_names_its_trait() -> None:
    with PlanhatFake(choices=["a"]) as server:
        journal = bring(server, ltv("ann", "ann@example.com", tags=["a", "z"], orders=1),
                        ltv("bob", "bob@example.com", tags=["a"]), ltv("ann", "ann@example.com", 2, visits=1))
        assert codes(journal) == [("ann", "refused")]
        assert "tags" in journal.refused[0][1].reason
        assert custom(server) == [{"tags": ["a"]}, {"visits": 1}]


# shared emails

def test_of_two_who_share_an_email_the_first_has_the_computation_until_he_has_none_of_it() -> None:
    with PlanhatFake() as server:
        first = bring(server, ltv("ann", "x@example.com", revenue=1, orders=2), ltv("bob", "X@example.com", revenue=5),
                      ltv("bob", "x@example.com", 2, visits=9), match="email")
        assert codes(first) == [("bob", "shared_email")]
        assert custom(server) == [{"revenue": 1, "orders": 2, "visits": 9}]
        part = bring(server, ltv("ann", "x@example.com", revenue=None), ltv("bob", "x@example.com", revenue=5),
                     before=first, match="email")
        assert codes(part) == [("bob", "shared_email")], "she still has orders"
        assert custom(server) == [{"orders": 2, "visits": 9}]
        rest = bring(server, ltv("ann", "x@example.com", orders=None), ltv("bob", "x@example.com", revenue=5),
                     before=part, match="email")
        assert rest.refused == []
        assert custom(server) == [{"visits": 9, "revenue": 5}]
        bring(server, ltv("ann", orders=None), before=rest, match="email")
        assert custom(server) == [{"visits": 9, "revenue": 5}], "what she had is another's now"


def test_who_dropped_out_with_a_last_value_leaves_the_email_to_another() -> None:
    with PlanhatFake() as server:
        first = bring(server, ltv("ann", "x@example.com", revenue=1), match="email")
        later = bring(server, ltv("ann", revenue=0), ltv("bob", "x@example.com", revenue=5), before=first,
                      match="email")
        assert later.refused == []
        assert custom(server) == [{"revenue": 5}]


def test_a_changed_email_takes_the_values_along_and_where_another_has_it_they_are_told_there() -> None:
    with PlanhatFake() as server:
        first = bring(server, ltv("ann", "old@example.com", revenue=1, orders=2), match="email")
        moved = bring(server, ltv("ann", "new@example.com", revenue=1, orders=2), before=first, match="email")
        assert [(person["email"], person["custom"]) for person in server.people.values()] == [
            ("new@example.com", {"revenue": 1, "orders": 2})]
        server.person(email="crm@example.com", companyId="extid-acme")
        last = bring(server, ltv("ann", "crm@example.com", revenue=1, orders=2), before=moved, match="email")
        assert last.refused == []
        assert custom(server) == [{}, {"revenue": 1, "orders": 2}]


def test_a_trait_of_another_with_the_same_email_is_not_read_back_as_ones_own() -> None:
    with PlanhatFake() as server:
        calls = [ltv("ann", "x@example.com", revenue=1), ltv("bob", "x@example.com", 2, visits=9)]
        journal = bring(server, *calls, match="email")
        destination = at(server.url, match="email")
        packer = destination.packer(computed())
        found = {}
        for user, mine in (("ann", [calls[0], ltv("ann", "x@example.com", 2, visits=1)]),
                           ("bob", [ltv("bob", "x@example.com", revenue=5), calls[1]])):
            known = {name: journal.remembered[name] for name in packer.names(mine) if name in journal.remembered}
            ((_, found[user]),) = destination.read_back([Person(user, "user_id", calls[0].included, known)])
        assert found == {"ann": {"revenue": 1}, "bob": {"visits": 9}}





@settings(max_examples=80, deadline=None, derandomize=True)
@given(syncs=st.lists(st.dictionaries(st.sampled_from("abcd"), st.tuples(
    st.sampled_from("xyz"), st.dictionaries(st.sampled_from(["revenue", "orders"]), st.integers(1, 3), min_size=1))),
    min_size=1, max_size=4), ways=st.sampled_from([{}, {"create_users": False}, {"bulk_by_email": False}]))
def test_after_any_syncs_an_email_has_the_values_of_one_who_has_it(
        syncs: list[dict[str, tuple[str, dict[str, int]]]], ways: dict[str, object]) -> None:
    """Only what changed is told, and whoever was refused; a former value is never left behind."""
    with PlanhatFake() as server:
        for email in "xyz":
            server.person(email=f"{email}@example.com")
        journal: Journal | None = None
        last: dict[str, tuple[str, dict[str, int]]] = {}
        for members in [*syncs, {}]:
            refused = {call.user_id for call, _ in journal.refused} if journal else set()
            journal = bring(server, *_changes(last, members, refused), before=journal, match="email", **ways)
            assert {code for _, code in codes(journal)} <= {"shared_email"}
            for person in server.people.values():
                fit = [values for email, values in members.values() if email == person["email"][0]]
                assert person["custom"] in (fit or [{}])
            last = members


def _changes(last: Mapping[str, tuple[str, dict[str, int]]], members: Mapping[str, tuple[str, dict[str, int]]],
             refused: set[str]) -> list[Call]:
    """What the core tells: what changed, all of it where the email did or the user was refused, null for who left."""
    calls = []
    for user, (email, values) in members.items():
        before = last.get(user)
        whole = before is None or before[0] != email or user in refused
        was = before[1] if before else {}
        told = {name: values.get(name) for name in {*was, *values} if whole or was.get(name) != values.get(name)}
        if told:
            calls.append(ltv(user, f"{email}@example.com", **told))
    calls += [ltv(user, **dict.fromkeys(values)) for user, (_, values) in last.items() if user not in members]
    return calls

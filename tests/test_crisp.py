"""Crisp: the contract of destinations; who is found, created, moved and shared; few requests; the vendor's client."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import orjson
import pytest
from pydantic import ValidationError

from audiencesync.delivery import Commit, Delivery, Flight, Pace, Read, Send, Stop, Wait
from audiencesync.destinations.crisp import Crisp
from audiencesync.errors import AccountRefused, DeliveryError, NotTaken, Throttled, Unanswered
from audiencesync.model import Batch, Call, Channel, Content, Destination, Page, Person, Receipt, Refusal
from audiencesync.testing import HttpDestinationContract, content, envelope
from audiencesync.testing.checked import Checked
from audiencesync.testing.drive import imagined
from audiencesync.testing.loopback import Fault, Loopback, Request, Script
from tests.fakes.crisp import IDENTIFIER, KEY, WEBSITE, CrispFake

KEYS = ("vip", "dormant")
FAST = {"website_id": WEBSITE, "identifier": IDENTIFIER, "key": KEY, "rate": "100000/1s"}
SEARCH, CREATE, FIND = "GET people/profiles", "POST people/profile", "GET people/profile"
PROFILE, DATA, BATCH = "PATCH people/profile", "PATCH people/data", "PATCH batch/data"


def at(server: Loopback, **settings: object) -> Crisp:
    return Crisp.model_validate({**FAST, "url": server.url, **settings})


def included(email: str | None, **more: object) -> str:
    return orjson.dumps({"email": email, **more}).decode()


def told(batch: Batch, keys: Sequence[str] = KEYS) -> list[tuple[str, str, object]]:
    """What a request says; a batch names people alone, whom users may share."""
    said = orjson.loads(batch.body)
    if "people" in said:
        assert len(said["data"]) == 1
        assert 0 < len(said["people"]["profiles"]) <= len(batch.calls)
    return [(call.user_id, keys[call.span], said["data"][keys[call.span]]) for call in batch.calls]


class Crash(Exception):
    """The process is gone."""


@dataclass
class World:
    """Audiences, a state, and a Crisp; a sync tells what changed since the last one, as the core does.

    `members` says of each key who is in it, with his included columns. `crash` kills the process at that request of the
    next sync, `before` or after it arrives. `order` draws which of the requests under way is answered first.
    """

    server: CrispFake
    settings: Mapping[str, object] = field(default_factory=dict)
    size: int = 10_000
    kind: str = "user_id"
    members: dict[str, dict[str, str]] = field(default_factory=lambda: {key: {} for key in KEYS})
    told: dict[str, dict[str, str]] = field(default_factory=lambda: {key: {} for key in KEYS})
    state: dict[str, str] = field(default_factory=dict)
    rejected: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    order: random.Random = field(default_factory=lambda: random.Random(1))
    crash: int | None = None
    before: bool = True
    sent: list[Batch] = field(default_factory=list)
    syncs: int = 0
    anew: bool = False

    def enter(self, user: str, *keys: str, email: str | None = "", **more: object) -> None:
        for key in keys or KEYS:
            self.members[key][user] = included(f"{user}@x.co" if email == "" else email, **more)

    def leave(self, user: str, *keys: str) -> None:
        for key in keys or KEYS:
            self.members[key].pop(user, None)

    def calls(self, *, everybody: bool = False) -> list[Call]:
        found = []
        for span, key in enumerate(KEYS):
            now, then = self.members[key], self.told[key]
            for user in now.keys() | then.keys():
                moved = user in now and user in then and self.kind != "email" and (
                    orjson.loads(now[user])["email"] != orjson.loads(then[user])["email"])
                if everybody or (user in now) != (user in then) or moved or (user, key) in self.rejected:
                    found.append(Call(user, span, user in now, now.get(user)))
            found += [Call(user, span, user in now, now.get(user)) for user, other in self.rejected
                      if other == key and user not in now and user not in then]
        return sorted(set(found), key=lambda call: call[:2])

    def backfill(self) -> Counter[str]:
        """Everybody is told again, since people may be lost there."""
        self.anew = True
        try:
            return self.sync(everybody=True)
        finally:
            self.anew = False

    def sync(self, *, everybody: bool = False, checked: bool = True) -> Counter[str]:
        """Until it is done, through every crash; the requests that it took, by route."""
        self.syncs += 1
        calls, cursor, rejected = self.calls(everybody=everybody), None, {}
        before = Counter(self.server.routes)
        for _ in range(20):
            stop, cursor = self._run(calls, cursor, rejected, checked=checked)
            if stop is None or not stop.finished:
                continue
            self.told = {key: dict(now) for key, now in self.members.items()}
            self.rejected = rejected
            assert self.server.violations == []
            return Counter(self.server.routes) - before
        raise AssertionError(f"it never ends: {stop}")

    def once(self) -> Stop:
        """One attempt at a sync of what changed, and how it ended."""
        self.syncs += 1
        stop, _ = self._run(self.calls(), None, {}, checked=True)
        assert stop
        return stop

    def content(self) -> Content:
        made = content(*(envelope(key, id_kind=self.kind) for key in KEYS), secret=bytes([self.syncs]) * 32)
        return replace(made, anew=self.anew)

    def remembered(self, calls: Sequence[Call]) -> dict[str, str]:
        """What is known of these calls, as the core reads it."""
        packer = at(self.server, **self.settings).packer(self.content())
        found = {name: self.state[name] for name in packer.names(calls) if name in self.state}
        return found | {name: self.state[name] for name in packer.more_names(calls, found) if name in self.state}

    def read_back(self, user: str, *, value: bool = True, email: str | None = None) -> Mapping[str, object] | None:
        """What verify finds of somebody who was told `value` under the first key."""
        known = self.remembered([Call(user, 0, value, included(email) if value else None)])
        person = Person(user, self.kind, included(email) if value else None, known)
        ((_, held),) = at(self.server, **self.settings).read_back([person])
        return held

    def _run(self, calls: Sequence[Call], cursor: str | None, rejected: dict[tuple[str, str], Refusal], *,
             checked: bool) -> tuple[Stop | None, str | None]:
        destination = at(self.server, **self.settings)
        packer = Checked(destination, self.content(), read=told) if checked else destination.packer(self.content())
        rest = [call for call in calls if cursor is None or call.user_id > cursor]
        pages, now, flying = iter(paged(rest, self.size)), 1000.0, []
        machine = Delivery(packer, claimed=cursor, acknowledged=cursor, concurrency=destination.concurrency,
                           pace=Pace(destination.limits()), draw=lambda limit: limit / 2)
        with closing(destination.channel()) as channel:
            for _ in range(100_000):
                step = machine.next_step(now)
                if isinstance(step, Read):
                    page = next(pages, None)
                    machine.offer(page, self.remembered(page.calls) if page else {})
                elif isinstance(step, Commit):
                    self._commit(step, rejected)
                    cursor = step.progress.acknowledged
                    machine.committed(step, now)
                elif isinstance(step, Send):
                    flying.append(step.flight)
                elif isinstance(step, Stop):
                    return step, cursor
                elif flying:
                    flight = flying.pop(self.order.randrange(len(flying)))
                    try:
                        machine.answered(flight, self._answer(channel, flight), now)
                    except Crash:
                        return None, cursor
                else:
                    assert isinstance(step, Wait)
                    assert step.until is not None
                    now = step.until
        raise AssertionError("it never ends")

    def _answer(self, channel: Channel, flight: Flight) -> Receipt | DeliveryError:
        if self.crash is not None:
            self.crash -= 1
            if self.crash < 0 and self.before:
                self.crash = None
                raise Crash
        self.sent.append(flight.batch)
        try:
            answer = channel.send(flight.batch, seconds=5)
        except DeliveryError as error:
            answer = error
        if self.crash is not None and self.crash < 0:
            self.crash = None
            raise Crash
        return answer

    def _commit(self, step: Commit, rejected: dict[tuple[str, str], Refusal]) -> None:
        for name, value in step.progress.learned.items():
            self.state[name] = value
            if not value:
                del self.state[name]
        for call, refusal in step.progress.refused:
            rejected[call.user_id, KEYS[call.span]] = refusal

    def reasons(self) -> dict[tuple[str, str], str]:
        return {who: refusal.reason.partition(":")[0] for who, refusal in self.rejected.items()}

    def should_hold(self) -> set[tuple[str, str]]:
        """What is true of whom, by email."""
        return {(orjson.loads(columns)["email"].strip().lower(), key) for key in KEYS
                for columns in self.members[key].values()}

    def check(self) -> None:
        held = {who for who, value in self.server.holds().items() if value is True and who[1] in KEYS}
        assert held == self.should_hold()


def paged(calls: Sequence[Call], size: int) -> Iterator[Page]:
    page: list[Call] = []
    for number, call in enumerate(calls):
        page.append(call)
        if len(page) >= size and (number + 1 == len(calls) or calls[number + 1].user_id != call.user_id):
            yield Page(call.user_id, page)
            page = []
    if page:
        yield Page(page[-1].user_id, page)


@contextmanager
def world(*, settings: Mapping[str, object] | None = None, size: int = 10_000, kind: str = "user_id",
          script: Script = (), **switches: object) -> Iterator[World]:
    with CrispFake(script, **switches) as server:
        yield World(server, settings or {}, size, kind)


# the contract


class TestCrisp(HttpDestinationContract):
    destination = Crisp
    answers_json = True

    def at(self, url: str) -> Destination:
        return Crisp.model_validate({**FAST, "url": url})

    def server(self, script: Script = ()) -> Loopback:
        return CrispFake(script)

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]]:
        return told(batch, [one.key for one in content().envelopes])


# finding, creating, few requests


def test_whom_a_search_shows_is_told_and_the_others_are_created_first() -> None:
    with world() as it:
        for number in range(60):
            it.enter(f"u{number:02}", "vip")
            if number < 45:
                it.server.add(f"u{number:02}@x.co")
        assert it.sync() == {SEARCH: 3, CREATE: 15, BATCH: 2}
        it.check()
        it.enter("u00", "dormant")
        it.leave("u01")
        assert it.sync() == {BATCH: 2}, "whoever is known costs no search"
        it.check()
        assert it.sync() == {}


def test_traits_of_one_user_follow_each_other() -> None:
    with world() as it:
        for number in range(10):
            it.enter(f"u{number}")
        assert it.sync() == {SEARCH: 1, CREATE: 10, BATCH: 2}
        it.check()
        for number in range(10):
            it.leave(f"u{number}")
        assert it.sync() == {BATCH: 2}
        it.check()


@pytest.mark.parametrize("searches", ["ignored", "refused"])
def test_a_search_that_is_not_understood_costs_requests_and_nobody(searches: str) -> None:
    with world(searches=searches) as it:
        for number in range(60):
            it.server.add(f"other{number}@x.co")
        for number in range(45):
            it.enter(f"u{number:02}", "vip")
            if number < 30:
                it.server.add(f"u{number:02}@x.co")
        assert it.sync() == {SEARCH: 3, CREATE: 45, FIND: 30, BATCH: 2}
        it.check()
        assert it.rejected == {}


def test_after_a_refused_search_the_sync_looks_everybody_up_alone() -> None:
    with world(searches="refused", size=20) as it:
        for number in range(200):
            it.enter(f"u{number:03}", "vip")
        assert it.sync()[SEARCH] < 10, "only the pages that were read before the answer was written down"
        it.check()


def test_one_stranger_is_created_without_a_search() -> None:
    with world() as it:
        it.enter("ann", "vip", email="Ann@X.co ")
        assert it.sync() == {CREATE: 1, BATCH: 1}
        assert it.server.holds() == {("ann@x.co", "vip"): True}
        assert it.server.person("ann@x.co")["person"] == {"nickname": "ann"}, "which Crisp wants"
        it.server.add("bob@x.co")
        it.enter("bob", "vip")
        assert it.sync() == {CREATE: 1, FIND: 1, BATCH: 1}
        it.check()


def test_emails_as_names_spare_looking_up_whoever_is_there() -> None:
    with world(settings={"people": "email"}, emails=True, searches="refused") as it:
        for number in range(30):
            it.enter(f"u{number:02}", "vip")
            it.server.add(f"u{number:02}@x.co")
        assert it.sync() == {SEARCH: 2, CREATE: 30, BATCH: 1}
        it.check()
        it.enter("u00", "vip", email="new@x.co")
        it.leave("u01")
        assert it.sync() == {PROFILE: 1, BATCH: 2}
        it.check()
        it.server.add("old@x.co", vip=False)
        it.enter("u00", "vip", email="old@x.co")
        it.sync()
        it.check()


def test_nobody_is_created_where_that_is_not_allowed() -> None:
    with world(settings={"create_users": False}) as it:
        it.server.add("ann@x.co")
        for user in ("ann", "bob", "cem"):
            it.enter(user, "vip")
        assert it.sync() == {SEARCH: 1, FIND: 2, BATCH: 1}
        assert it.reasons() == {("bob", "vip"): "unknown_user", ("cem", "vip"): "unknown_user"}
        it.server.add("bob@x.co")
        it.sync()
        assert it.reasons() == {("cem", "vip"): "unknown_user"}, "he is tried again, and found when he is there"
        it.leave("cem")
        assert it.sync() == {}
        assert it.rejected == {}


@pytest.mark.parametrize("email", [None, "", " ", "n/a", "two words@x.co"])
def test_without_an_email_a_member_is_refused_and_his_false_is_done(email: str | None) -> None:
    with world() as it:
        it.members["vip"]["ann"] = included(email)
        assert it.sync() == {}
        assert it.reasons() == {("ann", "vip"): "missing_email"}
        it.leave("ann")
        assert it.sync() == {}
        assert (it.rejected, it.server.people) == ({}, {})


def test_whoever_is_known_needs_no_email_any_more() -> None:
    with world() as it:
        it.enter("ann", "vip")
        it.sync()
        it.enter("ann", "vip", email=None)
        it.enter("ann", "dormant", email=None)
        it.sync()
        assert it.server.holds() == {("ann@x.co", "vip"): True, ("ann@x.co", "dormant"): True}
        it.leave("ann")
        it.sync()
        assert it.server.holds() == {("ann@x.co", "vip"): False, ("ann@x.co", "dormant"): False}


def test_where_the_id_is_the_email_nothing_else_is_needed() -> None:
    with world(kind="email") as it:
        for user in ("Ann@x.co", "b+c/d%41?e&f#g@x.co", "o'brien@x.co"):
            it.members["vip"][user] = "{}"
        it.sync()
        assert it.server.holds() == {(user.lower(), "vip"): True for user in it.members["vip"]}
        it.members["vip"].clear()
        it.sync()
        assert {*it.server.holds().values()} == {False}
    assert Crisp(**FAST).follows("email") == ""
    assert Crisp(**FAST).follows("user_id") == Crisp(**FAST).follows("anonymous_id") == "email"


@pytest.mark.parametrize("stale", [False, True])
def test_awkward_ids_and_emails_arrive(stale: bool) -> None:
    users = ("a/b", "..", ".", "100%41", "q?u=e&r#y", "日本", " lead", "new\nline", "(people_id)", "{}", "u" * 99)
    with world(stale=stale) as it:
        for number, user in enumerate(users):
            it.enter(user, email=f"o'{number}+a/b%41?c&d#e@x.co")
        it.sync()
        it.check()
        for user in users[:5]:
            it.leave(user, "vip")
        it.sync()
        it.check()


def test_a_hundred_thousand_known_users_are_told_with_two_thousand_requests() -> None:
    destination, made, requests = Crisp(**FAST), content(envelope("vip")), 0
    for start in range(0, 100_000, destination.page):
        calls = [Call(f"u{number:06}", 0, number % 3 > 0, included(f"u{number:06}@x.co") if number % 3 else None)
                 for number in range(start, start + destination.page)]
        known = {}
        for call in calls:
            known |= {f"u:{call.user_id}": f"p{call.user_id}",
                      f"m:{call.user_id}": f'{{"email":"{call.user_id}@x.co","keys":["vip"]}}'}
        requests += len(destination.packer(made).pack_known(calls, known).batches)
    assert requests == 2100, "a page of 1,000 has a batch more, since it has both values"


def test_a_plan_counts_lookups_and_creations() -> None:
    calls = [Call(f"u{number:03}", 0, True, included(f"u{number:03}@x.co")) for number in range(100)]
    assert imagined(Crisp(**FAST).packer(content(envelope("vip"))), calls) == 5 + 100 + 2
    found = Crisp(**FAST, create_users=False).packer(content(envelope("vip")))
    assert imagined(found, calls) == 5 + 2


# batches


@pytest.mark.parametrize("cap", [1, 7, 20, 49])
def test_the_size_that_is_taken_is_found_and_remembered(cap: int) -> None:
    with world(cap=cap) as it:
        for number in range(200):
            it.enter(f"u{number:03}", "vip")
        it.sync()
        it.check()
        assert it.rejected == {}
        size = int(it.state["size"])
        assert cap / 2 < size <= cap
        for number in range(200):
            it.leave(f"u{number:03}", "vip")
        assert it.sync() == {BATCH: -(-200 // size)}, "nothing is tried again that was too large"
        it.check()


def test_what_is_refused_of_everybody_is_no_question_of_size() -> None:
    def refuses(_: int, request: Request) -> int | None:
        return 400 if b'"vip"' in request.body else None

    with world() as it:
        it.server.script = refuses
        for number in range(60):
            it.enter(f"u{number:02}")
        it.sync()
        assert {*it.rejected} == {(f"u{number:02}", "vip") for number in range(60)}
        assert "size" not in it.state
        it.server.script = ()
        it.sync()
        it.check()


def test_without_bulk_each_user_has_one_request_of_all_his_traits() -> None:
    with world(settings={"bulk": "off"}) as it:
        for user in ("ann", "bob", "cem"):
            it.enter(user)
        assert it.sync() == {SEARCH: 1, CREATE: 3, DATA: 3}
        it.check()
        it.leave("ann", "vip")
        it.leave("bob")
        assert it.sync() == {DATA: 2}
        it.check()


def test_somebody_deleted_at_crisp_is_looked_up_once_more_where_it_says_so() -> None:
    with world(settings={"bulk": "off"}) as it:
        for user in ("ann", "bob"):
            it.enter(user)
        it.sync()
        it.server.remove("ann@x.co")
        it.server.remove("bob@x.co")
        it.leave("ann", "vip")
        it.leave("bob")
        it.rejected["ann", "dormant"] = Refusal("again")
        assert it.sync() == {DATA: 3, CREATE: 1}
        assert it.server.holds() == {("ann@x.co", "dormant"): True}
        assert "u:bob" not in it.state
        it.check()


def test_a_person_who_is_shown_and_not_known_is_asked_for_only_so_often() -> None:
    def denies(_: int, request: Request) -> Fault | None:
        missing = Fault(status=404, body=b'{"error":true,"reason":"not_found","data":{}}')
        return missing if request.method == "PATCH" else None

    with world(settings={"bulk": "off"}) as it:
        it.server.script = denies
        it.enter("ann", "vip")
        assert it.sync() == {CREATE: 2, FIND: 1}
        assert it.reasons() == {("ann", "vip"): "unknown_user"}
        it.server.script = ()
        it.sync()
        it.check()


# included columns


def test_columns_become_fields_of_the_person_and_custom_data() -> None:
    with world() as it:
        it.enter("ann", "vip", first_name="Ann", last_name="Lee", phone=123, plan="pro", spent=1.5, tags=["a"],
                 none=None, title="Dr", **{"address.city": "Rome", "address.country": "IT"})
        assert it.sync() == {CREATE: 1, DATA: 1}
        ann = it.server.person("ann@x.co")
        assert ann["person"] == {"nickname": "Ann Lee", "phone": "123", "address": "Rome, IT"}
        assert ann["data"] == {"vip": True, "plan": "pro", "spent": 1.5, "tags": '["a"]', "title": "Dr"}
        it.leave("ann", "vip")
        assert it.sync() == {BATCH: 1}
        it.enter("ann", "vip", first_name="Ann", last_name="Lee", phone=123, plan="pro", spent=1.5, tags=["a"],
                 title="Dr", **{"address.city": "Rome", "address.country": "IT"})
        assert it.sync() == {BATCH: 1}, "columns that did not change cost nothing"
        it.enter("ann", "dormant", name="Ann", plan="free")
        assert it.sync() == {PROFILE: 1, DATA: 1}
        assert (ann["person"]["nickname"], ann["data"]["plan"], ann["data"]["dormant"]) == ("Ann", "free", True)


def test_columns_of_somebody_who_was_there_are_told_too() -> None:
    with world() as it:
        it.server.add("ann@x.co", old=1)
        it.enter("ann", name="Ann", plan="pro")
        it.sync()
        ann = it.server.person("ann@x.co")
        assert (ann["person"], ann["data"]) == ({"nickname": "Ann"}, {"old": 1, "plan": "pro", "vip": True,
                                                                     "dormant": True})


def test_what_crisp_will_not_take_of_one_is_his_own_affair() -> None:
    def strict(_: int, request: Request) -> int | None:
        return 400 if b'"phone":"bad"' in request.body else None

    with world() as it:
        it.server.script = strict
        it.enter("ann", "vip", phone="bad")
        it.enter("bob", "vip", phone="good")
        it.sync()
        assert [*it.rejected] == [("ann", "vip")]
        assert it.server.holds() == {("bob@x.co", "vip"): True}


# shared emails


def test_a_shared_email_is_one_persons_and_the_next_has_it_when_he_has_left() -> None:
    with world() as it:
        it.enter("ann", "vip", email="home@x.co")
        it.enter("bob", email="home@x.co")
        it.sync()
        assert it.reasons() == {("bob", "vip"): "shared_email"}
        it.check()
        it.sync()
        assert it.reasons() == {("bob", "vip"): "shared_email"}
        it.leave("ann", "vip")
        it.sync()
        assert it.rejected == {}, "within one sync, since he is tried again by it"
        it.check()
        it.enter("ann", "vip", email="home@x.co")
        it.sync()
        assert it.reasons() == {("ann", "vip"): "shared_email"}
        it.leave("ann", "vip")
        assert it.sync() == {}, "his false would take it from the other"
        it.check()
        it.leave("bob")
        it.sync()
        it.check()
        assert it.server.holds() == {("home@x.co", "vip"): False, ("home@x.co", "dormant"): False}


def test_a_backfill_tells_former_members_and_takes_nothing_from_whom_they_share_with() -> None:
    with world() as it:
        it.enter("ann", "vip", email="home@x.co")
        it.enter("bob", "dormant", email="home@x.co")
        it.enter("cem", "vip")
        it.sync()
        it.leave("ann", "vip")
        it.leave("cem", "vip")
        it.sync()
        it.enter("bob", "vip", email="home@x.co")
        it.sync()
        it.server.person("cem@x.co")["data"]["vip"] = True
        it.told["vip"] |= {"ann": included("home@x.co"), "cem": included("cem@x.co")}
        it.sync(everybody=True)
        it.check()


def test_of_two_who_come_together_the_first_by_id_has_it() -> None:
    with world() as it:
        for user in ("bob", "ann", "cem"):
            it.enter(user, email="home@x.co")
        assert it.sync() == {CREATE: 1, DATA: 1}
        assert {user for user, _ in it.rejected} == {"bob", "cem"}
        it.leave("ann")
        it.leave("bob")
        it.sync()
        it.check()
        assert it.rejected == {}


# changed emails


def test_a_changed_email_moves_the_person() -> None:
    with world() as it:
        it.enter("ann")
        it.sync()
        name = it.server.person("ann@x.co")["people_id"]
        it.enter("ann", email="lee@x.co")
        assert it.sync() == {PROFILE: 1, DATA: 1}
        assert it.server.person("lee@x.co")["people_id"] == name
        it.check()
        it.leave("ann")
        assert it.sync() == {DATA: 1}
        it.check()
        it.enter("new", email="ann@x.co")
        it.sync()
        assert len(it.server.people) == 2, "the former email is free"
        it.check()


def test_an_email_that_is_another_persons_is_joined_and_the_former_person_left() -> None:
    with world() as it:
        it.server.add("lee@x.co")
        it.enter("ann")
        it.enter("bob", "vip")
        it.sync()
        it.enter("ann", email="lee@x.co")
        assert it.sync() == {PROFILE: 1, FIND: 1, DATA: 2}
        assert it.server.holds() == {(name, key): name == "lee@x.co" for name in ("lee@x.co", "ann@x.co")
                                     for key in KEYS} | {("bob@x.co", "vip"): True}
        it.enter("bob", "vip", email="lee@x.co")
        assert it.sync() == {DATA: 1}, "that person is known by now"
        assert it.reasons() == {("bob", "vip"): "shared_email"}
        it.leave("ann")
        it.sync()
        it.check()
        assert it.rejected == {}


def test_whoever_leaves_a_shared_email_leaves_the_person_to_the_others() -> None:
    with world() as it:
        it.enter("ann", "vip", email="home@x.co")
        it.enter("bob", "vip", "dormant", email="home@x.co")
        it.sync()
        name = it.server.person("home@x.co")["people_id"]
        it.enter("ann", "vip", email="ann@x.co")
        it.sync()
        it.sync()
        it.check()
        assert it.rejected == {}
        assert it.server.person("home@x.co")["people_id"] == name
        it.enter("bob", email="bob@x.co")
        it.sync()
        it.check()


def test_a_changed_email_of_somebody_deleted_finds_or_creates_him() -> None:
    with world() as it:
        it.enter("ann")
        it.sync()
        it.server.remove("ann@x.co")
        it.enter("ann", email="lee@x.co")
        assert it.sync() == {PROFILE: 1, CREATE: 1, DATA: 1}
        it.check()


def test_two_who_exchange_their_emails() -> None:
    with world() as it:
        it.enter("ann")
        it.enter("bob", "vip")
        it.sync()
        it.enter("ann", email="bob@x.co")
        it.enter("bob", "vip", email="ann@x.co")
        for _ in range(3):
            it.sync()
        it.check()
        assert it.rejected == {}


# whatever happens


@pytest.mark.parametrize("seed", range(40))
def test_whatever_changes_and_fails_crisp_has_the_audiences_in_the_end(seed: int) -> None:
    draw = random.Random(seed)
    settings = {"bulk": draw.choice(["auto", "auto", "off"]), "batch": draw.choice([2, 3, 50]),
                "search": draw.choice([1, 3, 20]), "concurrency": draw.choice([1, 2, 4])}
    faults = [503, 429, 420, "accept_then_drop", "drop", "truncated"]
    with world(settings=settings, cap=draw.choice([None, 2]), size=draw.choice([1, 4, 10_000]),
               searches=draw.choice(["understood", "ignored", "refused"])) as it:
        it.order = draw
        emails = [f"e{number}@x.co" for number in range(6)]
        people = {f"u{number}": draw.choice(emails) for number in range(9)}
        for email in emails[:2]:
            it.server.add(email)
        for _ in range(8):
            for user in sorted(people):
                people[user] = email = draw.choice(emails) if draw.random() < 0.15 else people[user]
                for key in KEYS:
                    if draw.random() < 0.3:
                        (it.leave if user in it.members[key] else it.enter)(user, key)
                    if user in it.members[key]:
                        it.members[key][user] = included(email, **({"plan": draw.choice("ab")} if seed % 2 else {}))
            it.crash, it.before = draw.choice([None, 0, 1, 2, 5]), draw.random() < 0.5
            it.server.script = lambda *_: draw.choice(faults) if draw.random() < 0.1 else None
            it.sync()
            it.crash, it.server.script = None, ()
            for _ in range(4):
                it.sync()
            it.check()
        for user in people:
            it.leave(user)
        for _ in range(3):
            it.sync()
        it.check()
        assert it.rejected == {}


@pytest.mark.parametrize("at_", range(0, 30, 3))
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_any_request_repeats_and_harms_nothing(at_: int, before: bool) -> None:
    with world(size=10) as it:
        for number in range(40):
            it.enter(f"u{number:02}", "vip", plan="pro")
        it.crash, it.before = at_, before
        it.sync()
        it.check()
        assert it.rejected == {}
        assert len(it.server.people) == 40
        for number in range(40):
            it.enter(f"u{number:02}", "vip", email=f"new{number}@x.co", plan="pro")
        it.crash = at_
        it.sync()
        it.check()
        assert len(it.server.people) == 40


# a backfill, when people are lost there


def deleted(it: World, *emails: str) -> None:
    for email in emails or [person["email"] for person in it.server.people.values()]:
        it.server.remove(email)


@pytest.mark.parametrize("part", [1, 2, 60])
def test_a_backfill_makes_those_again_who_are_lost_with_their_columns(part: int) -> None:
    users = [f"u{number:03}" for number in range(60)]
    with world(size=40) as it:
        for user in users:
            it.enter(user, "vip", name=user.upper(), plan="pro")
        it.sync()
        before = {email: dict(person["data"]) for person in it.server.people.values() if (email := person["email"])}
        lost = [f"{user}@x.co" for user in users[::part]]
        deleted(it, *lost)
        took = it.backfill()
        it.check()
        assert it.rejected == {}
        assert {person["email"]: person["data"] for person in it.server.people.values()} == before
        assert {person["person"]["nickname"] for person in it.server.people.values()} == set(map(str.upper, users))
        assert (took[SEARCH], took[CREATE], took[DATA]) == (3, len(lost), len(lost))
        assert took[BATCH] <= 2
        assert not any(name.startswith("a:") for name in it.state)
        for user in users:
            it.leave(user)
        it.sync()
        it.check()


def test_a_backfill_of_those_who_are_there_costs_searches_and_batches() -> None:
    with world(size=200) as it:
        for number in range(200):
            it.enter(f"u{number:03}", "vip", plan="pro")
        it.sync()
        assert it.backfill() == {SEARCH: 10, BATCH: 4}
        it.check()
        everybody = it.calls(everybody=True)
        it.anew = True
        packer = at(it.server).packer(it.content())
        known, waves = it.remembered(everybody), [packer.pack_known(everybody, it.remembered(everybody))]
        for batch in waves[0].batches:
            known |= packer.imagine(batch)
        assert len(packer.pack_known(everybody, known).batches) == 4, "a plan takes them for being there"


@pytest.mark.parametrize("searches", ["ignored", "refused"])
@pytest.mark.parametrize("size", [1, 10_000])
def test_a_backfill_without_searches_finds_or_makes_everybody(searches: str, size: int) -> None:
    with world(searches=searches, size=size) as it:
        for number in range(20):
            it.enter(f"u{number:02}", plan="pro")
        it.sync()
        deleted(it, *(f"u{number:02}@x.co" for number in range(0, 20, 2)))
        it.leave("u03", "vip")
        it.leave("u04", "vip")
        it.backfill()
        it.check()
        assert it.server.holds()["u03@x.co", "vip"] is False, "who is there is told his false"
        assert it.rejected == {}
        assert len(it.server.people) == 20


def test_a_backfill_creates_nobody_where_that_is_not_allowed_and_forgets_who_is_lost() -> None:
    with world(settings={"create_users": False}) as it:
        for user in ("ann", "bob", "cem"):
            it.server.add(f"{user}@x.co")
            it.enter(user)
        it.sync()
        deleted(it, "ann@x.co", "bob@x.co")
        it.leave("bob", "vip")
        it.backfill()
        assert it.reasons() == dict.fromkeys([("ann", "vip"), ("ann", "dormant"), ("bob", "dormant")], "unknown_user")
        assert "u:ann" not in it.state
        assert [*it.server.people] == [it.server.person("cem@x.co")["people_id"]]
        it.server.add("ann@x.co")
        it.server.add("bob@x.co")
        it.sync()
        it.check()
        assert it.rejected == {}


def test_a_backfill_makes_a_shared_person_again_and_each_keeps_what_is_his() -> None:
    for size in (1, 10_000):
        with world(size=size) as it:
            it.enter("ann", "vip", email="home@x.co")
            it.enter("bob", email="home@x.co")
            it.enter("zoe", "dormant", email="home@x.co")
            it.sync()
            before = it.reasons()
            deleted(it)
            it.backfill()
            it.check()
            assert it.reasons() == before
            assert len(it.server.people) == 1
            it.leave("ann")
            it.leave("zoe")
            it.sync()
            it.check()
            assert it.rejected == {}
            it.leave("bob")
            it.sync()
            it.check()


def test_who_shares_a_person_that_was_made_again_for_another_comes_to_it() -> None:
    with world() as it:
        it.enter("ann", "vip", email="home@x.co")
        it.enter("bob", "dormant", email="home@x.co")
        it.sync()
        it.leave("bob")
        it.sync()
        deleted(it)
        it.told["dormant"] = {}
        it.backfill()
        it.enter("bob", "dormant", email="home@x.co")
        it.sync()
        it.check()


def test_a_stranger_is_not_sent_to_a_person_who_is_lost() -> None:
    with world() as it:
        it.enter("zoe", "vip", email="home@x.co")
        it.sync()
        deleted(it)
        it.enter("ann", "dormant", email="home@x.co")
        it.backfill()
        it.check()
        it.leave("zoe")
        it.sync()
        it.check()


def test_a_backfill_follows_changed_emails_and_remembered_ones() -> None:
    for lost in (["ann@x.co"], ["bob@x.co"], ["cem@x.co"], ["ann@x.co", "bob@x.co", "cem@x.co"], []):
        with world() as it:
            for user in ("ann", "bob", "cem", "dan"):
                it.enter(user)
            it.sync()
            for email in lost:
                it.server.remove(email)
            it.enter("ann", email="bob@x.co")
            it.enter("bob", email="new@x.co")
            it.members["vip"]["cem"] = it.members["dormant"]["cem"] = included(None)
            it.backfill()
            for _ in range(2):
                it.sync()
            it.members["vip"]["cem"] = it.members["dormant"]["cem"] = included("cem@x.co")
            it.check()
            assert it.rejected == {}


@pytest.mark.parametrize("at_", range(0, 24, 2))
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_in_a_backfill_harms_nothing(at_: int, before: bool) -> None:
    with world(size=10) as it:
        for number in range(30):
            it.enter(f"u{number:02}", "vip", plan="pro", email=f"e{number // 2}@x.co" if number < 6 else "")
        it.sync()
        expected = it.server.holds()
        deleted(it, *(f"u{number:02}@x.co" for number in range(6, 30, 2)), "e1@x.co")
        it.crash, it.before = at_, before
        it.backfill()
        it.check()
        assert it.server.holds() == expected
        for number in range(30):
            it.leave(f"u{number:02}")
        for _ in range(2):
            it.sync()
        it.check()
        assert it.rejected == {}


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_lost_and_fails_a_backfill_mends_it(seed: int) -> None:
    draw = random.Random(seed)
    settings = {"bulk": draw.choice(["auto", "off"]), "batch": draw.choice([2, 50]), "search": draw.choice([1, 3, 20]),
                "people": draw.choice(["people_id", "people_id", "email"])}
    faults = [503, 429, "accept_then_drop", "drop", "truncated"]
    with world(settings=settings, size=draw.choice([1, 4, 10_000]), emails=settings["people"] == "email",
               searches=draw.choice(["understood", "ignored", "refused"])) as it:
        it.order = draw
        emails = [f"e{number}@x.co" for number in range(6)]
        people = {f"u{number}": draw.choice(emails) for number in range(9)}
        for _ in range(6):
            for user in sorted(people):
                people[user] = email = draw.choice(emails) if draw.random() < 0.15 else people[user]
                for key in KEYS:
                    if draw.random() < 0.3:
                        (it.leave if user in it.members[key] else it.enter)(user, key)
                    if user in it.members[key]:
                        it.members[key][user] = included(email, **({"plan": draw.choice("ab")} if seed % 2 else {}))
            for person in [one for one in it.server.people.values() if draw.random() < 0.5]:
                it.server.remove(person["email"])
            it.crash, it.before = draw.choice([None, 0, 1, 2, 5]), draw.random() < 0.5
            it.server.script = lambda *_: draw.choice(faults) if draw.random() < 0.1 else None
            it.backfill()
            it.crash, it.server.script = None, ()
            for _ in range(4):
                it.sync()
            it.check()
        for user in people:
            it.leave(user)
        for _ in range(3):
            it.sync()
        it.check()
        assert it.rejected == {}


def test_a_trait_that_is_held_for_another_is_not_read_back_as_ones_own() -> None:
    with world() as it:
        it.enter("ann", "vip", email="home@x.co")
        it.enter("bob", "dormant", email="home@x.co")
        it.sync()
        it.leave("ann")
        it.sync()
        it.enter("bob", email="home@x.co")
        it.sync()
        it.check()
        assert it.read_back("ann", value=False) == {"dormant": True}, "of those keys that it asks for"
        assert it.read_back("bob", email="home@x.co") == {"vip": True, "dormant": True}
        it.leave("bob", "vip")
        it.sync()
        it.server.person("home@x.co")["data"]["vip"] = True
        assert it.read_back("ann", value=False) == {"vip": True, "dormant": True}, "nobody's, so that it is drift"
        it.server.person("home@x.co")["data"]["vip"] = False
        it.enter("bob", "vip", email="home@x.co")
        it.sync()
        deleted(it)
        person = Person("ann", "user_id", None, it.remembered([Call("ann", 0, False, None)]))
        ((gone, held),) = at(it.server).read_back([person])
        assert held is None
        assert "u:ann" in gone.known
        assert "o:vip:home@x.co" not in gone.known, "what is bob's is not forgotten"


# limits, credentials, answers


@pytest.mark.parametrize("busy", [429, 420])
def test_a_day_that_is_used_up_ends_the_sync_and_the_next_goes_on(busy: int) -> None:
    with world(quota=25, busy=busy, size=10) as it:
        for number in range(40):
            it.enter(f"u{number:02}", "vip")
        stop = it.once()
        assert (stop.finished, stop.pause) == (False, False)
        assert str(busy) in stop.reason
        assert it.server.people
        assert any(name.startswith("u:") for name in it.state), "what was learned is kept"
        it.server.quota = None
        it.sync()
        it.check()


def test_the_days_requests_by_tier_share_and_setting() -> None:
    assert Crisp(**FAST).quota() == 9000
    assert Crisp(**FAST, tier="plugin").quota() == 4500
    assert Crisp(**FAST, tier="plugin", daily_requests=50_000, share="50%").quota() == 25_000
    assert Crisp(**FAST, daily_requests=1, share="10%").quota() == 1


def test_a_429_without_a_word_is_waited_out() -> None:
    with CrispFake([429]) as server, closing(at(server).channel()) as channel, pytest.raises(Throttled) as raised:
        channel.send(at(server).packer(content()).pack([Call("a", 0, True, included("a@x.co"))]).batches[0], seconds=5)
    assert raised.value.wait == 10.0


@pytest.mark.parametrize("body", [b"<html>Sign in</html>", b"[]", b'"ok"', b'{"error": true, "data": {}}', b'{"ok": 1}',
                                  b'{"error": false, "data": {}}', b'{"error": false, "data": {"people_id": ""}}'])
def test_an_answer_that_is_none_of_crisps_says_nothing(body: bytes) -> None:
    batch = Crisp(**FAST).packer(content()).pack([Call("a", 0, True, included("a@x.co"))]).batches[0]
    with CrispFake([Fault(body=body)]) as server, closing(at(server).channel()) as channel, pytest.raises(Unanswered):
        channel.send(batch, seconds=5)


def test_a_batch_may_be_answered_without_a_word() -> None:
    with world() as it:
        it.enter("ann", "vip")
        it.server.script = [None, Fault(status=204, body=b" ")]
        it.sync()
        assert it.rejected == {}


def test_a_404_of_a_whole_site_forgets_nobody() -> None:
    with world(settings={"bulk": "off"}) as it:
        it.enter("ann", "vip")
        it.sync()
        known = dict(it.state)
        it.leave("ann", "vip")
        it.server.script = lambda *_: Fault(status=404, body=b"<html>Not found</html>")
        stop = it.once()
        assert stop.pause
        assert it.state == known


@pytest.mark.parametrize(("switches", "settings", "words"), [
    ({"installed": False}, {}, "plugin is installed"), ({}, {"key": "0" * 64}, "identifier, key and tier"),
    ({}, {"tier": "plugin"}, "tier"), ({}, {"key": "wrong"}, "Workspace Settings > Advanced"),
    ({}, {"identifier": WEBSITE}, "Segment's own"), ({}, {"key": WEBSITE}, "Marketplace plugin")])
def test_a_token_that_is_not_taken_is_told_apart(switches: dict[str, object], settings: dict[str, object],
                                                 words: str) -> None:
    with CrispFake(**switches) as server:
        with pytest.raises(AccountRefused, match=words) as raised:
            list(at(server, **settings).check())
        assert KEY not in str(raised.value)
        assert IDENTIFIER not in str(raised.value)


def test_a_check_reads_people_and_says_the_days_requests() -> None:
    with CrispFake() as server:
        assert "9,000 requests" in " ".join(at(server).check())
        assert server.routes == {SEARCH: 1}
    with pytest.raises(NotTaken):
        list(at(server).check())


@pytest.mark.parametrize("settings", [{"website_id": "shop"}, {"website_id": ""}, {"key": ""}, {"key": "a b"},
                                      {"identifier": "a:b"}, {"tier": "user"}, {"batch": 0}, {"search": 51},
                                      {"url": "http://api.crisp.chat/v1"}])
def test_settings_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as raised:
        Crisp(**{**FAST, **settings})
    assert KEY not in str(raised.value)


def test_another_token_is_the_same_account_and_another_website_is_not() -> None:
    made = Crisp(**FAST)
    assert made.fingerprint() == Crisp(**{**FAST, "key": "0" * 64, "tier": "plugin"}).fingerprint()
    assert made.fingerprint() == Crisp(**{**FAST, "website_id": WEBSITE.upper()}).fingerprint()
    assert made.fingerprint() != Crisp(**{**FAST, "website_id": IDENTIFIER}).fingerprint()


def test_people_are_read_back_by_what_is_remembered_or_by_email() -> None:
    with world() as it:
        it.enter("ann", "vip")
        it.enter("bob", "vip")
        it.sync()
        it.server.remove("bob@x.co")
        people = [Person("ann", "user_id", None, {"u:ann": it.state["u:ann"]}),
                  Person("ann", "user_id", included("ann@x.co"), {}), Person("cem", "user_id", None, {}),
                  Person("ann@x.co", "email", None, {}), Person("bob", "user_id", None, {"u:bob": it.state["u:bob"]})]
        found = [held for _, held in at(it.server).read_back(people)]
        assert found == [{"vip": True}, {"vip": True}, None, {"vip": True}, None]


# the vendor's own client


@pytest.fixture
def client() -> Iterator[object]:
    vendor = pytest.importorskip("crisp_api")
    with CrispFake() as server:
        made = vendor.Crisp()
        made.set_rest_host(f"http://{server.host}")
        made.set_tier("website")
        made.authenticate(IDENTIFIER, KEY)
        made.server = server
        yield made


def test_the_vendors_client_works_people(client: object) -> None:
    people, server = client.website, client.server
    name = people.add_new_people_profile(WEBSITE, {"email": "ann@x.co", "person": {"nickname": "Ann"}})["people_id"]
    assert people.get_people_profile(WEBSITE, name)["email"] == "ann@x.co"
    assert people.get_people_profile(WEBSITE, "ann@x.co")["people_id"] == name
    people.check_people_profile_exists(WEBSITE, "ann@x.co")
    people.update_people_data(WEBSITE, name, {"data": {"vip": True}})
    people.batch_data_items(WEBSITE, {"people": {"profiles": [name, "nobody"]}, "data": {"dormant": False}})
    assert people.get_people_data(WEBSITE, name)["data"] == {"vip": True, "dormant": False}
    people.save_people_data(WEBSITE, name, {"data": {"vip": False}})
    assert server.holds() == {("ann@x.co", "vip"): False}
    people.update_people_profile(WEBSITE, name, {"email": "lee@x.co"})
    assert [one["people_id"] for one in people.list_people_profiles(WEBSITE, 1)] == [name]
    asked = '[{"model":"people","criterion":"email","operator":"eq","query":["lee@x.co"]}]'
    assert [one["people_id"] for one in people.search_people_profiles(WEBSITE, 1, asked)] == [name]
    assert people.list_people_profiles(WEBSITE, 2) == []
    people.remove_people_profile(WEBSITE, name)
    assert server.people == {}
    assert server.violations == []


def test_the_vendors_client_sees_what_is_refused(client: object) -> None:
    people, server = client.website, client.server
    server.add("ann@x.co")
    failures = [
        (404, "not_found", lambda: people.get_people_profile(WEBSITE, "bob@x.co")),
        (404, "not_found", lambda: people.check_people_profile_exists(WEBSITE, "bob@x.co")),
        (409, "people_exists", lambda: people.add_new_people_profile(
            WEBSITE, {"email": "ann@x.co", "person": {"nickname": "Ann"}})),
        (400, "invalid_data", lambda: people.add_new_people_profile(WEBSITE, {"person": {"nickname": "Ann"}})),
        (400, "invalid_data", lambda: people.add_new_people_profile(WEBSITE, {"email": "new@x.co"})),
        (400, "invalid_data", lambda: people.update_people_data(WEBSITE, "ann@x.co", {"vip": True})),
        (400, "invalid_data", lambda: people.update_people_data(WEBSITE, "ann@x.co", {"data": {"vip": None}})),
        (400, "invalid_data", lambda: people.update_people_data(WEBSITE, "ann@x.co", {"data": {"vip": {}}})),
        (403, "not_allowed", lambda: people.list_people_profiles(IDENTIFIER, 1)),
    ]
    for status, reason, ask in failures:
        with pytest.raises(Exception, match=reason) as raised:
            ask()
        assert raised.value.args[0]["code"] == status
    client.set_tier("plugin")
    with pytest.raises(Exception, match="unauthorized"):
        people.list_people_profiles(WEBSITE, 1)
    client.set_tier("website")


def test_the_fakes_switches() -> None:
    with CrispFake(keeps=False, stale=True) as server, closing(at(server).api()) as api:
        route = f"/website/{WEBSITE}/people/data/{server.add('ann@x.co', plan='pro')}"
        assert api.ask(f"GET {route}", seconds=5).json()["data"]["data"] == {"plan": "pro"}
        api.ask(f"PATCH {route}", b'{"data": {"vip": true}}', seconds=5)
        assert server.holds() == {("ann@x.co", "vip"): True}, "a PATCH that replaces"
        assert api.ask(f"GET {route}", seconds=5).json()["data"]["data"] == {"plan": "pro"}, "a cache that is stale"

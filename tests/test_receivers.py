"""Whatever takes Segment's batches: each receiver's limits, its place for the write key, and its answers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from audiencesync.destinations.receivers import RECEIVERS
from audiencesync.destinations.segment import Segment
from audiencesync.errors import AccountRefused, CallsRefused, DeliveryError, KeyRefused, Throttled, Unanswered
from audiencesync.model import Batch, Call, Destination
from tests.contract import Limits, content
from tests.loopback import Fault, Script
from tests.servers import CustomerIo, Dittofeed, Jitsu, Recorder, RudderStack
from tests.test_segment import TestSegment as SegmentSuite

KEY = "wk_0123456789abcdef"


class ReceiverSuite(SegmentSuite):
    """Segment's promises, kept to another receiver."""

    answers_json = True  # or words of its own, but no page
    receiver: ClassVar[str]
    fake: ClassVar[type[Recorder]]
    key = KEY

    def made(self, **settings: object) -> Destination:
        own = {"receiver": self.receiver, "write_key": self.key, "url": f"https://their.example{self.fake.path}"}
        return super().made(**{**own, **settings})

    def server(self, script: Script = ()) -> Recorder:
        return self.fake(script, write_key=self.key)


class TestRudderStack(ReceiverSuite):
    receiver, fake = "rudderstack", RudderStack
    limits = Limits(2500, 4_000_000, 4_000_000)


class TestJitsu(ReceiverSuite):
    receiver, fake = "jitsu", Jitsu
    limits = Limits(2500, 1_000_000, 1_000_000)

    @pytest.mark.parametrize("coalesce", [False, True])
    def test_whom_a_200_refuses_by_name_is_rejected_and_nobody_else(self, tmp_path: Path, coalesce: bool) -> None:
        calls = sorted([*self.page(6), self.call("zz-never"), self.call("zz-never", 1)])
        with self.place(tmp_path) as place:
            place.server.refuse = {"zz-never"}
            placed = type(place)(self.made(url=place.server.url, coalesce=coalesce), place.holds, place.server)
            journal = placed.bring(calls)
            others = [call for call in calls if call.user_id != "zz-never"]
            assert [call.span for call, _ in journal.refused] == [0, 1]
            assert {refusal.reason for _, refusal in journal.refused} == {"no such user ***"}
            assert sorted(journal.accepted.elements()) == others
            placed.check(others)


class TestDittofeed(ReceiverSuite):
    receiver, fake = "dittofeed", Dittofeed
    key = "Basic OTQ0NDQyNjYtYzBkZQ=="


class TestCustomerIo(ReceiverSuite):
    receiver, fake = "customerio", CustomerIo
    limits = Limits(2500, 1_000_000, 64_000)


SUITES = {suite.receiver: suite() for suite in (TestRudderStack, TestJitsu, TestDittofeed, TestCustomerIo)}


def batch(suite: ReceiverSuite) -> Batch:
    return suite.made().packer(content()).pack([Call("ann", 0, True, None), Call("bob", 0, False, None)]).batches[0]


def outcome(receiver: str, fault: Fault | None) -> DeliveryError | None:
    suite = SUITES[receiver]
    with suite.server([fault]) as server, closing(suite.at(server.url).channel()) as channel:
        try:
            assert channel.send(batch(suite), seconds=5) == {}
        except DeliveryError as error:
            return error
    return None


OK = Fault(body=b"OK")


@pytest.mark.parametrize(("receiver", "fault", "meaning"), [
    ("rudderstack", OK, None),
    ("rudderstack", Fault(body=b'"OK"'), Unanswered),
    ("rudderstack", Fault(status=400, body=b"invalid json"), CallsRefused),
    ("rudderstack", Fault(status=400, body=b"request neither has anonymousId nor userId"), CallsRefused),
    ("rudderstack", Fault(status=400, body=b"empty batch payload"), CallsRefused),
    ("rudderstack", Fault(status=401, body=b"invalid write key"), KeyRefused),
    ("rudderstack", Fault(status=401, body=b"failed to read writekey from header"), KeyRefused),
    ("rudderstack", Fault(status=404, body=b"source is disabled"), AccountRefused),
    ("rudderstack", Fault(status=413, body=b"request size exceeds max limit"), CallsRefused),
    ("rudderstack", Fault(status=429, body=b"max requests limit reached"), Throttled),
    ("rudderstack", Fault(status=503, body=b"service unavailable"), Unanswered),
    ("rudderstack", Fault(status=504), Unanswered),
    ("jitsu", Fault(body=b'{"ok":true}'), None),
    ("jitsu", Fault(body=b'{"ok":false,"receivedEvents":2,"okEvents":1,"errors":["it broke"]}'), Unanswered),
    ("jitsu", OK, Unanswered),
    ("jitsu", Fault(status=204), Unanswered),
    ("jitsu", Fault(status=401, body=b'{"error":"stream not found"}'), KeyRefused),
    ("dittofeed", Fault(status=204), None),
    ("dittofeed", OK, Unanswered),
    ("dittofeed", Fault(status=401, body=b'{"message":"Invalid write key."}'), KeyRefused),
    ("customerio", Fault(body=b'{"success":true}'), None),
    ("customerio", Fault(body=b""), None),
    ("customerio", Fault(status=429), Throttled),
])
def test_an_answer_means_what_the_receiver_means_by_it(
        receiver: str, fault: Fault, meaning: type[DeliveryError] | None) -> None:
    error = outcome(receiver, fault)
    assert (None if error is None else type(error)) is meaning
    if error is not None and fault.status >= 400 and fault.body and b"{" not in fault.body:
        assert fault.body.decode() in str(error)


def test_a_throttled_answer_without_headers_asks_for_no_wait() -> None:
    error = outcome("customerio", Fault(status=429))
    assert error is not None
    assert error.wait is None


def test_a_source_that_is_disabled_pauses_the_destination_in_its_own_words() -> None:
    suite = SUITES["rudderstack"]
    with suite.server() as server, closing(suite.at(server.url).channel()) as channel:
        server.disabled = True
        with pytest.raises(AccountRefused, match="404: source is disabled"):
            channel.send(batch(suite), seconds=5)


@pytest.mark.parametrize("receiver", SUITES)
def test_a_wrong_write_key_pauses_the_destination(receiver: str) -> None:
    suite = SUITES[receiver]
    with suite.server() as server:
        server.write_key = "another"
        with closing(suite.at(server.url).channel()) as channel, pytest.raises(AccountRefused, match="check write_key"):
            channel.send(batch(suite), seconds=5)


@pytest.mark.parametrize(("receiver", "header"), [
    ("segment", "Basic d2tfMDEyMzQ1Njc4OWFiY2RlZjo="), ("jitsu", "Basic d2tfMDEyMzQ1Njc4OWFiY2RlZjo="),
    ("dittofeed", KEY)])
def test_the_write_key_has_its_place(receiver: str, header: str) -> None:
    assert RECEIVERS[receiver].authorization(KEY) == header


@pytest.mark.parametrize(("settings", "said"), [
    ({"receiver": "rudderstack"}, "RudderStack wants url"),
    ({"receiver": "jitsu"}, "Jitsu wants url"),
    ({"receiver": "dittofeed"}, "Dittofeed wants url"),
    ({"receiver": "customerio", "region": "eu"}, "region is of Segment's own hosts; Customer.io wants url"),
    ({"receiver": "somebody"}, "receiver"),
    ({"receiver": "jitsu", "url": "https://j.example/v1/batch", "write_key": "Basic x"}, "one word"),
    ({"receiver": "dittofeed", "url": "https://d.example/b", "write_key": "Basic "}, "one word"),
])
def test_settings_that_do_not_go_together_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Segment.model_validate({"write_key": KEY, **settings})


def test_one_receiver_has_a_host_of_its_own_and_none_of_them_segments_pace() -> None:
    made = Segment.model_validate({"write_key": KEY, "receiver": "customerio"})
    assert made.address == "https://cdp.customer.io/v1/batch"
    assert [suite.made().pace() for suite in SUITES.values()] == [None] * 4
    assert made.pace() is None


@pytest.mark.parametrize("receiver", SUITES)
def test_a_check_says_that_a_wrong_key_will_be_told(receiver: str) -> None:
    suite = SUITES[receiver]
    with suite.server() as server:
        assert "says that a write key is wrong when the first calls are sent" in list(suite.at(server.url).check())[1]
        assert server.bodies == []


def test_larger_calls_fit_where_they_may() -> None:
    call = Call("u", 0, True, '{"note":"' + "x" * 50_000 + '"}')
    taken = {name: bool(Segment.model_validate({"write_key": KEY, "receiver": name, "url": "https://a.example/b"})
                        .packer(content()).pack([call]).batches) for name in RECEIVERS}
    assert taken == {"segment": False, "rudderstack": True, "jitsu": True, "dittofeed": False, "customerio": True}

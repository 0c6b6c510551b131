"""Segment's own client against the server that plays Segment in all other tests, so that it plays by their rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from segment.analytics import request
from segment.analytics.client import Client

from audiencesync.destinations.segment import Segment
from audiencesync.model import Call
from tests.contract import content
from tests.loopback import Fault
from tests.servers import Recorder

KEY = "wk_0123456789abcdef"
PERSONAS = {"personas": {"computation_class": "audience", "computation_key": "vip", "namespace": "shop"}}


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    yield
    request._session.close()


def client(server: Recorder, **settings: Any) -> Client:
    return Client(KEY, host=f"http://{server.host}", **{"sync_mode": True, "max_retries": 3, **settings})


def identify(sender: Client, user: str, value: bool) -> None:
    sender.identify(user, {"vip": value}, context=PERSONAS, timestamp=datetime(2026, 11, 22, tzinfo=UTC))


@pytest.mark.parametrize("gzip", [False, True])
def test_what_the_client_sends_is_taken_and_found_right(gzip: bool) -> None:
    with Recorder(write_key=KEY) as server:
        sender = client(server, gzip=gzip)
        identify(sender, "ann", True)
        identify(sender, "žluťoučký", False)
        assert server.told() == {("vip", "ann"): True, ("vip", "žluťoučký"): False}
        assert server.violations == []
        assert server.changed_message_ids() == []


def test_a_batch_of_the_client_is_read_call_by_call() -> None:
    with Recorder(write_key=KEY) as server:
        sender = client(server, sync_mode=False, upload_size=50)
        for number in range(120):
            identify(sender, f"u{number}", number % 2 == 0)
        sender.shutdown()
        assert server.told() == {("vip", f"u{number}"): number % 2 == 0 for number in range(120)}
        assert 3 <= len(server.bodies) < 120
        assert server.violations == []
        assert server.changed_message_ids() == []


def test_our_call_has_the_fields_that_the_clients_has_with_values_of_the_same_types() -> None:
    with Recorder(write_key=KEY) as server:
        identify(client(server), "ann", True)
        [theirs] = server.calls
    [batch] = Segment.model_validate(Segment.example).packer(content()).pack([Call("ann", 1, True, None)]).batches
    [ours] = orjson.loads(batch.body)["batch"]
    assert {name: type(value) for name, value in ours.items()} == {
        name: type(value) for name, value in theirs.items() if name in ours}
    assert set(theirs) - set(ours) <= {"anonymousId"}
    assert ours["context"]["library"].keys() == theirs["context"]["library"].keys()
    assert datetime.fromisoformat(ours["timestamp"]) == datetime.fromisoformat(theirs["timestamp"])


def test_the_client_understands_what_the_server_refuses() -> None:
    with Recorder(write_key="another") as server, pytest.raises(request.APIError) as refused:
        identify(client(server), "ann", True)
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")
    with Recorder(refuse=["ann"]) as server, pytest.raises(request.APIError) as refused:
        identify(client(server), "ann", True)
    assert (refused.value.status, refused.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("fault", [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=503)])
def test_what_the_client_sends_again_we_send_again(fault: Fault) -> None:
    with Recorder([fault], write_key=KEY) as server:
        sender = client(server, sync_mode=False)
        identify(sender, "ann", True)
        sender.shutdown()
        assert server.told() == {("vip", "ann"): True}
    with Recorder([fault], write_key=KEY) as server:
        destination = Segment.model_validate({"write_key": KEY, "url": server.url})
        [batch] = destination.packer(content()).pack([Call("ann", 1, True, None)]).batches
        with closing(destination.channel()) as channel:
            with pytest.raises(Exception, match=str(fault.status)):
                channel.send(batch, seconds=5)
            channel.send(batch, seconds=5)
        assert server.told() == {("vip", "ann"): True}

"""What every destination promises, as tests that a class inherits: give it its class, and how its bodies are read.

A destination of another package is put under the suite in the same way:

    class TestOurs(HttpDestinationContract):
        destination = Ours
        def at(self, url): return self.made(url=url)
        def read(self, body): return [Told(...), ...]
"""

from __future__ import annotations

import random
import socket
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import orjson
import pytest
from pydantic import SecretStr, ValidationError

from audiencesync.errors import AccountRefused, CallsRefused, DeliveryError, NotTaken, Throttled, Unanswered
from audiencesync.model import Batch, Call, Content, Destination, Envelope, Packed
from tests.loopback import Fault, Loopback, Request, Script
from tests.servers import MESSAGE_ID, Recorder

AWKWARD = ("ann", 'quo"te', "back\\slash", "tab\there", "new\nline", "žluťoučký", "日本", "👩\u200d👧", "\u2028",
           "\x7f", "</script>", "a,b]}", ',{"type":"identify"', "u" * 300, "%s{0}", " lead and trail ")
SECRET = bytes(range(32))


class Told(NamedTuple):
    """One call as a body says it; None where a destination's requests do not carry it."""

    user: str
    key: str
    value: object
    message_id: str | None


class Limits(NamedTuple):
    """What a request may carry: calls, bytes of a body, bytes of a call; None where there is no limit."""

    calls: int | None = None
    body: int | None = None
    call: int | None = None


def envelope(key: str = "order_completed_last_30days", **other: Any) -> Envelope:
    """An envelope as a sync makes it."""
    values = {"id_kind": "user_id", "namespace": "shop", "version": "0.1.0",
              "timestamp": "2026-11-22T00:00:00.000Z", "computation_id": f"aud_{key}"}
    return Envelope(key, **{**values, **other})


def content(*envelopes: Envelope, secret: bytes = SECRET) -> Content:
    """A sync's content; of two audiences unless envelopes are given."""
    return Content(secret, envelopes or (envelope(), envelope("vip")))


class DestinationContract:
    """Promises of every destination; a subclass sets `destination`, `limits`, and writes `place` and `read`."""

    destination: ClassVar[type[Destination]]
    limits: ClassVar[Limits] = Limits()

    @contextmanager
    def place(self, tmp_path: Path) -> Iterator[tuple[Destination, Callable[[], Sequence[Told]]]]:
        """A destination that can be sent to, and a way to see what has arrived there."""
        raise NotImplementedError
        yield

    def read(self, body: bytes) -> Sequence[Told]:
        """The calls of a body."""
        raise NotImplementedError

    def made(self, **settings: object) -> Destination:
        """The destination of the example, with other settings where given."""
        return self.destination.model_validate({**self.destination.example, **settings})

    def packed(self, calls: Sequence[Call], *, secret: bytes = SECRET) -> Packed:
        """The requests of a page."""
        return self.made().packer(content(secret=secret)).pack(calls)

    def included(self, user: str, extra: str = "") -> str | None:
        """Included columns: those the destination needs, and `extra` when given."""
        columns = dict.fromkeys(self.destination.needs, f"{user}@example.com") | ({"note": extra} if extra else {})
        return orjson.dumps(columns).decode() if columns else None

    def page(self, seed: int, users: int = 400) -> list[Call]:
        """A page of both audiences, ordered by user, with ids that break careless rendering."""
        draw = random.Random(seed)
        ids = {*AWKWARD, *("".join(draw.choices(["x", "é", "漢", "🦊", '"', "\\", " "], k=draw.choice((1, 9, 90, 900))))
                           for _ in range(users))}
        return [Call(user, span, draw.random() < 0.5, self.included(user, draw.choice(("", "", user))))
                for user in sorted(ids) for span in (0, 1) if draw.random() < 0.8]

    def test_the_example_is_valid_and_named_by_its_type(self) -> None:
        made = self.made()
        assert isinstance(made, self.destination)
        assert made.type == self.destination.type

    def test_a_setting_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="no_such_setting"):
            self.made(no_such_setting=1)

    def test_secrets_are_not_in_what_is_printed_of_it(self) -> None:
        made = self.made()
        for name in self.destination.model_fields:
            if isinstance(value := getattr(made, name), SecretStr):
                for text in (repr(made), str(made), made.model_dump_json(), str(made.fingerprint())):
                    assert value.get_secret_value() not in text

    def test_every_setting_says_what_it_is_for(self) -> None:
        assert [name for name, field in self.destination.model_fields.items() if not field.description] == []

    def test_nothing_is_sent_for_nothing(self) -> None:
        assert self.packed([]) == Packed((), ())

    @pytest.mark.parametrize("seed", range(6))
    def test_every_call_is_carried_once_and_in_order(self, seed: int) -> None:
        calls = self.page(seed)
        packed = self.packed(calls)
        assert packed.refused == ()
        assert [call for batch in packed.batches for call in batch.calls] == calls
        keys = [made.key for made in content().envelopes]
        told = [told[:3] for batch in packed.batches for told in self.read(batch.body)]
        assert told == [(call.user_id, keys[call.span], call.value) for call in calls]

    def test_membership_is_a_json_boolean(self) -> None:
        packed = self.packed([Call("a", 0, True, self.included("a")), Call("b", 0, False, self.included("b"))])
        values = [told.value for batch in packed.batches for told in self.read(batch.body)]
        assert values[0] is True
        assert values[1] is False

    @pytest.mark.parametrize("size", [1, 40, 450, 31_000, 32_100, 40_000])
    @pytest.mark.parametrize("letter", ["x", "漢", "🦊", '"', "\x01"])
    def test_limits_hold_whatever_the_sizes(self, size: int, letter: str) -> None:
        draw = random.Random(size)
        calls = [Call(f"{number:05}", 0, True, self.included(str(number), letter * draw.randint(1, size)))
                 for number in range(2600 if size < 100 else 130)]
        packed = self.packed(calls)
        refused = [call for call, _ in packed.refused]
        carried = [call for batch in packed.batches for call in batch.calls]
        assert sorted(carried + refused) == calls
        assert carried == sorted(carried)
        for batch in packed.batches:
            assert 0 < len(batch.calls) <= (self.limits.calls or len(calls))
            assert len(batch.body) <= (self.limits.body or len(batch.body))
            assert [told.user for told in self.read(batch.body)] == [call.user_id for call in batch.calls]
        for call, refusal in packed.refused:
            assert self.limits.call is not None
            assert len(call.included.encode()) > self.limits.call - 2000
            assert "too large" in refusal.reason

    def test_the_same_content_gives_the_same_bytes(self) -> None:
        calls = self.page(7)
        assert self.packed(calls) == self.packed(list(calls))

    def test_a_page_does_not_depend_on_the_pages_before_it(self) -> None:
        calls = self.page(8)
        packer = self.made().packer(content())
        packer.pack(calls[:100])
        assert packer.pack(calls[100:]) == self.packed(calls[100:])

    def test_message_ids_are_unique_in_a_sync_and_new_in_the_next(self) -> None:
        calls = self.page(9)
        first, second = ([told.message_id for batch in self.packed(calls, secret=secret).batches
                          for told in self.read(batch.body) if told.message_id is not None]
                         for secret in (SECRET, SECRET[::-1]))
        assert len({*first, *second}) == len(first) + len(second)
        assert all(MESSAGE_ID.fullmatch(name) for name in (*first, *second))

    def test_what_is_sent_arrives(self, tmp_path: Path) -> None:
        with self.place(tmp_path) as (placed, arrived):
            packed = placed.packer(content()).pack(self.page(10))
            with closing(placed.channel()) as channel:
                for batch in packed.batches:
                    assert channel.send(batch, seconds=10) == {}
            assert list(arrived()) == [told for batch in packed.batches for told in self.read(batch.body)]

    def test_a_check_writes_nothing(self, tmp_path: Path) -> None:
        with self.place(tmp_path) as (placed, arrived):
            list(placed.check())
            assert list(arrived()) == []


MEANINGS = [
    *((status, CallsRefused) for status in (400, 413, 422)),
    *((status, AccountRefused) for status in (401, 403, 404, 405, 410, 301, 302, 307, 308)),
    (429, Throttled),
    *((status, Unanswered) for status in (408, 425, 500, 502, 503, 504)),
    *((kind, Unanswered) for kind in ("drop", "accept_then_drop", "hang", "drip", "drip_headers", "endless",
                                      "huge_header", "truncated", "unframed", "garbage")),
]


class HttpDestinationContract(DestinationContract):
    """Promises of destinations on the network; a subclass writes `at`, `read`, and `server` if it is not Segment's."""

    def at(self, url: str) -> Destination:
        """The destination with its address on loopback."""
        raise NotImplementedError

    def server(self, script: Script = ()) -> Loopback:
        """A recording server of this destination's kind."""
        return Recorder(script)

    def arrived(self, server: Loopback) -> Sequence[Told]:
        """What a server was told, in order."""
        return [told for body in server.bodies for told in self.read(body)]

    @contextmanager
    def place(self, tmp_path: Path) -> Iterator[tuple[Destination, Callable[[], Sequence[Told]]]]:
        with self.server() as server:
            yield self.at(server.url), lambda: self.arrived(server)

    def batch(self) -> Batch:
        """One request."""
        return self.packed([Call("ann@example.com", 0, True, self.included("ann", "a secret of hers"))]).batches[0]

    def failure(self, fault: Fault | int | str, *, seconds: float = 0.4) -> DeliveryError:
        """What a channel raises for a fault; the same channel then delivers the same batch."""
        with self.server([fault]) as server, closing(self.at(server.url).channel()) as channel:
            with pytest.raises(DeliveryError) as raised:
                channel.send(self.batch(), seconds=seconds)
            assert channel.send(self.batch(), seconds=10) == {}
            assert self.arrived(server)[-1] == self.read(self.batch().body)[-1]
        return raised.value

    @pytest.mark.parametrize(("fault", "meaning"), MEANINGS, ids=lambda value: getattr(value, "__name__", str(value)))
    def test_a_fault_means_the_same_everywhere(self, fault: int | str, meaning: type[DeliveryError]) -> None:
        error = self.failure(fault, seconds=5 if isinstance(fault, int) else 0.4)
        assert type(error) is meaning
        assert error.status == (fault if isinstance(fault, int) else error.status)

    def test_an_address_where_nobody_listens_takes_nothing(self) -> None:
        with self.server() as server:
            url = server.url
        with closing(self.at(url).channel()) as channel, pytest.raises(NotTaken):
            channel.send(self.batch(), seconds=5)

    def test_a_wait_that_is_asked_for_is_passed_on(self) -> None:
        assert self.failure(Fault(status=429, headers={"Retry-After": "7"})).wait == 7

    def test_an_endless_answer_is_not_kept(self) -> None:
        self.failure("endless")  # imports and connections are paid for
        tracemalloc.start()
        try:
            self.failure("endless")
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()

    def test_a_redirect_is_not_followed(self) -> None:
        with self.server() as elsewhere:
            moved = Fault(status=307, headers={"Location": elsewhere.url})
            with self.server([moved]) as server, closing(self.at(server.url).channel()) as channel, \
                    pytest.raises(AccountRefused, match="redirect"):
                channel.send(self.batch(), seconds=5)
            assert elsewhere.requests == 0

    @pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
    def test_an_error_repeats_no_secret_and_nobody(self, status: int) -> None:
        def echo(number: int, request: Request) -> Fault:
            said = f"{' '.join(request.headers.values())} \x1b[31m\n".encode()
            return Fault(status=status, body=(said if number % 2 else b"") + request.body)

        made = self.made()
        secrets = [value.get_secret_value() for name in self.destination.model_fields
                   if isinstance(value := getattr(made, name), SecretStr)]
        with self.server(echo) as server, closing(self.at(server.url).channel()) as channel:
            for _ in range(2):
                with pytest.raises(DeliveryError) as raised:
                    channel.send(self.batch(), seconds=5)
                said = str(raised.value)
                assert str(status) in said
                assert said.isprintable()
                assert not [word for word in (*secrets, "ann@example.com", "of hers", "Basic ey") if word in said]

    def test_an_address_that_cannot_be_reached_fails_the_check(self) -> None:
        with closing(socket.socket()) as closed:
            closed.bind(("127.0.0.1", 0))
            with pytest.raises(DeliveryError):
                list(self.at(f"http://127.0.0.1:{closed.getsockname()[1]}/v1/batch").check())

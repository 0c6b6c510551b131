"""What every destination on the network promises besides: whatever a server does, each call's fate is known or open."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

import pytest
from pydantic import SecretStr

from audiencesync.errors import (
    AccountRefused,
    CallsRefused,
    DeliveryError,
    KeyRefused,
    NotTaken,
    NotThere,
    Throttled,
    Unanswered,
)
from audiencesync.model import Batch, Call, Channel, Destination, Receipt
from audiencesync.testing.contract import DestinationContract, Place
from audiencesync.testing.loopback import Answer, Fault, Loopback, Request, Script
from audiencesync.testing.pages import email

MEANINGS = [
    *((status, CallsRefused) for status in (400, 413, 422)),
    *((status, KeyRefused) for status in (401, 403)),
    *((status, AccountRefused) for status in (404, 405, 410, 301, 302, 307, 308)),
    (429, Throttled),
    *((status, Unanswered) for status in (408, 425, 500, 502, 503, 504)),
    *((kind, Unanswered) for kind in ("drop", "accept_then_drop", "hang", "drip", "drip_headers", "endless",
                                      "huge_header", "truncated", "unframed", "garbage")),
]
"""What may happen to a request, and the error that it is everywhere."""


HTML = Fault(body=b"<html><body>Welcome to the hotel</body></html>", taken=False)


class Anybody(Loopback):
    """Answers every request with the same words, those of a class's `example_answer`, or an empty JSON object."""

    def __init__(self, script: Script = (), *, path: str = "/", words: bytes = b"{}") -> None:
        super().__init__(script)
        self.path, self._words = path, words

    def answer(self, request: Request, *, taken: bool) -> Answer:
        """A yes to whatever comes."""
        return Answer(200, self._words)


class HttpDestinationContract(DestinationContract):
    """Promises of destinations with a setting `url`; a subclass writes `server` where it has one that knows the API.

    `answers_json` says that a 2xx which is no JSON is none of the API's answers.
    """

    answers_json: ClassVar[bool] = False

    def at(self, url: str) -> Destination:
        """The destination with its address on loopback."""
        return self.made(url=url, **({"allow_http": True} if "allow_http" in self.destination.model_fields else {}))

    def server(self, script: Script = ()) -> Loopback:
        """A server of this destination's kind; one with a method `holds` tells the suite what has arrived."""
        address = str(self.destination.example.get("url", "/"))
        words = self.destination.example_answer or b"{}"
        return Anybody(script, path=urlsplit(address).path or "/", words=words)

    @contextmanager
    def place(self, tmp_path: Path) -> Iterator[Place]:
        """The destination on loopback; a server's `violations` are found when the test is over."""
        with self.server() as server:
            yield Place(self.at(server.url), getattr(server, "holds", None), server, opened=self.opened)
            assert not getattr(server, "violations", [])

    def batch(self) -> Batch:
        """The first request about one user."""
        return self.packed([self.call("ann@example.com", note="a secret of hers")]).batches[0]

    @contextmanager
    def faulty(self, script: Script) -> Iterator[tuple[Loopback, Channel]]:
        """A channel to a server that has everything declared, and does from now on as the script says."""
        with self.server() as server:
            place = Place(self.at(server.url), server=server)
            place.declare()
            server.requests, server.script = 0, script
            with closing(place.destination.channel()) as channel:
                yield server, channel

    def failure(self, fault: Fault | int | str, *, seconds: float = 0.4) -> DeliveryError | None:
        """What a channel raises for a fault, None where it refuses the one call; then it delivers the same batch."""
        batch, raised = self.batch(), None
        with self.faulty([fault]) as (_, channel):
            try:
                assert not taken(batch, channel, seconds), "a fault was taken for a yes"
            except DeliveryError as error:
                raised = error
            assert len(taken(batch, channel, 10)) == len(batch.calls)
        return raised

    @pytest.mark.parametrize(("fault", "meaning"), MEANINGS, ids=lambda value: getattr(value, "__name__", str(value)))
    def test_a_fault_means_the_same_everywhere(self, fault: int | str, meaning: type[DeliveryError]) -> None:
        """What is known of the calls follows from the kind of fault alone; a 404 may be about the one user."""
        error = self.failure(fault, seconds=5 if isinstance(fault, int) else 0.4)
        if error is None:
            assert meaning is CallsRefused or fault == 404
        elif not (fault == 404 and isinstance(error, NotThere)):
            assert type(error) is meaning
            assert error.status == (fault if isinstance(fault, int) else error.status)

    def test_an_address_where_nobody_listens_takes_nothing(self) -> None:
        """A server that restarts has taken nothing for sure."""
        with self.server() as server:
            url = server.url
        with closing(self.at(url).channel()) as channel, pytest.raises(NotTaken):
            channel.send(self.batch(), seconds=5)

    def test_a_wait_that_is_asked_for_is_passed_on(self) -> None:
        """Asking again sooner makes it worse."""
        error = self.failure(Fault(status=429, headers={"Retry-After": "7"}))
        assert error is not None
        assert error.wait == 7

    def test_an_endless_answer_is_not_kept(self) -> None:
        """Memory is bounded, whatever the server says."""
        self.failure("endless")  # imports and connections are paid for
        tracemalloc.start()
        try:
            self.failure("endless")
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()

    def test_a_redirect_is_not_followed(self) -> None:
        """Keys and people go where the settings say and nowhere else."""
        with Anybody() as elsewhere:
            moved = Fault(status=307, headers={"Location": elsewhere.url})
            with self.faulty([moved]) as (_, channel), pytest.raises(AccountRefused):
                channel.send(self.batch(), seconds=5)
            assert elsewhere.requests == 0

    @pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500])
    def test_an_error_repeats_no_secret_and_nobody(self, status: int) -> None:
        """Servers like to repeat what they were sent, and errors end in logs and reports."""
        def echo(number: int, request: Request) -> Fault:
            said = f"{' '.join(request.headers.values())} {request.path} \x1b[31m\n".encode()
            return Fault(status=status, body=(said if number % 2 else b"") + request.body)

        made, batch = self.made(), self.batch()
        secrets = [value.get_secret_value() for name in self.destination.model_fields
                   if isinstance(value := getattr(made, name), SecretStr)]
        nobody = (*secrets, "ann@example.com", quote("ann@example.com", safe=""), email("ann@example.com"), "of hers",
                  "Basic ey")
        with self.faulty(echo) as (_, channel):
            for _ in range(2):
                try:
                    answer = channel.send(batch, seconds=5)
                    refused = answer.refused if isinstance(answer, Receipt) else answer
                    said = " ".join(refusal.reason for refusal in refused.values())
                except DeliveryError as error:
                    said = str(error)
                    assert str(status) in said
                assert said.isprintable()
                assert not [word for word in nobody if word in said]

    def test_a_check_writes_nothing(self, tmp_path: Path) -> None:
        """`doctor` may be typed at any time."""
        seen: list[str] = []
        with self.server() as server:
            server.script = lambda _, request: seen.append(request.method)  # which is no fault
            try:
                list(self.at(server.url).check())
            except DeliveryError:
                assert isinstance(server, Anybody), "the check failed though all is well"
        assert {*seen} <= {"GET", "HEAD", "OPTIONS"}

    def test_an_address_that_cannot_be_reached_fails_the_check(self) -> None:
        """`doctor` says it before the first sync does."""
        if self.destination.check is Destination.check:
            pytest.skip(f"{self.destination.type} has no check of its own")
        with closing(socket.socket()) as closed:
            closed.bind(("127.0.0.1", 0))
            with pytest.raises(DeliveryError):
                list(self.at(f"http://127.0.0.1:{closed.getsockname()[1]}/v1/batch").check())

    def test_a_refused_user_loses_no_neighbour(self, tmp_path: Path) -> None:
        """One whom the destination will not take is rejected, and told by name."""
        bad = "zz-never"
        calls = sorted([*self.page(6), self.call(bad), self.call(bad, 1)])
        signs = [spelling.encode() for name in (bad, email(bad)) for spelling in (name, quote(name, safe=""))]

        def refusing(_: int, request: Request) -> int | None:
            return 400 if any(sign in request.body + request.path.encode() for sign in signs) else None

        with self.place(tmp_path) as place:
            assert place.server
            place.server.script = refusing
            journal = place.bring(calls)
            assert journal.stop.finished, journal.stop.reason
            assert {call.user_id for call, _ in journal.refused} == {bad}
            assert sorted([*journal.accepted.elements(), *(call for call, _ in journal.refused)]) == calls
            place.check([call for call in calls if call.user_id != bad])

    @pytest.mark.parametrize("fault", [503, 429, "accept_then_drop", "truncated", HTML],
                             ids=["503", "429", "accept_then_drop", "truncated", "html"])
    def test_a_fault_at_any_request_changes_nothing_in_the_end(self, tmp_path: Path, fault: Fault | int | str) -> None:
        """Every third request fails, in whatever wave it is; a proxy's page is none of an API's answers."""
        calls, turns = self.page(8)[:60], count()
        with self.place(tmp_path) as place:
            assert place.server
            place.server.script = lambda *_: None if next(turns) % 3 else fault
            journal = place.bring(calls)
            knows = fault is not HTML or self.answers_json or bool(self.destination.example_answer)
            assert bool(journal.errors) == knows, "whoever answers anything at all takes a page of HTML for an answer"
            assert journal.stop.finished, journal.stop.reason
            assert sorted(journal.accepted.elements()) == calls
            if knows:
                place.check(calls)

    def test_a_key_that_is_refused_rejects_nobody(self, tmp_path: Path) -> None:
        """Everything is kept for when there is a valid one."""
        with self.place(tmp_path) as place:
            assert place.server
            place.server.script = lambda *_: 401
            journal = place.bring(self.page(7))
            assert journal.stop.pause
            assert not journal.refused
            assert not [call for batch in journal.sent for call in batch.calls if call in journal.accepted]


def taken(batch: Batch, channel: Channel, seconds: float) -> Sequence[Call]:
    """The calls of a batch that the answer to it takes, or learns something of. Raises a DeliveryError."""
    answer = channel.send(batch, seconds=seconds)
    receipt = answer if isinstance(answer, Receipt) else Receipt(answer)
    return [call for index, call in enumerate(batch.calls) if index not in {*receipt.refused, *receipt.again}]

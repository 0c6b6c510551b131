"""The webhook: the contract of destinations, its signature, and what a receiver may answer."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from contextlib import closing

import orjson
import pytest
from pydantic import ValidationError

from audiencesync.destinations.segment import Segment
from audiencesync.destinations.webhook import Webhook
from audiencesync.errors import AccountRefused, Unanswered
from audiencesync.model import Batch, Call
from tests.contract import HttpDestinationContract, Limits, content
from tests.documents import blocks
from tests.loopback import Answer, Fault, Loopback, Request, Script
from tests.servers import said_in, user_of

SECRET = str(Webhook.example["secret"])


class Receiver(Loopback):
    """A receiver of somebody's own: looks at the signature, knows each messageId once, refuses by name."""

    path = "/hooks/T0PS3CRETPATH"

    def __init__(self, script: Script = (), *, secret: str | None = SECRET) -> None:
        super().__init__(script)
        self.secret = secret
        self.refuse: set[str] = set()
        self.seen: dict[str, bytes] = {}
        self.people: dict[tuple[str, str], object] = {}
        self.violations: list[str] = []

    def holds(self) -> dict[tuple[str, str], object]:
        return self.people

    def answer(self, request: Request, *, taken: bool) -> Answer:
        if request.method != "POST":
            return Answer(405)
        if self.secret is not None:
            wanted = hmac.new(self.secret.encode(), request.body, hashlib.sha256).hexdigest()
            if request.headers.get("x-audiencesync-signature") != f"sha256={wanted}":
                return Answer(401, b"who are you?")
        if not taken:
            return Answer()
        errors = []
        with self._lock:
            for call in orjson.loads(request.body)["batch"]:
                name, raw = call["messageId"], orjson.dumps(call)
                if user_of(call) in self.refuse:
                    errors.append({"messageId": name, "reason": f"{user_of(call)} is not ours"})
                elif self.seen.setdefault(name, raw) != raw:
                    self.violations.append(f"{name} came with two bodies")
                else:
                    self.people |= {(user, key): value for user, key, value in said_in([call])}
        return Answer(200, orjson.dumps({"errors": errors}))


class Listener(Loopback):
    """Remembers signatures and bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str | None, bytes]] = []

    def answer(self, request: Request, *, taken: bool) -> Answer:
        self.seen.append((request.headers.get("x-audiencesync-signature"), request.body))
        return Answer()


class TestWebhook(HttpDestinationContract):
    destination = Webhook
    limits = Limits(calls=500, body=1_000_000, call=1_000_000)

    def server(self, script: Script = ()) -> Receiver:
        return Receiver(script)

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]]:
        return said_in(orjson.loads(batch.body)["batch"])


def batch(*users: str, **settings: object) -> Batch:
    made = Webhook.model_validate({**Webhook.example, **settings})
    [packed] = made.packer(content()).pack([Call(user, 0, True, None) for user in users]).batches
    return packed


def send(server: Loopback, sent: Batch, **settings: object) -> dict[int, str]:
    with closing(Webhook.model_validate({**Webhook.example, "url": server.url, **settings}).channel()) as channel:
        return {at: refusal.reason for at, refusal in channel.send(sent, seconds=5).items()}


def test_a_body_is_what_segment_would_be_sent() -> None:
    calls = [Call("ann", 0, True, '{"email":"a@b.co"}'), Call("bob", 1, False, None)]
    ours, segments = (made.model_validate(made.example).packer(content()).pack(calls) for made in (Webhook, Segment))
    assert ours == segments


def test_the_signature_is_the_documented_one() -> None:
    with Listener() as server:
        send(server, Batch((), b'{"batch":[]}'), secret="key")
    assert server.seen == [("sha256=328fff876cb3d0933edc8407fb2470c485f019805f026f31bc6c458ad12452cf", b'{"batch":[]}')]


def test_the_readmes_receiver_knows_our_calls_from_anybodys() -> None:
    code = next((block for block in blocks("py") if "def is_ours(" in block), None)
    if code is None:
        pytest.skip("the README does not say yet how a signature is looked at")
    theirs: dict = {}
    exec(compile(code, "receiver.py", "exec"), theirs)
    with Listener() as server:
        send(server, batch("ann", "žluťoučký"))
    [(signature, body)] = server.seen
    assert theirs["is_ours"](body, signature, SECRET) is True
    assert [theirs["is_ours"](*other) for other in (
        (body + b" ", signature, SECRET), (body, signature, "another"), (body, "", SECRET))] == [False] * 3


def test_a_retry_is_the_same_bytes_with_the_same_signature() -> None:
    with Listener() as server:
        send(server, batch("ann"))
        send(server, batch("ann"))
    assert server.seen[0] == server.seen[1]


def test_nothing_is_signed_without_a_secret_and_the_check_warns_of_it() -> None:
    with Receiver(secret=None) as server:
        made = Webhook.model_validate({"url": server.url})
        assert any(line.startswith("warning: without a secret") for line in made.check())
        signed = Webhook.model_validate({"url": server.url, "secret": "x"})
        assert not any("warning" in line for line in signed.check())
    with Listener() as server:
        send(server, batch("ann"), secret=None)
    assert server.seen == [(None, batch("ann").body)]


def test_a_wrong_secret_pauses_the_destination_and_says_which_setting() -> None:
    with Receiver() as server, pytest.raises(AccountRefused, match=r"401: who are you\?; check secret"):
        send(server, batch("ann"), secret="another")


def test_calls_that_an_answer_names_are_refused_with_its_reason_and_no_others() -> None:
    with Receiver() as server:
        server.refuse = {"berta", "carla"}
        assert send(server, batch("anna", "berta", "carla")) == {1: "*** is not ours", 2: "*** is not ours"}
        assert {user for user, _ in server.people} == {"anna"}


@pytest.mark.parametrize("words", [b"", b"OK", b"<html>thanks</html>", b"null", b"[]", b'{"errors": []}', b'"errors"',
                                   b'{"errors": null}', b'{"note": "\\"errors\\""}', b'{"errors"'])
def test_any_other_2xx_takes_everything(words: bytes) -> None:
    for status in (200, 202):
        with Loopback([Fault(status=status, body=words)]) as server:
            assert send(server, batch("ann")) == {}


@pytest.mark.parametrize("errors", [["no"], [{}], [{"messageId": "nobody", "reason": "x"}], [{"messageId": 5}], "all",
                                    {"messageId": "x"}, True])
def test_errors_that_name_no_call_leave_everything_open(errors: object) -> None:
    answer = orjson.dumps({"errors": errors})
    with Loopback([Fault(body=answer)]) as server, pytest.raises(Unanswered, match="not which"):
        send(server, batch("ann"))


def test_a_refusal_without_a_reason_says_so() -> None:
    sent = batch("ann")
    name = orjson.loads(sent.body)["batch"][0]["messageId"]
    with Loopback([Fault(body=orjson.dumps({"errors": [{"messageId": name}]}))]) as server:
        assert send(server, sent) == {0: "the receiver gives no reason"}


def test_batches_are_as_large_as_the_setting_says() -> None:
    made = Webhook.model_validate({**Webhook.example, "batch": 7})
    packed = made.packer(content()).pack([Call(f"u{number:02}", 0, True, None) for number in range(20)])
    assert [len(one.calls) for one in packed.batches] == [7, 7, 6]


def test_a_secret_in_the_path_is_not_repeated() -> None:
    with Loopback(lambda _, request: Fault(status=400, body=f"nothing at {request.path}".encode())) as server:
        server.url += "hooks/T0PS3CRETPATH?key=ANOTHERS3CRET"
        with pytest.raises(Exception, match="nothing at") as raised:
            send(server, batch("ann"))
    assert "S3CRET" not in str(raised.value)


def test_another_url_is_another_receiver_and_another_secret_is_not() -> None:
    one = Webhook.model_validate(Webhook.example)
    assert one.fingerprint() == Webhook.model_validate({**Webhook.example, "secret": "new", "batch": 3}).fingerprint()
    assert one.fingerprint() != Webhook.model_validate({**Webhook.example, "url": "https://b.example/x"}).fingerprint()


@pytest.mark.parametrize(("settings", "said"), [
    ({"url": "http://a.example/b"}, "allow_http: true"), ({"url": "https://u:pw@a.example/"}, "user or password"),
    ({"secret": ""}, "is the variable set"), ({"batch": 0}, "greater than or equal to 1")])
def test_settings_that_cannot_be_are_refused_with_a_reason(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Webhook.model_validate({**Webhook.example, **settings})

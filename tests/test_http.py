"""Requests: what each answer means, that every one ends, and what may be repeated of a server's words."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiencesync.errors import (
    AccountRefused,
    CallsRefused,
    DeliveryError,
    NotTaken,
    TakenAlready,
    Throttled,
    Unanswered,
)
from audiencesync.http import Client, Reply
from audiencesync.http.answers import Asked, asked_wait, judge, quote
from tests.loopback import Answer, Fault, Loopback, Request

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
ASKED = Asked("a.example", "write_key", "url", ("hunter22",), b'{"userId":"u1234","traits":{"vip":true,"city":"Bern"}}')


class Listener(Loopback):
    """Remembers headers and bodies."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)
        self.seen: list[tuple[dict[str, str], bytes]] = []

    def answer(self, request: Request, *, taken: bool) -> Answer:
        self.seen.append((dict(request.headers), request.body))
        return Answer()


@pytest.fixture
def client() -> Iterator[Client]:
    with closing(Client(account="write_key")) as made:
        yield made


def error_of(client: Client, *script: Fault | int | str, seconds: float = 5, body: bytes = b"{}") -> DeliveryError:
    with Loopback(list(script)) as server, pytest.raises(DeliveryError) as raised:
        client.post(server.url, body, {}, seconds=seconds)
    return raised.value


@pytest.mark.parametrize("status", range(300, 600))
def test_every_status_has_a_meaning_and_only_known_refusals_cost_a_call(status: int) -> None:
    with pytest.raises(DeliveryError) as raised:
        judge(status, {}, b"why", ASKED)
    kind = type(raised.value)
    assert (kind is CallsRefused) == (status in {400, 413, 414, 422})
    assert (kind is TakenAlready) == (status == 409)
    assert (kind is Throttled) == (status in {420, 429})
    assert (kind is Unanswered) == (status >= 500 or status in {408, 423, 425, 460, 499})
    assert raised.value.status == status
    assert f"a.example answered {status}: why" in str(raised.value)


@pytest.mark.parametrize(("status", "advice"), [
    (401, "check write_key"), (403, "check write_key"), (404, "check url"), (301, "redirect.*check url")])
def test_a_refused_account_says_which_setting_to_check(status: int, advice: str) -> None:
    with pytest.raises(AccountRefused, match=advice):
        judge(status, {}, b"", ASKED)


@pytest.mark.parametrize(("headers", "wait"), [
    ({}, None), ({"retry-after": "7"}, 7), ({"retry-after": " 1.5 "}, 1.5), ({"retry-after": "0"}, 0),
    ({"retry-after": "9" * 4000}, 3600), ({"retry-after": "86400"}, 3600),
    ({"retry-after": "nan"}, None), ({"retry-after": "inf"}, None), ({"retry-after": "-5"}, None),
    ({"retry-after": "1e9"}, None), ({"retry-after": "١٢"}, None), ({"retry-after": ""}, None),
    ({"retry-after": "soon"}, None), ({"retry-after": "Sun, 99 Nov 2026 99:99:99 GMT"}, None),
    ({"retry-after": "Sun, 22 Nov 99999999999 12:00:30 GMT"}, None),
    ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30), ({"retry-after": "Sun, 22 Nov 2026 12:00:30 -0000"}, 30),
    ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0), ({"retry-after": "Mon, 22 Nov 2027 12:00:30 GMT"}, 3600),
    ({"x-ratelimit-reset": "12"}, 12), ({"retry-after": "3", "x-ratelimit-reset": "12"}, 3),
    ({"retry-after": "soon", "x-ratelimit-reset": "12"}, 12), ({"x-ratelimit-reset": "-1"}, None),
    ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 20)}, 20), ({"x-ratelimit-reset": "1600000000"}, 0)])
def test_a_wait_is_read_as_seconds_or_a_date_and_nonsense_is_none(headers: dict, wait: float | None) -> None:
    assert asked_wait(headers, NOW) == wait


@pytest.mark.parametrize("status", [429, 503, 408])
def test_a_wait_comes_with_what_is_to_be_tried_again(client: Client, status: int) -> None:
    assert error_of(client, Fault(status=status, headers={"Retry-After": "12"})).wait == 12


@pytest.mark.parametrize(("said", "shown"), [
    (b"write key is wrong", "write key is wrong"),
    (b"  two\r\nlines\x1b[2J\t\x00 ", "two\\r\\nlines\\x1b[2J\\t\\x00"),
    ("na\u202eïve".encode(), "na\\u202eïve"),
    (b"\xff\xfe", "\ufffd\ufffd"),
    (b"x " * 1000, ("x " * 1000)[:200]),
    (b"your key hunter22 is wrong", "your key *** is wrong"),
    (b"user u1234 of Bern is unknown", "user *** of *** is unknown"),
    (b"userId u1234.", "userId ***"),
    (b'{"error":"no mail to ann@b.co, please"}', '{"error":"no mail to ***, please"}'),
    (b"traits.vip must be text", "traits.vip must be text"),
])
def test_a_servers_words_are_cut_made_printable_and_masked(said: bytes, shown: str) -> None:
    assert quote(said, ASKED) == shown


@given(st.text(), st.text())
def test_no_header_makes_a_wait_of_nonsense(retry_after: str, reset: str) -> None:
    wait = asked_wait({"retry-after": retry_after, "x-ratelimit-reset": reset}, NOW)
    assert wait is None or 0 <= wait <= 3600


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_whatever_a_server_says_can_be_shown_on_one_line(said: bytes) -> None:
    shown = quote(said, ASKED)
    assert shown.isprintable()
    assert "\n" not in shown


def test_a_secret_at_the_cut_does_not_show_its_beginning() -> None:
    assert "hun" not in quote(b"x" * 196 + b" hunter22", ASKED)


def test_an_answer_is_given_back_with_its_body(client: Client) -> None:
    with Listener([Fault(status=202, body=b"taken")]) as server:
        assert client.post(server.url, b"{}", {"X-A": "b"}, seconds=5) == Reply(202, b"taken")
        headers, body = server.seen[0]
    assert body == b"{}"
    assert headers["x-a"] == "b"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("audiencesync/")


def test_a_connection_is_kept_and_made_anew_when_it_is_gone(client: Client) -> None:
    with Loopback([None, None, "drop", None, "truncated", None]) as server:
        for _ in range(6):
            try:
                client.post(server.url, b"{}", {}, seconds=5)
            except Unanswered:
                continue
        assert server.connections == 3


def test_a_client_works_on_after_it_was_closed(client: Client) -> None:
    with Loopback() as server:
        client.post(server.url, b"{}", {}, seconds=5)
        client.close()
        assert client.post(server.url, b"{}", {}, seconds=5).status == 200


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("kind", ["endless", "drip", "truncated"])
def test_a_status_that_refuses_speaks_for_itself_however_its_body_ends(
        client: Client, kind: str, status: int) -> None:
    assert error_of(client, Fault(kind, status=status), seconds=0.3).status == status


def test_a_proxy_in_the_environment_is_not_asked(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Loopback() as server:
        assert client.post(server.url, b"{}", {}, seconds=5).status == 200


@pytest.mark.parametrize("url", ["https://a..b/", "ftp://a.example/", "https://127.0.0.1:99999/"])
def test_an_address_that_cannot_be_names_the_setting(client: Client, url: str) -> None:
    with pytest.raises((AccountRefused, NotTaken), match=r"check url|cannot be reached"):
        client.post(url, b"{}", {}, seconds=5)


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_byte_leaves_when_there_is_no_time_left(client: Client, seconds: float) -> None:
    with Loopback() as server:
        client.post(server.url, b"{}", {}, seconds=5)
        with pytest.raises(NotTaken, match="no time was left"):
            client.post(server.url, b"{}", {}, seconds=seconds)
        assert server.requests == 1


def test_a_server_that_does_not_read_is_given_up(client: Client) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        with pytest.raises(Unanswered, match=r"no whole answer within 0\.3 s"):
            client.post(url, b"x" * 20_000_000, {}, seconds=0.3)


def test_many_deadlines_pass_side_by_side_each_at_its_own_server() -> None:
    found: list[type] = []

    def run(url: str, seconds: float) -> None:
        with closing(Client()) as client:
            try:
                found.append(type(client.post(url, b"{}", {}, seconds=seconds)))
            except DeliveryError as error:
                found.append(type(error))

    with Loopback(lambda number, request: "drip" if b"slow" in request.body else None) as fine, \
            Loopback(lambda number, request: "drip") as slow:
        threads = [threading.Thread(target=run, args=(url, 0.2 + 0.05 * number))
                   for number in range(6) for url in (fine.url, slow.url)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(kind.__name__ for kind in found) == ["Reply"] * 6 + ["Unanswered"] * 6


def test_reaching_a_server_takes_any_answer_and_gives_no_credentials(client: Client) -> None:
    with Listener([405]) as server:
        assert client.reach(server.url, seconds=5) == 405
        headers, body = server.seen[0]
    assert "authorization" not in headers
    assert body == b""


def test_addresses_are_not_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Loopback() as server:
        client.post(f"{server.url}?token=hidden", b"{}", {}, seconds=5)
    assert "hidden" not in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here to make a certificate")
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out", f"{path}.c"],
                   check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.c").read_bytes())
    return path


class Encrypted(Loopback):
    """The same behind TLS."""

    def __init__(self, certificate: Path, *script: Fault | int | str | None) -> None:
        super().__init__(list(script))
        self.certificate = certificate

    def __enter__(self) -> Self:
        super().__enter__()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.encrypt(context)
        self.url = self.url.replace("http://127.0.0.1", "https://localhost")
        return self


def test_a_certificate_that_nobody_vouches_for_takes_nothing(certificate: Path, client: Client) -> None:
    os.environ["SSL_CERT_FILE"] = str(certificate)  # what the environment trusts is no reason either
    try:
        with Encrypted(certificate) as server, pytest.raises(NotTaken, match="certificate"):
            client.post(server.url, b"{}", {}, seconds=5)
        assert server.requests == 0
    finally:
        del os.environ["SSL_CERT_FILE"]


TRUSTING = """
import ssl, sys
from contextlib import closing
from audiencesync import http
from audiencesync.errors import TakenAlready, Throttled, Unanswered
context = ssl.create_default_context(cafile=sys.argv[2])
http.httpx.create_ssl_context = lambda **_: context
with closing(http.Client()) as client:
    print(client.post(sys.argv[1], b"{}", {}, seconds=5).status)
    try:
        client.post(sys.argv[1], b"{}", {}, seconds=0.5)
    except Unanswered as error:
        print(error)
    print(client.post(sys.argv[1], b"{}", {}, seconds=5).status)
"""


def test_a_deadline_ends_a_dripping_answer_under_tls_too(certificate: Path) -> None:
    with Encrypted(certificate, None, "drip", None) as server:
        run = subprocess.run([sys.executable, "-c", TRUSTING, server.url, certificate], check=True, text=True,
                             capture_output=True, timeout=60)
    said = run.stdout.splitlines()
    assert (said[0], said[2]) == ("200", "200")
    assert "no whole answer within 0.5 s" in said[1]

"""The listener: what it answers, and that no client can hold it, fill it or learn more from it than the pages."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from audiencesync.errors import UsageError
from audiencesync.service import listener as module
from audiencesync.service.listener import MOST, Listener, Page, parse_address

SECRET = "password=hunter2"


def broken() -> Page:
    raise RuntimeError(SECRET)


PAGES = {
    "/healthz": lambda: Page(200, "alive\n"),
    "/readyz": lambda: Page(503, "the state does not answer: é\n"),
    "/metrics": lambda: Page(200, b"up 1\n", "text/plain; version=0.0.4; charset=utf-8"),
    "/broken": broken,
}


@pytest.fixture(scope="module")
def listening() -> Iterator[Listener]:
    with closing(Listener(("127.0.0.1", 0), PAGES)) as made:
        made.start()
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections last half a second in place of ten."""
    monkeypatch.setattr(module, "LONGEST", 0.5)


def ask(listening: Listener, path: str, method: str = "GET", body: bytes | None = None,
        **headers: str) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection(urlsplit(listening.url).netloc, timeout=10)) as connection:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def connect(listening: Listener) -> socket.socket:
    parts = urlsplit(listening.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def said(connection: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    answer = b""
    try:
        while got := connection.recv(65536):
            answer += got
    except ConnectionError:
        pass
    return answer


def raw(listening: Listener, request: bytes) -> bytes:
    with connect(listening) as connection:
        connection.sendall(request)
        return said(connection)


def test_a_page_is_answered_as_it_is_at_that_moment(listening: Listener) -> None:
    status, headers, body = ask(listening, "/metrics")
    assert (status, body) == (200, b"up 1\n")
    assert headers == {"content-type": "text/plain; version=0.0.4; charset=utf-8", "content-length": "5",
                       "connection": "close", "cache-control": "no-store", "x-content-type-options": "nosniff"}
    assert ask(listening, "/readyz")[::2] == (503, "the state does not answer: é\n".encode())
    assert ask(listening, "/healthz?verbose=1")[::2] == (200, b"alive\n")


def test_head_gets_the_same_without_the_body(listening: Listener) -> None:
    status, headers, body = ask(listening, "/readyz", "HEAD")
    assert (status, headers["content-length"], body) == (503, "30", b"")
    assert raw(listening, b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/nothing", "/%6detrics", "/../metrics", "*",
                                  "http://elsewhere.example/metrics"])
def test_any_other_path_is_not_found(listening: Listener, path: str) -> None:
    assert ask(listening, path)[::2] == (404, b"not found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X"])
def test_any_other_method_is_not_allowed_and_its_client_learns_so(listening: Listener, method: str) -> None:
    status, headers, body = ask(listening, "/metrics", method, body=b"x" * 20000)
    assert (status, headers["allow"], body) == (405, "GET, HEAD", b"method not allowed\n")


def test_a_page_that_fails_is_a_500_that_gives_nothing_away_and_is_logged_once(
        listening: Listener, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        status, headers, body = ask(listening, "/broken")
        assert (status, body) == (500, b"this page failed\n")
        assert SECRET not in str(headers)
    assert [record.getMessage() for record in caplog.records] == ["a page failed"]
    assert ask(listening, "/healthz")[0] == 200
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("request_", [
    b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\xff\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / FTP\r\n\r\n",
    b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n",
])
def test_a_request_that_makes_no_sense_is_refused_without_an_echo(
        listening: Listener, request_: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    answer = raw(listening, request_)
    assert not answer or 400 <= int(answer.split()[1]) < 600
    assert b"erver" not in answer
    assert b"ython" not in answer
    assert b"aaaa" not in answer
    assert ask(listening, "/healthz")[0] == 200
    assert "".join(capfd.readouterr()) == ""


def test_a_host_header_changes_nothing(listening: Listener) -> None:
    for host in (b"", b"Host: evil.example\r\n", b"Host: a\r\nHost: b\r\n"):
        assert raw(listening, b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n").endswith(b"\r\n\r\nalive\n")


def test_a_connection_serves_one_request(listening: Listener) -> None:
    assert raw(listening, b"GET /healthz HTTP/1.1\r\n\r\n" * 3).count(b"alive") == 1


@pytest.mark.usefixtures("impatient")
def test_a_silent_client_is_cut_off(listening: Listener) -> None:
    began = time.monotonic()
    with connect(listening) as connection:
        assert said(connection) == b""
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("impatient")
def test_a_client_that_sends_a_byte_now_and_then_is_cut_off_all_the_same(listening: Listener) -> None:
    began = time.monotonic()
    with connect(listening) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        try:
            while time.monotonic() - began < 8:
                connection.sendall(b"a")
                time.sleep(0.02)
        except OSError:
            assert said(connection) == b""
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("impatient")
def test_a_client_that_does_not_read_is_cut_off_too() -> None:
    with closing(Listener(("127.0.0.1", 0), {"/": lambda: Page(200, b"x" * 50_000_000)})) as listening:
        listening.start()
        with connect(listening) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            time.sleep(1.5)
            assert len(said(connection)) < 50_000_000


def test_only_so_many_connections_are_open_at_once_and_then_there_is_room_again(listening: Listener) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(connect(listening))
        with connect(listening) as one_more:
            assert said(one_more) == b""
        assert threading.active_count() <= before + MOST
    for _ in range(100):
        try:
            assert ask(listening, "/healthz")[0] == 200
        except (ConnectionError, http.client.RemoteDisconnected):
            time.sleep(0.05)
        else:
            return
    pytest.fail("there was no room again")


def test_clients_that_go_away_leave_nothing_behind(
        listening: Listener, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(50):
        with connect(listening) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ask(listening, "/healthz")[0] == 200
    assert "".join(capfd.readouterr()) == ""


def test_many_ask_at_once(listening: Listener) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.extend(ask(listening, "/healthz")[0] for _ in range(20)))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 160


def test_closed_it_listens_no_more_and_cuts_who_is_there() -> None:
    listening = Listener(("127.0.0.1", 0), PAGES)
    listening.start()
    assert ask(listening, "/healthz")[0] == 200
    address = urlsplit(listening.url)
    with connect(listening) as connection:
        time.sleep(0.1)
        listening.close()
        assert said(connection) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), timeout=5)
    listening.close()


def test_one_that_never_started_can_be_closed() -> None:
    Listener(("127.0.0.1", 0), PAGES).close()


def test_closing_at_once_does_not_hang() -> None:
    for _ in range(5):
        made = Listener(("127.0.0.1", 0), PAGES)
        made.start()
        made.close()


def test_it_speaks_ipv6() -> None:
    with closing(Listener(parse_address("[::1]:0"), PAGES)) as made:
        try:
            made.start()
        except UsageError:
            pytest.skip("this machine has no IPv6")
        assert made.url.startswith("http://[::1]:")
        assert ask(made, "/healthz")[::2] == (200, b"alive\n")


def test_an_address_that_is_taken_or_elsewhere_is_a_sentence(listening: Listener) -> None:
    taken = parse_address(urlsplit(listening.url).netloc)
    with pytest.raises(UsageError, match=r"cannot listen at 127\.0\.0\.1:\d+: Address already in use"):
        Listener(taken, PAGES).start()
    with pytest.raises(UsageError, match=r"cannot listen at 192\.0\.2\.1:9464: Cannot assign"):
        Listener(("192.0.2.1", 9464), PAGES).start()
    with pytest.raises(UsageError, match=r"cannot listen at no-such-host\.invalid:9464: "):
        Listener(("no-such-host.invalid", 9464), PAGES).start()


@pytest.mark.parametrize(("text", "address"), [
    ("127.0.0.1:9464", ("127.0.0.1", 9464)), ("0.0.0.0:0", ("0.0.0.0", 0)), (":9464", ("127.0.0.1", 9464)),
    ("[::1]:9464", ("::1", 9464)), ("[::]:80", ("::", 80)), ("localhost:65535", ("localhost", 65535)),
    (" metrics.internal:9464\n", ("metrics.internal", 9464)),
])
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "9464", "127.0.0.1", "127.0.0.1:", ":", "::1:9464", "[::1]", "[::1", "[]:9464",
                                  "[127.0.0.1]:9464", "256.0.0.1:9464", "1.2.3:9464", "localhost:http", "a:-1",
                                  "a:65536", "a:99999", "a:123456", "a b:1", "http://a:1", "a:1/metrics", "a:٣"])
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address to listen at; write 127\.0\.0\.1:9464, \[::1\]:9464"):
        parse_address(text)

"""A small HTTP listener for probes and scrapes, which no client can hold, fill or learn anything else from."""

from __future__ import annotations

import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address, IPv6Address
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple

from audiencesync.clock import monotonic
from audiencesync.errors import UsageError

LOOPBACK = "127.0.0.1"

LONGEST = 10.0
"""Seconds that one connection may last, whatever its client sends or fails to read."""

MOST = 16
"""Connections at once, each with a thread; one more is closed as soon as it is made."""

_BEAT = 0.25
_LINGER, _UNREAD = 1.0, 65536
_TEXT = "text/plain; charset=utf-8"
_ADDRESS = re.compile(r"(?:(?P<name>[A-Za-z0-9.-]*)|\[(?P<six>[^\[\]]+)\]):(?P<port>[0-9]{1,5})", re.ASCII)

_log = logging.getLogger(__name__)


class Page(NamedTuple):
    """What is answered to one request."""

    status: int
    body: str | bytes
    content_type: str = _TEXT


def parse_address(text: str) -> tuple[str, int]:
    """Read `127.0.0.1:9464`, `[::1]:9464`, `:9464` (loopback), port 0 for a free one; else ValueError."""
    wanted = f"{text!r} is not an address to listen at; write 127.0.0.1:9464, [::1]:9464 or :9464"
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise ValueError(wanted)
    port, host = int(match["port"]), match["six"] or match["name"] or LOOPBACK
    if port > 65535:
        raise ValueError(f"{wanted}; the highest port is 65535")
    try:
        if match["six"]:
            IPv6Address(host)
        elif re.fullmatch(r"[\d.]+", host):
            IPv4Address(host)
    except ValueError:
        raise ValueError(wanted) from None
    return host, port


class Listener:
    """Answers GET and HEAD for the paths of `pages`, each with what its function gives at that moment.

    A page must end by itself: a client that goes away does not end it, and it keeps one of the few threads.
    """

    def __init__(self, address: tuple[str, int], pages: Mapping[str, Callable[[], Page]]) -> None:
        self._address, self._pages = address, pages
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen from now on; UsageError when the address is taken or not this machine's."""
        host, port = self._address
        try:
            self._server = _Server(self._address, self._pages)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "there is no such host"
            raise UsageError(f"cannot listen at {_written(host, port)}: {why}") from error
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": _BEAT}, name="listener",
                         daemon=True).start()

    def close(self) -> None:
        """Listen no longer and cut every connection; without effect when it was closed or never started."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut(math.inf)

    @property
    def url(self) -> str:
        """Where it listens, with the port that was taken."""
        assert self._server is not None, "it was not started"
        host, port = self._server.server_address[:2]
        return f"http://{_written(str(host), int(port))}"


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(ThreadingTCPServer):
    """Knows every open connection and when it must end; not http.server's own, which asks for its host's name."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], pages: Mapping[str, Callable[[], Page]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pages = pages
        self.failing: set[str] = set()
        self._lock = threading.Lock()
        self._ends: dict[Any, float] = {}
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """Take a connection; while the process has no file left for it, waiting is better than asking again at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base's names
        """Whether there is a thread for one more."""
        with self._lock:
            if len(self._ends) >= MOST:
                return False
            self._ends[request] = monotonic() + LONGEST
            return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, which from now on nothing else touches."""
        with self._lock:
            self._ends.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what lasts too long; called after every request and every beat."""
        self.cut(monotonic())

    def cut(self, now: float) -> None:
        """Shut each connection whose time is over at `now`, which wakes the thread that waits on it."""
        with self._lock:
            for connection, end in self._ends.items():
                if end <= now:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    """One request a connection; what it says depends on the method and the path alone."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that a request that makes no sense gets a status too
    timeout = LONGEST
    server: _Server
    _refused = False

    def handle(self) -> None:
        """Answer once and close."""
        self.handle_one_request()
        if self._refused:
            self._drain()

    def _page(self) -> None:
        name = self.path.partition("?")[0]
        make = self.server.pages.get(name)
        if make is None:
            self._answer(Page(404, "not found\n"))
            return
        try:
            page = make()
            self.server.failing.discard(name)
        except Exception:  # noqa: BLE001 - a page that fails must take neither the others nor this thread with it
            if name not in self.server.failing:
                self.server.failing.add(name)
                _log.exception("a page failed", extra={"page": name})
            page = Page(500, "this page failed\n")
        self._answer(page)

    do_GET = do_HEAD = _page  # noqa: N815 - the base's names

    def _answer(self, page: Page) -> None:
        body = page.body.encode("utf-8", "replace") if isinstance(page.body, str) else page.body
        headers = {"Content-Type": page.content_type, "Content-Length": str(len(body)), "Connection": "close",
                   "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if page.status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = "GET, HEAD"
        self.send_response_only(page.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Say what is wrong without repeating anything of the request; another method than ours is not allowed."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._refused = True
        self._answer(Page(status, f"{status.phrase.lower()}\n"))

    def _drain(self) -> None:
        """Read some of what is still sent: closing on it would take the answer back before the client has read it."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER)
            left = _UNREAD
            while left > 0 and (got := self.connection.recv(left)):
                left -= len(got)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Who asks is of no interest, and standard error is for the log."""

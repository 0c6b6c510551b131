"""A real HTTP server on loopback that answers properly or misbehaves as told, the base of every recording server."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any, NamedTuple, Self


@dataclass(frozen=True)
class Fault:
    """What a server does to one request in place of answering it properly.

    `kind` is one of: "status" (answers `status` with `headers` and `body`), "drop" (closes before reading the body),
    "accept_then_drop" (takes the calls, closes without a word), "hang" (takes the calls, never answers),
    "drip" (never-ending slow body), "drip_headers" (never-ending slow header), "endless" (never-ending fast body),
    "truncated" (a body shorter than announced), "unframed" (a body without a length that stays open),
    "garbage" (no HTTP at all), "slow" (a proper answer after `seconds`), "huge_header" (more header than is sane).
    `taken` says whether the calls count as received; by default only by kinds that answer or cut a 200.
    """

    kind: str = "status"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    taken: bool | None = None

    @property
    def takes(self) -> bool:
        """Whether a server counts the request as received."""
        if self.taken is not None:
            return self.taken
        return 200 <= self.status < 300 and self.kind != "drop"


@dataclass
class Request:
    """One request as it came; header names are lower case, and the body is read when it is asked for."""

    method: str
    path: str
    headers: Mapping[str, str]
    read: Callable[[int], bytes]

    @cached_property
    def body(self) -> bytes:
        """The whole body; raises ConnectionError when the client went away in the middle."""
        length = int(self.headers.get("content-length", 0))
        body = self.read(length)
        if len(body) < length:
            raise ConnectionError
        return body


class Answer(NamedTuple):
    """What a server says when nothing goes wrong."""

    status: int = 200
    body: bytes = b'{"success": true}'
    headers: Mapping[str, str] = {}


Script = Iterable["Fault | int | str | None"] | Callable[[int, Request], "Fault | int | str | None"]


def fault_of(what: Fault | int | str | None) -> Fault | None:
    """A fault in short: 503 is a status, "drop" a kind, None no fault."""
    if isinstance(what, int):
        return Fault(status=what)
    return Fault(what) if isinstance(what, str) else what


class Loopback:
    """A context manager: an HTTP/1.1 server on 127.0.0.1 with one fault for each request as `script` says, then none.

    `script` is a list, one entry a request, or a function of the request's number (from 0) and the request.
    Subclasses say in `answer` what a healthy server would do, which is also where they remember.
    """

    path = "/"

    def __init__(self, script: Script = (), *, latency: float = 0.0) -> None:
        self.script, self.latency = script, latency
        self.requests = 0
        self.connections = 0
        self._lock = threading.RLock()
        self.stop = threading.Event()

    def answer(self, request: Request, *, taken: bool) -> Answer:
        """What a healthy server answers; `taken` is False when a fault makes it forget the request."""
        return Answer()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}{self.path}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.end()

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on; the handshake is each handler's own."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def next_fault(self, request: Request) -> Fault | None:
        """The script's word on this request."""
        with self._lock:
            number, self.requests = self.requests, self.requests + 1
            if not callable(self.script):
                self.script = list(self.script)
                return fault_of(self.script.pop(0)) if self.script else None
        return fault_of(self.script(number, request))


class _Server(ThreadingTCPServer):
    """Remembers its connections, so that its end is the end of every handler, however its client hangs."""

    allow_reuse_address = True
    request_queue_size = 256
    daemon_threads = False
    block_on_close = True
    owner: Loopback

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        self.owner.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def end(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Nothing to standard error."""

    def _handle(self) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.rfile.read)
        fault = owner.next_fault(request)
        if fault and fault.kind == "drop":
            return self._cut()
        request.body  # noqa: B018 - a server that answers has read
        if owner.latency:
            time.sleep(owner.latency)
        answer = owner.answer(request, taken=fault is None or fault.takes)
        if fault is None:
            return self._reply(answer.status, answer.body, answer.headers)
        misbehave: Callable[[Fault, Answer], None] = getattr(self, f"_{fault.kind}")
        return misbehave(fault, answer)

    do_GET = do_HEAD = do_OPTIONS = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - the base's names

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        self.wfile.write(head.encode("latin-1") + (b"" if self.command == "HEAD" else body))

    def _cut(self) -> None:
        self.close_connection = True

    def _status(self, fault: Fault, answer: Answer) -> None:
        proper = answer.body if 200 <= fault.status < 300 else b'{"message": "as the script says"}'
        self._reply(fault.status, fault.body or proper, fault.headers)

    def _accept_then_drop(self, fault: Fault, answer: Answer) -> None:
        self._cut()

    def _hang(self, fault: Fault, answer: Answer) -> None:
        self.server.owner.stop.wait()
        self._cut()

    def _slow(self, fault: Fault, answer: Answer) -> None:
        self.server.owner.stop.wait(fault.seconds)
        self._reply(answer.status, answer.body, answer.headers)

    def _for_ever(self, head: bytes, piece: bytes, pause: float) -> None:
        self._cut()
        self.wfile.write(head)
        while not self.server.owner.stop.wait(pause):
            self.wfile.write(piece)

    def _drip(self, fault: Fault, answer: Answer) -> None:
        head = f"HTTP/1.1 {fault.status} Said\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._for_ever(head.encode(), b"1\r\n \r\n", 0.02)

    def _drip_headers(self, fault: Fault, answer: Answer) -> None:
        self._for_ever(b"HTTP/1.1 200 Said\r\nX-Slow: ", b"a", 0.02)

    def _endless(self, fault: Fault, answer: Answer) -> None:
        head = f"HTTP/1.1 {fault.status} Said\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._for_ever(head.encode(), b"10000\r\n" + b" " * 65536 + b"\r\n", 0)

    def _huge_header(self, fault: Fault, answer: Answer) -> None:
        self._for_ever(b"HTTP/1.1 200 Said\r\nX-Huge: ", b"a" * 65536, 0)

    def _unframed(self, fault: Fault, answer: Answer) -> None:
        self._for_ever(f"HTTP/1.1 {fault.status} Said\r\nConnection: close\r\n\r\n".encode() + answer.body, b"", 0.02)

    def _truncated(self, fault: Fault, answer: Answer) -> None:
        self._cut()
        self.wfile.write(f"HTTP/1.1 {fault.status} Said\r\nContent-Length: 1000\r\n\r\n".encode() + answer.body)

    def _garbage(self, fault: Fault, answer: Answer) -> None:
        self._cut()
        self.wfile.write(b"\x16\x03\x01 what is this\r\n\r\n" * 4)

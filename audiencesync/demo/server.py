"""A server on this machine that plays Segment: it holds Segment's limits, and remembers every call it was told."""

from __future__ import annotations

import json
import socket
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MOST_CALLS, MOST_BYTES, MOST_CALL_BYTES, MOST_ID = 2500, 500_000, 32_000, 100
"""Segment's limits (HTTP API reference). Segment drops silently what is over them; this server refuses it."""

PATH = "/v1/batch"


@dataclass(frozen=True, slots=True)
class Told:
    """One identify call as it was understood: the audience's key, the user, the value, and as of when."""

    key: str
    user_id: str
    value: bool
    timestamp: str


class Refused(Exception):
    """A request breaks a rule; `status` is what it is answered with."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Receiver:
    """What the server knows; a context manager that listens on a free port of 127.0.0.1 while it lasts.

    `arrived` counts calls with repetitions, `history` holds each messageId's call once, in the order of arrival, and
    `changed` the messageIds that came with more than one body.
    """

    def __init__(self, write_key: str) -> None:
        self._authorization = "Basic " + b64encode(f"{write_key}:".encode()).decode()
        self._lock = threading.Lock()
        self._bodies: dict[str, str] = {}
        self.arrived = 0
        self.history: list[Told] = []
        self.changed: set[str] = set()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.receiver = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.end()
        self._thread.join()

    @property
    def told(self) -> dict[tuple[str, str], bool]:
        """The last value of each (key, user)."""
        return {(call.key, call.user_id): call.value for call in self.history}

    def check(self, path: str, authorization: str, length: int) -> None:
        """Look at a request before its body is read; raises Refused."""
        if path != PATH:
            raise Refused(404, f"calls are posted to {PATH}")
        if authorization != self._authorization:
            raise Refused(401, "the write key is wrong")
        if not 0 < length <= MOST_BYTES:
            raise Refused(400, f"a body has 1 to {MOST_BYTES:,} bytes, this one {length:,}")

    def take(self, body: bytes) -> None:
        """Remember all calls of a body, or raise Refused and remember none."""
        try:
            calls = list(_calls(body.decode()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(400, "this is no batch of identify calls") from error
        if not 0 < len(calls) <= MOST_CALLS:
            raise Refused(400, f"a batch has 1 to {MOST_CALLS:,} calls, this one {len(calls):,}")
        with self._lock:
            self.arrived += len(calls)
            for message_id, raw, call in calls:
                first = self._bodies.setdefault(message_id, raw)
                if first is raw:
                    self.history.append(call)
                elif first != raw:
                    self.changed.add(message_id)


def _calls(text: str) -> Iterator[tuple[str, str, Told]]:
    """Each call of a batch: its messageId, its own text, and what it says."""
    decode = json.JSONDecoder().raw_decode
    if not isinstance(json.loads(text)["batch"], list):
        raise TypeError
    at = text.index("[", text.index('"batch"')) + 1
    while text[at:at + 1] not in ("]", ""):
        call, end = decode(text, at)
        raw = text[at:end]
        yield _checked(call, raw)
        at = end + (text[end:end + 1] == ",")


def _checked(call: dict[str, Any], raw: str) -> tuple[str, str, Told]:
    if len(raw.encode()) > MOST_CALL_BYTES:
        raise Refused(400, f"a call has at most {MOST_CALL_BYTES:,} bytes")
    message_id, user_id = call["messageId"], call["userId"]
    if not (isinstance(message_id, str) and 0 < len(message_id) <= MOST_ID):
        raise Refused(400, f"a messageId is a text of 1 to {MOST_ID} characters")
    key = call["context"]["personas"]["computation_key"]
    value = call["traits"][key]
    if call["type"] != "identify" or not (isinstance(user_id, str) and user_id and isinstance(value, bool)):
        raise Refused(400, "an audience's call is an identify with a userId and a trait that is true or false")
    return message_id, raw, Told(key, user_id, value, call["timestamp"])


class _Server(ThreadingHTTPServer):
    """Remembers its connections, so that none outlives it."""

    receiver: Receiver

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle is what the demo is about."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

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

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Nothing to standard error."""

    def do_POST(self) -> None:
        """Take a batch, or say why not."""
        receiver = self.server.receiver
        status, said = 200, '{"success":true}'
        try:
            length = int(self.headers.get("Content-Length", 0))
            self.close_connection = True
            receiver.check(self.path, self.headers.get("Authorization", ""), length)
            body = self.rfile.read(length)
            if len(body) < length:
                return
            receiver.take(body)
            self.close_connection = False
        except Refused as refused:
            status, said = refused.status, json.dumps({"success": False, "message": str(refused)})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(said.encode())

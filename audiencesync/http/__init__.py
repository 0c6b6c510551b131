"""Requests to destinations, bounded in time and size; the only module that imports httpx, so it is imported lazily."""

from __future__ import annotations

import logging
import ssl
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from audiencesync import __version__
from audiencesync.errors import AccountRefused, NotTaken, Unanswered
from audiencesync.http.answers import Asked, Reply, judge, quote
from audiencesync.http.deadline import Deadline, watch

__all__ = ["Client", "Reply"]

LONGEST_REPLY = 65536
"""Bytes of an answer that are read; what no destination needs is not worth the memory."""

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the five after which some servers (Node) cut it."""

LONGEST_CONNECT = 5.0
"""Seconds for each of a host's numbers and for the TLS handshake; a deadline cannot end a look-up of names."""

_CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")
_HEADERS_NEXT, _BODY_NEXT = "http11.send_request_headers.started", "http11.send_request_body.started"

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # below it they write whole URLs


class Client:
    """One thread's connection to one destination; it never retries, follows no redirect and asks no environment.

    `account` and `address` name the settings that an error tells people to check; `secrets` never appear in errors.
    `longest` are the bytes of an answer that are read.
    """

    def __init__(self, *, account: str = "the key", address: str = "url", secrets: tuple[str, ...] = (),
                 longest: int = LONGEST_REPLY) -> None:
        self._account, self._address, self._secrets, self._longest = account, address, secrets, longest
        self._client: httpx.Client | None = None
        self._secure = False
        self._socket: Any = None

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, seconds: float, gzip: bool = False) -> Reply:
        """Post `body` and give the 2xx answer back, all within `seconds`; raises the DeliveryError of anything else."""
        return self.request("POST", url, body, headers, seconds=seconds, gzip=gzip)

    def request(self, method: str, url: str, body: bytes, headers: Mapping[str, str], *, seconds: float,
                gzip: bool = False, person: bool = False) -> Reply:
        """The 2xx answer, all within `seconds`; raises the DeliveryError of anything else.

        A 404 to a request about one `person` is NotThere; to any other it means that the address is wrong.
        """
        asked = self._asked(url, body, headers.get("Authorization", ""))
        if person:  # whom the address names
            asked = asked._replace(person=True, body=body + b" " + unquote(url).encode())
        sent = dict(headers)
        if gzip:
            sent["Content-Encoding"] = "gzip"
            body = zlib.compress(body, level=1, wbits=31)
        if body or method not in ("GET", "HEAD"):
            sent["Content-Length"] = str(len(body))
        status, answered, reply = self._exchange(method, url, body, sent, seconds=seconds)
        return judge(status, answered, reply, asked)

    def quote(self, said: str, body: bytes) -> str:
        """What a receiver said of a call in `body`, cut and masked so that it may stand in a report."""
        return quote(said.encode(), self._asked("", body))

    def reach(self, url: str, *, seconds: float) -> int:
        """The status of a GET without credentials, whatever it is; raises NotTaken or Unanswered when none comes."""
        return self._exchange("GET", url, b"", {}, seconds=seconds)[0]

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._client is not None:
            self._client.close()
        self._client = self._socket = None

    def _asked(self, url: str, body: bytes, *secrets: str) -> Asked:
        return Asked(_host(url), self._account, self._address, (*self._secrets, *secrets), body)

    def _exchange(self, method: str, url: str, body: bytes, headers: Mapping[str, str], *,
                  seconds: float) -> tuple[int, Mapping[str, str], bytes]:
        if seconds <= 0:
            raise NotTaken(f"no time was left to ask {_host(url)}")
        with self._within(seconds, url) as deadline:
            def trace(event: str, info: dict[str, Any]) -> None:
                if event in _CONNECTED:
                    self._socket = info["return_value"].get_extra_info("socket")
                    if not deadline.covers(self._socket):
                        self._socket.close()
                        raise httpx.ConnectTimeout("connected too late")
                elif event == _HEADERS_NEXT and deadline.over():
                    raise httpx.ConnectTimeout("the time was over before anything was sent")
                elif event == _BODY_NEXT and deadline.over():
                    raise httpx.WriteTimeout("the time was over before the body was sent")

            timeout = httpx.Timeout(seconds, connect=min(seconds, LONGEST_CONNECT))
            # httpx's objects hold each other in a circle: what is taken out of it need not wait to be found as garbage
            circled = [body]
            try:
                with self._open(url).stream(method, url, content=circled if body else None, headers=headers,
                                            timeout=timeout, extensions={"trace": trace}) as response:
                    return response.status_code, response.headers, _read(response, deadline, seconds, self._longest)
            finally:
                circled.clear()

    @contextmanager
    def _within(self, seconds: float, url: str) -> Iterator[Deadline]:
        """Hold a deadline over a request, and say what its failing means: may it have arrived or not."""
        host, deadline = _host(url), Deadline(seconds, self._socket)
        watch.add(deadline)
        try:
            yield deadline
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotTaken(f"{host} cannot be reached: {error or 'no connection in time'}") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise AccountRefused(f"{host} has an address that cannot be sent to: check {self._address}") from error
        except httpx.HTTPError as error:
            late = deadline.passed or isinstance(error, httpx.TimeoutException)
            what = f"no sensible answer ({type(error).__name__})"
            if late:
                what = f"no whole answer within {round(seconds, 1):g} s"
            raise Unanswered(f"{host} gave {what}") from error
        finally:
            watch.remove(deadline)
            if deadline.passed:
                self.close()

    def _open(self, url: str) -> httpx.Client:
        secure = not url.startswith("http:")
        if self._client is None or secure != self._secure:
            self.close()
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE)
            self._client = httpx.Client(verify=_trust(secure=secure), trust_env=False, http2=False, limits=limits,
                                        follow_redirects=False, headers=_HEADERS)
            self._secure = secure
        return self._client


def _read(response: httpx.Response, deadline: Deadline, seconds: float, longest: int) -> bytes:
    """The body as far as it is of use: a 2xx must end in time and size, any other status speaks for itself."""
    body = bytearray()
    try:
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > longest:
                break
    except httpx.HTTPError:
        if response.is_success:
            raise
    host, status = response.url.host, response.status_code
    if response.is_success and deadline.passed:  # an answer without a length looks whole when its connection is shut
        raise Unanswered(f"{host} gave no whole answer within {round(seconds, 1):g} s", status=status)
    if response.is_success and len(body) > longest:
        raise Unanswered(f"{host} gave an answer of more than {longest:,} bytes", status=status)
    return bytes(body[:longest])


_HEADERS = {"User-Agent": f"audiencesync/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}


@cache
def _trust(*, secure: bool) -> ssl.SSLContext:
    """The process's one SSL context, which costs 26 ms to make; plain http gets an empty one that trusts nobody."""
    return httpx.create_ssl_context(trust_env=False) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]

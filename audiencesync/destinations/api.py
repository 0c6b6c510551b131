"""An HTTP API that a destination speaks to: its base URL, its headers, and routes such as "PUT /endusers"."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from audiencesync.http import Reply

CLOCK_SKEW = 60.0
"""Seconds that a server's clock may differ from ours before `doctor` says so."""


class Api:
    """One thread's connection; httpx is imported here, when there is something to ask.

    `account` and `address` name the settings that errors tell people to check; `secrets` never appear in errors;
    `longest` are the bytes of an answer that are read.
    """

    def __init__(self, base: str, headers: Mapping[str, str], *, account: str, address: str = "url",
                 secrets: tuple[str, ...] = (), longest: int = 65536) -> None:
        from audiencesync.http import Client

        self._base, self._headers = base.rstrip("/"), headers
        self._client = Client(account=account, address=address, secrets=secrets, longest=longest)

    def ask(self, route: str, body: bytes = b"", *, seconds: float, person: bool = False) -> Reply:
        """The 2xx answer to a route; raises the DeliveryError of anything else, NotThere for a 404 about a `person`."""
        method, path = route.split(" ", 1)
        return self._client.request(method, self._base + path, body, self._headers, seconds=seconds, person=person)

    def quote(self, said: str, body: bytes) -> str:
        """What a receiver said of a call in `body`, cut and masked so that it may stand in a report."""
        return self._client.quote(said, body)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def reach(url: str, *, seconds: float) -> str:
    """Words for `doctor` when a server answers at all, asked without credentials; raises NotTaken or Unanswered."""
    from audiencesync.http import Client

    with closing(Client()) as client:
        client.reach(url, seconds=seconds)
    return f"{urlsplit(url).hostname} answers"


def in_path(text: str) -> str:
    """A user's id or email as one part of a path, whatever letters it has; dots alone would mean a folder."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def clock_words(reply: Reply) -> str:
    """A warning for `doctor` when the server's clock and ours differ; empty when they agree or it does not tell."""
    if reply.skew is None or abs(reply.skew) < CLOCK_SKEW:
        return ""
    return f"warning: its clock is {reply.skew:+.0f} s from ours; mend this host's clock"

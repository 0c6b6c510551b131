"""Segment, and whatever takes Segment's batches: RudderStack, Jitsu, Customer.io Pipelines, Dittofeed."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from audiencesync.addresses import check_url
from audiencesync.destinations.identify import Renderer
from audiencesync.errors import Unanswered
from audiencesync.model import Batch, Call, Channel, Content, Destination, Packed, Packer, Refusal
from audiencesync.schedule import Rate, RateLimit

URLS = {"us": "https://api.segment.io/v1/batch", "eu": "https://events.eu1.segmentapis.com/v1/batch"}
"""Segment's regions (HTTP API reference). Data sent to the wrong one is answered with 200 and never appears."""

OWN_HOSTS = ("segment.io", "segment.com", "segmentapis.com")

MOST_CALLS, MOST_BYTES, MOST_CALL_BYTES = 2500, 500_000, 32_000
"""Segment's limits of a batch and of a call (HTTP API reference): it answers 200 to what is over them and drops it."""

FRAME = '{{"batch":[{}]}}'
FRAME_BYTES = len(FRAME.format(""))

_ATTRIBUTED = re.compile(r"Message ID: (\S+?): (.*)", re.DOTALL)


class Segment(Destination):
    """Identify calls to /v1/batch. A user named by an email is sent with it as userId and as traits.email."""

    model_config = ConfigDict(hide_input_in_errors=True)

    type: ClassVar[str] = "segment"
    example: ClassVar[Mapping[str, object]] = {"write_key": "wk_0123456789abcdef"}

    page: ClassVar[int] = 900
    """About what one body of 500 KB holds, so that a page is one request."""

    write_key: SecretStr = Field(description="The write key of an HTTP API source; ${SEGMENT_WRITE_KEY} keeps it out.")
    region: Literal["us", "eu"] | None = Field(None, description="Where the workspace lives; us unless given.")
    allow_http: bool = Field(False, description="Send to an http:// url that is not on this machine.")
    url: str | None = Field(None, description="The whole batch URL of a compatible receiver, in place of region.")
    gzip: bool = Field(False, description="Compress bodies: an eighth of the bytes for five times the work.")

    @field_validator("write_key")
    @classmethod
    def _write_key_is_one_word(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        if not text or not text.isascii() or not text.isprintable() or " " in text or ":" in text:
            raise ValueError("a write key is one word of letters and digits; is the variable set?")
        return key

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None:
            return None
        if info.data.get("region") is not None:
            raise ValueError("give region or url, not both")
        return check_url(url, allow_http=bool(info.data.get("allow_http")))

    @property
    def address(self) -> str:
        """The URL that batches are posted to."""
        return self.url or URLS[self.region or "us"]

    def pace(self) -> Rate | None:
        """The setting, or the 1,000 events a second that Engage accepts at Segment's own hosts; elsewhere none."""
        host = f".{urlsplit(self.address).hostname}"
        ours = any(host.endswith(f".{own}") for own in OWN_HOSTS)
        return self.rate or (RateLimit(1000, 1.0, "items") if ours else None)

    def fingerprint(self) -> str:
        """A hash of the write key, which is what tells one source from another; a region or url may be corrected."""
        return blake2b(self.write_key.get_secret_value().encode(), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """Renderer and limits of one sync."""
        return _Packer(content)

    def channel(self) -> Channel:
        """A connection of its own; httpx is imported here, when there is something to send."""
        return _Channel(self)

    def check(self) -> Iterator[str]:
        """Connect without writing; any HTTP answer will do. Raises NotTaken or Unanswered where there is none."""
        from audiencesync.http import Client

        client = Client()
        try:
            client.reach(self.address, seconds=self.timeout.total_seconds())
        finally:
            client.close()
        yield f"{urlsplit(self.address).hostname} answers"
        yield "Segment cannot confirm a write key or a region: it answers 200 to a wrong one too"


class _Packer(Packer):
    """Fills bodies up to Segment's limits, measured on the bytes as they will leave, before gzip."""

    def __init__(self, content: Content) -> None:
        self._renderer = Renderer(content)

    def pack(self, calls: Sequence[Call]) -> Packed:
        if not calls:
            return Packed(())
        items = self._renderer.render(calls)
        body = FRAME.format(",".join(items)).encode()
        # A character is at most four bytes, so a page of short calls that fits into one body needs no measuring.
        if len(items) <= MOST_CALLS and len(body) <= MOST_BYTES and max(map(len, items)) * 4 <= MOST_CALL_BYTES:
            return Packed((Batch(tuple(calls), body),))
        return _measured(calls, items)


def _measured(calls: Sequence[Call], items: Sequence[str]) -> Packed:
    """Cut a page into batches wherever the next call would go over a limit."""
    batches: list[Batch] = []
    refused: list[tuple[Call, Refusal]] = []
    taken: list[Call] = []
    bodies: list[bytes] = []
    size = FRAME_BYTES
    for call, item in zip(calls, items, strict=True):
        body = item.encode()
        if len(body) > MOST_CALL_BYTES:
            refused.append((call, Refusal(f"too large: {len(body):,} bytes, Segment takes 32 KB")))
            continue
        if taken and (len(taken) == MOST_CALLS or size + len(body) > MOST_BYTES):
            batches.append(_batch(taken, bodies))
            taken, bodies, size = [], [], FRAME_BYTES
        taken.append(call)
        bodies.append(body)
        size += len(body) + 1
    if taken:
        batches.append(_batch(taken, bodies))
    return Packed(tuple(batches), tuple(refused))


def _batch(calls: Sequence[Call], bodies: Sequence[bytes]) -> Batch:
    start, end = FRAME.format("\0").encode().split(b"\0")
    return Batch(tuple(calls), start + b",".join(bodies) + end)


class _Channel(Channel):
    """Posts bodies as they are; what an answer means is decided in http, but for refusals inside a 200."""

    def __init__(self, segment: Segment) -> None:
        from audiencesync.http import Client

        key = segment.write_key.get_secret_value()
        basic = b64encode(f"{key}:".encode()).decode()
        self._url, self._gzip = segment.address, segment.gzip
        self._headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
        self._client = Client(account="write_key", address="url" if segment.url else "region", secrets=(key, basic))

    def send(self, batch: Batch, *, seconds: float) -> Mapping[int, Refusal]:
        """Post one body within `seconds`; raises a DeliveryError for all of it."""
        reply = self._client.post(self._url, batch.body, self._headers, seconds=seconds, gzip=self._gzip)
        said = _refusals(reply.body, batch)
        return {at: Refusal(self._client.quote(why, batch.body), reply.status) for at, why in said.items()}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _refusals(reply: bytes, batch: Batch) -> dict[int, str]:
    """Why each call (by its index) that a 200 refuses is refused.

    Jitsu says it so: `{"ok": false, "errors": ["Message ID: x: why"]}`.
    Raises Unanswered when some error names no call of the batch: then nobody knows which were taken.
    """
    if b"false" not in reply:
        return {}
    try:
        said = orjson.loads(reply)
    except ValueError:
        return {}
    if not isinstance(said, dict) or (said.get("ok") is not False and said.get("success") is not False):
        return {}
    listed = said.get("errors")
    errors: list[object] = listed if isinstance(listed, list) else []
    index = {item["messageId"]: at for at, item in enumerate(orjson.loads(batch.body)["batch"])}
    refused: dict[int, str] = {}
    for error in errors:
        match = _ATTRIBUTED.fullmatch(error) if isinstance(error, str) else None
        if match is None or match[1] not in index:
            break
        refused[index[match[1]]] = match[2]
    if not refused or len(refused) != len(errors):
        raise Unanswered("the receiver says that it did not take all calls, but not which")
    return refused

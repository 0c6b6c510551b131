"""Segment, and whatever takes Segment's batches: RudderStack, Jitsu, Customer.io Pipelines, Dittofeed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from audiencesync.addresses import check_url
from audiencesync.destinations.api import reach
from audiencesync.destinations.bodies import Bodies
from audiencesync.destinations.receivers import RECEIVERS, refusals
from audiencesync.model import Batch, Channel, Content, Destination, Packer, Refusal
from audiencesync.schedule import Rate, RateLimit

EU = "https://events.eu1.segmentapis.com/v1/batch"
"""Segment's other region (HTTP API reference). Data sent to the wrong one is answered with 200 and never appears."""

OWN_HOSTS = ("segment.io", "segment.com", "segmentapis.com")

MERGED = 8 / 3
"""How much longer pages are where several calls travel in one: a body is as full then of users with three traits."""


class Segment(Destination):
    """Identify calls to /v1/batch. A user named by an email is sent with it as userId and as traits.email.

    `receiver` says whose limits, header and answers are meant; a receiver of another kind may do with `url` alone, and
    then has Segment's.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    type: ClassVar[str] = "segment"
    sends: ClassVar[tuple[str, ...]] = ("identify", "track", "both")
    example: ClassVar[Mapping[str, object]] = {"write_key": "wk_0123456789abcdef"}
    example_answer: ClassVar[bytes] = b'{"success": true}'

    identifies: ClassVar[str] = "userId or anonymousId; an email as userId and traits.email"
    unknown: ClassVar[str] = "taken as they come"
    published: ClassVar[str] = "1,000 calls a second; 2,500 calls and 500 KB a request, 32 KB a call"
    page: ClassVar[int] = 900
    """About what one body of 500 KB holds, so that a page is one request."""

    receiver: Literal["segment", "rudderstack", "jitsu", "dittofeed", "customerio"] = Field(
        "segment", description="Who takes the batches: its limits, its header for the write key, its answers.")
    write_key: SecretStr = Field(description="The write key of an HTTP API source; ${SEGMENT_WRITE_KEY} keeps it out.")
    region: Literal["us", "eu"] | None = Field(None, description="Where the workspace lives; us unless given.")
    allow_http: bool = Field(False, description="Send to an http:// url that is not on this machine.")
    url: str | None = Field(None, description="The whole batch URL of a compatible receiver, in place of region.")
    gzip: bool = Field(False, description="Compress bodies: an eighth of the bytes for five times the work.")
    coalesce: bool = Field(False, description="All traits of a user that change in one sync travel in one call.")

    @field_validator("write_key")
    @classmethod
    def _write_key_is_one_word(cls, key: SecretStr, info: ValidationInfo) -> SecretStr:
        text = key.get_secret_value()
        if info.data.get("receiver") == "dittofeed":  # which shows its key as "Basic ..."
            text = text.removeprefix("Basic ")
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

    @model_validator(mode="after")
    def _receiver_has_an_address(self) -> Self:
        known = RECEIVERS[self.receiver]
        if self.region is not None and self.receiver != "segment":
            raise ValueError(f"region is of Segment's own hosts; {known.name} wants url")
        if self.url is None and known.url is None:
            raise ValueError(f"{known.name} wants url: the whole address of its batches")
        return self

    def model_post_init(self, context: object) -> None:
        """With `coalesce` this one, unlike its class, sends rows, and pages of as many calls as fill a body then."""
        del context
        if self.coalesce:
            vars(self).update(shape="row", page=int(type(self).page * MERGED))

    @property
    def address(self) -> str:
        """The URL that batches are posted to."""
        return self.url or (EU if self.region == "eu" else RECEIVERS[self.receiver].url) or ""

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
        return Bodies(content, RECEIVERS[self.receiver].most, merge=self.coalesce)

    def channel(self) -> Channel:
        """A connection of its own; httpx is imported here, when there is something to send."""
        return _Channel(self)

    def check(self) -> Iterator[str]:
        """Connect without writing; any HTTP answer will do. Raises NotTaken or Unanswered where there is none."""
        yield reach(self.address, seconds=self.timeout.total_seconds())
        known = RECEIVERS[self.receiver]
        if known.knows_key:
            yield f"{known.name} says that a write key is wrong when the first calls are sent"
        else:
            yield f"{known.name} cannot confirm a write key or a region: it answers 200 to a wrong one too"


class _Channel(Channel):
    """Posts bodies as they are; what an answer means is decided in http, but for refusals inside a 200."""

    def __init__(self, segment: Segment) -> None:
        from audiencesync.http import Client

        key = segment.write_key.get_secret_value()
        self._receiver, self._url, self._gzip = RECEIVERS[segment.receiver], segment.address, segment.gzip
        authorization = self._receiver.authorization(key)
        self._headers = {"Authorization": authorization, "Content-Type": "application/json"}
        address = "region" if segment.url is None and segment.receiver == "segment" else "url"
        self._client = Client(account="write_key", address=address,
                              secrets=(authorization, authorization.removeprefix("Basic "), key))

    def send(self, batch: Batch, *, seconds: float) -> Mapping[int, Refusal]:
        """Post one body within `seconds`; raises a DeliveryError for all of it, Unanswered for another's words."""
        reply = self._client.post(self._url, batch.body, self._headers, seconds=seconds, gzip=self._gzip)
        self._receiver.check_words(reply.body)
        said = refusals(reply.body, batch)
        return {at: Refusal(self._client.quote(why, batch.body), reply.status) for at, why in said.items()}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

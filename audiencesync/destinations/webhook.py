"""A webhook: identify calls posted to any URL, signed, for whoever writes the receiver himself."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import ClassVar
from urllib.parse import urlsplit

import orjson
from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from audiencesync.addresses import check_url
from audiencesync.destinations.api import reach
from audiencesync.destinations.bodies import Bodies, Most, by_message_id
from audiencesync.errors import Unanswered
from audiencesync.model import Batch, Channel, Content, Destination, Packer, Refusal

SIGNATURE = "X-Audiencesync-Signature"
"""The header that holds `sha256=` and the HMAC-SHA256 of the body's bytes with the secret, in hex."""

MOST_BYTES = 1_000_000
"""What a body has at most: nginx takes 1 MB unless it is told otherwise."""

_TELLING = 12
"""Characters from which a piece of the url's path is taken for a secret; shorter ones are words such as `hooks`."""


class Webhook(Destination):
    """`{"batch": [...]}` with the identify calls that Segment would be sent, to any URL.

    A 2xx takes all of them, but for those that a JSON answer refuses: {"errors": [{"messageId": ..., "reason": ...}]}.
    A retry repeats the same bytes, so its signature too: a messageId that was seen is to be answered with 2xx.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    type: ClassVar[str] = "webhook"
    sends: ClassVar[tuple[str, ...]] = ("identify", "track", "both")
    example: ClassVar[Mapping[str, object]] = {"url": "https://hooks.example/audiences", "secret": "s3cr3t-of-both"}
    identifies: ClassVar[str] = "userId or anonymousId; an email as userId and traits.email"
    unknown: ClassVar[str] = "as the receiver decides"

    allow_http: bool = Field(False, description="Send to an http:// url that is not on this machine.")
    url: str = Field(description="Where batches of identify calls are posted.")
    secret: SecretStr | None = Field(None, description="Signs each body, so that the receiver knows who sent it.")
    batch: int = Field(500, ge=1, le=10_000, description="Identify calls in a request, at most.")

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str, info: ValidationInfo) -> str:
        return check_url(url, allow_http=bool(info.data.get("allow_http")))

    @field_validator("secret")
    @classmethod
    def _secret_is_set(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not secret.get_secret_value().strip():
            raise ValueError("the secret is empty; is the variable set? Leave it out to sign nothing")
        return secret

    def fingerprint(self) -> str:
        """A hash of the url: another receiver was told nothing yet; the secret may be changed."""
        return blake2b(b"webhook:" + self.url.encode(), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """Renderer and limits of one sync."""
        return Bodies(content, Most(self.batch, MOST_BYTES, MOST_BYTES, "a webhook"))

    def channel(self) -> Channel:
        """A connection of its own; httpx is imported here, when there is something to send."""
        return _Channel(self)

    def check(self) -> Iterator[str]:
        """Connect without writing; any HTTP answer will do. Raises NotTaken or Unanswered where there is none."""
        yield reach(self.url, seconds=self.timeout.total_seconds())
        if self.secret is None:
            yield "warning: without a secret the receiver cannot tell our calls from anybody's"


class _Channel(Channel):
    """Posts bodies with their signatures."""

    def __init__(self, webhook: Webhook) -> None:
        from audiencesync.http import Client

        secret = webhook.secret.get_secret_value() if webhook.secret else ""
        self._url, self._secret = webhook.url, secret.encode()
        parts = urlsplit(webhook.url)
        telling = [piece for piece in re.split(r"[/?&=]", f"{parts.path}?{parts.query}") if len(piece) >= _TELLING]
        self._client = Client(account="secret", address="url", secrets=(secret, *telling))

    def send(self, batch: Batch, *, seconds: float) -> Mapping[int, Refusal]:
        """Post one body within `seconds`; raises a DeliveryError for all of it."""
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers[SIGNATURE] = f"sha256={hmac.digest(self._secret, batch.body, 'sha256').hex()}"
        reply = self._client.post(self._url, batch.body, headers, seconds=seconds)
        refused = _refusals(reply.body, batch)
        return {at: Refusal(self._client.quote(why, batch.body), reply.status) for at, why in refused.items()}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _refusals(reply: bytes, batch: Batch) -> dict[int, str]:
    """Why each call (by its index) that a 2xx refuses is refused.

    Raises Unanswered when an error names no call of the batch: then nobody knows which were taken.
    """
    if b'"errors"' not in reply:
        return {}
    try:
        said = orjson.loads(reply)
    except ValueError:
        return {}
    listed = said.get("errors") if isinstance(said, dict) else None
    if not listed:
        return {}
    index = by_message_id(batch)
    refused: dict[int, str] = {}
    for error in listed if isinstance(listed, list) else [listed]:
        name = error.get("messageId") if isinstance(error, dict) else None
        if not isinstance(name, str) or name not in index:
            raise Unanswered("the receiver says that it did not take all calls, but not which")
        refused |= dict.fromkeys(index[name], str(error.get("reason") or "the receiver gives no reason"))
    return refused

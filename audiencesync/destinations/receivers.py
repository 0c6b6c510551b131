"""Receivers of Segment's batches, and what tells them apart: limits, the write key's place, what they answer.

Sources: Segment's HTTP API reference; the code of rudder-server's gateway, of Jitsu's ingest and of Dittofeed's public
API; the API description of Customer.io Pipelines. Where none names a limit, Segment's stands.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import NamedTuple

import orjson

from audiencesync.destinations.bodies import Most, by_message_id
from audiencesync.errors import Unanswered
from audiencesync.model import Batch


class Receiver(NamedTuple):
    """One kind of receiver.

    `says` is how the body of a 2xx begins when the receiver itself wrote it; `knows_key` whether it answers 401 to a
    wrong write key; `raw` that the write key is the whole Authorization header.
    """

    name: str
    most: Most
    says: re.Pattern[bytes]
    url: str | None = None
    knows_key: bool = True
    raw: bool = False

    def authorization(self, key: str) -> str:
        """The header that a write key makes."""
        return key if self.raw else f"Basic {b64encode(f'{key}:'.encode()).decode()}"

    def check_words(self, body: bytes) -> None:
        """Raises Unanswered when a 2xx comes from somebody else, such as a proxy with a page of its own."""
        if not self.says.match(body):
            raise Unanswered(f"this is none of {self.name}'s answers, so nobody knows whether the calls were taken")


RECEIVERS = {
    "segment": Receiver("Segment", Most(2500, 500_000, 32_000, "Segment"), re.compile(rb"(?!\s*<)"),
                        "https://api.segment.io/v1/batch", knows_key=False),
    "rudderstack": Receiver("RudderStack", Most(2500, 4_000_000, 4_000_000, "RudderStack"), re.compile(rb"\s*(OK|\{)")),
    "jitsu": Receiver("Jitsu", Most(2500, 1_000_000, 1_000_000, "Jitsu"), re.compile(rb"\s*\{")),
    "dittofeed": Receiver("Dittofeed", Most(2500, 500_000, 32_000, "Dittofeed"), re.compile(rb"\s*(\{|$)"), raw=True),
    "customerio": Receiver("Customer.io", Most(2500, 1_000_000, 64_000, "Customer.io"), re.compile(rb"\s*(\{|$)"),
                           "https://cdp.customer.io/v1/batch"),
}
"""By the setting `receiver`. Segment answers 200 to what is over its limits and drops it."""

_ATTRIBUTED = re.compile(r"Message ID: (\S+?): (.*)", re.DOTALL)


def refusals(reply: bytes, batch: Batch) -> dict[int, str]:
    """Why each call (by its index) that a 200 refuses is refused.

    Jitsu says it so: `{"ok": false, "errors": ["Message ID: x: why"]}`.
    Raises Unanswered when some error names no call of the batch: then nobody knows which were taken.
    """
    if b"false" not in reply and b"okEvents" not in reply:
        return {}
    try:
        said = orjson.loads(reply)
    except ValueError:
        return {}
    if isinstance(said, dict) and said.get("ok") is True and said.get("okEvents", 0) != said.get("receivedEvents", 0):
        raise Unanswered("the receiver says that it took fewer calls than it got, but not which")
    if not isinstance(said, dict) or (said.get("ok") is not False and said.get("success") is not False):
        return {}
    listed = said.get("errors")
    errors: list[object] = listed if isinstance(listed, list) else []
    index, refused = by_message_id(batch), {}
    for error in errors:
        match = _ATTRIBUTED.fullmatch(error) if isinstance(error, str) else None
        if match is None or match[1] not in index or match[1] in refused:
            break
        refused[match[1]] = match[2]
    if not refused or len(refused) != len(errors):
        raise Unanswered("the receiver says that it did not take all calls, but not which")
    return {at: why for name, why in refused.items() for at in index[name]}

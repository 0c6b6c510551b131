"""Richpanel's Event API, which takes 25 people in a request: what its batches look like, and how they are signed."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256

import orjson

from audiencesync.destinations.api import Api
from audiencesync.destinations.richpanel_people import Row
from audiencesync.errors import Unanswered
from audiencesync.model import Batch, Channel, Receipt

ROUTE = "POST /v2/bt"
MOST_EVENTS = 25
"""Events in a batch (Getting Started, of orders)."""


def identify(app: str, properties: Mapping[str, object], timestamp: str, device: str) -> dict[str, object]:
    """One event; `timestamp` is ISO 8601, `device` the id of a session to join it to, or empty."""
    moment = int(datetime.fromisoformat(timestamp).timestamp() * 1000)
    session: dict[str, object] = {"did": device} if device else {}
    return {**session, "event": "identify", "properties": properties, "time": {"sentAt": moment}, "appClientId": app}


def signed(app: str, secret: str, events: Sequence[Mapping[str, object]]) -> bytes:
    """A batch as it is sent: its JSON with sorted keys in base64, and the SHA-256 of that and the secret."""
    batch = {"appClientId": app, "event": "send_batch", "events": events}
    packed = b64encode(orjson.dumps(batch, option=orjson.OPT_SORT_KEYS))
    return orjson.dumps({"s": sha256(packed + secret.encode()).hexdigest(), "hs": packed.decode()})


def batches(rows: Sequence[Row], *, app: str, secret: str) -> Iterator[Batch]:
    """Requests of so many people each, all that is told of one in one event."""
    for start in range(0, len(rows), MOST_EVENTS):
        some = rows[start:start + MOST_EVENTS]
        said = [identify(app, row.own | row.custom, row.timestamp, row.session) for row in some]
        yield Batch(tuple(call for row in some for call in row.calls), signed(app, secret, said), ROUTE)


class EventChannel(Channel):
    """Posts batches; whatever is accepted is no more than accepted, since nothing is said of single events."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """Everybody of a batch is taken, and remembered as told; raises a DeliveryError for all of it."""
        reply = self._api.ask(ROUTE, batch.body, seconds=seconds)
        if reply.body.lstrip().startswith(b"<"):  # what a healthy answer looks like is not published, but not so
            raise Unanswered(f"the answer {reply.status} is a page for people, so it says nothing", status=reply.status)
        return Receipt(learned={f"u:{call.user_id}": "1" for call in batch.calls if call.value}, wait=reply.wait)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

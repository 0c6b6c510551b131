"""Richpanel's Event API, which takes 25 events in a request: what its batches look like, and how they are signed."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson

from audiencesync.destinations.api import Api
from audiencesync.destinations.richpanel_packer import MOST_EVENTS, Followed, Row, Saying
from audiencesync.destinations.richpanel_people import taken
from audiencesync.errors import Unanswered
from audiencesync.model import Batch, Call, Channel, Receipt, digits

ROUTE = "POST /v2/bt"


@dataclass(frozen=True, slots=True)
class Source:
    """A Data Source, by its key and secret: the one who speaks."""

    app: str
    secret: str

    def saves(self, rows: Sequence[Row]) -> Iterator[Batch]:
        """Requests of so many people each, all that is told of one in one identify event."""
        for start in range(0, len(rows), MOST_EVENTS):
            some = rows[start:start + MOST_EVENTS]
            said = [self._event("identify", row.own | row.custom, row.timestamp, row.session) for row in some]
            calls = [call for row in some for call in row.calls]
            names = [row.next.get(at, "") for row in some for at in range(len(row.calls))]
            yield Followed(tuple(calls), signed(self.app, self.secret, said), ROUTE,
                           next={at: name for at, name in enumerate(names) if name})

    def tells(self, people: Sequence[Sequence[Saying]]) -> tuple[list[Batch], list[Call]]:
        """Requests of so many events each, which no two share of one user, and the calls for which his are too many.

        They name him by his uid alone: an event may change a customer's email, and can make none.
        """
        batches: list[Batch] = []
        page: list[Saying] = []
        waiting: list[Call] = []
        for sayings in people:
            now: list[Saying] = []
            for one in sayings:
                if now and _count(now) + len(one.events) > MOST_EVENTS:
                    break
                now.append(one)
            waiting += (one.call for one in sayings[len(now):])
            if page and _count(page) + _count(now) > MOST_EVENTS:
                batches.append(self._said(page))
                page = []
            page += now
        return [*batches, *([self._said(page)] if page else [])], waiting

    def _said(self, page: Sequence[Saying]) -> Batch:
        events = [{**self._event(name, properties, one.timestamp, one.session),
                   "userProperties": {"uid": one.call.user_id}} for one in page for name, properties in one.events]
        return Followed(tuple(one.call for one in page), signed(self.app, self.secret, events), ROUTE,
                        merged=None if len(events) == len(page) else len(events),
                        next={at: one.next for at, one in enumerate(page) if one.next})

    def _event(self, name: str, properties: Mapping[str, Any], timestamp: str, session: str) -> dict[str, object]:
        """One event; `timestamp` is ISO 8601, `session` the id of a session to join it to, or empty."""
        moment = int(datetime.fromisoformat(timestamp).timestamp() * 1000)
        return {**({"did": session} if session else {}), "event": name, "properties": properties,
                "time": {"sentAt": moment}, "appClientId": self.app}


def _count(sayings: Sequence[Saying]) -> int:
    return sum(len(one.events) for one in sayings)


def signed(app: str, secret: str, events: Sequence[Mapping[str, object]]) -> bytes:
    """A batch as it is sent: its JSON with sorted keys in base64, and the SHA-256 of that and the secret."""
    batch = {"appClientId": app, "event": "send_batch", "events": events}
    packed = b64encode(orjson.dumps(batch, default=digits, option=orjson.OPT_SORT_KEYS))
    return orjson.dumps({"s": sha256(packed + secret.encode()).hexdigest(), "hs": packed.decode()})


class EventChannel(Channel):
    """Posts batches; whatever is accepted is no more than accepted, since nothing is said of single events."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """Everything in a batch is taken; raises a DeliveryError for all of it."""
        reply = self._api.ask(ROUTE, batch.body, seconds=seconds)
        if reply.body.lstrip().startswith(b"<"):  # what a healthy answer looks like is not published, but not so
            raise Unanswered(f"the answer {reply.status} is a page for people, so it says nothing", status=reply.status)
        return taken(batch, wait=reply.wait)

    def close(self) -> None:
        """Close the connection."""
        self._api.close()


class BothChannel(Channel):
    """Two ways to Richpanel: a batch takes that of its route."""

    def __init__(self, people: Channel, events: Channel) -> None:
        self._people, self._events = people, events

    def send(self, batch: Batch, *, seconds: float) -> Receipt:
        """By the way of its route; raises a DeliveryError for all of it."""
        answer = (self._events if batch.route == ROUTE else self._people).send(batch, seconds=seconds)
        return answer if isinstance(answer, Receipt) else Receipt(answer)

    def close(self) -> None:
        """Close both connections."""
        self._people.close()
        self._events.close()

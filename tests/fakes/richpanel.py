"""Richpanel's two APIs as their reference describes them, with a switch for whatever that leaves open."""

from __future__ import annotations

import time
from base64 import b64decode
from collections import Counter
from collections.abc import Collection, Mapping
from hashlib import sha256
from math import ceil
from typing import Any

import orjson

from tests.fakes.base import Fake, Table, reply
from tests.loopback import Answer, Request, Script

KEY, SOURCE, SECRET = "rp_0123456789abcdef", "ds_0123456789abcdef", "s3cretOfADataSource"
OWN = ("uid", "appClientId", "email", "name", "facebook", "twitter", "state", "city", "country", "phone")


class RichpanelFake(Fake):
    """Keeps `people` by uid; whoever sends more than `limit` requests in `window` seconds gets 429, and is noted.

    `nesting` is where custom properties may stand: customer or body. `most_events` of a batch, of which a larger one is
    refused; `always` answers 200 to every batch, also to what is thrown away. `shows` the uid in look-ups or hides it.
    `nulls` of custom properties clear them, stay there as null, or are refused, as where only empty texts clear.
    `strict` refuses events of who is no customer, `unwanted` are names of events that it refuses. `data_source` is the
    key of batches, or the other one. What was tracked is in `tracked`, by the uid. An event whose user has an email
    breaks a rule of ours, and it changes that of a customer.
    """

    def __init__(self, script: Script = (), *, key: str = KEY, secret: str = SECRET, limit: int = 1_000_000,
                 window: float = 30.0, nesting: str = "customer", most_events: int = 25, always: bool = False,
                 shows: bool = True, nulls: str = "clear", strict: bool = False, unwanted: Collection[str] = (),
                 data_source: str = SOURCE, latency: float = 0.0) -> None:
        super().__init__(script, latency=latency)
        self.key, self.secret, self.limit, self.window = key, secret, limit, window
        self.nesting, self.most_events, self.always, self.shows = nesting, most_events, always, shows
        self.nulls, self.strict, self.unwanted, self.sources = nulls, strict, unwanted, (data_source, key)
        self.tracked: list[tuple[str, str, dict[str, Any]]] = []
        self.people = Table("email", "phone")
        self.routes: Counter[str] = Counter()
        self.events: list[dict[str, Any]] = []
        self._began, self._used = 0.0, 0

    def holds(self) -> dict[tuple[str, str], object]:
        return {(uid, name): value for uid, person in self.people.items() for name, value in person.items()
                if not _own(name) and name != "id"}

    def said(self) -> dict[tuple[str, str], object]:
        """What the last event about each user and key said."""
        return {(uid, str(properties.get("audience_key", properties.get("trait_key")))):
                properties[properties.get("audience_key", properties.get("trait_key"))]
                for uid, _, properties in self.tracked}

    def answer(self, request: Request, *, taken: bool) -> Answer:
        with self._lock:
            now = time.monotonic()
            if now >= self._began + self.window:
                self._began, self._used = now, 0
            self._used += 1
            left = max(0, self.limit - self._used)
            headers = {"X-RateLimit-Limit": str(self.limit), "X-RateLimit-Remaining": str(left),
                       "Retry-After": str(max(1, ceil(self._began + self.window - now)))}
            if self._used > self.limit:
                self.violations.append("more requests than the window allows")
                return reply({"error": {"message": "Too many requests"}}, 429, headers)
        answer = super().answer(request, taken=taken)
        return answer._replace(headers={**answer.headers, **headers})

    def handle(self, method: str, path: list[str], query: Mapping[str, str], body: Any, request: Request) -> Answer:
        route = f"{method} /{'/'.join(path[:3])}"
        self.routes[route] += 1
        if route == "POST /v2/bt":
            return self._batch(body)
        if request.headers.get("x-richpanel-key") != self.key:
            return _error(401, "Invalid API key")
        if route == "GET /v1/ping":
            return reply({"message": "pong"})
        if route == "POST /v1/customers":
            return self._save(body)
        if route in ("GET /v1/customers/email", "GET /v1/customers/phone") and len(path) == 4:
            return self._find(path[2], path[3])
        self.violations.append(f"no such route: {method} {request.path}")
        return _error(404, "Not found")

    def _find(self, name: str, value: str) -> Answer:
        person = next(self.people.like(name, value), None)
        if person is None:
            return _error(404, "Customer not found")
        return reply({"customer": {name: value for name, value in person.items() if self.shows or name != "uid"}})

    def _save(self, body: Any) -> Answer:
        customer = body.get("customer") if isinstance(body, dict) else None
        if not isinstance(customer, dict) or not isinstance(customer.get("uid"), str) or not customer["uid"]:
            return _error(400, "uid is required")
        beside = {name: value for name, value in body.items() if name != "customer"}
        inside = {name: value for name, value in customer.items() if not _own(name)}
        if (unknown := beside if self.nesting == "customer" else inside):
            return _error(400, f"unknown parameter {next(iter(unknown))}")
        if wrong := [name for name, value in customer.items() if _own(name) and not isinstance(value, str)]:
            return _error(400, f"{wrong[0]} is invalid")
        if "email" in customer and "@" not in customer["email"]:
            return _error(400, "email is invalid")
        uid, email = customer["uid"], customer.get("email", "").lower()
        if email and any(one is not self.people.get(uid) for one in self.people.like("email", email)):
            return _error(409, "This email is already used by another customer")
        said = customer | beside
        if self.nulls == "refused" and (empty := next((name for name, value in said.items() if value is None), "")):
            return _error(400, f"{empty} is invalid")
        person = self.people.setdefault(uid, {"id": f"c{len(self.people)}"})
        self._set(person, said)
        return reply({"message": "Customer saved", "customer": {"id": person["id"], "uid": uid}})

    def _set(self, person: dict[str, Any], said: Mapping[str, Any]) -> None:
        gone = {"clear": (None, ""), "refused": ("",), "kept": ()}[self.nulls]
        for name, value in said.items():
            if value in gone and not _own(name):
                person.pop(name, None)
            else:
                person[name] = value

    def _batch(self, body: Any) -> Answer:
        wrong = self._wrong(body)
        if wrong:
            return reply({"success": True}) if self.always else _error(400, wrong)
        for event in orjson.loads(b64decode(body["hs"]))["events"]:
            self.events.append(event)
            said = event["properties"]
            if event["event"] == "identify":
                self._set(self.people.setdefault(said["uid"], {"id": f"c{len(self.people)}"}), said)
                continue
            user = event["userProperties"]
            if "email" in user:
                self.violations.append("an event with an email")
                self.people.get(user["uid"], {})["email"] = user["email"]
            if user["uid"] not in self.people:
                self.violations.append("an event of who is no customer")
            self.tracked.append((user["uid"], event["event"], said))
        return reply({"success": True})

    def _wrong(self, body: Any) -> str:
        if not isinstance(body, dict) or {*body} != {"s", "hs"}:
            return "s and hs are required"
        if body["s"] != sha256((body["hs"] + self.secret).encode()).hexdigest():
            return "the signature is wrong"
        batch = orjson.loads(b64decode(body["hs"]))
        events = batch["events"]
        if batch.get("appClientId") not in self.sources or batch.get("event") != "send_batch":
            return "the app is unknown"
        if len(events) > self.most_events:
            return "too many events"
        who = [one.get("properties" if one.get("event") == "identify" else "userProperties", {}).get("uid")
               for one in events]
        if not all(who) or any(not one.get("event") or one.get("appClientId") not in self.sources for one in events):
            return "uid is required"
        if self.strict and any(one["event"] != "identify" and uid not in self.people
                               for uid, one in zip(who, events, strict=True)):
            return "no such user"
        if wrong := next((one["event"] for one in events if one["event"] in self.unwanted), ""):
            return f"the event {wrong} is unknown"
        return ""


def _own(name: str) -> bool:
    return name in OWN or name.startswith(("billing", "shipping"))


def _error(status: int, message: str) -> Answer:
    return reply({"error": {"message": message}}, status)

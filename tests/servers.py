"""Servers on loopback that play a destination, hold it to its own rules, and remember what they were told."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from tests.loopback import Answer, Fault, Loopback, Request, Script

__all__ = ["Answer", "Fault", "Loopback", "Recorder", "Request", "key_of", "keys_of", "user_of", "violations_of"]

MESSAGE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Recorder(Loopback):
    """Plays Segment's /v1/batch: takes identify calls, holds its limits, and remembers every body that it took.

    `refuse` are users for whom any batch that has one of them is answered with 400, until they are taken out.
    `write_key` is the only one it accepts, when given. `strict=False` leaves the reading of bodies for later, and
    `keep=False` keeps none of them: for benchmarks. Reading `calls`, `told()` and the like parses once, lazily.
    """

    path = "/v1/batch"
    most_body, most_call = 500_000, 32_000

    def __init__(self, script: Script = (), *, latency: float = 0.0, refuse: Iterable[str] = (),
                 write_key: str | None = None, strict: bool = True, keep: bool = True) -> None:
        super().__init__(script, latency=latency)
        self.refuse, self.write_key, self.strict, self.keep = set(refuse), write_key, strict, keep
        self.bodies: list[bytes] = []
        self._calls: list[dict[str, Any]] = []
        self._parsed = 0
        self._raw: dict[str, set[bytes]] = {}
        self._wrong: list[str] = []

    def answer(self, request: Request, *, taken: bool) -> Answer:
        if request.method != "POST" or request.path != self.path:
            return Answer(404, b'{"message": "no such place"}')
        body = request.body
        if not self._authorized(request.headers):
            return Answer(401, b'{"code": "unauthorized", "message": "invalid write key"}')
        if request.headers.get("content-encoding") == "gzip":
            body = zlib.decompress(body, wbits=31)
        if len(body) > self.most_body:
            self._note(f"a body of {len(body)} bytes")
            return Answer(400, b'{"success": false, "message": "body too large", "code": "invalid_request"}')
        if self.strict or self.refuse:
            try:
                calls = orjson.loads(body)["batch"]
            except (ValueError, KeyError, TypeError):
                self._note("malformed JSON")
                return Answer(400, b'{"success": false, "message": "malformed JSON", "code": "invalid_request"}')
            if self.refuse and any(user_of(call) in self.refuse for call in calls):
                return Answer(400, b'{"success": false, "message": "a call is refused", "code": "invalid_request"}')
        if taken and self.keep:
            with self._lock:
                self.bodies.append(body)
        return Answer()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Every identify call taken, in the order of arrival, repetitions included."""
        self._parse()
        return self._calls

    @property
    def unique_calls(self) -> list[dict[str, Any]]:
        """The calls as a receiver keeps them that forgets repetitions of a messageId."""
        return list({call["messageId"]: call for call in reversed(self.calls)}.values())[::-1]

    @property
    def violations(self) -> list[str]:
        """Whatever breaks one of Segment's rules."""
        self._parse()
        return self._wrong

    def told(self, *, dedupe: bool = True) -> dict[tuple[str, str], Any]:
        """The last value of each (key, user); with `dedupe` a repeated messageId changes nothing, as at Segment."""
        return {(key, user_of(call)): value for call in (self.unique_calls if dedupe else self.calls)
                for key, value in told_by(call).items()}

    def holds(self) -> dict[tuple[str, str], Any]:
        """What the contract suite compares: the last value of each user and key."""
        return {(user, key): value for (key, user), value in self.told().items()}

    def changed_message_ids(self) -> list[str]:
        """The messageIds that came with more than one body; always none."""
        self._parse()
        return [name for name, bodies in self._raw.items() if len(bodies) > 1]

    def clear(self) -> None:
        """Forget what was told so far."""
        with self._lock:
            self.bodies, self._calls, self._parsed, self._raw, self._wrong = [], [], 0, {}, []

    def _authorized(self, headers: Mapping[str, str]) -> bool:
        scheme, _, encoded = headers.get("authorization", "").partition(" ")
        try:
            key = base64.b64decode(encoded, validate=True).decode()
        except ValueError:
            key = ""
        if scheme != "Basic" or not key.endswith(":") or key == ":":
            self._note("no Basic auth of the form write_key:")
            return False
        return self.write_key is None or key == f"{self.write_key}:"

    def _note(self, violation: str) -> None:
        with self._lock:
            self._wrong.append(violation)

    def _parse(self) -> None:
        with self._lock:
            for body in self.bodies[self._parsed:]:
                calls = orjson.loads(body)["batch"]
                if not 0 < len(calls) <= 2500:
                    self._wrong.append(f"{len(calls)} calls in a body")
                raws = _items(body)
                if len(raws) != len(calls):
                    raws = [orjson.dumps(call) for call in calls]
                for call, raw in zip(calls, raws, strict=True):
                    self._raw.setdefault(str(call.get("messageId")), set()).add(raw)
                    self._wrong.extend(violations_of(call, raw, self.most_call))
                self._calls.extend(calls)
            self._parsed = len(self.bodies)


class RudderStack(Recorder):
    """Plays rudder-server's gateway (gateway/response/response.go): words in plain text, no limit of a call."""

    most_body = most_call = 4_000_000
    disabled = False

    def answer(self, request: Request, *, taken: bool) -> Answer:
        if self.disabled:
            return Answer(404, b"source is disabled\n")
        said = super().answer(request, taken=taken)
        words = {200: b"OK", 400: b"request neither has anonymousId nor userId\n", 401: b"invalid write key\n"}
        return Answer(said.status, words.get(said.status, said.body))


class Jitsu(Recorder):
    """Plays Jitsu's ingest (router_batch_handler.go): a 200 names the calls that it did not take, by messageId."""

    most_body = most_call = 1_000_000

    def answer(self, request: Request, *, taken: bool) -> Answer:
        wanted, self.refuse = self.refuse, set()
        said = super().answer(request, taken=False)
        self.refuse = wanted
        if said.status != 200:
            return Answer(said.status, b'{"error": "stream not found"}' if said.status == 401 else said.body)
        calls = orjson.loads(request.body)["batch"]
        good = [call for call in calls if user_of(call) not in wanted]
        if taken and good:
            with self._lock:
                self.bodies.append(orjson.dumps({"batch": good}))
        errors = [f"Message ID: {call['messageId']}: no such user {user_of(call)}" for call in calls
                  if user_of(call) in wanted]
        return Answer(200, orjson.dumps({"ok": not errors, "receivedEvents": len(calls), "okEvents": len(good)}
                                        | ({"errors": errors} if errors else {})))


class Dittofeed(Recorder):
    """Plays Dittofeed's public API (publicAppsController.ts): its key is the header, and its yes has no words."""

    path = "/api/public/apps/batch"

    def answer(self, request: Request, *, taken: bool) -> Answer:
        said = super().answer(request, taken=taken)
        return Answer(204, b"") if said.status == 200 else said

    def _authorized(self, headers: Mapping[str, str]) -> bool:
        return headers.get("authorization") == self.write_key


class CustomerIo(Recorder):
    """Plays Customer.io Pipelines: twice Segment's limits."""

    most_body, most_call = 1_000_000, 64_000


def violations_of(call: Mapping[str, Any], raw: bytes, most: int = 32_000) -> list[str]:
    """What is wrong with one identify call of an audience."""
    wrong = []
    if len(raw) > most:
        wrong.append(f"a call of {len(raw)} bytes")
    ids = [call[name] for name in ("userId", "anonymousId") if call.get(name) is not None]  # a client says null of one
    if not ids or not all(isinstance(value, str) and value for value in ids):
        wrong.append(f"ids {ids!r}")
    if not MESSAGE_ID.fullmatch(str(call.get("messageId"))):
        wrong.append(f"messageId {call.get('messageId')!r}")
    if call.get("type") not in ("identify", "track"):
        wrong.append(f"type {call.get('type')!r}")
    if call.get("context", {}).get("personas", {}).get("computation_class") != "trait":
        for key, value in told_by(call).items():
            if key in keys_of(call) and not isinstance(value, bool):
                wrong.append(f"trait {key!r} is {value!r}, which is no boolean")
    return wrong


def told_by(call: Mapping[str, Any]) -> dict[str, Any]:
    """What a call says by the names of traits: with a computed trait's own the included columns, which look alike."""
    if call.get("type") == "track":
        properties = call["properties"]
        key = properties["audience_key" if "audience_key" in properties else "trait_key"]
        return {key: properties[key]}
    personas, traits = call.get("context", {}).get("personas", {}), call.get("traits", {})
    if personas.get("computation_class") == "trait" or "computation_keys" in personas:
        return dict(traits)
    return {key: traits.get(key) for key in keys_of(call)}


def said_in(calls: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, Any]]:
    """The user, the name and the value of each trait that calls tell, without the included columns of the suite."""
    return [(user_of(call), name, value) for call in calls for name, value in told_by(call).items()
            if name not in ("email", "note")]


def user_of(call: Mapping[str, Any]) -> str:
    """The user a call is about."""
    return str(call["userId"] if call.get("userId") is not None else call.get("anonymousId"))


def key_of(call: Mapping[str, Any]) -> str:
    """The audience a call is about, where it is about one."""
    return str(call["context"]["personas"]["computation_key"])


def keys_of(call: Mapping[str, Any]) -> list[str]:
    """The audiences a call is about: one, or several that travel together."""
    personas = call.get("context", {}).get("personas", {})
    return list(personas.get("computation_keys") or [str(personas.get("computation_key"))])


def _items(body: bytes) -> list[bytes]:
    """The calls' own bytes, so that two bodies for one messageId are seen even where they mean the same."""
    start, end = body.find(b"[") + 1, body.rfind(b"]")
    parts = body[start:end].split(b',{"type":"identify"')
    return [parts[0], *(b'{"type":"identify"' + part for part in parts[1:])]

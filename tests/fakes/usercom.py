"""User.com's API as its reference describes it, with a switch for whatever that leaves open."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import orjson

from audiencesync.destinations.usercom_requests import is_event
from audiencesync.model import Batch
from tests.fakes.base import Fake, Table, reply
from tests.loopback import Answer, Fault, Request, Script

KEY = "0123456789abcdef" * 4
OWN = ("email", "first_name", "last_name", "phone_number", "gender", "status", "country", "city", "region", "tags")
LONGEST = {"first_name": 40, "last_name": 40, "phone_number": 64}
INSTANT = r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?)?"
TOO_FAST = Fault(status=429, headers={"Retry-After": "3"},
                 body=b'{"detail": "Request was throttled. Expected available in 3 seconds."}')


def opened(batch: Batch) -> bytes:
    """A request with its path in plain letters, where that alone says who is meant."""
    if not is_event(batch):
        return batch.body
    return orjson.dumps({"path": unquote(batch.route), "said": orjson.Fragment(batch.body)})


class UserComFake(Fake):
    """Keeps `people` by number and `attributes` (name to type).

    `slash` is what a path without its last slash gets: 404, 301 or 500. `undeclared` is what becomes of an attribute
    that does not exist: drop, refuse (400), string (made as text). `unknown_ids` of a mass update: ignore or refuse
    (404). `clash` is what an email of another custom id gets: 400, 409 or allow. `shows` attributes flat or as a list.
    `most` are the ids of a mass update (None: any number), `page` the entries of a list, `revoked` the key. `clears`
    is what empties an attribute: null, empty text, or (never) neither. `nobody` is what an event of an unknown user
    gets: 404, 400, or 200 (dropped); those taken are in `events`, as (number, name, data, seconds).
    """

    path = "/api/public"

    def __init__(self, script: Script = (), *, key: str = KEY, slash: int = 404, undeclared: str = "drop",
                 unknown_ids: str = "ignore", clash: str = "400", shows: str = "flat", most: int | None = 100,
                 page: int = 100, revoked: bool = False, attributes: Mapping[str, str] | None = None,
                 latency: float = 0.0, clears: str = "null", nobody: int = 404) -> None:
        super().__init__(script, latency=latency)
        self.key, self.slash, self.undeclared, self.unknown_ids = key, slash, undeclared, unknown_ids
        self.clash, self.shows, self.most, self.page, self.revoked = clash, shows, most, page, revoked
        self.clears, self.nobody = clears, nobody
        self.attributes: dict[str, str] = dict(attributes or {})
        self.events: list[tuple[int, str, dict[str, Any], int]] = []
        self.people = Table("custom_id", "email", "phone_number")
        self.routes: Counter[str] = Counter()
        self.next_pages_at = ""

    def holds(self) -> dict[tuple[str, str], object]:
        return {(person["custom_id"] or person.get("email", ""), name): value for person in self.people.values()
                for name, value in person["attributes"].items()}

    def person(self, custom_id: str | None = None, **fields: Any) -> int:
        """Somebody who is there already; his number."""
        number = next(reversed(self.people), 4993) + 7  # the last is the largest
        self.people[number] = {"id": number, "custom_id": custom_id, "attributes": {}, **fields}
        return number

    def handle(self, method: str, path: list[str], query: Mapping[str, str], body: Any, request: Request) -> Answer:
        if request.headers.get("authorization") != f"Token {self.key}":
            return reply({"detail": "Invalid token."}, 401)
        if self.revoked:
            return reply({"detail": "This key was revoked or the domain is not trusted."}, 403)
        if path[:2] != ["api", "public"] or path[-1] != "":
            self.violations.append(f"{method} of a path without its last slash: {request.path}")
            return reply({"detail": "Not found."}, self.slash,
                         {"Location": f"{self.url}/"} if self.slash == 301 else {})
        if method != "GET" and not isinstance(body, dict):
            self.violations.append(f"{method} without a JSON object")
            return reply({"detail": "JSON parse error"}, 400)
        place, names = path[2], path[3:-1]
        self.id_name = "custom_id" if "version=2" in request.headers.get("accept", "") else "user_id"
        named = names and (method == "POST" or names[0].startswith("mass"))
        at = f"{place}/{names[0] if named else '*'}" if names[1:] != ["events"] else "events/*"
        self.routes[f"{method} {at}"] += 1
        handler = {"users": self._users, "users-by-id": self._by_custom_id, "attributes": self._attributes,
                   "attribute-type": self._type, "events": self._events}.get(place)
        answer = handler(method, names, query, body) if handler else None
        if answer is None:
            self.violations.append(f"no such route: {method} {'/'.join(path)}")
            return Answer(404, b"<h1>Not Found</h1>")
        return answer

    def _users(self, method: str, names: list[str], query: Mapping[str, str], body: Any) -> Answer | None:
        if (method, names) == ("POST", ["update_or_create"]):
            return self._update_or_create(body)
        if (method, names) == ("PUT", ["mass_update_custom_attributes"]):
            return self._mass(body, int)
        if (method, names) == ("GET", ["search"]):
            return self._search(query)
        if len(names) == 1 and method in ("GET", "PUT"):
            return self._one(method, self.people.get(int(names[0]) if names[0].isdecimal() else 0), body)
        return None

    def _by_custom_id(self, method: str, names: list[str], query: Mapping[str, str], body: Any) -> Answer | None:
        if (method, names) == ("PUT", ["mass_update_custom_attributes"]):
            return self._mass(body, str)
        if len(names) == 1 and method in ("GET", "PUT"):
            return self._one(method, self._of_custom_id(names[0]), body)
        if method == "POST" and names[1:] == ["events"]:
            return self._event(self._of_custom_id(names[0]), body)
        if method == "POST" and names[1:] == ["set_multiple_attributes"]:
            return self._one("PUT", self._of_custom_id(names[0]), body)
        return None

    def _of_custom_id(self, custom_id: object) -> dict[str, Any] | None:
        found = self.people.like("custom_id", custom_id) if custom_id else ()
        return next((one for one in found if one["custom_id"] == custom_id), None)

    def _of_email(self, email: object) -> dict[str, Any] | None:
        return next(iter(self.people.like("email", email) if email else ()), None)

    def _one(self, method: str, person: dict[str, Any] | None, body: Any) -> Answer:
        if person is None:
            return reply({"detail": "Not found."}, 404)
        if method == "PUT" and (errors := self._write(person, body)):
            return errors
        return reply(self._shown(person))

    def _shown(self, person: dict[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in person.items() if name not in ("attributes", "custom_id")}
        own |= {self.id_name: person["custom_id"], "user_key": f"k{person['id']}", "lists": [], "unsubscribed": False}
        if self.shows == "flat" and self.id_name == "custom_id":
            return own | person["attributes"]
        listed = [{"id": at, "name": name, "name_std": name, "value": value, "value_type": self.attributes.get(name)}
                  for at, (name, value) in enumerate(person["attributes"].items())]
        return own | {"attributes": listed}

    def _update_or_create(self, body: dict[str, Any]) -> Answer:
        custom_id, email = body.get(self.id_name), body.get("email")
        if not custom_id and not email:
            return reply({"errors": {self.id_name: ["This field is required."]}}, 400)
        found, other = self._of_custom_id(custom_id), self._of_email(email)
        if not custom_id or (found is None and other is not None and not other["custom_id"]):
            found = other
        elif other is not None and other is not found and self.clash != "allow":
            return reply({"errors": {"email": ["This email belongs to another user."]}}, int(self.clash))
        number = found["id"] if found else self.person(custom_id)
        if errors := self._write(self.people[number], body):
            if not found:
                del self.people[number]
            return errors
        return reply({"created": found is None, "id": number})

    def _write(self, person: dict[str, Any], body: dict[str, Any]) -> Answer | None:
        errors: dict[str, list[str]] = {}
        for name, value in body.items():
            if name == self.id_name:
                person["custom_id"] = value
            elif name not in OWN:
                errors |= self._set(person, name, value)
            elif value is None or len(str(value)) > LONGEST.get(name, 1000):
                errors[name] = ["Ensure this field has a value that is not too long."]
            elif (name == "gender" and value not in (1, 2, 3)) or (name == "email" and "@" not in str(value)):
                errors[name] = ["Not a valid choice."]
            else:
                person[name] = value
        return reply({"errors": errors}, 400) if errors else None

    def _set(self, person: dict[str, Any], name: str, value: Any) -> dict[str, list[str]]:
        """Set one attribute as its type allows; what cannot be converted is ignored without a word."""
        kind = self.attributes.get(name)
        if kind is None and self.undeclared == "refuse":
            return {name: ["There is no such attribute."]}
        if kind is None and self.undeclared == "string":
            kind = self.attributes[name] = "string"
        found = self._converted(kind, value)
        if found is not None or (kind is not None and value == {"null": None, "empty": ""}.get(self.clears, 0)):
            person["attributes"][name] = found
        return {}

    def _converted(self, kind: str | None, value: Any) -> Any:
        """A value as an attribute of this type keeps it; None where it cannot."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or (value == "" and self.clears == "empty"):
            return None
        if kind == "string":
            return str(value)
        if kind == "datetime" and isinstance(value, str):
            return value if re.fullmatch(INSTANT, value) else None
        if kind == "float" and number:
            return float(value)
        fits = {"boolean": isinstance(value, bool), "integer": number and value == int(value)}
        return value if kind and fits.get(kind) else None

    def _events(self, method: str, names: list[str], query: Mapping[str, str], body: Any) -> Answer | None:
        if method != "POST" or names:
            return None
        return self._event(self.people.get(body.pop("user_id", 0)), body)

    def _event(self, person: dict[str, Any] | None, body: dict[str, Any]) -> Answer:
        types = {"name": str, "timestamp": int, "data": dict}
        if {*body} != {*types} or any(type(body[name]) is not type_ for name, type_ in types.items()):
            self.violations.append(f"an event of other fields: {body}")
            return reply({"errors": {"name": ["Not valid."]}}, 400)
        if person is None and self.nobody != 200:
            said = {"detail": "Not found."} if self.nobody == 404 else {"errors": {"user_id": ["Invalid pk."]}}
            return reply(said, self.nobody)
        if person is not None:
            self.events.append((person["id"], body["name"], body["data"], body["timestamp"]))
        return reply({"id": 86 + len(self.events), "created": True})

    def happened(self, custom_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The events of a user, in their order."""
        return [(name, data) for number, name, data, _ in self.events
                if (self.people.get(number) or {}).get("custom_id") == custom_id]

    def _mass(self, body: dict[str, Any], kind: type) -> Answer:
        ids = body.get("ids")
        if not isinstance(ids, list) or not ids or {*body} != {"ids", "attribute", "value"}:
            return reply({"errors": {"ids": ["This field is required."]}}, 400)
        if any(type(one) is not kind for one in ids) or len(ids) != len(set(ids)):
            self.violations.append(f"mass update by {kind.__name__} of {ids[:3]}")
            return reply({"errors": {"ids": ["Not valid."]}}, 400)
        if self.most is not None and len(ids) > self.most:
            return reply({"errors": {"ids": [f"Ensure this field has no more than {self.most} elements."]}}, 400)
        found = [self._of_custom_id(one) if kind is str else self.people.get(one) for one in ids]
        if self.unknown_ids == "refuse" and None in found:
            return reply({"detail": "Not found."}, 404)
        for person in found:
            if person is not None and (errors := self._set(person, body["attribute"], body["value"])):
                return reply({"errors": errors}, 400)
        return reply({"status": "ok"})

    def _search(self, query: Mapping[str, str]) -> Answer:
        if "email" in query:
            person = self._of_email(query["email"])
        elif "key" in query:
            person = next((one for one in self.people.values() if f"k{one['id']}" == query["key"]), None)
        else:
            wanted = query.get("phone_number", "")
            found = self.people.like("phone_number", wanted) if wanted else ()
            person = next((one for one in found if one.get("phone_number") == wanted), None)
        if "phone_number" in query or query.get("many") == "true":
            return reply({"results": [self._shown(person)] if person else []})
        return reply(self._shown(person)) if person else reply({"detail": "Not found."}, 404)

    def _attributes(self, method: str, names: list[str], query: Mapping[str, str], body: Any) -> Answer | None:
        if names or method not in ("GET", "POST"):
            return None
        if method == "POST":
            return self._declare(body)
        rows = [{"content_type": "company", "name_std": "vip", "value_type": "string", "id": 1, "name": "vip"}]
        rows += [{"content_type": "user", "name_std": name, "value_type": kind, "id": at + 2, "name": name}
                 for at, (name, kind) in enumerate(self.attributes.items())]
        start = int(query.get("cursor", 0))
        more = start + self.page < len(rows)
        after = f"{self.next_pages_at or self.url}/attributes/?cursor={start + self.page}" if more else None
        return reply({"next": after, "previous": None, "results": rows[start:start + self.page]})

    def _declare(self, body: dict[str, Any]) -> Answer:
        name = body.get("name")
        if not name or body.get("content_type") != "clientuser" or not body.get("value_type") or len(name) > 255:
            return reply({"errors": {"name": ["Not valid."]}}, 400)
        if name in self.attributes:
            return reply({"errors": {"name": ["An attribute of this name exists."]}}, 400)
        self.attributes[name] = body["value_type"]
        return reply({"content_type": "user", "name_std": name, "value_type": body["value_type"],
                      "id": len(self.attributes) + 1, "name": name}, 201)

    def _type(self, method: str, names: list[str], query: Mapping[str, str], body: Any) -> Answer | None:
        if method != "GET" or names[1:] != ["users"]:
            return None
        kind = self.attributes.get(names[0])
        return reply({"value_type": kind}) if kind else reply({"detail": "Not found."}, 404)

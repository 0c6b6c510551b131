"""Planhat's API as its reference describes it, with a switch for whatever that leaves open."""

from __future__ import annotations

import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import orjson

from tests.fakes.base import Fake, Table, reply
from tests.loopback import Answer, Request, Script

TOKEN = "ph_0123456789abcdef"
KEYABLES = ("_id", "sourceId", "externalId", "email")
OWN = {"email", "externalId", "sourceId", "companyId", "firstName", "lastName", "name", "position", "phone", "custom"}
TYPES = {"number", "text", "rich text", "checkbox", "day", "date", "list", "multipicklist", "rating", "phone", "email",
         "url"}


class Wrong(Exception):
    """Why one item is not taken; `kind` is created, updated or permission."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind, self.why = kind, why


class PlanhatFake(Fake):
    """Keeps `people` by `_id`, `companies` (external id to domain) and `fields` (name, parent, type of custom fields).

    `custom` of an item merges with what is there, or replaces it. `errors` are objects, strings, bare (only words,
    which name nobody) or silent (none at all). `by_email`: the bulk finds people by their email; `unique`: no two have
    the same. `undeclared` custom keys are taken. `nulls` and empty texts `clear` a custom field, are `kept` there, or
    null is `refused`; `choices` are those of every multipicklist (None: any). `parent` is how fields spell the model,
    `strict_parent` that no other spelling will do. `echoes`: answers name what they took. `counts`: nonupdates are
    counted. `whole`: externalIds or emails that make Planhat answer 400 without saying whose fault it is; `forbidden`
    those it refuses by permission; `invalid` those it refuses by name. `elsewhere`: the tenant lives in another region.
    `limit` is the requests of a minute by `clock` (None: any number).
    """

    path = ""

    def __init__(self, script: Script = (), *, custom: str = "merge", errors: str = "object", by_email: bool = True,
                 unique: bool = True, undeclared: bool = True, nulls: str = "clear",
                 choices: Collection[str] | None = None, parent: str = "EndUser", strict_parent: bool = False,
                 echoes: bool = True, counts: bool = True, whole: Collection[str] = (),
                 forbidden: Collection[str] = (), invalid: Collection[str] = (), elsewhere: bool = False,
                 limit: int | None = None, clock: Callable[[], float] = time.monotonic, token: str = TOKEN,
                 fields: Sequence[Mapping[str, Any]] = (), latency: float = 0.0) -> None:
        super().__init__(script, latency=latency)
        self.custom, self.errors, self.by_email, self.unique = custom, errors, by_email, unique
        self.undeclared, self.parent, self.strict_parent = undeclared, parent, strict_parent
        self.nulls, self.choices = nulls, choices
        self.echoes, self.counts, self.whole, self.forbidden, self.invalid = echoes, counts, whole, forbidden, invalid
        self.elsewhere, self.limit, self.clock, self.token = elsewhere, limit, clock, token
        self.companies = {"acme": "example.com", "globex": "globex.example"}
        self.fields: list[dict[str, Any]] = [dict(one) for one in fields]
        self.people = Table(*KEYABLES)
        self.routes: Counter[str] = Counter()
        self.puts: list[list[dict[str, Any]]] = []
        self.docked: list[Any] = []
        self._next = 0
        self._minute: list[float] = []

    def holds(self) -> dict[tuple[str, str], object]:
        return {(person.get("externalId") or person.get("email", ""), key): value for person in self.people.values()
                for key, value in person["custom"].items()}

    def person(self, **known: Any) -> str:
        """Somebody who is there already; his `_id`."""
        self._next += 1
        made = f"{self._next:024x}"
        self.people[made] = {"_id": made, "custom": {}, **known}
        return made

    def handle(self, method: str, path: list[str], query: Mapping[str, str], body: Any, request: Request) -> Answer:
        self.routes[f"{method} /{path[0]}"] += 1
        if path[0] == "dock":  # a data sink: received, whatever becomes of it
            self.docked.append(body)
            return reply({})
        if self.elsewhere or request.headers.get("authorization") not in (
                f"Bearer {self.token}", "Basic " + b64encode(f"{self.token}:".encode()).decode()):
            return reply({"error": "unauthorized"}, 401)
        headers = {}
        if self.limit is not None:
            now = self.clock()
            self._minute = [at for at in self._minute if at > now - 60] + [now]
            left = self.limit - len(self._minute)
            headers = {"X-Rate-Limit-Limit": str(self.limit), "X-Rate-Limit-Remaining": str(max(0, left))}
            if left < 0:
                self._minute.pop()
                return reply({"error": "rate limit exceeded"}, 429, headers)
        answer = self._route(method, path, query, body, request)
        return answer._replace(headers={**answer.headers, **headers})

    def _route(self, method: str, path: list[str], query: Mapping[str, str], body: Any, request: Request) -> Answer:
        if path == ["endusers"] and method == "PUT":
            return self._bulk(body, request)
        if path == ["endusers"] and method == "GET":
            found = [*(self.people.like("email", query["email"]) if "email" in query else self.people.values())]
            start = int(query.get("offset", 0))
            return reply(found[start:start + int(query.get("limit", 100))])
        if path == ["endusers"] and method == "POST":
            return self._single(body, None)
        if path[0] == "endusers" and len(path) == 2:
            return self._one(method, path[1], body)
        if path == ["customfields"]:
            return self._fields(method, query, body)
        self.violations.append(f"{method} {request.path} is no route")
        return reply({"error": "not found"}, 404)

    # endusers

    def _one(self, method: str, name: str, body: Any) -> Answer:
        kind, _, rest = name.partition("-")
        key = {"extid": "externalId", "srcid": "sourceId"}.get(kind)
        person = self._having(key, rest) if key and rest else self._having("_id", name)
        if person is None:
            return reply({"error": "Enduser not found"}, 404)
        if method == "DELETE":
            del self.people[person["_id"]]
            return reply({"n": 1, "ok": 1, "deletedCount": 1})
        return reply(person) if method == "GET" else self._single(body, person)

    def _single(self, body: Any, person: dict[str, Any] | None) -> Answer:
        if not isinstance(body, dict):
            return reply({"error": "an object is expected"}, 400)
        try:
            made, _ = self._upsert(body, person)
        except Wrong as wrong:
            return reply({"error": wrong.why}, 400)
        return reply({**made, "__v": 0})

    def _bulk(self, body: Any, request: Request) -> Answer:
        if not isinstance(body, list) or not all(isinstance(item, dict) for item in body):
            self.violations.append("PUT /endusers takes an array of objects")
            return reply({"error": "an array is expected"}, 400)
        if len(body) > 5000 or len(request.body) > 32_000_000:
            self.violations.append(f"{len(body)} items in {len(request.body)} bytes")
            return reply({"error": "too many items"}, 400)
        self.puts.append(body)
        self.violations += [f"{name} was sent" for item in body for name in item if name not in OWN | {"_id"}]
        self.violations += ["sourceId was sent" for item in body if "sourceId" in item]
        said: dict[str, Any] = {"created": 0, "createdErrors": [], "insertsKeys": [], "updated": 0, "updatedErrors": [],
                                "updatesKeys": [], "nonupdates": 0, "modified": [], "upsertedIds": [],
                                "permissionErrors": []}
        if twice := [item for name in KEYABLES for value, times in Counter(
                item[name] for item in body if name in item).items() if times > 1
                for item in body if item.get(name) == value]:
            self.violations.append("one keyable twice in a request")
            said["updatedErrors"] = [self._error(item, "duplicated key") for item in twice]
            return reply(said, 400)
        if any(item.get(name) in self.whole for item in body for name in KEYABLES):
            return reply({"error": "validation failed"}, 400)
        for item in body:
            try:
                self._take(item, said)
            except Wrong as wrong:
                if self.errors != "silent":
                    said[f"{wrong.kind}Errors"].append(
                        self._error(item, wrong.why))
        if not self.echoes:
            said |= {"insertsKeys": [], "updatesKeys": [], "modified": [], "upsertedIds": []}
        wrong = sum(len(said[f"{kind}Errors"]) for kind in ("created", "updated", "permission"))
        complete = said["created"] + said["updated"] + said["nonupdates"] == len(body)
        if not self.counts:
            said["nonupdates"] = 0
        if said["permissionErrors"]:
            return reply(said, 403)
        return reply(said, 206 if wrong or not complete else 200)

    def _take(self, item: dict[str, Any], said: dict[str, Any]) -> None:
        person = self._match(item)
        before = orjson.dumps(person) if person else b""
        made, fresh = self._upsert(item, person)
        keys = {"_id": made["_id"], **{name: item[name] for name in KEYABLES if name in item and name != "_id"}}
        if fresh:
            said["created"] += 1
            said["insertsKeys"].append(keys)
            said["upsertedIds"].append(made["_id"])
        elif orjson.dumps(made) == before:
            said["nonupdates"] += 1
        else:
            said["updated"] += 1
            said["updatesKeys"].append(keys)
            said["modified"].append(made["_id"])

    def _match(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        for name in KEYABLES if self.by_email else KEYABLES[:-1]:
            if name in item and (found := self._having(name, item[name])) is not None:
                return found
        return None

    def _having(self, name: str, value: object, but: object = None) -> dict[str, Any] | None:
        return next((one for one in self.people.like(name, value) if one is not but and one.get(name) == value), None)

    def _upsert(self, item: Mapping[str, Any], person: dict[str, Any] | None) -> tuple[dict[str, Any], bool]:
        kind = "updated" if person else "created"
        names = {item.get(name) for name in KEYABLES}
        if names & set(self.forbidden):
            raise Wrong("permission", "no permission for this record")
        if names & set(self.invalid):
            raise Wrong(kind, "this record is invalid")
        self._check_custom(item, kind)
        if self.unique and "email" in item and self._having("email", item["email"], but=person) is not None:
            raise Wrong(kind, "email already exists on another enduser")
        company = self._company(item)
        if person is None and "_id" in item:
            raise Wrong("updated", "Enduser not found")
        if person is None and company is None:
            raise Wrong("created", "Missing required field companyId")
        if person is None and not {"email", "externalId", "sourceId"} & item.keys():
            raise Wrong("created", "email, externalId or sourceId is required")
        made = person if person is not None else self.people[self.person()]
        made |= {name: value for name, value in item.items() if name not in ("_id", "custom")}
        made |= {"companyId": company} if company is not None else {}
        custom = dict(item.get("custom", {}))
        found = {**made["custom"], **custom} if self.custom == "merge" or not custom else custom
        gone = () if self.nulls == "kept" else (None, "")
        made["custom"] = {name: value for name, value in found.items() if value not in gone}
        return made, person is None

    def _company(self, item: Mapping[str, Any]) -> str | None:
        if "companyId" in item:
            kind, _, rest = str(item["companyId"]).partition("-")
            if kind != "extid" or rest not in self.companies:
                raise Wrong("created", "Company not found")
            return str(item["companyId"])
        domain = str(item.get("email", "")).rpartition("@")[2]
        return next((f"extid-{name}" for name, own in self.companies.items() if own == domain), None)

    def _check_custom(self, item: Mapping[str, Any], kind: str) -> None:
        types = {one["name"]: one["type"] for one in self.fields if one["parent"] == self.parent}
        for name, value in item.get("custom", {}).items():
            if name not in types and not self.undeclared:
                raise Wrong(kind, f"Unknown custom field {name}")
            if value is None and self.nulls == "refused":
                raise Wrong(kind, f"{name} may not be null")
            if value not in (None, "") and not self._fits(types.get(name, ""), value):
                if types[name] == "checkbox":
                    self.violations.append(f"{value!r} for the checkbox {name}")
                raise Wrong(kind, f"{name} must be of type {types[name]}")

    def _fits(self, type_: str, value: object) -> bool:
        if type_ == "checkbox":
            return isinstance(value, bool)
        if type_ == "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        if type_ == "date":
            return isinstance(value, str) and value[:4].isdecimal()
        if type_ == "multipicklist":
            return isinstance(value, list) and (self.choices is None or {*value} <= {*self.choices})
        return not type_ or isinstance(value, str)

    def _error(self, item: Mapping[str, Any], why: str) -> object:
        keys = {name: item[name] for name in KEYABLES if name in item}
        if self.errors == "bare":
            return why
        if self.errors == "string":
            return f"{why} ({', '.join(f'{name}: {value}' for name, value in keys.items())})"
        return {"item": {"keys": keys}, "message": why}

    # custom fields

    def _fields(self, method: str, query: Mapping[str, str], body: Any) -> Answer:
        if method == "GET":
            found = [one for one in self.fields if query.get("parent") in (None, one["parent"])]
            start = int(query.get("offset", 0))
            return reply(found[start:start + int(query.get("limit", 100))])
        whole = isinstance(body, dict) and {"name", "parent", "type", "isHidden"} <= body.keys()
        if not whole or body["type"] not in TYPES:
            self.violations.append("a custom field without what it needs")
            return reply({"error": "name, parent, type and isHidden are required"}, 400)
        if self.strict_parent and body["parent"] != self.parent:
            return reply({"error": "unknown parent"}, 400)
        if any(one["name"] == body["name"] and one["parent"] == body["parent"] for one in self.fields):
            return reply({"error": "a field of this name exists"}, 400)
        self.fields.append(body)
        return reply({**body, "_id": f"{len(self.fields):024x}"})

"""A fake of Crisp's REST API v1: people of one website, as far as audiences need them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

from audiencesync.destinations.crisp import Crisp
from tests.fakes.base import Fake, reply
from tests.loopback import Answer, Request

WEBSITE = str(Crisp.example["website_id"])
IDENTIFIER, KEY = str(Crisp.example["identifier"]), str(Crisp.example["key"])

Person = dict[str, Any]


class CrispFake(Fake):
    """What it has is `people`, by people_id; each guess about the real API has a switch.

    `cap`: people of one batch, more is a 400. `emails`: a batch's profiles may be emails. `keeps`: a PATCH of data
    keeps other keys (merge). `page_size`: of a list, unless asked for. `searches`: whether search_filter is
    "understood", else "ignored" or "refused". `quota`: requests until `busy` (429 or 420) is all it says. `stale`: a
    GET is answered as the first time. `nickname`: whether a creation needs one. `installed`: whether the plugin is,
    else 403. `nulls`: null takes a key away, else it is a 400. `drops`: an event of nobody is taken and dropped, else
    a 404; those of people are in `events`, as (people_id, text, data).
    """

    path = "/v1"

    def __init__(self, *args: Any, cap: int | None = None, emails: bool = False, keeps: bool = True,
                 page_size: int = 20, searches: str = "understood", quota: int | None = None, busy: int = 429,
                 stale: bool = False, nickname: bool = True, installed: bool = True, tier: str = "website",
                 nulls: bool = False, drops: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.people: dict[str, Person] = {}
        self.cap, self.emails, self.keeps, self.page_size, self.searches = cap, emails, keeps, page_size, searches
        self.quota, self.busy, self.stale, self.nickname = quota, busy, stale, nickname
        self.installed, self.tier, self.nulls, self.drops = installed, tier, nulls, drops
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.counted = 0
        self.routes: dict[str, int] = {}
        self._made = 0
        self._emails: dict[str, str] = {}
        self._cache: dict[str, Answer] = {}

    def add(self, email: str, **data: object) -> str:
        """Somebody whom Crisp knows already; his people_id."""
        self._made += 1
        name = str(uuid5(NAMESPACE_URL, f"{email}{self._made}"))
        self.people[name] = {"people_id": name, "email": email, "person": {}, "data": dict(data)}
        self._emails[email] = name
        return name

    def remove(self, email: str) -> None:
        """Somebody at Crisp deletes a person."""
        del self.people[self._emails.pop(email)]

    def holds(self) -> dict[tuple[str, str], object]:
        """Custom data by (email, key)."""
        with self._lock:
            return {(person["email"], key): value for person in self.people.values()
                    for key, value in person["data"].items()}

    def person(self, email: str) -> Person:
        """Whom an email names."""
        found = self._find(email)
        assert found, email
        return found

    def handle(self, method: str, path: list[str], query: Mapping[str, str], body: Any, request: Request) -> Answer:
        self.counted += 1
        if refused := self._refused(path, request):
            return refused
        name = f"{method} {'/'.join(path[3:5])}"
        self.routes[name] = self.routes.get(name, 0) + 1
        if method in ("GET", "HEAD") and self.stale:
            if request.path in self._cache:
                return self._cache[request.path]._replace(headers={"Bloom-Status": "HIT"})
            answer = self._route(method, path[3:], query, body)._replace(headers={"Bloom-Status": "MISS"})
            return self._cache.setdefault(request.path, answer)
        return self._route(method, path[3:], query, body)

    def _refused(self, path: list[str], request: Request) -> Answer | None:
        basic = b64encode(f"{IDENTIFIER}:{KEY}".encode()).decode()
        if path[:2] != ["v1", "website"] or len(path) < 4:
            return no("route_not_found", 404)
        if self.quota is not None and self.counted > self.quota:
            return no("rate_limited", self.busy)
        if request.headers.get("authorization") != f"Basic {basic}":
            return no("unauthorized", 401)
        if request.headers.get("x-crisp-tier", "user") != self.tier:
            return no("unauthorized", 401)
        if path[2] != WEBSITE or not self.installed:
            return no("not_allowed", 403)
        return None

    def _route(self, method: str, path: list[str], query: Mapping[str, str], body: Any) -> Answer:
        routes: dict[tuple[str, ...], Callable[..., Answer]] = {
            ("PATCH", "batch", "data"): self._batch, ("POST", "people", "profile"): self._create}
        if (found := routes.get((method, *path))) is not None:
            return found(body)
        if path[:2] == ["people", "profiles"] and len(path) == 3 and method == "GET":
            return self._list(int(path[2]), query)
        if len(path) == 3 and path[0] == "people" and path[1] in ("profile", "data", "events"):
            person = self._find(path[2])
            if person is None:
                return yes("added") if self.drops and path[1] == "events" else no("not_found", 404)
            if path[1] == "events":
                return self._event(method, person, body)
            return self._one(method, path[1], person, body)
        return no("route_not_found", 404)

    def _one(self, method: str, what: str, person: Person, body: Any) -> Answer:
        if method == "DELETE":
            self.remove(person["email"])
            return yes("deleted")
        if method in ("GET", "HEAD"):
            return yes("resolved", {"data": person["data"]} if what == "data" else
                       {name: value for name, value in person.items() if name != "data"})
        if method not in ("PUT", "PATCH"):
            return no("method_not_allowed", 405)
        if what == "data":
            return self._write([person], body, keeps=method == "PATCH" and self.keeps)
        if not isinstance(body, dict) or not body:
            return self._wrong("an empty profile")
        other = self._find(str(body.get("email", person["email"])).lower())
        if other is not None and other is not person:
            return no("people_exists", 409)
        if not all(isinstance(value, str) for value in body.get("person", {}).values()):
            return self._wrong("a field of a person that is no text")
        del self._emails[person["email"]]
        person["email"] = str(body.get("email", person["email"])).lower()
        self._emails[person["email"]] = person["people_id"]
        person["person"] = {**(person["person"] if method == "PATCH" else {}), **body.get("person", {})}
        return yes("updated")

    def _event(self, method: str, person: Person, body: Any) -> Answer:
        if method != "POST":
            return no("method_not_allowed", 405)
        if not isinstance(body, dict) or not isinstance(body.get("text"), str) or {*body} - {"text", "data", "color"}:
            return self._wrong("an event without text, or with other fields")
        data = body.get("data", {})
        if not all(self._fits(value) for value in data.values()):
            return self._wrong("an event with null, a list or an object")
        self.events.append((person["people_id"], body["text"], data))
        return yes("added")

    def happened(self, email: str) -> list[tuple[str, dict[str, Any]]]:
        """The events of whom an email names, in their order."""
        return [(text, data) for name, text, data in self.events if name == self.person(email)["people_id"]]

    def _fits(self, value: object) -> bool:
        return isinstance(value, str | int | float | bool) or (self.nulls and value is None)

    def _write(self, people: list[Person], body: Any, *, keeps: bool) -> Answer:
        data = body.get("data") if isinstance(body, dict) else None
        if not isinstance(data, dict):
            return self._wrong("data that is not under `data`")
        if not all(map(self._fits, data.values())):
            return self._wrong("data with null, a list or an object")
        for person in people:
            now = {**(person["data"] if keeps else {}), **data}
            person["data"] = {name: value for name, value in now.items() if value is not None}
        return yes("updated")

    def _batch(self, body: Any) -> Answer:
        profiles = body.get("people", {}).get("profiles") if isinstance(body, dict) else None
        if not isinstance(profiles, list) or not profiles or len(set(profiles)) < len(profiles):
            return self._wrong("a batch without people, or with one twice")
        if self.cap is not None and len(profiles) > self.cap:
            return no("invalid_data", 400)
        known = [self._find(name) if self.emails else self.people.get(name) for name in profiles]
        return self._write([person for person in known if person], {"data": body.get("data")}, keeps=self.keeps)

    def _create(self, body: Any) -> Answer:
        email = body.get("email") if isinstance(body, dict) else None
        if not isinstance(email, str) or "@" not in email:
            return self._wrong("a creation without email")
        if self.nickname and not body.get("person", {}).get("nickname"):
            return self._wrong("a creation without nickname")
        if self._find(email):
            return no("people_exists", 409)
        name = self.add(email.lower())
        self.people[name]["person"] = body.get("person", {})
        return Answer(201, orjson.dumps({"error": False, "reason": "added", "data": {"people_id": name}}))

    def _list(self, number: int, query: Mapping[str, str]) -> Answer:
        size = int(query.get("per_page", self.page_size))
        if not 20 <= size <= 50:
            return self._wrong("a page of a list that is too small or large")
        found: Collection[Person] = self.people.values()
        if "search_filter" in query:
            if self.searches == "refused":
                return no("invalid_data", 400)
            if self.searches == "understood":
                filters = orjson.loads(query["search_filter"])
                wanted = {value for one in filters for value in one["query"]}
                assert len(filters) == 1 or query["search_operator"] == "or"
                assert all((one["model"], one["criterion"], one["operator"]) == ("people", "email", "eq")
                           for one in filters)
                found = [person for email in sorted(wanted) if (person := self._find(email))]
        return yes("listed", [{name: value for name, value in person.items() if name != "data"}
                              for person in islice(found, (number - 1) * size, number * size)])

    def _find(self, name: str) -> Person | None:
        return self.people.get(name) or self.people.get(self._emails.get(name.lower(), ""))

    def _wrong(self, what: str) -> Answer:
        self.violations.append(what)
        return no("invalid_data", 400)


def yes(reason: str, data: Any = None) -> Answer:
    """Crisp's envelope of a success."""
    return reply({"error": False, "reason": reason, "data": {} if data is None else data})


def no(reason: str, status: int) -> Answer:
    """Crisp's envelope of a failure."""
    return reply({"error": True, "reason": reason, "data": {"message": "as the fake says"}}, status)

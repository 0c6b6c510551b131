"""The attributes of User.com's users: of which type each value is kept, and which there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from audiencesync.destinations.api import Api
from audiencesync.destinations.people import compact
from audiencesync.errors import AccountRefused, CallsRefused, Unanswered
from audiencesync.model import Trait

SAFE_NAME, LONGEST_NAME = 32, 255
"""Characters of an attribute's name: the pages on creating an attribute and on mass updates differ."""

OWN = ("id", "custom_id", "user_id", "user_key", "email", "name", "first_name", "last_name", "phone_number", "gender",
       "status", "city", "country", "region", "tags", "lists", "companies", "unsubscribed", "attributes")
"""A user's own fields, which a trait of that name would overwrite."""

TYPES = {"boolean": "boolean", "number": "float", "string": "string", "timestamp": "datetime", "list": "string"}
"""The type of attribute (page on creating one) that holds each kind of value; only a float holds every number."""

MOST_PAGES = 500
"""Pages of attributes that are read, of 100 at most each; a list without an end is an error."""


class Attributes:
    """What is declared of users, asked for by one connection; `seconds` is the longest that one request may take."""

    def __init__(self, api: Api, base: str, *, seconds: float) -> None:
        self._api, self._base, self._seconds = api, base, seconds

    def prepare(self, names: Sequence[str], kinds: Mapping[str, str], *, create: bool) -> Iterator[Trait]:
        """How the attributes of these names stand, each of the type that its kind of value needs."""
        there = self._there() if names else {}
        for name in names:
            kind = kinds.get(name, "boolean")
            if len(name) > LONGEST_NAME:
                yield Trait(name, "wrong", f"longer than the {LONGEST_NAME} characters of an attribute's name")
            elif name in OWN:
                yield Trait(name, "wrong", f"{name} is a field of User.com's own: give {_other(kind)}")
            elif not kind:
                yield Trait(name, "ready", f"nobody has a value of {name} yet that would say of which type it is")
            elif name in there:
                yield _trait(name, kind, there[name], "ready")
            elif create:
                yield self._declare(name, kind)
            else:
                yield Trait(name, "missing", f"there is no attribute {name}{_long(name)}")

    def _declare(self, name: str, kind: str) -> Trait:
        body = compact({"value_type": TYPES[kind], "name": name, "content_type": "clientuser"})
        try:
            made = self._api.ask("POST /attributes/", body, seconds=self._seconds).json()
        except CallsRefused as error:
            return Trait(name, "wrong", f"the attribute {name} could not be made: {error}{_long(name)}")
        return _trait(name, kind, made.get("value_type", TYPES[kind]) if isinstance(made, dict) else TYPES[kind],
                      "made")

    def _there(self) -> dict[str, str]:
        """The type of each attribute of users; the key never follows a page's address to another host."""
        found: dict[str, str] = {}
        query: str | None = ""
        for _ in range(MOST_PAGES):
            said = self._api.ask(f"GET /attributes/{query}", seconds=self._seconds).json()
            listed = said.get("results") if isinstance(said, dict) else said
            if not isinstance(listed, list):
                raise Unanswered("User.com's list of attributes is none")
            for one in listed:
                if isinstance(one, dict) and one.get("content_type", "user") in ("user", "clientuser"):
                    names = (one.get("name"), one.get("name_std"))  # what it is addressed by comes last, and counts
                    found |= {name: str(one.get("value_type")) for name in names if isinstance(name, str)}
            query = _next(said, self._base)
            if query is None:
                return found
        raise Unanswered(f"User.com's list of attributes has more than {MOST_PAGES} pages")


def _next(said: Any, base: str) -> str | None:
    """The query of the next page; None at the end. Raises AccountRefused when it lies at another host."""
    url = said.get("next") if isinstance(said, dict) else None
    if not isinstance(url, str) or not url:
        return None
    parts = urlsplit(url)
    if parts.hostname and parts.hostname != urlsplit(base).hostname:
        raise AccountRefused("User.com's list of attributes goes on at another host; check url")
    return f"?{parts.query}"


def _trait(name: str, kind: str, there: str, status: Literal["ready", "made"]) -> Trait:
    if there != TYPES[kind]:
        ignored = "true and false" if kind == "boolean" else f"its values, which need a {TYPES[kind]}"
        return Trait(name, "wrong", f"the attribute {name} is of type {there}, so User.com would ignore {ignored}: "
                                    f"give {_other(kind)}, or delete that attribute")
    return Trait(name, status, f"a {there} attribute{_long(name)}")


def _other(kind: str) -> str:
    """What to give another name."""
    return "the audience another key" if kind == "boolean" else "the trait another name with AS"


def _long(key: str) -> str:
    """Words on a name that some of User.com's pages would not allow."""
    if len(key) <= SAFE_NAME:
        return ""
    return f"; warning: {len(key)} characters, where some of User.com's pages allow {SAFE_NAME}"

"""User.com: an attribute's value for many users at once, and one request for each user whom it does not know yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import blake2b
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from audiencesync.destinations.api import Api, clock_words
from audiencesync.destinations.people import People, compact, one_word
from audiencesync.destinations.usercom_channel import UserComChannel, who
from audiencesync.destinations.usercom_people import UserComPacker, ways_to
from audiencesync.errors import AccountRefused, CallsRefused, KeyRefused, NotThere, Unanswered
from audiencesync.model import Channel, Content, Packer, Person, Trait
from audiencesync.schedule import Rate, RateLimit

KEY_LENGTH = 64
"""Characters of a key of the Public REST API (basic API usage); Segment's has another length."""

RIGHT_KEY = ("the API wants a key of App settings > Advanced > Public REST API keys; one of App settings > Advanced > "
             "Segment API keys is for Segment alone")

SAFE_NAME, LONGEST_NAME = 32, 255
"""Characters of an attribute's name: the pages on creating an attribute and on mass updates differ."""

OWN = ("id", "custom_id", "user_id", "user_key", "email", "name", "first_name", "last_name", "phone_number", "gender",
       "status", "city", "country", "region", "tags", "lists", "companies", "unsubscribed", "attributes")
"""A user's own fields, which a trait of that name would overwrite."""

MOST_PAGES = 500
"""Pages of attributes that are read, of 100 at most each; a list without an end is an error."""

LONGEST_REPLY = 2_000_000
"""Bytes: a whole user with hundreds of attributes, or a page of attributes."""


class UserCom(People):
    """Boolean attributes of people, who are named by their custom id (the user id), or by their email if that is it.

    Included columns with the names of Segment's standard traits become User.com's own fields. A name of more than 40
    characters or a phone of more than 64 is left out, since User.com refuses it and the user with it. Other columns
    arrive where an attribute of their name exists.
    """

    type: ClassVar[str] = "usercom"
    example: ClassVar[Mapping[str, object]] = {"api_key": "0123456789abcdef" * 4, "subdomain": "shop"}
    api_url: ClassVar[str] = "https://shop.user.com/api/public"
    shape: ClassVar[Literal["call", "row", "column"]] = "column"
    identifies: ClassVar[str] = "custom_id, which is the user id or else the anonymous id; email where that is the id"
    unknown: ClassVar[str] = "created with the first true"
    published: ClassVar[str] = "none; 5 requests a second are assumed"
    reads_back: ClassVar[bool] = True
    example_answer: ClassVar[bytes] = (
        b'{"id": 5577, "order_completed_last_30days": true, "next": null, "results": ['
        b'{"name_std": "order_completed_last_30days", "value_type": "boolean", "content_type": "user"}, '
        b'{"name_std": "vip", "value_type": "boolean", "content_type": "user"}]}')

    api_key: SecretStr = Field(description="A key of App settings > Advanced > Public REST API keys.")
    subdomain: str | None = Field(None, description="shop, where the app is shop.user.com; or give url.")
    batch: int = Field(100, ge=1, le=10_000, description="Users in one mass update; what it takes is not published.")
    mass_update_by: Literal["custom_id", "id"] = Field(
        "custom_id", description="Whether mass updates name users by their custom id or by User.com's own number.")
    concurrency: int = Field(2, ge=1, le=64, description="Requests under way at once, at most.")

    @field_validator("api_key")
    @classmethod
    def _api_key_is_one_word(cls, key: SecretStr) -> SecretStr:
        return one_word(key, "api_key")

    @field_validator("subdomain")
    @classmethod
    def _subdomain_is_a_label(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name, re.IGNORECASE):
            raise ValueError("subdomain is what stands before .user.com: shop for shop.user.com")
        return name

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if not self.subdomain and not self.url:
            raise ValueError("give subdomain: shop for shop.user.com")
        return self

    @property
    def base(self) -> str:
        """The URL that all paths begin with."""
        return (self.url or f"https://{self.subdomain}.user.com/api/public").rstrip("/")

    def pace(self) -> Rate | None:
        """The setting, or the 5 requests a second that are assumed."""
        return self.rate or RateLimit(5, 1.0, "requests")

    def fingerprint(self) -> str:
        """A hash of the app's name, since keys of one app are exchanged for others."""
        return blake2b(f"usercom:{(self.subdomain or self.base).lower()}".encode(), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """How the calls of one sync become requests."""
        return UserComPacker(content, most=self.batch, by_number=self.mass_update_by == "id", create=self.create_users)

    def channel(self) -> Channel:
        """A connection of its own."""
        return UserComChannel(self.api(), create=self.create_users)

    def api(self) -> Api:
        """The API with its key and version; version 2 calls our id custom_id, where version 1 says user_id."""
        key = self.api_key.get_secret_value()
        headers = {"Authorization": f"Token {key}", "Accept": "*/*; version=2", "Content-Type": "application/json"}
        return Api(self.base, headers, secrets=(key,), address="url" if self.url else "subdomain",
                   account="api_key in App settings > Advanced > Public REST API keys, then App settings > Advanced "
                           "> Domains", longest=LONGEST_REPLY)

    def check(self) -> Iterator[str]:
        """Read the first attributes, which needs a valid key; raises KeyRefused with the place of the right one."""
        odd = len(self.api_key.get_secret_value()) != KEY_LENGTH
        with closing(self.api()) as api:
            try:
                reply = api.ask("GET /attributes/", seconds=self.timeout.total_seconds())
            except KeyRefused as error:
                raise KeyRefused(f"{error}; {RIGHT_KEY}" if odd else str(error), status=error.status) from error
        reply.json()
        yield f"{urlsplit(self.base).hostname} answers and takes the key"
        if odd:
            yield f"warning: api_key is not of {KEY_LENGTH} characters: {RIGHT_KEY}"
        if words := clock_words(reply):
            yield words

    def prepare(self, keys: Sequence[str], *, create: bool) -> Iterator[Trait]:
        """See that each key is an attribute of type boolean: what is not declared becomes text or is dropped."""
        with closing(self.api()) as api:
            there = self._attributes(api) if keys else {}
            for key in keys:
                if len(key) > LONGEST_NAME:
                    yield Trait(key, "wrong", f"longer than the {LONGEST_NAME} characters of an attribute's name")
                elif key in OWN:
                    yield Trait(key, "wrong", f"{key} is a field of User.com's own: give the audience another key")
                elif key in there:
                    yield _trait(key, there[key], "ready")
                elif create:
                    yield self._declare(api, key)
                else:
                    yield Trait(key, "missing", f"there is no attribute {key}{_long(key)}")

    def _declare(self, api: Api, key: str) -> Trait:
        body = compact({"value_type": "boolean", "name": key, "content_type": "clientuser"})
        try:
            made = api.ask("POST /attributes/", body, seconds=self.timeout.total_seconds()).json()
        except CallsRefused as error:
            return Trait(key, "wrong", f"the attribute {key} could not be made: {error}{_long(key)}")
        return _trait(key, made.get("value_type", "boolean") if isinstance(made, dict) else "boolean", "made")

    def _attributes(self, api: Api) -> dict[str, str]:
        """The type of each attribute of users; the key never follows a page's address to another host."""
        found: dict[str, str] = {}
        query: str | None = ""
        for _ in range(MOST_PAGES):
            said = api.ask(f"GET /attributes/{query}", seconds=self.timeout.total_seconds()).json()
            listed = said.get("results") if isinstance(said, dict) else said
            if not isinstance(listed, list):
                raise Unanswered("User.com's list of attributes is none")
            for one in listed:
                if isinstance(one, dict) and one.get("content_type", "user") in ("user", "clientuser"):
                    names = (one.get("name"), one.get("name_std"))  # what it is addressed by comes last, and counts
                    found |= {name: str(one.get("value_type")) for name in names if isinstance(name, str)}
            query = _next(said, self.base)
            if query is None:
                return found
        raise Unanswered(f"User.com's list of attributes has more than {MOST_PAGES} pages")

    def read_back(self, people: Iterable[Person]) -> Iterator[tuple[Person, Mapping[str, object] | None]]:
        """The attributes of each user, by the number that is remembered of him, else by his own id."""
        with closing(self.api()) as api:
            for person in people:
                yield person, self._held(api, person)

    def _held(self, api: Api, person: Person) -> Mapping[str, object] | None:
        for route in ways_to(person.user_id, person.id_kind, person.known):
            try:
                reply = api.ask(route, seconds=self.timeout.total_seconds(), person=True)
            except NotThere:
                continue
            if (user := who(reply.json(), route, person.user_id)) is not None:
                return _flat(user)
        return None


def _next(said: Any, base: str) -> str | None:
    """The query of the next page; None at the end. Raises AccountRefused when it lies at another host."""
    url = said.get("next") if isinstance(said, dict) else None
    if not isinstance(url, str) or not url:
        return None
    parts = urlsplit(url)
    if parts.hostname and parts.hostname != urlsplit(base).hostname:
        raise AccountRefused("User.com's list of attributes goes on at another host; check url")
    return f"?{parts.query}"


def _trait(key: str, kind: str, status: Literal["ready", "made"]) -> Trait:
    if kind != "boolean":
        return Trait(key, "wrong", f"the attribute {key} is of type {kind}, so User.com would ignore true and false: "
                                   "give the audience another key, or delete that attribute")
    return Trait(key, status, f"a boolean attribute{_long(key)}")


def _long(key: str) -> str:
    """Words on a name that some of User.com's pages would not allow."""
    if len(key) <= SAFE_NAME:
        return ""
    return f"; warning: {len(key)} characters, where some of User.com's pages allow {SAFE_NAME}"


def _flat(user: Mapping[str, Any]) -> dict[str, object]:
    """Attributes as names to values, which version 2 shows as fields of the user, version 1 as a list."""
    listed = user.get("attributes")
    inner = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    named = {str(one.get(name)): one.get("value") for one in inner for name in ("name", "name_std") if name in one}
    return {name: value for name, value in user.items() if name != "attributes"} | named

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
from audiencesync.destinations.people import People, one_word
from audiencesync.destinations.usercom_channel import UserComChannel, who
from audiencesync.destinations.usercom_fields import Attributes
from audiencesync.destinations.usercom_packer import UserComPacker
from audiencesync.destinations.usercom_people import ways_to
from audiencesync.errors import KeyRefused, NotThere
from audiencesync.model import Channel, Content, Packer, Person, Trait
from audiencesync.model.destination import NO_KINDS
from audiencesync.schedule import Rate, RateLimit

KEY_LENGTH = 64
"""Characters of a key of the Public REST API (basic API usage); Segment's has another length."""

RIGHT_KEY = ("the API wants a key of App settings > Advanced > Public REST API keys; one of App settings > Advanced > "
             "Segment API keys is for Segment alone")

LONGEST_REPLY = 2_000_000
"""Bytes: a whole user with hundreds of attributes, or a page of attributes."""


class UserCom(People):
    """Attributes of people, who are named by their custom id (the user id), or by their email if that is it.

    Included columns with the names of Segment's standard traits become User.com's own fields. A name of more than 40
    characters or a phone of more than 64 is left out, since User.com refuses it and the user with it. Other columns
    arrive where an attribute of their name exists. An audience is a boolean attribute; computed traits are boolean,
    float, string and datetime ones, a list is text with commas. A value that many users share is told by mass updates,
    all others by one request for a user.

    Events are told one by one, when the user is there. They cannot be declared by the API: their
    attributes are defined in the app, in Contact Data & Events. User.com knows no event again, so one whose answer was
    lost may be there twice, with the same instant.
    """

    type: ClassVar[str] = "usercom"
    example: ClassVar[Mapping[str, object]] = {"api_key": "0123456789abcdef" * 4, "subdomain": "shop"}
    api_url: ClassVar[str] = "https://shop.user.com/api/public"
    shape: ClassVar[Literal["call", "row", "column"]] = "column"
    identifies: ClassVar[str] = "custom_id, which is the user id or else the anonymous id; email where that is the id"
    unknown: ClassVar[str] = "created with the first true"
    published: ClassVar[str] = "none; 5 requests a second are assumed"
    sends: ClassVar[tuple[str, ...]] = ("identify", "track", "both")
    reads_back: ClassVar[bool] = True
    example_answer: ClassVar[bytes] = (
        b'{"id": 5577, "order_completed_last_30days": true, "next": null, "results": ['
        b'{"name_std": "order_completed_last_30days", "value_type": "boolean", "content_type": "user"}, '
        b'{"name_std": "vip", "value_type": "boolean", "content_type": "user"}]}')

    api_key: SecretStr = Field(description="A key of App settings > Advanced > Public REST API keys.")
    subdomain: str | None = Field(None, description="shop, where the app is shop.user.com; or give url.")
    batch: int = Field(100, ge=1, le=10_000, description="Users in one mass update; what it takes is not published.")
    mass_update_by: Literal["custom_id", "id"] = Field(
        "custom_id", description="Whether mass updates and events name users by custom id or by User.com's own number.")
    cleared: Literal["null", "empty"] = Field(
        "null", description="What empties an attribute: null, or an empty text; which one is not published.")
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
        return UserComPacker(content, most=self.batch, by_number=self.mass_update_by == "id", create=self.create_users,
                             nothing="" if self.cleared == "empty" else None)

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

    def prepare(self, keys: Sequence[str], *, create: bool, kinds: Mapping[str, str] = NO_KINDS) -> Iterator[Trait]:
        """See that each trait is an attribute of its type: what is not declared becomes text or is dropped."""
        with closing(self.api()) as api:
            there = Attributes(api, self.base, seconds=self.timeout.total_seconds())
            yield from there.prepare(keys, kinds, create=create)

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


def _flat(user: Mapping[str, Any]) -> dict[str, object]:
    """Attributes as names to values, which version 2 shows as fields of the user, version 1 as a list."""
    listed = user.get("attributes")
    inner = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    named = {str(one.get(name)): one.get("value") for one in inner for name in ("name", "name_std") if name in one}
    return {name: value for name, value in user.items() if name != "attributes"} | named

"""Richpanel: one request a customer with all his traits, since there is none for many; or, as a trial, its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from hashlib import blake2b
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from audiencesync.destinations import richpanel_events as events
from audiencesync.destinations.api import Api, clock_words, in_path, reach
from audiencesync.destinations.people import People, email_of, one_word
from audiencesync.destinations.richpanel_people import (
    FIND,
    CustomerChannel,
    CustomerPacker,
    customer,
    is_others,
    is_own,
    saves,
)
from audiencesync.errors import KeyRefused, NotThere
from audiencesync.model import Call, Channel, Content, Packer, Person, Trait
from audiencesync.schedule import Rate, RateLimit

URL = "https://api.richpanel.com"

RIGHT_KEY = ("the API wants a key of Settings > Integrations > API Keys; the key of Segment's integration, which is a "
             "Data Source, is another one")


class Richpanel(People):
    """Custom properties of customers, whose uid is the user id; where that is an email, it is their email as well.

    Included columns with the names of Segment's standard traits become Richpanel's own fields, all others custom
    properties. `transport: events` is experimental: its answers do not say whether anybody was identified.
    """

    type: ClassVar[str] = "richpanel"
    example: ClassVar[Mapping[str, object]] = {"api_key": "rp_0123456789abcdef"}
    example_answer: ClassVar[bytes] = (
        b'{"message": "ok", "customer": {"id": "c1", "order_completed_last_30days": true}}')
    api_url: ClassVar[str] = URL
    id_kinds: ClassVar[tuple[str, ...]] = ("user_id", "email")
    shape: ClassVar[Literal["call", "row", "column"]] = "row"
    identifies: ClassVar[str] = "uid, which is the user id or the email"
    unknown: ClassVar[str] = "created with the first true"
    published: ClassVar[str] = "50 requests in 30 seconds, shared by all that use the key's account"
    reads_back: ClassVar[bool] = True
    page: ClassVar[int] = 50
    """As many as a window of its limit lets through, so that a crash repeats little."""

    api_key: SecretStr = Field(description="A key of Settings > Integrations > API Keys; for events a Data Source's.")
    api_secret: SecretStr | None = Field(None, description="The secret of that Data Source, for transport: events.")
    transport: Literal["rest", "events"] = Field(
        "rest", description="rest, or events (experimental): 25 users a request, and nobody says what became of them.")
    nesting: Literal["customer", "body"] = Field(
        "customer", description="Where custom properties stand: among the customer's fields or beside the customer.")
    concurrency: int = Field(2, ge=1, le=64, description="Requests under way at once, at most.")

    @field_validator("api_key", "api_secret")
    @classmethod
    def _secrets_are_one_word(cls, secret: SecretStr | None) -> SecretStr | None:
        return secret if secret is None else one_word(secret, "a key or secret of Richpanel")

    @model_validator(mode="after")
    def _events_have_what_they_need(self) -> Self:
        if self.transport == "events" and self.api_secret is None:
            raise ValueError("transport: events needs api_secret, which signs its batches")
        if self.transport == "events" and not self.create_users:
            raise ValueError("an event creates whom Richpanel does not know: create_users: false needs transport: rest")
        return self

    def pace(self) -> Rate | None:
        """The setting, or the 50 requests in 30 seconds that are published."""
        return self.rate or RateLimit(50, 30.0, "requests")

    def fingerprint(self) -> str:
        """A hash of the key, since nothing else names the account."""
        return blake2b(b"richpanel:" + self.api_key.get_secret_value().encode(), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """How the calls of one sync become requests."""
        render = partial(saves, nesting=self.nesting)
        if self.transport == "events" and self.api_secret is not None:
            render = partial(events.batches, app=self.api_key.get_secret_value(),
                             secret=self.api_secret.get_secret_value())
        return CustomerPacker(content, render, create=self.create_users)

    def channel(self) -> Channel:
        """A connection of its own."""
        if self.transport == "events":
            return events.EventChannel(self.api())
        return CustomerChannel(self.api(), create=self.create_users)

    @property
    def base(self) -> str:
        """The URL that the paths of both APIs begin with."""
        return self.url or URL

    def api(self) -> Api:
        """The API with its key; the Event API has it in its batches instead."""
        key, secret = self.api_key.get_secret_value(), self.api_secret
        headers = {"Content-Type": "application/json"} | ({"x-richpanel-key": key} if self.transport == "rest" else {})
        return Api(self.base, headers, account="api_key (Settings > Integrations)",
                   secrets=(key, secret.get_secret_value() if secret else ""))

    def check(self) -> Iterator[str]:
        """Ping with the key; raises KeyRefused with the place of the right one."""
        if self.transport == "events":
            yield reach(self.base, seconds=self.timeout.total_seconds())
            yield "warning: transport: events is experimental, and its key cannot be tried without sending an event"
            return
        with closing(self.api()) as api:
            try:
                reply = api.ask("GET /v1/ping", seconds=self.timeout.total_seconds())
            except KeyRefused as error:
                raise KeyRefused(f"{error}; {RIGHT_KEY}", status=error.status) from error
        reply.json()
        yield f"{urlsplit(self.base).hostname} answers and takes the key"
        if words := clock_words(reply):
            yield words

    def prepare(self, keys: Sequence[str], *, create: bool) -> Iterator[Trait]:
        """Nothing is declared; but a key that is one of a customer's own fields would overwrite it."""
        del create
        for key in keys:
            if is_own(key):
                yield Trait(key, "wrong", f"{key} is a field of Richpanel's own: give the audience another key")
            else:
                yield Trait(key, "ready", "a custom property, which needs no declaring")

    def read_back(self, people: Iterable[Person]) -> Iterator[tuple[Person, Mapping[str, object] | None]]:
        """The fields of each whose email is known and his alone; others are left out: nobody is found by his uid."""
        with closing(self.api()) as api:
            for person in people:
                user = person.user_id
                email = email_of(Call(user, 0, True, person.included), person.id_kind)
                if email and not is_others(user, email, person.known) and self.transport == "rest":
                    yield person, self._held(api, user, email)

    def _held(self, api: Api, user: str, email: str) -> Mapping[str, object] | None:
        try:
            found = customer(api.ask(FIND + in_path(email), seconds=self.timeout.total_seconds(), person=True).json())
        except NotThere:
            return None
        if not found or str(found.get("uid") or user) != user:
            return None
        inner = [value for value in found.values() if isinstance(value, dict)]
        return {name: value for part in (*inner, found) for name, value in part.items()}

"""Richpanel: one request a customer with all his traits, since there is none for many, and its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from hashlib import blake2b
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from audiencesync.destinations.api import Api, clock_words, in_path, reach
from audiencesync.destinations.people import People, email_of, one_word
from audiencesync.destinations.richpanel_events import BothChannel, EventChannel, Source
from audiencesync.destinations.richpanel_packer import FIND, CustomerPacker, Voices, is_others, is_own
from audiencesync.destinations.richpanel_people import CustomerChannel, customer, saves
from audiencesync.errors import KeyRefused, NotThere
from audiencesync.model import Call, Channel, Content, Packer, Person, Trait
from audiencesync.model.destination import NO_KINDS
from audiencesync.schedule import Rate, RateLimit

URL = "https://api.richpanel.com"

RIGHT_KEY = ("the API wants a key of Settings > Integrations > API Keys; the key of Segment's integration, which is a "
             "Data Source, is another one")


class Richpanel(People):
    """Custom properties of customers, whose uid is the user id; where that is an email, it is their email as well.

    Included columns with the names of Segment's standard traits become Richpanel's own fields, all others custom
    properties. `transport: events` is experimental: its answers do not say whether anybody was identified.

    `send: track` or `both` tells by events of a Data Source (events_key, api_secret): 25 a request, each after the
    request that saves its user, whom an event cannot make; a trait sets no property then, unless both are sent. An
    event names its user by his uid alone, since one with an email may change that of a customer. Events have no id
    there: one whose answer was lost is sent again as it was, with the same time, and may then stand there twice; and a
    user whose event is refused is told all again.
    """

    type: ClassVar[str] = "richpanel"
    sends: ClassVar[tuple[str, ...]] = ("identify", "track", "both")
    example: ClassVar[Mapping[str, object]] = {"api_key": "rp_0123456789abcdef", "events_key": "ds_0123456789abcdef",
                                               "api_secret": "s3cretOfADataSource"}
    example_answer: ClassVar[bytes] = (
        b'{"message": "ok", "customer": {"id": "c1", "order_completed_last_30days": true}}')
    api_url: ClassVar[str] = URL
    id_kinds: ClassVar[tuple[str, ...]] = ("user_id", "email")
    shape: ClassVar[Literal["call", "row", "column"]] = "row"
    identifies: ClassVar[str] = "uid, which is the user id or the email"
    unknown: ClassVar[str] = "created with the first true or value"
    published: ClassVar[str] = "50 requests in 30 seconds, shared by all that use the key's account"
    reads_back: ClassVar[bool] = True
    page: ClassVar[int] = 50
    """As many as a window of its limit lets through, so that a crash repeats little."""

    api_key: SecretStr = Field(description="A key of Settings > Integrations > API Keys; for events a Data Source's.")
    api_secret: SecretStr | None = Field(None, description="The secret of a Data Source, which signs events.")
    events_key: SecretStr | None = Field(None, description="The key of that Data Source, for send: track or both; with "
                                         "transport: events it is api_key.")
    transport: Literal["rest", "events"] = Field(
        "rest", description="rest, or events (experimental): 25 users a request, and nobody says what became of them.")
    nesting: Literal["customer", "body"] = Field(
        "customer", description="Where custom properties stand: among the customer's fields or beside the customer.")
    cleared: Literal["null", "empty"] = Field(
        "null", description="What sets a property back of which a user has nothing more: null, or an empty text.")
    concurrency: int = Field(2, ge=1, le=64, description="Requests under way at once, at most.")

    @field_validator("api_key", "api_secret", "events_key")
    @classmethod
    def _secrets_are_one_word(cls, secret: SecretStr | None) -> SecretStr | None:
        return secret if secret is None else one_word(secret, "a key or secret of Richpanel")

    @model_validator(mode="after")
    def _events_have_what_they_need(self) -> Self:
        if self.transport == "events" and self.api_secret is None:
            raise ValueError("transport: events needs api_secret, which signs its batches")
        if self.transport == "events" and not self.create_users:
            raise ValueError("an event creates whom Richpanel does not know: create_users: false needs transport: rest")
        if self.send != "identify" and self._source() is None:
            raise ValueError(f"send: {self.send} needs the key and the secret of a Data Source: events_key, api_secret")
        return self

    def _source(self) -> Source | None:
        """The Data Source whose events are sent, where one is given."""
        key = self.api_key if self.transport == "events" else self.events_key
        if key is None or self.api_secret is None:
            return None
        return Source(key.get_secret_value(), self.api_secret.get_secret_value())

    def pace(self) -> Rate | None:
        """The setting, or the 50 requests in 30 seconds that are published."""
        return self.rate or RateLimit(50, 30.0, "requests")

    def fingerprint(self) -> str:
        """A hash of the key, since nothing else names the account."""
        return blake2b(b"richpanel:" + self.api_key.get_secret_value().encode(), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """How the calls of one sync become requests."""
        source = self._source()
        save = source.saves if source and self.transport == "events" else partial(saves, nesting=self.nesting)
        return CustomerPacker(content, Voices(save, source.tells if source else None, self.create_users,
                                              None if self.cleared == "null" else ""))

    def channel(self) -> Channel:
        """A connection of its own, or one to each of both APIs."""
        if self.transport == "events":
            return EventChannel(self.api())
        people = CustomerChannel(self.api(), create=self.create_users)
        return people if self._source() is None else BothChannel(people, EventChannel(self.api(events=True)))

    @property
    def base(self) -> str:
        """The URL that the paths of both APIs begin with."""
        return self.url or URL

    def api(self, *, events: bool = False) -> Api:
        """The API with its key; the Event API has it in its batches instead."""
        events, key = events or self.transport == "events", self.api_key.get_secret_value()
        headers = {"Content-Type": "application/json"} | ({} if events else {"x-richpanel-key": key})
        others = [one.get_secret_value() for one in (self.api_secret, self.events_key) if one]
        return Api(self.base, headers, secrets=(key, *others), account="events_key and api_secret (of a Data Source)"
                   if events and self.transport == "rest" else "api_key (Settings > Integrations)")

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

    def prepare(self, keys: Sequence[str], *, create: bool, kinds: Mapping[str, str] = NO_KINDS) -> Iterator[Trait]:
        """Nothing is declared, of whatever kind; but a trait with the name of a customer's own field overwrites it."""
        del create, kinds
        for key in keys:
            if is_own(key):
                yield Trait(key, "wrong", f"{key} is a field of Richpanel's own: give the audience another key, or the "
                            "trait another name")
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

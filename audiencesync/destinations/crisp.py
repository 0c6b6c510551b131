"""Crisp: custom data of many people at once, and a request of his own for each whom it has to find or create first."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from hashlib import blake2b
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field, SecretStr, field_validator

from audiencesync.destinations.api import Api, clock_words, in_path
from audiencesync.destinations.crisp_channel import CrispChannel, said_in, says_so
from audiencesync.destinations.crisp_packer import CrispPacker
from audiencesync.destinations.crisp_people import email_in, name_of_holder, recall, without_others
from audiencesync.destinations.crisp_requests import PER_PAGE, Desk, Plan
from audiencesync.destinations.people import People, one_word
from audiencesync.errors import KeyRefused, NotThere
from audiencesync.model import Call, Channel, Content, Packer, Person
from audiencesync.schedule import Rate, RateLimit

BASE = "https://api.crisp.chat/v1"

DAILY = {"website": 9000, "plugin": 4500}
"""Requests of a day, a tenth below the 10,000 and 5,000 that Crisp publishes (guide on rate limits)."""

WHERE = ("the REST API wants the identifier and the key of a token: a website token of Settings > Workspace Settings > "
         "Advanced, or that of a Marketplace plugin, with tier: plugin; the website id, all that Segment's own "
         "integration has, is no token")

LONGEST_REPLY = 2_000_000
"""Bytes: a page of fifty people."""


class Crisp(People):
    """Custom data of people, who are found by their email, since Crisp keeps no id of ours.

    Members who are new to us are searched for together, and those whom Crisp does not show are created. Where it then
    says that the email is taken, the person is asked for. Whoever is known is told with others by `batch/data`. The
    columns `name` (or `first_name` and `last_name`), `phone`, `avatar`, `gender` and `address` become fields of the
    person, others custom data; they are sent when they change, by requests of the user's own. When an email changes,
    the person has it changed, too; where other users share him, or another has that email, the user leaves him.

    A computed trait that is a list becomes text with commas, and one that is no more an empty text. Where values differ
    by person each is told alone, with all that there is to tell of him. Events are told one by one to `people/events`,
    after the person was found or created. Crisp knows no event again, so one whose answer was lost may be there twice.
    """

    type: ClassVar[str] = "crisp"
    example: ClassVar[Mapping[str, object]] = {
        "website_id": "8c842203-7ed8-4e29-a608-7cf78a7d2fcc", "identifier": "e47d8f75-a5a9-4e5c-8d8c-2d6d3f1d3a11",
        "key": "0123456789abcdef" * 4}
    needs: ClassVar[tuple[str, ...]] = ("email",)
    api_url: ClassVar[str] = "https://api.crisp.chat/v1"
    shape: ClassVar[Literal["call", "row", "column"]] = "column"
    identifies: ClassVar[str] = "the email; users who share one share a person"
    unknown: ClassVar[str] = "created with the first true, by email"
    published: ClassVar[str] = "10,000 requests a day (website token) or 5,000 (plugin token)"
    sends: ClassVar[tuple[str, ...]] = ("identify", "track", "both")
    reads_back: ClassVar[bool] = True
    example_answer: ClassVar[bytes] = (b'{"error": false, "reason": "updated", '
                                       b'"data": {"people_id": "c5a2f70c-f605-4648-b47f-8c39d4b03a50"}}')

    website_id: str = Field(description="The id of the website: Settings > Workspace Settings > Setup & Integrations.")
    identifier: SecretStr = Field(description="The identifier of a token, which is not the website id.")
    key: SecretStr = Field(description="The key of the token.")
    tier: Literal["website", "plugin"] = Field("website", description="What kind of token it is.")
    bulk: Literal["auto", "off"] = Field("auto", description="off: tell everybody by a request of his own.")
    batch: int = Field(50, ge=1, le=10_000, description="People in one batch; what it takes is not published.")
    search: int = Field(20, ge=1, le=PER_PAGE, description="Emails that one search looks for; 1: ask for each alone.")
    people: Literal["people_id", "email"] = Field(
        "people_id", description="Whether a batch names people by people_id only, or takes emails as well.")
    cleared: Literal["empty", "null"] = Field(
        "empty", description="What a trait becomes that a person has no more; Crisp says text, number or boolean.")
    daily_requests: int | None = Field(
        None, ge=1, description="Requests of a day (UTC); 9000 with a website token, 4500 with a plugin token.")
    concurrency: int = Field(2, ge=1, le=64, description="Requests under way at once, at most.")

    @field_validator("website_id")
    @classmethod
    def _website_id_is_a_uuid(cls, text: str) -> str:
        try:
            return str(UUID(text))
        except ValueError as error:
            raise ValueError("website_id is a UUID such as 8c842203-7ed8-4e29-a608-7cf78a7d2fcc; is the variable set?"
                             ) from error

    @field_validator("identifier", "key")
    @classmethod
    def _token_is_one_word(cls, secret: SecretStr) -> SecretStr:
        one_word(secret, "each part of a token")
        if ":" in secret.get_secret_value():
            raise ValueError("give the identifier and the key as two settings, without the colon")
        return secret

    def pace(self) -> Rate | None:
        """The setting, or five requests a second: what Crisp publishes is a day's."""
        return self.rate or RateLimit(5, 1.0, "requests")

    def quota(self) -> int:
        """Our part of a day's requests."""
        return max(1, int((self.daily_requests or DAILY[self.tier]) * self.share))

    def follows(self, id_kind: str) -> str:
        """The email, by which people are found, unless it is the id."""
        return "" if id_kind == "email" else "email"

    def fingerprint(self) -> str:
        """A hash of the website, since its tokens are exchanged for others."""
        return blake2b(f"crisp:{self.website_id}".encode(), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """How the calls of one sync become requests."""
        kinds = [one.id_kind for one in content.envelopes]
        return CrispPacker(Plan(
            Desk(self.website_id), content.envelopes, kinds[0] if kinds else "",
            blake2b(content.secret, digest_size=4).hexdigest(), create=self.create_users, search=self.search,
            batch=self.batch, bulk=self.bulk == "auto", by_email=self.people == "email", anew=content.anew,
            nothing="" if self.cleared == "empty" else None))

    def channel(self) -> Channel:
        """A connection of its own."""
        return CrispChannel(self.api())

    def api(self) -> Api:
        """The API with its token."""
        identifier, key = self.identifier.get_secret_value(), self.key.get_secret_value()
        basic = b64encode(f"{identifier}:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "X-Crisp-Tier": self.tier, "Content-Type": "application/json"}
        return Api(self.url or BASE, headers, secrets=(identifier, key, basic), longest=LONGEST_REPLY,
                   address="url" if self.url else "website_id",
                   account="identifier, key and tier, that a plugin is installed on this very website, and that its "
                           "token may read and write website:people:profiles and website:people:data")

    def check(self) -> Iterator[str]:
        """Read some people, for which it takes a token; raises KeyRefused with the place of the right one."""
        identifier, key = self.identifier.get_secret_value(), self.key.get_secret_value()
        if self.website_id in (identifier, key):
            raise KeyRefused(f"identifier and key are not those of a token: {WHERE}")
        odd = not (_is_uuid(identifier) and re.fullmatch(r"[0-9a-f]{64}", key))
        with closing(self.api()) as api:
            try:
                reply = api.ask(f"GET /website/{self.website_id}/people/profiles/1", seconds=self._seconds)
            except KeyRefused as error:
                if odd:
                    raise KeyRefused(f"{error}; {WHERE}", status=error.status) from error
                raise
        said_in(reply)
        yield f"api.crisp.chat takes the {self.tier} token" if self.url is None else f"{self.url} takes the token"
        yield f"{self.quota():,} requests a day are ours; Crisp counts those of others with this token as well"
        if words := clock_words(reply):
            yield words

    def read_back(self, people: Iterable[Person]) -> Iterator[tuple[Person, Mapping[str, object] | None]]:
        """The custom data of each, by the person remembered, else by email; Crisp may answer from a cache."""
        with closing(self.api()) as api:
            for person in people:
                held = self._held(api, person)
                yield (person, held) if held is not None else (without_others(person), None)

    def _held(self, api: Api, person: Person) -> Mapping[str, object] | None:
        email = email_in([Call(person.user_id, 0, True, person.included)], person.id_kind)
        name = recall(person.known, person.user_id).id or email
        if not name:
            return None
        try:
            reply = api.ask(f"GET /website/{self.website_id}/people/data/{in_path(name)}", seconds=self._seconds,
                            person=True)
        except NotThere as error:
            says_so(error)
            return None
        said: Any = said_in(reply)
        held = said.get("data", said) if isinstance(said, dict) else None
        email = recall(person.known, person.user_id).email or email
        return {key: value for key, value in held.items()
                if person.known.get(name_of_holder(key, email), person.user_id) in ("", person.user_id)
                } if isinstance(held, dict) else {}

    @property
    def _seconds(self) -> float:
        return self.timeout.total_seconds()


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True

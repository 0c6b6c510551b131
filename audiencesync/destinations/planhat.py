"""Planhat: endusers in bulk, with a custom field for each trait."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import blake2b
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from audiencesync.destinations.api import Api, clock_words, in_path
from audiencesync.destinations.people import People, email_of, one_word
from audiencesync.destinations.planhat_channel import PlanhatChannel, enduser
from audiencesync.destinations.planhat_emails import ByEmail
from audiencesync.destinations.planhat_fields import Fields
from audiencesync.destinations.planhat_held import held, his_own, is_anothers
from audiencesync.destinations.planhat_ids import ByExternalId
from audiencesync.destinations.planhat_rows import RowPacker, Ways
from audiencesync.errors import AccountRefused, Unanswered
from audiencesync.model import Call, Channel, Content, Packer, Person, Trait
from audiencesync.model.destination import NO_KINDS
from audiencesync.schedule import Rate, RateLimit

PUBLISHED = (RateLimit(200, 60.0, "requests"), RateLimit(150, 1.0, "requests"))
"""Planhat's soft and hard limits (authentication and limits)."""

_TENANT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Planhat(People):
    """Endusers by PUT /endusers, each with all its pending traits; keys of others, and sourceId, are left alone.

    A false or a null goes without email and company, so that it can make nobody; where nobody is there, nothing is to
    be told. With match external_id an email is an attribute, and a second user with the same email goes without it,
    since Planhat might take him for the first. With match email they are one enduser, of whom each audience's trait,
    and all those of one computation, are the first one's to tell; the other is rejected as shared_email until they are
    taken back. With create_users false everybody is looked
    up once, a request each, and then goes without company (match external_id: and email), so that nobody is made.
    """

    type: ClassVar[str] = "planhat"
    example: ClassVar[Mapping[str, object]] = {"api_token": "ph_0123456789abcdef"}
    example_answer: ClassVar[bytes] = b'{"createdErrors": [], "updatedErrors": [], "permissionErrors": []}'
    api_url: ClassVar[str] = "https://api.planhat.com"
    id_kinds: ClassVar[tuple[str, ...]] = ("user_id", "anonymous_id", "email")
    shape: ClassVar[Literal["call", "row", "column"]] = "row"
    identifies: ClassVar[str] = "externalId, or the email"
    unknown: ClassVar[str] = "made, given a company or an email of its domain"
    published: ClassVar[str] = "200 requests a minute, 150 a second, 5,000 users each"
    reads_back: ClassVar[bool] = True
    page: ClassVar[int] = 5000

    api_token: SecretStr = Field(description="The token of a Service Account or Private App; ${PLANHAT_API_TOKEN}.")
    subdomain: str = Field("api", pattern=r"^[a-z0-9][a-z0-9-]*$", description="The API's host: api-eu, api-us2.")
    match: Literal["external_id", "email"] = Field("external_id", description="What endusers are found by.")
    without_company: Literal["reject", "park"] = Field(
        "reject", description="A member without company and email: reject sends him, and Planhat decides; park looks "
        "him up, updates him if he is there, and sends nothing that Planhat would have to make without a company.")
    company: str = Field("company_id", min_length=1, description="The included column with the company's external id; "
                         "extid-..., srcid-... and _id are taken as they are.")
    field_parent: str = Field("EndUser", min_length=1, description="What custom fields of endusers name as parent, "
                              "unless there are some that tell.")
    bulk_by_email: bool = Field(True, description="The bulk upsert finds people by email; else they are looked up.")
    cleared: Literal["null", "empty"] = Field(
        "null", description="What empties a custom field of which a user has nothing more: null, or an empty text.")
    lists: Literal["multipicklist", "text"] = Field(
        "multipicklist", description="What a list becomes: a field of several choices, or a text with its items.")
    batch: int = Field(1000, ge=1, le=5000, description="Users in a request, at most.")
    concurrency: int = Field(2, ge=1, le=50, description="Requests under way at once, at most.")

    @field_validator("api_token")
    @classmethod
    def _api_token_is_one_word(cls, token: SecretStr) -> SecretStr:
        return one_word(token, "api_token")

    def pace(self) -> Rate:
        """The setting, or both limits that Planhat publishes."""
        return self.rate or PUBLISHED

    def follows(self, id_kind: str) -> str:
        """The email, where people are found by it and it is not the id itself."""
        return "email" if self.match == "email" and id_kind != "email" else ""

    def fingerprint(self) -> str:
        """A hash of the token; the tenant's name is in no answer."""
        return blake2b(self.api_token.get_secret_value().encode(), digest_size=8).hexdigest()

    def packer(self, content: Content) -> Packer:
        """Rows of one sync."""
        return self._packer(content, content.envelopes[0].id_kind if content.envelopes else "user_id")

    def _packer(self, content: Content, id_kind: str) -> RowPacker:
        by_email = self.match == "email" or id_kind == "email"
        ways = Ways(self.create_users, self.without_company == "park", self.company, self.batch, self.bulk_by_email,
                    None if self.cleared == "null" else "", self.lists == "multipicklist")
        return (ByEmail if by_email else ByExternalId)(ways, content)

    def channel(self) -> Channel:
        """A connection of its own; httpx is imported here, when there is something to send."""
        return PlanhatChannel(self._api())

    def _api(self) -> Api:
        token = self.api_token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return Api(self.url or f"https://{self.subdomain}.planhat.com", headers, secrets=(token,),
                   account="api_token and subdomain (another region's tokens are refused)",
                   address="url" if self.url else "subdomain", longest=65536 + 1024 * self.batch)

    def check(self) -> Iterator[str]:
        """Read one enduser; raises AccountRefused with the menu of the right token where the tenant's is given."""
        with closing(self._api()) as api:
            try:
                reply = api.ask("GET /endusers?limit=1", seconds=self.timeout.total_seconds())
            except AccountRefused as error:
                if not _TENANT.fullmatch(self.api_token.get_secret_value()):
                    raise
                raise AccountRefused(f"{error}; it looks like the tenant token, which Segment's integration takes: the "
                                     "API wants an access token, which Service Accounts and Private Apps of Planhat "
                                     "show once, when they are made", status=error.status) from error
            if not isinstance(reply.json(), list):
                raise Unanswered("what answers is not Planhat's list of endusers: check subdomain or url")
        yield "Planhat takes api_token"
        if words := clock_words(reply):
            yield words

    def prepare(self, keys: Sequence[str], *, create: bool, kinds: Mapping[str, str] = NO_KINDS) -> Iterator[Trait]:
        """A custom field of endusers for each trait, found or made; raises a DeliveryError.

        One that was NULL for everybody is left for when there is a value, which says what type it wants.
        """
        wanted = {key: kind for key in keys if (kind := kinds.get(key, "boolean"))}
        with closing(self._api()) as api:
            fields = Fields(api, self.field_parent, lists=self.lists, seconds=self.timeout.total_seconds())
            yield from fields.prepare(wanted, create=create)

    def read_back(self, people: Iterable[Person]) -> Iterator[tuple[Person, Mapping[str, object] | None]]:
        """Each enduser's custom fields as they are held, by the way he was told: external id, or `_id` or email.

        A trait that is another user's who shares the email is left out.
        """
        with closing(self._api()) as api:
            for person in people:
                traits: dict[str, object] = {}
                there = False
                for route, emails in self._routes(person).items():
                    found = enduser(api, route, seconds=self.timeout.total_seconds())
                    there = there or found is not None
                    custom = (found or {}).get("custom") or {}
                    traits = {key: value for key, value in custom.items()
                              if not is_anothers(person, person.known.get(f"t:{key}", key), emails)} | traits
                yield (person, traits) if there else (his_own(person), None)

    def _routes(self, person: Person) -> Mapping[str, Sequence[str]]:
        """The paths or queries by which somebody is asked for, each with the emails that he was told under there."""
        if self.match == "external_id" and person.id_kind != "email":
            return {f"/extid-{in_path(person.user_id)}": ()}
        routes: dict[str, list[str]] = {}
        for at in filter(None, map(held, person.known.values())):
            routes.setdefault(f"/{in_path(at.id)}" if at.id else f"?email={in_path(at.email)}", []).append(at.email)
        call = Call(person.user_id, 0, value=True, included=person.included)
        if not routes and (email := email_of(call, person.id_kind)):
            return {f"?email={in_path(email)}": [email]}
        return routes

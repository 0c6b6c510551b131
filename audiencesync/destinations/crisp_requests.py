"""Crisp's requests, each with what its answer teaches, and the reasons for which none is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

import orjson

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import (
    IDENTITY_CONFLICT,
    MISSING_EMAIL,
    SHARED_EMAIL,
    UNKNOWN_USER,
    compact,
    refusal,
)
from audiencesync.destinations.told import is_identify, plain_value
from audiencesync.model import Batch, Call, Envelope, Refusal

ID = "(people_id)"
"""Stands in what an answer teaches for the people_id that it will say."""

SIZE, SEARCHES = "size", "searches"
"""Where it is remembered how many people a batch may name, and in which sync searches were refused."""

LONGEST_SEARCH = 4000
"""Bytes of a search's address: servers and proxies take 8 KB at least."""

PER_PAGE = 50
"""People on a page of a list at most; 20 unless asked for."""


NO_EMAIL = refusal(MISSING_EMAIL, "Crisp finds people by their email, and this user has none")
SHARED = refusal(SHARED_EMAIL, "another user of this audience has the same email, and Crisp has one person for both")
NOT_KNOWN = refusal(UNKNOWN_USER, "Crisp has nobody with this user's email, and create_users is false")
GONE = refusal(UNKNOWN_USER, "Crisp does not know the person whom it had just shown for this user's email")
HIDDEN = refusal(IDENTITY_CONFLICT, "Crisp says that this user's email is taken, and shows nobody who has it")


@dataclass(frozen=True, slots=True)
class Request(Batch):
    """One request of a kind, and what is learned when it is taken: `teaches`, with ID for the people_id it says.

    What else an answer may teach, whereupon the calls are packed again: `missing`, when Crisp does not know the person
    (of a search, whomever it does not show); `taken`, when the email is another's; `refused`, when it does not like the
    request. Where these are None the calls are refused, as they are of a missing person where there is a reason for it,
    `unknown`. `sure`: whomever a search shows is remembered within the page to be there.
    """

    kind: Literal["search", "find", "create", "change", "batch"] = "change"
    teaches: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] | None = None
    taken: Mapping[str, str] | None = None
    refused: Mapping[str, str] | None = None
    unknown: Refusal | None = None
    sure: bool = False


class Desk:
    """Where the requests about one website's people are written."""

    def __init__(self, website: str) -> None:
        self._root = f"/website/{website}"

    def search(self, calls: Sequence[Call], emails: Iterable[str], *, missing: Mapping[str, str],
               likely: Mapping[str, str], off: str, sure: bool) -> Request:
        """Who has these emails, all at once; `missing` is written under those that are not found.

        `off` is written where it is remembered in which sync searches were refused. A plan takes for the answer what is
        `likely`; of those who are found it is `sure`, in a backfill, that they are there.
        """
        return Request(tuple(calls), b"", f"GET {self._root}{_searched(emails)}", asks=True, kind="search",
                       teaches=likely, missing=missing, refused={SEARCHES: off}, sure=sure)

    def find(self, calls: Sequence[Call], email: str, unknown: Refusal | None, *, teaches: Mapping[str, str],
             missing: Mapping[str, str] | None = None) -> Request:
        """Whose an email is."""
        return Request(tuple(calls), b"", self._person("GET", "profile", email), asks=True, kind="find",
                       teaches=teaches, missing=missing, unknown=unknown)

    def create(self, calls: Sequence[Call], email: str, person: Mapping[str, Any], teaches: Mapping[str, str],
               taken: Mapping[str, str]) -> Request:
        """A new person, whose nickname Crisp wants as well as the email: without one it is the email's first part."""
        body = {"email": email, "person": {"nickname": email.partition("@")[0], **person}}
        return Request(tuple(calls), compact(body), f"POST {self._root}/people/profile", asks=True, kind="create",
                       teaches=teaches, taken=taken)

    def profile(self, calls: Sequence[Call], person: str, body: Mapping[str, Any], **learned: Any) -> Request:
        """Other fields of a person, or another email."""
        return Request(tuple(calls), compact(body), self._person("PATCH", "profile", person), asks=True, **learned)

    def data(self, calls: Sequence[Call], person: str, data: Mapping[str, Any], **learned: Any) -> Request:
        """Custom data of one person, traits among them."""
        return Request(tuple(calls), compact({"data": data}), self._person("PATCH", "data", person), **learned)

    def batch(self, calls: Sequence[Call], people: Iterable[str], data: bytes, teaches: Mapping[str, str], *,
              asks: bool) -> Request:
        """The same custom data (JSON) of many people."""
        body = compact({"people": {"profiles": list(dict.fromkeys(people))}})[:-1] + b',"data":' + data + b"}"
        return Request(tuple(calls), body, f"PATCH {self._root}/batch/data", asks=asks, kind="batch", teaches=teaches)

    def event(self, call: Call, person: str, name: str, data: Mapping[str, Any], **learned: Any) -> Request:
        """An event of one person, of which Crisp itself says when it was."""
        return Request((call,), compact({"text": name, "data": data}), self._person("POST", "events", person),
                       **learned)

    def _person(self, method: str, what: str, person: str) -> str:
        return f"{method} {self._root}/people/{what}/{in_path(person)}"


class Plan(NamedTuple):
    """What all waves of a sync have in common: its settings, the envelopes of its spans, the kind of its ids, its tag.

    `search` are the emails of one search, `batch` the people of one batch; a bulk of none tells everybody alone.
    `by_email` says that a batch may name people by their emails, `anew` that those who are remembered may be lost;
    `nothing` is what a computed trait is told to be that a person has no more.
    """

    desk: Desk
    envelopes: Sequence[Envelope]
    kind: str
    tag: str
    create: bool
    search: int
    batch: int
    bulk: bool
    by_email: bool
    anew: bool = False
    nothing: str | None = ""

    def holds(self, call: Call) -> Mapping[str, bool]:
        """Of each trait that a call tells, whether the person has it then; of an event alone there are none."""
        envelope = self.envelopes[call.span]
        if not is_identify(envelope):
            return {}
        if isinstance(call.value, bool):
            return {envelope.key: call.value}
        return {name: value is not None for name, value in call.traits(envelope.key).items()}

    def data(self, call: Call) -> Mapping[str, Any]:
        """A call's traits as custom data."""
        key = self.envelopes[call.span].key
        if isinstance(call.value, bool):
            return {key: call.value}
        return {name: plain_value(value, nothing=self.nothing) for name, value in call.traits(key).items()}

    def tracks(self, call: Call) -> bool:
        """Whether a call comes to events."""
        return self.envelopes[call.span].send != "identify"


def in_searches(emails: Sequence[str], most: int) -> Iterable[Sequence[str]]:
    """As many emails together as one search may name: `most`, and no more than an address may be long."""
    bare = len(_searched(()))
    start, length = 0, bare
    for at, email in enumerate(emails):
        mine = len(_searched((email,))) - bare
        if at > start and (at - start == most or length + mine > LONGEST_SEARCH):
            yield emails[start:at]
            start, length = at, bare
        length += mine + len(quote(","))
    if emails:
        yield emails[start:]


def _searched(emails: Iterable[str]) -> str:
    """One filter for each email, of which any may hold, as Crisp's own inbox asks (ruby-crisp-api, node-crisp-api)."""
    filters = [{"model": "people", "criterion": "email", "operator": "eq", "query": [email]} for email in emails]
    query = {"search_filter": orjson.dumps(filters).decode(), "search_operator": "or", "per_page": PER_PAGE}
    return f"/people/profiles/1?{urlencode(query, quote_via=quote)}"

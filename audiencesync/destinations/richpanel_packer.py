"""How calls become what is said of Richpanel's customers: who is saved or asked for first, whose events may leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import MISSING_EMAIL, by_user, compact, email_of, refusal, split
from audiencesync.destinations.told import events_of
from audiencesync.model import Batch, Call, Content, Envelope, Packed, Packer, Refusal

FIND = "GET /v1/customers/email/"

MOST_EVENTS = 25
"""Events in a batch (Getting Started, of orders)."""

SESSION = "richpanel_session_id"
"""The included column that names the session of an event; no property of a customer."""

IDENTITY = ("uid", "appClientId", "id")
OWN = (*IDENTITY, "email", "name", "facebook", "twitter", "state", "city", "country", "phone")
"""A customer's own fields (Create/Update Customer), besides those that begin with billing and shipping."""

ANONYMOUS = refusal("anonymous_id", "Richpanel's uid is a user id or an email, and this audience has neither")
NO_EMAIL = refusal(MISSING_EMAIL, "Richpanel finds customers by their email, and this user has none")
NO_DATA_SOURCE = refusal("no_data_source", "events need the key and the secret of a Data Source: set events_key and "
                         "api_secret, or send: identify")


def is_own(name: str) -> bool:
    """Whether a field is one of Richpanel's own, so that no trait may have its name."""
    return name in OWN or name.startswith(("billing", "shipping"))


def is_others(user: str, email: str, known: Mapping[str, str]) -> bool:
    """Whether Richpanel said that this email is another customer's, so that it is no more sent with this user."""
    return known.get(f"c:{user}") == mark(email)


def mark(email: str) -> str:
    """A digest under which an email is remembered that another customer has."""
    return blake2b(email.encode(), digest_size=8).hexdigest()


class Row(NamedTuple):
    """What one user's calls say: his fields (with uid), his other columns and traits, his session, as of when.

    `next` are names that are learned, for the page alone, when the row is taken: by the index of a call, whose event
    may leave then.
    """

    calls: tuple[Call, ...]
    own: dict[str, Any]
    custom: dict[str, Any]
    session: str
    timestamp: str
    next: Mapping[int, str]


class Saying(NamedTuple):
    """The next events of one call, each a name and its properties, with the session they are of, as of when.

    `next` is the name that is learned, for the page alone, when they are taken and more of this call have to follow.
    """

    call: Call
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    session: str
    timestamp: str
    next: str


@dataclass(frozen=True, slots=True)
class Followed(Batch):
    """A request after which events follow: by the index of a call of which they are, what its being taken teaches."""

    next: Mapping[int, str] = field(default_factory=dict)


class Voices(NamedTuple):
    """How rows and events become requests; `tell` (None without a Data Source) also gives what waits for its turn.

    `create` says whether a call that tells something may create somebody, `cleared` what a trait is set to that a user
    has no more.
    """

    save: Callable[[Sequence[Row]], Iterable[Batch]]
    tell: Callable[[Sequence[Sequence[Saying]]], tuple[Iterable[Batch], Sequence[Call]]] | None
    create: bool
    cleared: str | None


@dataclass(slots=True)
class _Page:
    """What comes of a page's calls."""

    rows: list[Row] = field(default_factory=list)
    sayings: list[list[Saying]] = field(default_factory=list)
    asking: list[Batch] = field(default_factory=list)
    refused: list[tuple[Call, Refusal]] = field(default_factory=list)
    done: list[Call] = field(default_factory=list)
    later: list[Call] = field(default_factory=list)


class CustomerPacker(Packer):
    """All traits of a user in one request, and his events after it; nobody is created by a false or a null.

    A call that is told by an event as well waits for the answer to the request that saves its user: what that teaches,
    `s:<key>:<user>`, is known for the rest of the page and not written down. So it is with more events of a call than a
    request takes, `e:<first event>:<span>:<user>`. With send: track a user is saved, without the trait, only where he
    is not known to be there, or may be lost there as in a backfill.
    """

    def __init__(self, content: Content, voices: Voices) -> None:
        self._envelopes, self._voices, self._anew = content.envelopes, voices, content.anew
        self._kind = content.envelopes[0].id_kind if content.envelopes else "user_id"

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Who was told something before, and whose email another customer has."""
        return dict.fromkeys(name for call in calls for name in (f"u:{call.user_id}", f"c:{call.user_id}"))

    def pack(self, calls: Sequence[Call]) -> Packed:
        """As when nothing is known of anybody."""
        return self.pack_known(calls, {})

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Each user in one request, or asked for, or refused, or done."""
        page = _Page()
        for user, mine in by_user(calls):
            if self._kind == "anonymous_id":
                page.refused += ((call, ANONYMOUS) for call in mine)
                continue
            mute = [call for call in mine if self._send(call) != "identify" and self._voices.tell is None]
            page.refused += ((call, NO_DATA_SOURCE) for call in mute)
            self._place(page, user, [call for call in mine if call not in mute], known)
        told, waiting = self._voices.tell(page.sayings) if self._voices.tell is not None else ((), ())
        batches = (*page.asking, *self._voices.save(page.rows), *told)
        return Packed(batches, tuple(page.refused), tuple(page.done), (*page.later, *waiting))

    def _place(self, page: _Page, user: str, mine: Sequence[Call], known: Mapping[str, str]) -> None:
        """One user's calls: saved, told by events, asked for, refused or done."""
        there = bool(known.get(f"u:{user}"))
        email = next(filter(None, (email_of(call, self._kind) for call in mine)), "")
        if not there and not any(call.tells for call in mine):
            page.done += mine
        elif not there and not self._voices.create:
            if email:
                page.asking.append(Batch(tuple(mine), b"", FIND + in_path(email), asks=True))
            else:
                page.refused += ((call, NO_EMAIL) for call in mine if call.tells)
                page.done += (call for call in mine if not call.tells)
        elif first := [call for call in mine if self._must_save(call, known, there=there)]:
            page.rows.append(self._row(user, first, "" if is_others(user, email, known) else email))
            page.later += (call for call in mine if call not in first)
        else:
            sayings = [self._saying(call, known) for call in mine]
            page.done += (one.call for one in sayings if not one.events)
            page.sayings.append([one for one in sayings if one.events])

    def _must_save(self, call: Call, known: Mapping[str, str], *, there: bool) -> bool:
        """Whether the user has to be saved before, or in place of, an event of this call."""
        send = self._send(call)
        if send == "identify":
            return True
        if self._name(call) in known:
            return False
        return send == "both" or not there or (self._anew and self._voices.create and call.tells)

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """That a user who is looked up is found."""
        return {f"u:{batch.calls[0].user_id}": "1"} if batch.asks else {}

    def _envelope(self, call: Call) -> Envelope:
        return self._envelopes[call.span]

    def _send(self, call: Call) -> str:
        return self._envelope(call).send

    def _name(self, call: Call) -> str:
        return f"s:{self._envelope(call).key}:{call.user_id}"

    def _row(self, user: str, mine: Sequence[Call], email: str) -> Row:
        columns: dict[str, Any] = {}
        for call in mine:
            columns |= orjson.loads(call.included) if call.included else {}
        columns.pop(SESSION, None)
        own, custom = _fields(columns)
        own |= {"uid": user} | ({"email": email} if email else {})
        for call in mine:
            if self._send(call) != "track":
                custom |= {name: self._voices.cleared if value is None else value
                           for name, value in call.traits(self._envelope(call).key).items()}
        following = {at: self._name(call) for at, call in enumerate(mine) if self._send(call) != "identify"}
        session = next(filter(None, map(_session, reversed(mine))), "")
        return Row(tuple(mine), own, custom, session, self._envelope(mine[0]).timestamp, following)

    def _saying(self, call: Call, known: Mapping[str, str]) -> Saying:
        """Its events, as they are shaped everywhere: as many as a request takes of those that were not taken yet."""
        events = tuple((one.name, one.properties) for one in events_of(call, self._envelope(call)))
        names = {first: f"e:{first}:{call.span}:{call.user_id}" for first in range(0, len(events), MOST_EVENTS)}
        first = next((first for first, name in names.items() if name not in known), 0)
        end = first + MOST_EVENTS
        return Saying(call, events[first:end], _session(call), self._envelope(call).timestamp,
                      names[first] if end < len(events) else "")


def _session(call: Call) -> str:
    found = orjson.loads(call.included).get(SESSION) if call.included else None
    return "" if found is None else str(found)


def _fields(columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Included columns as Richpanel's own fields, without those that are empty, and as custom properties."""
    standard, custom = split(compact(columns).decode())
    standard.pop("email", None)
    parts = [str(standard.pop(name, None) or "").strip() for name in ("first_name", "last_name")]
    address = standard.pop("address", None)
    where = address if isinstance(address, dict) else {}
    own = {"name": standard.pop("name", None) or " ".join(filter(None, parts)), "phone": standard.pop("phone", None),
           **{name: where.get(name) for name in ("city", "state", "country")},
           **{name: custom.pop(name) for name in [*custom] if is_own(name)}}
    fit = {name: text for name, value in own.items() if value is not None and (text := str(value).strip())}
    return {name: text for name, text in fit.items() if name not in IDENTITY}, standard | custom

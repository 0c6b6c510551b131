"""How the calls of a sync become User.com's requests, wave by wave.

A user takes these steps, one in a wave, as far as he needs them: he is created or looked up, with what there is to tell
him where that can be; his changed columns are told, with his traits; traits that did not go along are told alone or
with others; then his events, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import UNKNOWN_USER, compact, refusal
from audiencesync.destinations.told import (
    alone,
    events_of,
    going,
    having_values,
    is_identify,
    plain_value,
    seconds_of,
)
from audiencesync.destinations.usercom_people import (
    ROUTES,
    columns_of,
    fields_of,
    look_up,
    marks_of,
    name_of,
    name_of_email,
    plain,
    recall,
    sent_email,
)
from audiencesync.destinations.usercom_requests import (
    CREATE,
    Request,
    as_number,
    event,
    mass,
    name_of_event,
    name_of_nobody,
    name_of_sure,
    name_of_told,
)
from audiencesync.model import Call, Envelope, Packed, Refusal

NO_WAY = refusal(UNKNOWN_USER, "this id is a word of User.com's own paths, so it cannot be looked up")

FEW = 3
"""Traits that may go one after the other before a user's events do, each of which is a request of its own."""


class Plan(NamedTuple):
    """What all waves of a sync have in common: its envelopes, and what the packer's settings say.

    `anew` says that in this sync nobody is trusted to be there because he is remembered.
    """

    envelopes: Sequence[Envelope]
    by_email: bool
    most: int
    by_number: bool
    create: bool
    anew: bool
    nothing: str | None


class _Part(NamedTuple):
    """A trait that a user is still to be told; `last` where his call is done with it."""

    call: Call
    name: str
    value: bytes
    last: bool

    @property
    def group(self) -> tuple[int, str, bytes]:
        """What users have in common whom one mass update may tell."""
        return self.call.span, self.name, self.value


@dataclass(slots=True)
class Wave:
    """What becomes of a page's calls now; `shared` are the parts of those who may be told with others."""

    plan: Plan
    known: Mapping[str, str]
    batches: list[Request] = field(default_factory=list)
    refused: list[tuple[Call, Refusal]] = field(default_factory=list)
    done: list[Call] = field(default_factory=list)
    later: list[Call] = field(default_factory=list)
    shared: dict[str, list[_Part]] = field(default_factory=dict)
    people: dict[str, tuple[str, Mapping[str, Any], Mapping[str, str]]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def take(self, user: str, mine: Sequence[Call]) -> None:
        """The next step of one user."""
        plan = self.plan
        number, told = recall(self.known.get(name_of(user, by_email=plan.by_email), ""))
        columns = columns_of(mine)
        email = name_of_email(sent_email(mine))
        if self.owners.setdefault(email, self.known.get(email) or user) != user:
            columns.pop("email", None)
        self.people[user] = number, columns, told
        tells = any(call.tells for call in mine)
        unsure = plan.anew and name_of_sure(user) not in self.known
        if tells and (not number or unsure):
            self._find(user, mine)
        elif not number and (plan.by_number or self._tracked(mine)):
            self._former(user, mine)
        elif number and self._changed(mine, columns, told):
            self.batches.append(self._row(user, mine, f"PUT /users/{in_path(number)}/"))
        elif parts := [part for call in mine for part in self._parts(number, call)]:
            self.shared[user] = parts
            untold = {part.call for part in parts}
            for call in mine:
                if call not in untold:
                    (self.later if self._events(number, call) else self.done).append(call)
        else:
            self._event(number, mine)

    def packed(self) -> Packed:
        """All of it."""
        self._tell()
        return Packed(tuple(self.batches), tuple(self.refused), tuple(self.done), tuple(self.later))

    def _find(self, user: str, mine: Sequence[Call]) -> None:
        """A member is created, or looked up where that may not be; the others of his calls wait with him."""
        if self.plan.create:
            self.batches.append(self._row(user, mine, CREATE))
        elif user in ROUTES:
            self.refused += [(call, NO_WAY) for call in mine if call.tells]
            self.done += [call for call in mine if not call.tells]
        else:
            self.batches.append(Request(tuple(mine), b"", look_up(user, by_email=self.plan.by_email), asks=True))

    def _former(self, user: str, mine: Sequence[Call]) -> None:
        """Somebody whose number is not known is told that something is over: for an event he has to be there."""
        if self._tracked(mine) and name_of_nobody(user) not in self.known and user not in ROUTES:
            self.batches.append(Request(tuple(mine), b"", look_up(user, by_email=self.plan.by_email), asks=True))
        else:
            self.done += mine

    def _tracked(self, calls: Iterable[Call]) -> bool:
        return any(self.plan.envelopes[call.span].send != "identify" for call in calls)

    def _changed(self, mine: Sequence[Call], columns: Mapping[str, Any], told: Mapping[str, str]) -> bool:
        """Whether columns are to be told that are not as they were; they are told with traits, never with events."""
        holding = any(call.tells and is_identify(self.plan.envelopes[call.span]) for call in mine)
        return holding and bool(marks_of(columns).items() - told.items())

    def _parts(self, number: str, call: Call) -> Iterator[_Part]:
        """What of a call this user has not been told in this page."""
        envelope = self.plan.envelopes[call.span]
        if not is_identify(envelope):
            return
        left = [(name, compact([plain_value(value, nothing=self.plan.nothing)]))
                for name, value in call.traits(envelope.key).items()
                if name_of_told(number, call.user_id, name) not in self.known]
        last = len(left) == 1 and envelope.send == "identify"
        yield from (_Part(call, name, value, last) for name, value in left)

    def _row(self, user: str, mine: Sequence[Call], route: str) -> Request:
        """Who he is, his columns, and all his traits at hand; his number is as it is remembered."""
        number, columns, told = self.people[user]
        traits = {name: plain_value(value, nothing=self.plan.nothing) for call in mine
                  if is_identify(self.plan.envelopes[call.span])
                  for name, value in call.traits(self.plan.envelopes[call.span].key).items()}
        who = {"email": plain(user)} if self.plan.by_email else {"custom_id": user}
        return Request(tuple(mine), compact(fields_of(columns) | who | traits), route, asks=self._tracked(mine),
                       told=tuple(traits), marks={**(told if number else {}), **marks_of(columns_of(mine))})

    def _tell(self) -> None:
        """Tell those alone for whom that is cheaper, and the others what many share; a group goes in one wave."""
        known = {user: parts for user, parts in self.shared.items() if self.people[user][0]}
        having = having_values({user: [part.call for part in parts] for user, parts in known.items()})
        single = alone({user: [part.group for part in parts] for user, parts in known.items()}, self.plan.most, having)
        single |= {user for user, parts in known.items()
                   if len(parts) > FEW and self._tracked(part.call for part in parts)}
        for user in sorted(single):
            calls = list(dict.fromkeys(part.call for part in self.shared[user]))
            self.batches.append(self._row(user, calls, f"PUT /users/{in_path(self.people[user][0])}/"))
        others = {user: sorted(parts, key=attrgetter("group")) for user, parts in self.shared.items()
                  if user not in single}
        now = going({user: [part.group for part in parts] for user, parts in others.items()})
        groups: dict[tuple[int, str, bytes], list[_Part]] = {}
        for parts in others.values():
            if parts[0].group in now:
                groups.setdefault(parts[0].group, []).append(parts[0])
        for _, parts in sorted(groups.items()):
            self.batches += self._mass(parts)
        leaving = {part.call for parts in groups.values() for part in parts}
        self.later += dict.fromkeys(part.call for parts in others.values() for part in parts
                                    if part.call not in leaving)

    def _mass(self, parts: Sequence[_Part]) -> Iterator[Request]:
        for start in range(0, len(parts), self.plan.most):
            mine = parts[start:start + self.plan.most]
            users = [part.call.user_id for part in mine]
            numbers = [self.people[user][0] for user in users]
            ids = list(map(as_number, numbers)) if self.plan.by_number else users
            asks = not all(part.last for part in mine)
            teaches = {name_of_told(number, user, mine[0].name): ""
                       for number, user in zip(numbers, users, strict=True)}
            yield mass([part.call for part in mine], ids, mine[0].name, mine[0].value, by_number=self.plan.by_number,
                       asks=asks, teaches=teaches if asks else {})

    def _events(self, number: str, call: Call) -> list[Any]:
        """The events of a call that this user still has to come."""
        return [one for one in events_of(call, self.plan.envelopes[call.span])
                if name_of_event(number, call, one.about) not in self.known]

    def _event(self, number: str, mine: Sequence[Call]) -> None:
        """The first event that a user still has to come; the others wait for its answer."""
        for at, call in enumerate(mine):
            if not (left := self._events(number, call)):
                self.done.append(call)
                continue
            seconds = seconds_of(self.plan.envelopes[call.span])
            self.batches.append(event(call, number, left[0], seconds, by_number=self.plan.by_number,
                                      nothing=self.plan.nothing, asks=len(left) > 1))
            self.later += mine[at + 1:]
            return

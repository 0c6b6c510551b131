"""Who of those that Crisp knows is told now, alone or with others, and whose event leaves then.

A person may be several users', who share an email: each trait is held for one of them, and another's is refused until
that one has it no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from audiencesync.destinations.crisp_lookup import Lookup
from audiencesync.destinations.crisp_people import (
    Columns,
    Remembered,
    memo,
    name_of,
    name_of_email,
    name_of_event,
    name_of_holder,
    name_of_told,
    released,
)
from audiencesync.destinations.crisp_requests import GONE, SHARED, SIZE
from audiencesync.destinations.people import compact
from audiencesync.destinations.told import Event, alone, events_of, going, having_values, plain_value
from audiencesync.model import Call, Packed, Refusal


class _Shared(NamedTuple):
    """One who may be told with others: his calls with what each says, himself, what is learned when he is told."""

    said: Mapping[Call, Mapping[str, Any]]
    told: Remembered
    teaches: Mapping[str, str]

    @property
    def groups(self) -> list[tuple[int, bytes]]:
        """What one batch must have in common with each of his calls."""
        return [(call.span, compact(data)) for call, data in self.said.items()]


@dataclass(slots=True)
class Telling(Lookup):
    """The part of a wave that tells people; `together` are those who may be told with others.

    `claims` says for whom a trait is held from now on, by its name and the email; `rivals` are the calls of others.
    """

    refused: list[tuple[Call, Refusal]] = field(default_factory=list)
    done: list[Call] = field(default_factory=list)
    together: dict[str, _Shared] = field(default_factory=dict)
    claims: dict[tuple[str, str], str] = field(default_factory=dict)
    rivals: list[tuple[Call, str]] = field(default_factory=list)

    def packed(self) -> Packed:
        """All of it; whose trait is another's waits for him, if he is under way, or else is refused."""
        self.look_up()
        self._tell_together()
        acting = {call.user_id for batch in self.batches for call in batch.calls} | self.together.keys()
        self.later += (call for call, holder in self.rivals if holder in acting)
        self.refused += ((call, SHARED) for call, holder in self.rivals if holder not in acting)
        return Packed(tuple(self.batches), tuple(self.refused), tuple(self.done), tuple(self.later))

    def tell(self, user: str, told: Remembered, teaches: Mapping[str, str], members: Sequence[Call],
             left: Sequence[Call], columns: Columns, *, sharing: bool) -> None:
        """Tell one user's person: his traits, alone when columns go along; his events when there are none left."""
        mine = list(left)
        for call in members:
            holders = {self._holder(name, told.email) or user for name, has in self.plan.holds(call).items() if has}
            if other := next(iter(sorted(holders - {user})), ""):
                self.rivals.append((call, other))
            else:
                mine.append(call)
        mine.sort(key=itemgetter(1))
        said = {call: data for call in mine if (data := self._said(call, told, sharing=sharing))}
        if not said:
            self._event(user, told, teaches, mine)
            return
        self.later += (call for call in mine if call not in said)
        trues = [call for call in said if call.tells]
        if trues and columns.profile_digest not in ("", told.profile):
            self.later += (call for call in said if not call.tells)
            new = told._replace(profile=columns.profile_digest)
            self.batches.append(self.plan.desk.profile(
                trues, told.id, {"person": columns.person}, teaches={**teaches, **memo(user, new)},
                **self.without(user, told)))
            return
        self.claims |= {(name, told.email): user for call in trues
                        for name, has in self.plan.holds(call).items() if has}
        if not self.plan.bulk or (trues and columns.data_digest not in ("", told.data)):
            new = told._replace(data=columns.data_digest) if trues else told
            self._tell_alone(user, new, teaches, said, columns.data if trues else {})
        else:
            self.together[user] = _Shared(said, told, teaches)

    def _holder(self, name: str, email: str) -> str:
        return self.known.get(name_of_holder(name, email)) or self.claims.get((name, email)) or ""

    def _said(self, call: Call, told: Remembered, *, sharing: bool) -> Mapping[str, Any]:
        """What a person is still to be told by a call; what is over only where it was this very user's."""
        holds = self.plan.holds(call)
        if not holds or (self.plan.tracks(call) and name_of_told(told.id, call) in self.known):
            return {}
        return {name: value for name, value in self.plan.data(call).items() if name in holds
                and (holds[name] or name in told.held or not sharing)}

    def _tell_alone(self, user: str, told: Remembered, teaches: Mapping[str, str],
                    said: Mapping[Call, Mapping[str, Any]], columns: Mapping[str, Any]) -> None:
        data = dict(columns)
        for one in said.values():
            data |= one
        self.batches.append(self.plan.desk.data(
            list(said), told.id, data, asks=any(map(self.plan.tracks, said)), **self.without(user, told),
            teaches={**teaches, **self._taught(user, told, said)}))

    def _tell_together(self) -> None:
        """Who shares nothing with others is told alone, which then costs no more."""
        most = min(self.plan.batch, int(self.known.get(SIZE) or self.plan.batch))
        parts = {user: one.groups for user, one in self.together.items()}
        single = alone(parts, most, having_values({user: one.said for user, one in self.together.items()}))
        for user in sorted(single):
            one = self.together[user]
            self._tell_alone(user, one.told, one.teaches, one.said, {})
        now = going({user: groups for user, groups in parts.items() if user not in single})
        groups: dict[tuple[int, bytes], list[str]] = {}
        for user in (user for user in self.together if user not in single):
            first, *rest = self.together[user].said
            self.later += rest
            if parts[user][0] in now:
                groups.setdefault(parts[user][0], []).append(user)
            else:
                self.later.append(first)
        for (_, data), users in sorted(groups.items()):
            for start in range(0, len(users), most):
                self._batch(users[start:start + most], data)

    def _batch(self, users: Sequence[str], data: bytes) -> None:
        taught: dict[str, str] = {}
        people = [self.together[user] for user in users]
        calls = [next(iter(one.said)) for one in people]
        for call, one in zip(calls, people, strict=True):
            taught |= {**one.teaches, **self._taught(call.user_id, one.told, [call])}
        asks = any(map(self.plan.tracks, calls))
        self.batches.append(self.plan.desk.batch(calls, [one.told.id for one in people], data, taught, asks=asks))

    def _taught(self, user: str, told: Remembered, calls: Iterable[Call]) -> Mapping[str, str]:
        """What is remembered when these calls are told: for whom the person holds what."""
        held: dict[str, str] = {}
        new = told
        for call in calls:
            names = self.plan.holds(call)
            held |= {name_of_holder(name, told.email): user if has else "" for name, has in names.items()
                     if has or name in told.held}
            new = new.holding(call, names)
            held |= {name_of_told(told.id, call): ""} if self.plan.tracks(call) else {}
        return {**memo(user, new), **held}

    def _event(self, user: str, told: Remembered, teaches: Mapping[str, str], mine: Sequence[Call]) -> None:
        """The first event that a user still has to come; the others wait for its answer."""
        for at, call in enumerate(mine):
            if not (left := self._events(told, call)):
                self.done.append(call)
                continue
            data = {name: plain_value(value, nothing=self.plan.nothing) for name, value in left[0].properties.items()}
            learned = {**teaches, **memo(user, told), name_of_event(told.id, call, left[0].about): ""}
            self.batches.append(self.plan.desk.event(call, told.id, left[0].name, data, asks=len(left) > 1,
                                                     teaches=learned, **self.without(user, told)))
            self.later += mine[at + 1:]
            return

    def _events(self, told: Remembered, call: Call) -> list[Event]:
        return [one for one in events_of(call, self.plan.envelopes[call.span])
                if name_of_event(told.id, call, one.about) not in self.known]

    def without(self, user: str, told: Remembered) -> dict[str, object]:
        """What a person's being unknown teaches: to look him up anew, once."""
        if told.gone == self.plan.tag:
            return {"unknown": GONE}
        return {"missing": {**released(told), name_of_email(told.email): "",
                            name_of(user): "", **memo(user, Remembered(gone=self.plan.tag))}}

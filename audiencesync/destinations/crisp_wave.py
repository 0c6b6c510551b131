"""How identify calls become Crisp's requests: who is looked up, created or moved, who is told alone, who with others.

A user takes these steps, one in a wave, as far as he needs them: his person is found or created, by email; it is given
his new email, if that changed, or left for the other person who has that email; changed columns are told; then traits.
A person may be several users', who share an email: each trait is held for one of them, and another's true is refused
until that one has left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from audiencesync.destinations.crisp_lookup import Lookup, Stranger
from audiencesync.destinations.crisp_people import (
    TAKEN,
    Columns,
    Remembered,
    columns_of,
    email_in,
    joined,
    memo,
    moved,
    name_of,
    name_of_email,
    name_of_holder,
    name_of_sharing,
    person_at,
    recall,
    released,
)
from audiencesync.destinations.crisp_requests import (
    GONE,
    NO_EMAIL,
    SHARED,
    SIZE,
)
from audiencesync.destinations.people import by_value
from audiencesync.model import Call, Packed, Refusal


@dataclass(slots=True)
class Wave(Lookup):
    """What becomes of a page's calls now; `people` are those told together, `came` the users who come to an email."""

    refused: list[tuple[Call, Refusal]] = field(default_factory=list)
    done: list[Call] = field(default_factory=list)
    together: list[Call] = field(default_factory=list)
    people: dict[str, tuple[Remembered, Mapping[str, str]]] = field(default_factory=dict)
    claims: dict[tuple[str, str], str] = field(default_factory=dict)
    rivals: list[tuple[Call, str]] = field(default_factory=list)
    came: dict[str, list[str]] = field(default_factory=dict)

    def take(self, user: str, calls: Sequence[Call]) -> None:
        """The next step of one user. A false for somebody for whom nothing is held there needs none."""
        told, sharing = recall(self.known, user), name_of_sharing(user) in self.known
        members = [call for call in calls if call.value]
        left = [call for call in calls if not call.value and told.id
                and (not sharing or self.plan.keys[call.span] in told.keys)]
        self.done += (call for call in calls if not call.value and call not in left)
        email = email_in(members, self.plan.kind)
        columns = columns_of(next((call.included for call in members), None))
        if members and self._looked_up(Stranger(user, email, members, columns, told), left, sharing=sharing):
            return
        if not members or (told.id and email == told.email) or (told.id and not email and not sharing):
            self._tell(user, *self._as_it_is(user, told, members), members, left, columns)
        elif not email:
            self.refused += ((call, NO_EMAIL) for call in members)
            self._tell(user, told, {}, [], left, columns)
        elif email in self.busy:
            self.later += (*members, *left)
        elif told.id:
            sharing = sharing or told.email in self.came
            self._follow(Stranger(user, email, members, columns, told), left, sharing=sharing)
        elif person := person_at(self.known, email):
            self._tell(user, *self._joined(user, told, person, email), members, left, columns)
        else:
            self.ask(Stranger(user, email, members, columns, told), left)

    def packed(self) -> Packed:
        """All of it; whose trait is another's waits for him, if he is under way, or else is refused."""
        self.look_up()
        most = min(self.plan.batch, int(self.known.get(SIZE) or self.plan.batch))
        for span, value, calls in by_value(self.together, most):
            people = [self.people[call.user_id] for call in calls]
            taught: dict[str, str] = {}
            for call, (told, teaches) in zip(calls, people, strict=True):
                taught |= {**teaches, **self._taught(call.user_id, told, [call])}
            self.batches.append(self.plan.desk.batch(calls, [told.id for told, _ in people],
                                                     {self.plan.keys[span]: value}, taught))
        acting = {call.user_id for batch in self.batches for call in batch.calls}
        self.later += (call for call, holder in self.rivals if holder in acting)
        self.refused += ((call, SHARED) for call, holder in self.rivals if holder not in acting)
        return Packed(tuple(self.batches), tuple(self.refused), tuple(self.done), tuple(self.later))

    def _looked_up(self, who: Stranger, left: Sequence[Call], *, sharing: bool) -> bool:
        """In a backfill: whether it is found out first if a member's person is there still, or whose his email is."""
        told, email = who.told, who.email
        if not email and (sharing or not told.id):
            return False
        if told.id and told.email and self.unsure(told.email):
            if email in ("", told.email):
                self.ask(who._replace(email=told.email), left)
            else:
                self.ask_former(who, left)
        elif email not in ("", told.email) and person_at(self.known, email) and self.unsure(email):
            self.ask(who, left)
        else:
            return False
        return True

    def _as_it_is(self, user: str, told: Remembered,
                  members: Sequence[Call]) -> tuple[Remembered, Mapping[str, str]]:
        """A user as he is remembered, unless his email has become another person's, who knows no column of his yet."""
        person = person_at(self.known, told.email)
        if not members or not told.email or person in ("", told.id):
            return told, {}
        new, teaches = self._joined(user, told, person, told.email)
        return new._replace(keys=told.keys), teaches

    def _without(self, user: str, told: Remembered) -> dict[str, object]:
        """What a person's being unknown teaches: to look him up anew, once."""
        if told.gone == self.plan.tag:
            return {"unknown": GONE}
        return {"missing": {**released(told), name_of_email(told.email): "",
                            name_of(user): "", **memo(user, Remembered(gone=self.plan.tag))}}

    def _joined(self, user: str, told: Remembered, person: str, email: str) -> tuple[Remembered, Mapping[str, str]]:
        """As `joined`, of those as well who come to this email before him in this wave."""
        came = self.came.setdefault(email, [])
        came.append(user)
        return joined(self.known, user, told, person, email, came)

    def _follow(self, who: Stranger, left: Sequence[Call], *, sharing: bool) -> None:
        """Somebody's email has changed: his person follows, unless others share it or another has that email.

        Then what is held for him at the former person is taken back before he is told at the other one.
        """
        user, email, told = who.user, who.email, who.told
        there = person_at(self.known, email)
        if there == told.id:
            self._tell(user, *moved(self.known, user, told, email), who.calls, left, who.columns)
        elif there:
            new, joins = self._joined(user, told, there, email)
            alone = {} if sharing else {name_of_email(told.email): told.id}
            taught = {**released(told), **alone, **joins, **memo(user, new)}
            if told.keys:
                self.later += left
                self.batches.append(self.plan.desk.data(who.calls, told.id, dict.fromkeys(told.keys, False), asks=True,
                                                        teaches=taught, missing=taught))
            else:
                self.done += left  # at this person nothing is held for him
                self._tell(user, new, taught, who.calls, [], who.columns)
        elif sharing or self.marked(TAKEN, email):
            self.ask(who, left)
        else:
            self.later += left
            self.busy |= {told.email, email}
            new, moves = moved(self.known, user, told, email)
            body: dict[str, object] = {"email": email}
            if who.columns.profile_digest not in ("", told.profile):
                body["person"] = who.columns.person
                new = new._replace(profile=who.columns.profile_digest)
            self.batches.append(self.plan.desk.profile(
                who.calls, told.id, body, teaches={**moves, **memo(user, new), **self.sure(email)},
                taken=self.taken(email), **self._without(user, told)))

    def _tell(self, user: str, told: Remembered, teaches: Mapping[str, str], members: Sequence[Call],
              left: Sequence[Call], columns: Columns) -> None:
        """Tell one user's person: alone when columns go along, else one trait with others, and the next one later."""
        mine = list(left)
        for call in members:
            name = self.plan.keys[call.span], told.email
            holder = self.known.get(name_of_holder(*name)) or self.claims.get(name) or user
            if holder == user:
                mine.append(call)
            else:
                self.rivals.append((call, holder))
        if not mine:
            return
        mine.sort(key=itemgetter(1))
        trues = [call for call in mine if call.value]
        if trues and columns.profile_digest not in ("", told.profile):
            self.later += (call for call in mine if not call.value)
            new = told._replace(profile=columns.profile_digest)
            self.batches.append(self.plan.desk.profile(
                trues, told.id, {"person": columns.person}, teaches={**teaches, **memo(user, new)},
                **self._without(user, told)))
            return
        alone = not self.plan.bulk or (trues and columns.data_digest not in ("", told.data))
        self.claims |= {(self.plan.keys[call.span], told.email): user for call in trues}
        if alone:
            new = told._replace(data=columns.data_digest) if trues else told
            data = {**(columns.data if trues else {}), **{self.plan.keys[call.span]: call.value for call in mine}}
            self.batches.append(self.plan.desk.data(mine, told.id, data, **self._without(user, told),
                                                    teaches={**teaches, **self._taught(user, new, mine)}))
        else:
            self.together.append(mine[0])
            self.later += mine[1:]
            self.people[user] = told, teaches

    def _taught(self, user: str, told: Remembered, calls: Sequence[Call]) -> Mapping[str, str]:
        """What is remembered when these calls are told: for whom the person holds what."""
        held, new = {}, told
        for call in calls:
            key = self.plan.keys[call.span]
            if call.value or key in told.keys:
                held[name_of_holder(key, told.email)] = user if call.value else ""
            new = new.holding(key, value=call.value)
        return {**memo(user, new), **held}

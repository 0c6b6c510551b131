"""How calls become Crisp's requests: who is looked up, created or moved, who is told alone, who with others.

A user takes these steps, one in a wave, as far as he needs them: his person is found or created, by email; it is given
his new email, if that changed, or left for the other person who has that email; changed columns are told; then traits;
then his events, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from audiencesync.destinations.crisp_lookup import Stranger
from audiencesync.destinations.crisp_people import (
    TAKEN,
    Remembered,
    columns_of,
    email_in,
    joined,
    memo,
    moved,
    name_of_email,
    name_of_sharing,
    person_at,
    recall,
    released,
)
from audiencesync.destinations.crisp_requests import NO_EMAIL
from audiencesync.destinations.crisp_telling import Telling
from audiencesync.model import Call


@dataclass(slots=True)
class Wave(Telling):
    """What becomes of a page's calls now; `came` are the users who come to an email."""

    came: dict[str, list[str]] = field(default_factory=dict)

    def take(self, user: str, calls: Sequence[Call]) -> None:
        """The next step of one user. A false for somebody for whom nothing is held there needs none."""
        told, sharing = recall(self.known, user), name_of_sharing(user) in self.known
        members = [call for call in calls if call.tells]
        left = [call for call in calls if not call.tells and told.id and (
            not sharing or self.plan.tracks(call) or any(name in told.held for name in self.plan.holds(call)))]
        self.done += (call for call in calls if not call.tells and call not in left)
        email = email_in(members, self.plan.kind)
        columns = columns_of(next((call.included for call in members), None))
        if members and self._looked_up(Stranger(user, email, members, columns, told), left, sharing=sharing):
            return
        if not members or (told.id and email == told.email) or (told.id and not email and not sharing):
            now, teaches = self._as_it_is(user, told, members)
            self.tell(user, now, teaches, members, left, columns, sharing=sharing)
        elif not email:
            self.refused += ((call, NO_EMAIL) for call in members)
            self.tell(user, told, {}, [], left, columns, sharing=sharing)
        elif email in self.busy:
            self.later += (*members, *left)
        elif told.id:
            sharing = sharing or told.email in self.came
            self._follow(Stranger(user, email, members, columns, told), left, sharing=sharing)
        elif person := person_at(self.known, email):
            self.tell(user, *self._joined(user, told, person, email), members, left, columns, sharing=sharing)
        else:
            self.ask(Stranger(user, email, members, columns, told), left)

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
        return new._replace(keys=told.keys, values=told.values), teaches

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
            self.tell(user, *moved(self.known, user, told, email), who.calls, left, who.columns, sharing=sharing)
        elif there:
            new, joins = self._joined(user, told, there, email)
            alone = {} if sharing else {name_of_email(told.email): told.id}
            taught = {**released(told), **alone, **joins, **memo(user, new)}
            if told.held:
                self.later += left
                taken = {**dict.fromkeys(told.keys, False), **dict.fromkeys(told.values, self.plan.nothing)}
                self.batches.append(self.plan.desk.data(who.calls, told.id, taken, asks=True, teaches=taught,
                                                        missing=taught))
            else:
                self.done += (call for call in left if not self.plan.tracks(call))  # here nothing is held for him
                events = [call for call in left if self.plan.tracks(call)]
                self.tell(user, new, taught, who.calls, events, who.columns, sharing=True)
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
                taken=self.taken(email), **self.without(user, told)))

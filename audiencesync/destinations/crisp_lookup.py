"""Who has an email at Crisp: strangers are searched for together, and created or found alone where that shows nobody.

In a backfill nobody is taken to be there because he is remembered: each email is looked up once more, and within the
page, without being written down, `a:<email>` says that it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from audiencesync.destinations.crisp_people import (
    SOUGHT,
    TAKEN,
    Columns,
    Remembered,
    last_at,
    memo,
    name_of,
    name_of_email,
    name_of_memo,
    name_of_sure,
    person_at,
    released,
)
from audiencesync.destinations.crisp_requests import HIDDEN, ID, NOT_KNOWN, SEARCHES, Plan, Request, in_searches
from audiencesync.model import Call


class Stranger(NamedTuple):
    """A member whose email is nobody's, as far as is known, or has to be looked up once more."""

    user: str
    email: str
    calls: Sequence[Call]
    columns: Columns
    told: Remembered


@dataclass(slots=True)
class Lookup:
    """The part of a wave that looks people up; to an email that is `busy` nobody comes, since whose it is may change.

    `known` is what is known before, `later` are the calls that wait for an answer.
    """

    plan: Plan
    known: Mapping[str, str]
    batches: list[Request] = field(default_factory=list)
    later: list[Call] = field(default_factory=list)
    strangers: dict[str, Stranger] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)

    def unsure(self, email: str) -> bool:
        """Whether it has to be looked up once more whose this email is, since people may be lost."""
        return self.plan.anew and (name_of_sure(email) not in self.known or not person_at(self.known, email))

    def sure(self, email: str) -> Mapping[str, str]:
        """What is learned for this page when it is known whose an email is."""
        return {name_of_sure(email): ""} if self.plan.anew else {}

    def ask(self, who: Stranger, left: Sequence[Call]) -> None:
        """Have it found out who has this email; what else he has to be told waits, as he does for another's answer."""
        self.later += left
        if who.email in self.busy:
            self.later += who.calls
        else:
            self.busy.add(who.email)
            self.strangers[who.email] = who

    def ask_former(self, who: Stranger, left: Sequence[Call]) -> None:
        """Ask whether the person of a user whose email has changed is there still, and forget him if not.

        He is asked for by his id, since he may have the new email already, where nobody answered when he was given it.
        """
        email = who.told.email
        self.later += left
        if {email, who.email} & self.busy:
            self.later += who.calls
            return
        self.busy |= {email, who.email}
        gone = {name_of_email(email): "", **self._forgotten(who.user, who.told)}
        teaches = {name_of_email(email): self._with_last(ID, email), **self.sure(email)}
        self.batches.append(self.plan.desk.find(who.calls, who.told.id, None, teaches=teaches, missing=gone))

    def marked(self, mark: str, email: str) -> bool:
        """Whether this very sync found that out of an email."""
        found = self.known.get(name_of_email(email), "")
        return found == f"{mark}{self.plan.tag}" or found.startswith(f"{mark}{self.plan.tag} ")

    def taken(self, email: str) -> Mapping[str, str]:
        """What is learned when Crisp says that an email is taken: whose has to be asked, unless emails are names."""
        if self.plan.by_email:
            return {name_of_email(email): self._with_last(email, email), **self.sure(email)}
        return {name_of_email(email): self._with_last(f"{TAKEN}{self.plan.tag}", email)}

    def look_up(self) -> None:
        """Strangers are searched for together; one alone, and whom a search did not show, is created or found."""
        searches = self.known.get(SEARCHES) != self.plan.tag
        new = [email for email in self.strangers if searches and not self.marked(SOUGHT, email)
               and not self.marked(TAKEN, email)]
        for emails in in_searches(new, self.plan.search):
            if len(emails) > 1:
                self.batches.append(self._search([self.strangers.pop(email) for email in emails]))
        self.batches += map(self._find_or_create, self.strangers.values())

    def _search(self, strangers: Iterable[Stranger]) -> Request:
        """A plan takes those who are remembered to be there still, and others as `create` says."""
        missing: dict[str, str] = {}
        likely: dict[str, str] = {}
        sure: dict[str, str] = {}
        calls: list[Call] = []
        for who in strangers:
            name = name_of_email(who.email)
            missing |= self._sought(who.email)
            sure |= self.sure(who.email)
            if person_at(self.known, who.email):
                likely |= {name: self.known[name], **self.sure(who.email)}
            else:
                likely[name] = missing[name] if self.plan.create else ID
            calls += who.calls
        return self.plan.desk.search(calls, [name.removeprefix(name_of_email("")) for name in missing],
                                     missing=missing, likely=likely, off=self.plan.tag, sure=bool(sure))

    def _sought(self, email: str) -> Mapping[str, str]:
        return {name_of_email(email): self._with_last(f"{SOUGHT}{self.plan.tag}", email)}

    def _with_last(self, value: str, email: str) -> str:
        """A value to stand under an email, with the user who came there last, if there is one."""
        last = last_at(self.known, email)
        return f"{value} {last}" if last else value

    def _find(self, calls: Sequence[Call], email: str, *, missing: Mapping[str, str]) -> Request:
        teaches = {name_of_email(email): self._with_last(ID, email), **self.sure(email)}
        return self.plan.desk.find(calls, email, None, teaches=teaches, missing=missing)

    def _find_or_create(self, who: Stranger) -> Request:
        name, email = name_of_email(who.email), who.email
        remembered = bool(who.told.id) and who.told.email == email
        teaches = {name: self._with_last(ID, email), **self.sure(email)}
        if self.marked(TAKEN, email):
            return self.plan.desk.find(who.calls, email, HIDDEN, teaches=teaches)
        if not self.plan.create:
            gone = {**self._sought(email), **(self._forgotten(who.user, who.told) if remembered else {})}
            return self.plan.desk.find(who.calls, email, NOT_KNOWN, teaches=teaches, missing=gone)
        if person_at(self.known, email):
            return self._find(who.calls, email, missing=self._sought(email))
        if not who.told.id or remembered:
            new = Remembered(ID, email, profile=who.columns.profile_digest, gone=who.told.gone)
            lost = released(who.told) if remembered else {}
            teaches |= {**lost, name_of(who.user): ID, name: f"{ID} {who.user}", **memo(who.user, new)}
        return self.plan.desk.create(who.calls, email, who.columns.person, teaches, self.taken(email))

    def _forgotten(self, user: str, told: Remembered) -> Mapping[str, str]:
        """What is learned when a user's person is no more: that he is a stranger."""
        kept = memo(user, Remembered(gone=told.gone)) if told.gone else {name_of_memo(user): ""}
        return {**released(told), name_of(user): "", **kept}

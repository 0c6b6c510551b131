"""People of Planhat found by their email: whose a trait is where users share one, and what a changed one moves.

Names that are remembered, all by trait, so that each computation's sync minds its own:
`u:<key>:<user>` is the enduser whom this user's true was told to, as `<_id>|<email>`; a leading `!` says that he has to
be left, since another enduser has the new email. `o:<key>:<email>` is the user whom the trait of this enduser is of.
`i:<email>` is an `_id` that was looked up; within a page, without being written down, `a:<email>` says that it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import (
    MISSING_COMPANY,
    MISSING_EMAIL,
    SHARED_EMAIL,
    UNKNOWN_USER,
    by_user,
    compact,
    refusal,
)
from audiencesync.destinations.planhat_rows import ID, WHY, Row, RowPacker, question
from audiencesync.model import Batch, Call, Packed, Person, Refusal

NO_EMAIL = refusal(MISSING_EMAIL, "Planhat is told to find people by their email, and this user has none")
SHARED = refusal(SHARED_EMAIL, "another user with the same email has this trait there")
UNKNOWN = refusal(UNKNOWN_USER, WHY[UNKNOWN_USER])


class Held(NamedTuple):
    """The enduser that a trait was told to; `leave` when he could not be given the user's new email."""

    id: str
    email: str
    leave: bool = False


def held(value: str) -> Held | None:
    """Read what is remembered under `u:<key>:<user>`."""
    found, bar, email = value.removeprefix("!").partition("|")
    return Held(found, email, leave=value.startswith("!")) if bar else None


def his_own(person: Person) -> Person:
    """A user with what is remembered of him alone: an email or a trait that is another's stays the other's."""
    return person._replace(known={name: value for name, value in person.known.items()
                                  if name[:2] not in ("e:", "o:") or value == person.user_id})


def is_anothers(person: Person, key: str, emails: Iterable[str]) -> bool:
    """Whether another user who shares one of these emails is known to be whom this trait is of."""
    return any(person.known.get(f"o:{key}:{email}", "") not in ("", person.user_id) for email in emails)


@dataclass(slots=True)
class _Wave:
    """What comes of one page's calls now: told, asked, refused, done, later; no enduser is in two rows of it."""

    told: list[Row] = field(default_factory=list)
    asked: list[Row] = field(default_factory=list)
    questions: list[Batch] = field(default_factory=list)
    refused: list[tuple[Call, Refusal]] = field(default_factory=list)
    done: list[Call] = field(default_factory=list)
    later: list[Call] = field(default_factory=list)
    leaving: set[tuple[str, str]] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)

    def claim(self, *people: str) -> bool:
        """Take these endusers, by `_id` or email, for one row; False when another row has any of them."""
        wanted = set(filter(None, people))
        if wanted & self.busy:
            return False
        self.busy |= wanted
        return True


class ByEmail(RowPacker):
    """Exits go to the enduser that was told, members to the email they have now; each user once at a time."""

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Whom a trait was told to, whose it is, and who has the email."""
        for call in calls:
            yield f"u:{self.key(call)}:{call.user_id}"
            if email := self.email(call):  # a false has one where it is the id
                yield from (f"o:{self.key(call)}:{email}", f"i:{email}")

    def more_names(self, calls: Sequence[Call], known: Mapping[str, str]) -> Iterable[str]:
        """Whose all the traits are of an enduser whom a changed email would take along, or that a user has no more."""
        for _, mine in by_user(calls):
            told = [(call, self._held(call, known)) for call in mine]
            for call, there in told:
                if call.value and there is not None and self.email(call) not in ("", there.email):
                    yield from (f"o:{key}:{there.email}" for key in self.all_keys)
            emails = {there.email for _, there in told if there is not None}
            yield from (f"o:{self.key(call)}:{email}" for call, there in told if there is None and not call.value
                        for email in emails)

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Exits first, so that whoever shares an email with one who leaves can have the trait after him."""
        wave = _Wave()
        waiting = {user for user, mine in by_user(calls) if self._exits(wave, user, mine, known)}
        wave.leaving |= {(self.key(call), call.user_id) for call in calls if self._elsewhere(call, known)}
        for user, mine in by_user(calls):
            members = [call for call in mine if call.value]
            if user in waiting:
                wave.later += members
            elif members:
                self._members(wave, members, known)
        wave.told.sort(key=lambda row: row.calls[0])
        wave.asked.sort(key=lambda row: row.calls[0])
        batches = (*wave.questions, *self.requests(wave.asked, asks=True), *self.requests(wave.told))
        return Packed(batches, tuple(wave.refused), tuple(wave.done), tuple(wave.later))

    def _held(self, call: Call, known: Mapping[str, str]) -> Held | None:
        return held(known.get(f"u:{self.key(call)}:{call.user_id}", ""))

    def _owner(self, call: Call, known: Mapping[str, str]) -> str:
        """The other user whom the trait is of, where it is."""
        owner = known.get(f"o:{self.key(call)}:{self.email(call)}", "")
        return "" if owner == call.user_id else owner

    def _elsewhere(self, call: Call, known: Mapping[str, str]) -> Held | None:
        """Whom a member was told to under another email.

        He is left at once where somebody else is told at the new one, or has a trait of this enduser as well.
        """
        user, there = call.user_id, self._held(call, known) if call.value else None
        if there is None or self.email(call) in ("", there.email):
            return None
        others = any(known.get(f"o:{key}:{there.email}", user) not in ("", user) for key in self.all_keys)
        return there._replace(leave=there.leave or others or bool(self._owner(call, known)))

    def _forgotten(self, calls: Iterable[Call], email: str) -> dict[str, str]:
        return {name: "" for call in calls
                for name in (f"u:{self.key(call)}:{call.user_id}", f"o:{self.key(call)}:{email}")}

    def _exits(self, wave: _Wave, user: str, calls: Sequence[Call], known: Mapping[str, str]) -> bool:
        """The falses of a user; says whether any is under way, so that his trues have to wait."""
        told = [(call, self._held(call, known)) for call in calls if not call.value]
        wave.done += [call for call, there in told if there is None]
        parts = [(there, [call for call, at in told if at == there]) for there in dict.fromkeys(
            there for _, there in told if there is not None)]
        for number, (there, mine) in enumerate(parts):
            if number or not wave.claim(there.id, there.email):
                wave.later += mine
            elif not there.id:
                wave.questions.append(self._find(mine, there))
            else:
                wave.leaving |= {(self.key(call), user) for call in mine}
                wave.told.append(self._cleared(mine, there))
        return bool(parts)

    def _members(self, wave: _Wave, calls: Sequence[Call], known: Mapping[str, str]) -> None:
        """The trues of a user, as far as they can be told now."""
        fit = list(self._fit(wave, calls, known))
        moving = [(at, self.email(call), call) for call in fit if (at := self._elsewhere(call, known))]
        if moving:
            first = [call for *place, call in moving if place == [*moving[0][:2]]]
            wave.later += [call for call in fit if call not in first]
            self._move(wave, first, moving[0][0])
            return
        busy = False
        for email in dict.fromkeys(map(self.email, fit)):
            mine = [call for call in fit if self.email(call) == email]
            if busy:
                wave.later += mine
            else:
                busy = self._tell(wave, mine, email, known)

    def _fit(self, wave: _Wave, calls: Sequence[Call], known: Mapping[str, str]) -> Iterator[Call]:
        for call in calls:
            owner = self._owner(call, known)
            if not self.email(call):
                wave.refused.append((call, NO_EMAIL))
            elif not owner or self._elsewhere(call, known):
                yield call
            elif (self.key(call), owner) in wave.leaving:
                wave.later.append(call)
            else:
                wave.refused.append((call, SHARED))

    def _move(self, wave: _Wave, calls: Sequence[Call], there: Held) -> None:
        """A changed email: the known enduser gets it; where another has it already, he is left for that one."""
        email = self.email(calls[0])
        if not wave.claim(there.id, there.email, email):
            wave.later += calls
        elif not there.id:
            wave.questions.append(self._find(calls, there))
        elif there.leave:
            wave.asked.append(self._cleared(calls, there))
        else:
            gone = self._forgotten(calls, there.email) | {f"i:{there.email}": ""}
            row = self._row(calls, {"_id": there.id, "email": email}, email, there.id)
            clash = {f"u:{self.key(call)}:{call.user_id}": f"!{there.id}|{there.email}" for call in calls}
            wave.told.append(replace(row, taken={**gone, **row.taken}, lost=gone, clash=clash, absent=""))

    def _cleared(self, calls: Sequence[Call], there: Held) -> Row:
        """False for an enduser who was told, which nobody's being there does as well."""
        gone = self._forgotten(calls, there.email)
        body = compact({"_id": there.id, "custom": dict.fromkeys(self.keys(calls), False)})
        return Row(tuple(calls), self.keys(calls), body, (there.id,), gone, lost=gone)

    def _find(self, calls: Sequence[Call], there: Held) -> Batch:
        """Look up the enduser who was told though no answer gave his `_id`."""
        return question(f"?email={in_path(there.email)}", Row(
            tuple(calls), self.keys(calls), b"", (there.email,), lost=self._forgotten(calls, there.email),
            taken={f"u:{self.key(call)}:{call.user_id}": f"{ID}|{there.email}" for call in calls}))

    def _tell(self, wave: _Wave, calls: Sequence[Call], email: str, known: Mapping[str, str]) -> bool:
        """True for the enduser of this email, who is looked up first where the upsert must not find or make him.

        Says whether anything is under way for it.
        """
        there = next((at.id for call in calls if (at := self._held(call, known))), "")
        careful = not (self.ways.create and self.ways.bulk_by_email)
        found, asked = (known.get(f"i:{email}", "") or there) if careful else "", f"a:{email}"
        if careful and not found and asked in known and not self.ways.create:
            wave.refused += [(call, UNKNOWN) for call in calls]
            return False
        if not wave.claim(email, found or there):
            wave.later += calls
        elif careful and not found and asked not in known:
            wave.questions.append(question(f"?email={in_path(email)}", Row(
                tuple(calls), self.keys(calls), b"", (email,), taken={f"i:{email}": ID, asked: ""},
                lost={f"i:{email}": "", asked: ""})))
        elif found:
            lost = {f"u:{self.key(call)}:{call.user_id}": "" for call in calls} | {f"i:{email}": ""}
            wave.told.append(replace(self._row(calls, {"_id": found}, email, found), lost=lost, absent=""))
        else:
            wave.told.append(self._row(calls, {"email": email}, email, there))
        return True

    def _row(self, calls: Sequence[Call], who: Mapping[str, str], email: str, there: str) -> Row:
        member = self.member(calls)
        body: dict[str, object] = dict(who)
        if member.company:
            body["companyId"] = member.company
        body |= {**member.own, "custom": {**member.custom, **self.traits(calls)}}
        taken = {f"u:{self.key(call)}:{call.user_id}": f"{ID}|{email}" for call in calls}
        owns = {f"o:{self.key(call)}:{email}": call.user_id for call in calls}
        return Row(tuple(calls), self.keys(calls), compact(body), tuple(dict.fromkeys((*who.values(), email))),
                   taken | owns, absent=MISSING_COMPANY, id=there)

"""People of Planhat found by their email: whose a trait is where users share one, and what a changed one moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

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
from audiencesync.destinations.planhat_held import Held, Wave, held
from audiencesync.destinations.planhat_rows import ID, WHY, Row, RowPacker, question
from audiencesync.model import Batch, Call, Packed

NO_EMAIL = refusal(MISSING_EMAIL, "Planhat is told to find people by their email, and this user has none")
SHARED = refusal(SHARED_EMAIL, "another user with the same email has this trait there")
UNKNOWN = refusal(UNKNOWN_USER, WHY[UNKNOWN_USER])


class ByEmail(RowPacker):
    """Exits and nulls go to the enduser that was told, members to the email they have now; each user once at a time."""

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Whom a trait was told to, whose it is, and who has the email."""
        for call in calls:
            yield f"u:{self.key(call)}:{call.user_id}"
            if isinstance(call.value, str):
                yield f"h:{self.key(call)}:{call.user_id}"
                yield from (f"t:{name}" for name in call.traits(""))
            if email := self.email(call):  # a false has one where it is the id
                yield from (f"o:{self.key(call)}:{email}", f"i:{email}")

    def more_names(self, calls: Sequence[Call], known: Mapping[str, str]) -> Iterable[str]:
        """Whose all the traits are of an enduser whom a changed email would take along, or that a user has no more."""
        for _, mine in by_user(calls):
            told = [(call, self._held(call, known)) for call in mine]
            for call, there in told:
                if not self._exiting(call) and there is not None and self.email(call) not in ("", there.email):
                    yield from (f"o:{key}:{there.email}" for key in self.all_keys)
            emails = {there.email for _, there in told if there is not None}
            yield from (f"o:{self.key(call)}:{email}" for call, there in told if there is None and self._exiting(call)
                        for email in emails)

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Exits first, so that whoever shares an email with one who leaves can have the trait after him."""
        wave = Wave()
        waiting = {user for user, mine in by_user(calls) if self._exits(wave, user, mine, known)}
        wave.leaving |= {(self.key(call), call.user_id) for call in calls if self._elsewhere(call, known)}
        for user, mine in by_user(calls):
            members = [call for call in mine if not self._exiting(call)]
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
        user, there = call.user_id, None if self._exiting(call) else self._held(call, known)
        if there is None or self.email(call) in ("", there.email):
            return None
        others = any(known.get(f"o:{key}:{there.email}", user) not in ("", user) for key in self.all_keys)
        return there._replace(leave=there.leave or others or bool(self._owner(call, known)))

    def _exiting(self, call: Call) -> bool:
        """Whether it goes to whom it was told before: nothing is told, or a last value for whom no column names."""
        return not call.tells or (isinstance(call.value, str) and call.included is None and not self.email(call))

    def _left(self, call: Call, known: Mapping[str, str]) -> str:
        """The computed traits that a user has after a call, by name; none, when he dropped out with a last value."""
        name = f"h:{self.key(call)}:{call.user_id}"
        if isinstance(call.value, bool) or (call.tells and self._exiting(call)):
            return ""
        traits = call.traits(self.key(call))
        before = {one for one in known.get(name, "").split(",") if one} - traits.keys()
        return ",".join(sorted(before | {one for one, value in traits.items() if value is not None}))

    def _forgotten(self, calls: Iterable[Call], email: str) -> dict[str, str]:
        names = {f"h:{self.key(call)}:{call.user_id}": "" for call in calls if isinstance(call.value, str)}
        return names | {name: "" for call in calls
                        for name in (f"u:{self.key(call)}:{call.user_id}", f"o:{self.key(call)}:{email}")}

    def _exits(self, wave: Wave, user: str, calls: Sequence[Call], known: Mapping[str, str]) -> bool:
        """The falses and nulls of a user; says whether any is under way, so that his other calls have to wait."""
        told = [(call, self._held(call, known)) for call in calls if self._exiting(call)]
        wave.done += [call for call, there in told if there is None and not call.tells]
        wave.refused += [(call, NO_EMAIL) for call, there in told if there is None and call.tells]
        parts = [(there, [call for call, at in told if at == there]) for there in dict.fromkeys(
            there for _, there in told if there is not None)]
        for number, (there, mine) in enumerate(parts):
            if number or not wave.claim(there.id, there.email):
                wave.later += mine
            elif not there.id:
                wave.questions.append(self._find(mine, there))
            else:
                left = [call for call in mine if not self._left(call, known)]
                wave.leaving |= {(self.key(call), user) for call in left}
                kept = {f"h:{self.key(call)}:{user}": self._left(call, known) for call in mine if call not in left}
                row = self._cleared(mine, there, self.traits(mine))
                wave.told.append(replace(row, taken=self._forgotten(left, there.email) | kept))
        return bool(parts)

    def _members(self, wave: Wave, calls: Sequence[Call], known: Mapping[str, str]) -> None:
        """The trues and values of a user, as far as they can be told now."""
        fit = list(self._fit(wave, calls, known))
        moving = [(at, self.email(call), call) for call in fit if (at := self._elsewhere(call, known))]
        if moving:
            first = [call for *place, call in moving if place == [*moving[0][:2]]]
            wave.later += [call for call in fit if call not in first]
            self._move(wave, first, moving[0][0], known)
            return
        busy = False
        for email in dict.fromkeys(map(self.email, fit)):
            mine = [call for call in fit if self.email(call) == email]
            if busy:
                wave.later += mine
            else:
                busy = self._tell(wave, mine, email, known)

    def _fit(self, wave: Wave, calls: Sequence[Call], known: Mapping[str, str]) -> Iterator[Call]:
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

    def _move(self, wave: Wave, calls: Sequence[Call], there: Held, known: Mapping[str, str]) -> None:
        """A changed email: the known enduser gets it; where another has it already, he is left for that one."""
        email = self.email(calls[0])
        if not wave.claim(there.id, there.email, email):
            wave.later += calls
        elif not there.id:
            wave.questions.append(self._find(calls, there))
        elif there.leave:
            wave.asked.append(self._cleared(calls, there, self.nothing(calls)))
        else:
            gone = self._forgotten(calls, there.email) | {f"i:{there.email}": ""}
            row = self._row(calls, {"_id": there.id, "email": email}, email, there.id, known)
            clash = {f"u:{self.key(call)}:{call.user_id}": f"!{there.id}|{there.email}" for call in calls}
            wave.told.append(replace(row, taken={**gone, **row.taken}, lost=gone, clash=clash, absent=""))

    def _cleared(self, calls: Sequence[Call], there: Held, traits: Mapping[str, object]) -> Row:
        """What is over for an enduser who was told, which nobody's being there does as well."""
        gone = self._forgotten(calls, there.email)
        body = compact({"_id": there.id, "custom": traits})
        return Row(tuple(calls), self.keys(calls), body, (there.id,), gone, lost=gone)

    def _find(self, calls: Sequence[Call], there: Held) -> Batch:
        """Look up the enduser who was told though no answer gave his `_id`."""
        return question(f"?email={in_path(there.email)}", Row(
            tuple(calls), self.keys(calls), b"", (there.email,), lost=self._forgotten(calls, there.email),
            taken={f"u:{self.key(call)}:{call.user_id}": f"{ID}|{there.email}" for call in calls}))

    def _tell(self, wave: Wave, calls: Sequence[Call], email: str, known: Mapping[str, str]) -> bool:
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
            wave.told.append(replace(self._row(calls, {"_id": found}, email, found, known), lost=lost, absent=""))
        else:
            wave.told.append(self._row(calls, {"email": email}, email, there, known))
        return True

    def _row(self, calls: Sequence[Call], who: Mapping[str, str], email: str, there: str,
             known: Mapping[str, str]) -> Row:
        member = self.member(calls)
        body: dict[str, object] = dict(who)
        if member.company:
            body["companyId"] = member.company
        body |= {**member.own, "custom": {**member.custom, **self.traits(calls)}}
        taken = {f"u:{self.key(call)}:{call.user_id}": f"{ID}|{email}" for call in calls}
        owns = {f"o:{self.key(call)}:{email}": call.user_id for call in calls}
        for call in calls:
            if isinstance(call.value, str):
                owns[f"h:{self.key(call)}:{call.user_id}"] = self._left(call, known)
                owns |= {f"t:{name}": self.key(call) for name in call.traits("")}
        return Row(tuple(calls), self.keys(calls), compact(body), tuple(dict.fromkeys((*who.values(), email))),
                   taken | owns, absent=MISSING_COMPANY, id=there)

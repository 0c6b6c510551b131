"""People of Planhat found by our user id, which is their external id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from audiencesync.destinations.api import in_path
from audiencesync.destinations.people import MISSING_COMPANY, UNKNOWN_USER, by_user, compact, refusal
from audiencesync.destinations.planhat_rows import ID, WHY, Member, Row, RowPacker, question
from audiencesync.model import Batch, Call, Packed, Refusal


class ByExternalId(RowPacker):
    """Every pending trait of a user in one row.

    An email is only an attribute here. Planhat may still match by it, so that a second user with the same email would
    be taken for the first: `e:<email>` remembers whose it is, and any other user's row goes without it.
    """

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Who is known to be there, where that matters, and whose an email is."""
        for user, mine in by_user(calls):
            member = self.member(mine)
            if self._careful(mine, member):
                yield f"u:{user}"
            if member.email and self.ways.create:
                yield f"e:{member.email}"

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """One row a user; those who must be looked up first ask, those without need are done."""
        rows: list[Row] = []
        questions: list[Batch] = []
        refused: list[tuple[Call, Refusal]] = []
        done: list[Call] = []
        later: list[Call] = []
        claimed: set[str] = set()
        for user, mine in by_user(calls):
            member, me = self.member(mine), f"u:{user}"
            if (careful := self._careful(mine, member)) and not known.get(me):
                if me in known:
                    refused += [(call, refusal(self._absent(), WHY[self._absent()])) for call in mine if call.tells]
                    done += [call for call in mine if not call.tells]
                else:
                    questions.append(question(f"/extid-{in_path(user)}", Row(
                        tuple(mine), self.keys(mine), b"", (user,), taken={me: f"={ID}"}, lost={me: ""})))
                continue
            if not self.ways.create or known.get(f"e:{member.email}", user) not in ("", user):
                member = member._replace(email="")
            if member.email in claimed:
                later += mine
                continue
            claimed |= {member.email} - {""}
            rows.append(self._row(user, mine, member, careful=careful))
        return Packed((*questions, *self.requests(rows)), tuple(refused), tuple(done), tuple(later))

    def _careful(self, calls: Sequence[Call], member: Member) -> bool:
        """Whether it must be known that this user is there before anything is put."""
        homeless = not member.company and not member.email and any(call.tells for call in calls)
        return not self.ways.create or (self.ways.park and homeless)

    def _absent(self) -> str:
        return MISSING_COMPANY if self.ways.create else UNKNOWN_USER

    def _row(self, user: str, calls: Sequence[Call], member: Member, *, careful: bool) -> Row:
        body: dict[str, Any] = {"externalId": user}
        taken = {f"u:{user}": f"={ID}"} if careful else {}
        lost = {f"u:{user}": ""} if careful else {}
        if member.email:
            body["email"] = member.email
            taken[f"e:{member.email}"] = user
        if member.company and self.ways.create:  # without company and email nobody can be made
            body["companyId"] = member.company
        body |= {**member.own, "custom": {**member.custom, **self.traits(calls)}}
        names = tuple(filter(None, (user, member.email)))
        return Row(tuple(calls), self.keys(calls), compact(body), names, taken, lost, absent=self._absent())

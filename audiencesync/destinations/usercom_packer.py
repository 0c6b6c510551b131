"""How the calls of one sync become User.com's requests, wave by wave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from audiencesync.destinations.people import WavePacker
from audiencesync.destinations.usercom_people import memo, name_in, name_of, name_of_email, sent_email
from audiencesync.destinations.usercom_requests import Request, learned_of
from audiencesync.destinations.usercom_wave import Plan, Wave
from audiencesync.model import Batch, Call, Content


class UserComPacker(WavePacker):
    """One request for each member who is new there or whose columns changed, for all others what costs least.

    `most` is how many users a mass update names, `by_number` whether by User.com's own numbers, `create` whether whom
    it does not know is created, `nothing` what a trait is told to be that a user has no more. In a backfill nobody is
    trusted to be there still. Of two users with one email the first sends it: User.com might take the second for him
    (what `update_or_create` matches by is not published).
    """

    def __init__(self, content: Content, *, most: int, by_number: bool, create: bool, nothing: str | None) -> None:
        self._by_email = any(one.id_kind == "email" for one in content.envelopes)
        self._plan = Plan(content.envelopes, self._by_email, most, by_number or self._by_email, create,
                          content.anew and create, nothing)

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Under which names it is remembered who these users are there."""
        found = dict.fromkeys(name_of(call.user_id, by_email=self._by_email) for call in calls)
        return found | dict.fromkeys(name_of_email(email) for call in calls if (email := sent_email([call])))

    def wave(self, known: Mapping[str, str]) -> Wave:
        """By the plan."""
        return Wave(self._plan, known)

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """That a user who is asked about is found, and all goes well."""
        if not isinstance(batch, Request) or not batch.asks:
            return {}
        if batch.teaches:
            return batch.teaches
        return {name_in(batch): memo("0", batch.marks), **learned_of(batch, "0")}

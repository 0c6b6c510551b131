"""How the calls of one sync become Crisp's requests, wave by wave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from audiencesync.destinations.crisp_people import (
    email_in,
    name_of,
    name_of_email,
    name_of_holder,
    name_of_memo,
    name_of_sharing,
    recall,
)
from audiencesync.destinations.crisp_requests import SEARCHES, SIZE, Plan, Request
from audiencesync.destinations.crisp_wave import Wave
from audiencesync.destinations.people import WavePacker, by_user
from audiencesync.model import Batch, Call


class CrispPacker(WavePacker):
    """Packs by a plan, which is all that a sync has in common; whose person another shares may be on a later page."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def names(self, calls: Sequence[Call]) -> Iterable[str]:
        """Who these users are there, who has their emails, and for whom their people hold these traits."""
        plan = self._plan
        if calls:
            yield from (SIZE, SEARCHES)
        for user, mine in by_user(calls):
            yield from (name_of(user), name_of_memo(user), name_of_sharing(user))
            if email := email_in(mine, plan.kind):
                yield name_of_email(email)
                yield from (name_of_holder(name, email) for call in mine if call.tells for name in plan.holds(call))

    def more_names(self, calls: Sequence[Call], known: Mapping[str, str]) -> Iterable[str]:
        """Who has the email where somebody is remembered, and for whom its person holds traits, if others share him."""
        plan = self._plan
        for user, mine in by_user(calls):
            told, email = recall(known, user), email_in(mine, plan.kind)
            if not told.id or told.email in ("", email):
                continue
            if plan.anew and any(call.tells for call in mine):
                yield name_of_email(told.email)
            if name_of_sharing(user) in known:
                yield from (name_of_holder(name, told.email) for call in mine for name in plan.holds(call))

    def wave(self, known: Mapping[str, str]) -> Wave:
        """By the plan."""
        return Wave(self._plan, known)

    def imagine(self, batch: Batch) -> Mapping[str, str]:
        """That all goes well; of strangers, that they have to be created, where that may be."""
        return batch.teaches if isinstance(batch, Request) else {}

"""Where a suite brings calls, and what must be there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from audiencesync.model import Batch, Call, Content, Destination
from audiencesync.testing import pages
from audiencesync.testing.checked import Checked, joins
from audiencesync.testing.drive import Journal, drive
from audiencesync.testing.loopback import Loopback
from audiencesync.testing.pages import SECRET, Limits, content_for, fields_for

Holds = Mapping[tuple[str, str], object]
"""What a server has of the traits: values by user and name."""


@dataclass(frozen=True)
class Place:
    """A destination that can be sent to; `holds` says what is there, where a suite can know, and `server` plays it.

    `send` is how calls are told there, and `opened` gives the text of a request that is not plain.
    """

    destination: Destination
    holds: Callable[[], Holds] | None = None
    server: Loopback | None = None
    send: str = "identify"
    opened: Callable[[Batch], bytes] | None = None

    def telling(self, send: str) -> Place:
        """The same place, where calls are told by identify calls, by track events, or by both."""
        return replace(self, send=send)

    def content(self, *, secret: bytes = SECRET) -> Content:
        """What calls there are made of."""
        return content_for(self.destination, secret=secret, send=self.send)

    def declare(self) -> None:
        """Have the fields made that its traits need, whatever faults the server is told to have for later."""
        script, requests = (self.server.script, self.server.requests) if self.server else ((), 0)
        if self.server:
            self.server.script = ()
        kinds = fields_for(self.destination)
        list(self.destination.prepare(list(kinds), create=True, kinds=kinds))
        if self.server:
            self.server.script, self.server.requests = script, requests

    def bring(self, calls: Sequence[Call], *, limits: Limits | None = None, seconds: float = 5.0,
              before: Journal | None = None) -> Journal:
        """Bring calls there as a sync does, after its fields are declared; `before` is the journal of the last one."""
        made = self.content(secret=SECRET[::-1] if before else SECRET)
        self.declare()
        packer = Checked(self.destination, made, limits=limits, opened=self.opened)
        return drive(self.destination, packer, calls, seconds=seconds, remembered=before.remembered if before else {})

    def check(self, calls: Sequence[Call]) -> None:
        """These calls, in their order, were all told, and nothing else was; who is held may be named by his email."""
        if self.holds is None:
            return
        keys, names = self.content().keys, fields_for(self.destination)
        users = {pages.email(call.user_id): call.user_id for call in calls}
        wanted = {(call.user_id, name): value for call in calls for name, value in call.traits(keys[call.span]).items()}
        found = {(users.get(who, who), name): value for (who, name), value in self.holds().items()
                 if name in names and value not in (None, "")}
        members = {who for who in wanted if who[1] in keys}
        assert {who for who, value in found.items() if who[1] in keys and value is True} == {
            who for who in members if wanted[who]}
        assert not [who for who in found.keys() - wanted.keys() if found[who] is not False]
        assert {type(value) for who, value in found.items() if who[1] in keys} <= {bool}, "membership is a JSON boolean"
        for who in wanted.keys() - members:
            held, value = found.get(who), wanted[who]
            assert same(held, value), f"{who} is {held!r} there, and {value!r} was told"


def same(held: object, told: object) -> bool:
    """Whether a trait has the value that was told, as far as a server's numbers have room for it."""
    if isinstance(told, int | float | Decimal) and not isinstance(told, bool):
        return isinstance(held, int | float | Decimal) and not isinstance(held, bool) and float(held) == float(told)
    if isinstance(told, list) and isinstance(held, str):
        return joins(held, told)
    return type(held) is type(told) and held == told


def has(place: Place) -> int | None:
    """How many people a server has, where it says so."""
    people = getattr(place.server, "people", None)
    return sum(isinstance(one, Mapping) for one in people.values()) if isinstance(people, Mapping) else None

"""What destinations promise of computed traits, whose calls carry values, and of track events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from audiencesync.model import Batch, Call, Person
from audiencesync.testing import pages
from audiencesync.testing.checked import leaves, parsed, shown
from audiencesync.testing.drive import Journal
from audiencesync.testing.pages import KINDS
from audiencesync.testing.place import Place, has, same
from audiencesync.testing.suite import Suite

VALUES = {"lifetime_revenue": 9.5, "orders_ever": 3, "favourite_size": "XL", "has_open_ticket": False,
          "first_order_at": "2026-01-02T03:04:05Z", "sizes": ["L", "XL"]}


class ValuesContract(Suite):
    """Promises of every destination, whose packer is given calls of audiences and of computed traits together.

    A computed trait's call has the text of a JSON object as its value: `call.traits(envelope.key)` gives what it tells
    by name, as it does of an audience.
    """

    def mixed(self, seed: int, *, nulls: bool = True) -> list[Call]:
        """A page of audiences and computed traits, with values of every kind."""
        emails = self.content().envelopes[0].id_kind == "email"
        return pages.mixed(self.destination.needs, seed, emails=emails, nulls=nulls)

    def computed(self, user: str, **values: object) -> Call:
        """A call that tells these traits of a user who has whatever the destination needs."""
        return pages.computed(self.destination.needs, user, **values)

    @pytest.mark.parametrize("seed", [11, 12])
    def test_values_leave_as_they_were_told(self, seed: int) -> None:
        """A number keeps its digits, a list its items, and a boolean is none of an audience."""
        packer, calls = self.checked(), self.mixed(seed)
        packer.pack(calls[:9])
        assert packer.pack(calls) == self.packed(calls)

    @pytest.mark.parametrize("seed", [11, 12])
    def test_every_value_is_told_once(self, tmp_path: Path, seed: int) -> None:
        """Audiences and computed traits of any user travel in one sync."""
        calls = self.mixed(seed)
        with self.place(tmp_path) as place:
            journal = place.bring(calls, limits=self.limits)
            _all_told(journal, calls)
            assert max(Counter(call for batch in journal.sent if not batch.asks for call in batch.calls).values()) == 1
            place.check(calls)

    def test_values_change_and_are_taken_back(self, tmp_path: Path) -> None:
        """Only what changed is told: null for what a user has no more, and for all of it when he dropped out."""
        users = [f"{name}@example.com" for name in ("ann", "bob", "cem")]
        came = [self.computed(user, **VALUES) for user in users]
        then = [self.computed(users[0], lifetime_revenue=10, sizes=None), self.computed(users[1], has_open_ticket=True),
                self.computed(users[2], **dict.fromkeys(VALUES))]
        with self.place(tmp_path) as place:
            first = place.bring(came)
            _all_told(first, came)
            place.check(came)
            later = place.bring(then, before=first)
            _all_told(later, then)
            told = Counter(call for batch in later.sent if not batch.asks for call in batch.calls)
            assert told == Counter(then), "a null was taken for told though nothing was sent"
            place.check([*came, *then])

    def test_nulls_and_falses_make_nobody(self, tmp_path: Path) -> None:
        """Who has nothing, and is not known there, is nobody to be told of: `call.tells` says who may be made."""
        users = sorted({call.user_id for call in self.mixed(13)})
        calls = [call for user in users for call in (
            self.call(user, value=False), self.computed(user, lifetime_revenue=None, sizes=None))]
        for send in self.destination.sends:
            with self.place(tmp_path) as place:
                before = has(place)
                journal = place.telling(send).bring(calls)
                _all_told(journal, calls)
                assert has(place) == before, "a call that tells nothing made somebody"
                place.check(calls)

    def test_values_are_read_back(self, tmp_path: Path) -> None:
        """`verify` compares them with what was told."""
        if not self.destination.reads_back:
            return
        calls = [self.computed(user, **VALUES) for user in ("ann@example.com", "bob@example.com")]
        with self.place(tmp_path) as place:
            if place.holds is None:
                pytest.skip("this server remembers nothing")
            journal = place.bring(calls)
            packer, kind = place.destination.packer(place.content()), place.content().envelopes[0].id_kind
            people = [Person(call.user_id, kind, call.included, {name: journal.remembered[name] for name in
                      packer.names([call]) if name in journal.remembered}) for call in calls]
            found = list(place.destination.read_back(people))
            assert [person.user_id for person, _ in found] == [call.user_id for call in calls]
            for _, traits in found:
                assert traits is not None
                assert [name for name, value in VALUES.items() if KINDS[name] in ("number", "string", "boolean")
                        and not same(traits.get(name), value)] == []

    def test_events_tell_whatever_is_told(self, tmp_path: Path) -> None:
        """Entered, exited, or computed for each trait; and the properties of the person too, where both are sent."""
        calls = self.mixed(14, nulls=False)
        for send in self.destination.sends:
            if send != "identify":
                with self.place(tmp_path / send) as place:
                    there = place.telling(send)
                    first = there.bring(calls)
                    _all_told(first, calls)
                    self._all_said(there, first, [call for call in calls if call.tells])
                    if send == "both":
                        there.check(calls)
                    gone = [self.call(call.user_id, call.span, value=False) for call in calls if call.value is True]
                    later = there.bring(gone, before=first)
                    _all_told(later, gone)
                    self._all_said(there, later, gone)

    def _all_said(self, place: Place, journal: Journal, calls: Sequence[Call]) -> None:
        """Of each call, some request says an event by its name, and each value under the name of its trait."""
        found: dict[Call, list[Batch]] = {}
        for batch in journal.sent:
            for call in batch.calls:
                found.setdefault(call, []).append(batch)
        texts = {id(batch): f"{batch.route} {self.opened(batch).decode(errors='replace')}" for batch in journal.sent}
        fields = {id(batch): list(leaves(parsed(self.opened(batch)))) for batch in journal.sent}
        for call in calls:
            envelope = place.content().envelopes[call.span]
            event = envelope.events[2 if isinstance(call.value, str) else not call.value]
            mine = [id(batch) for batch in found.get(call, ())]
            assert any(event in texts[batch] for batch in mine), f"no request says {event} of {call.user_id!r}"
            for name, value in call.traits(envelope.key).items():
                assert any(event in texts[batch] and shown(value, [one[1:] for one in fields[batch] if one[0] == name])
                           for batch in mine), (
                    f"no event says that {name} is {value!r}")


def _all_told(journal: Journal, calls: Sequence[Call]) -> None:
    assert journal.stop.finished, journal.stop.reason
    assert journal.refused == []
    assert journal.accepted == Counter(calls)

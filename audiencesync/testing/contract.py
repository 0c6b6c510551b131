"""What every destination promises, as tests that a class inherits; its class is all that they need."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from audiencesync.model import Packed, Person
from audiencesync.testing.drive import imagined
from audiencesync.testing.pages import MESSAGE_ID, SECRET, content_for, fields_for
from audiencesync.testing.place import Holds, Place
from audiencesync.testing.values import ValuesContract

__all__ = ["DestinationContract", "Holds", "Place"]


class DestinationContract(ValuesContract):
    """Promises of every destination: what is said here of audiences, and of values and events besides."""

    def test_the_example_is_valid_and_named_by_its_type(self) -> None:
        """The example is what people copy."""
        made = self.made()
        assert isinstance(made, self.destination)
        assert made.type == self.destination.type

    def test_a_setting_that_does_not_exist_is_refused(self) -> None:
        """A typing error must not be a setting that is left out."""
        with pytest.raises(ValidationError, match="no_such_setting"):
            self.made(no_such_setting=1)

    def test_secrets_are_not_in_what_is_printed_of_it(self) -> None:
        """Settings are printed by `validate` and by tracebacks."""
        made = self.made()
        for name in self.destination.model_fields:
            if isinstance(value := getattr(made, name), SecretStr):
                for text in (repr(made), str(made), made.model_dump_json(), str(made.fingerprint())):
                    assert value.get_secret_value() not in text

    def test_every_setting_says_what_it_is_for(self) -> None:
        """Editors show it."""
        assert [name for name, field in self.destination.model_fields.items() if not field.description] == []

    def test_an_account_is_the_same_whatever_its_speed(self) -> None:
        """Another fingerprint holds the destination until a person has looked."""
        assert self.made().fingerprint() == self.made(rate=7, timeout="9s").fingerprint()

    def test_nothing_is_sent_for_nothing(self) -> None:
        """No change, no request."""
        assert self.packed([]) == Packed(())

    @pytest.mark.parametrize("seed", range(3))
    def test_packing_is_a_pure_function(self, seed: int) -> None:
        """After a crash the same bytes leave again, whatever was packed before."""
        packer, page = self.checked(), self.page(seed)
        packer.pack(page[:9])
        assert packer.pack(page) == self.packed(page)

    @pytest.mark.parametrize("size", [1, 40, 450, 31_000, 32_100, 40_000])
    @pytest.mark.parametrize("letter", ["x", "漢", "🦊", '"', "\x01"])
    def test_limits_hold_whatever_the_sizes(self, size: int, letter: str) -> None:
        """What is over a limit may be dropped without a word."""
        calls = [self.call(f"u{number:05}", note=letter * (1 + number * 7919 % size))
                 for number in range(2600 if (size, letter) == (1, "x") else 130)]
        for call, refusal in self.packed(calls).refused:
            assert len((call.included or "").encode()) > (self.limits.call or 4000) - 2000
            assert "too large" in refusal.reason

    def test_message_ids_are_unique_in_a_sync_and_new_in_the_next(self) -> None:
        """Receivers forget what comes with an id that they have seen."""
        bodies = [[batch.body for batch in self.packed(self.page(9), secret=secret).batches]
                  for secret in (SECRET, SECRET[::-1])]
        names = [name for body in chain(*bodies) for name in MESSAGE_ID.findall(body)]
        assert len(set(names)) == len(names)
        assert all(len(name) <= 64 for name in names)

    def test_a_plan_ends_that_asks_nobody(self) -> None:
        """Requests are counted before any leaves."""
        assert imagined(self.checked(), self.page(4)) > 0

    @pytest.mark.parametrize("seed", [1, 2])
    def test_every_call_is_told_once(self, tmp_path: Path, seed: int) -> None:
        """Users with any id, those who left and who are not known included, and none of them refused."""
        calls = self.page(seed)
        with self.place(tmp_path) as place:
            journal = place.bring(calls, limits=self.limits)
            assert journal.stop.finished, journal.stop.reason
            assert journal.refused == []
            assert journal.accepted == Counter(calls)
            assert max(Counter(call for batch in journal.sent if not batch.asks for call in batch.calls).values()) == 1
            place.check(calls)

    def test_whoever_left_is_told_so_by_a_later_sync(self, tmp_path: Path) -> None:
        """A stale true is a message to the wrong person, and whoever left has no columns to be found by."""
        came = [self.call(user, span) for user in sorted({call.user_id for call in self.page(3)}) for span in (0, 1)]
        left = [self.call(call.user_id, call.span, value=False) for call in came]
        with self.place(tmp_path) as place:
            first = place.bring(came)
            place.check(came)
            later = place.bring(left, before=first)
            assert later.accepted == Counter(left)
            told = Counter(call for batch in later.sent if not batch.asks for call in batch.calls)
            assert told == Counter(left), "a false was taken for told though nothing was sent"
            place.check(left)

    def test_the_same_again_changes_nothing(self, tmp_path: Path) -> None:
        """What may or may not have arrived is sent again."""
        calls = self.page(5)
        with self.place(tmp_path) as place:
            first = place.bring(calls)
            assert place.bring(calls).accepted == first.accepted
            place.check(calls)

    def test_what_was_told_is_read_back(self, tmp_path: Path) -> None:
        """`verify` compares what is there with what was told."""
        calls = [self.call(user, span, value=not span) for user in ("ann", "bob", "cem") for span in (0, 1)]
        with self.place(tmp_path) as place:
            if not self.destination.reads_back:
                with pytest.raises(NotImplementedError):
                    list(place.destination.read_back([]))
                return
            if place.holds is None:
                pytest.skip("this server remembers nothing")
            journal, made = place.bring(calls), content_for(place.destination)
            packer, kind = place.destination.packer(made), made.envelopes[0].id_kind
            people = [Person(call.user_id, kind, call.included, {name: journal.remembered[name] for name in
                      packer.names([call]) if name in journal.remembered}) for call in calls if call.value]
            found = {person.user_id: traits for person, traits in place.destination.read_back(people)}
            held = {(user, key) for user, traits in found.items() for key, value in (traits or {}).items()
                    if key in made.keys and value is True}
            assert held == {(user, made.keys[0]) for user in ("ann", "bob", "cem")}

    def test_what_it_needs_is_declared_once(self, tmp_path: Path) -> None:
        """Fields are made before a key is sent the first time, and found afterwards."""
        with self.place(tmp_path) as place:
            kinds = fields_for(place.destination)
            made = place.destination.prepare(list(kinds), create=True, kinds=kinds)
            assert {trait.status for trait in made} <= {"ready", "made"}
            found = {trait.status for trait in place.destination.prepare(list(kinds), create=False, kinds=kinds)}
            assert found <= {"ready"} or place.holds is None

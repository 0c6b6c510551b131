"""What a question is, and what its answer says of our defaults; whom to ask, by the credentials that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from audiencesync.model import Destination
from tests.live.talk import Talk


class Finding(NamedTuple):
    """Which reading of a guess holds, in one line; `wrong` when a setting should be another, as the line says."""

    reading: str
    line: str
    wrong: bool


@dataclass(frozen=True)
class Question:
    """A guess about an API as something to find out; `ask` gives the reading that holds, as a word.

    `setting` is what it speaks for, empty where no setting does. Our default assumes one reading; `wrong` are those
    under which it should be changed, `hints` others worth knowing, each with words. Where `least` names a setting, the
    reading is a number that may not be less than it. It is only asked where there are the extras that it `needs`.
    """

    ask: Callable[[Talk], str]
    setting: str = ""
    assumes: str = ""
    wrong: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)
    least: str = ""
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it asks for."""
        return self.ask.__name__

    def judge(self, reading: str, destination: Destination) -> Finding:
        """What a reading says of the settings in force."""
        about = f"{destination.type}, {self.name.replace('_', ' ')}: {reading}"
        if self.least:
            wanted, found = getattr(destination, self.least), int(reading.removesuffix(" or more"))
            wrong = found < wanted and reading.isdecimal()
            words = f": set it to {max(1, found)}" if wrong else ""
            return Finding(reading, f"{about}, where {self.least} is {wanted}{words}", wrong)
        words = self.wrong.get(reading) or self.hints.get(reading) or ""
        speaks = f" (of {self.setting})" if self.setting else ""
        assumed = "as assumed" if reading == self.assumes else f"where {self.assumes} is assumed"
        return Finding(reading, f"{about}, {assumed}{speaks}" + (f": {words}" if words else ""), reading in self.wrong)


class Account(NamedTuple):
    """Where an API's credentials stand in the environment: AUDIENCESYNC_LIVE_<name>_<suffix>.

    `required` and `optional` are suffixes with the settings that they fill; `extras` are for questions alone.
    """

    name: str
    made: type[Destination]
    questions: tuple[Question, ...]
    required: Mapping[str, str]
    optional: Mapping[str, str] = {}
    extras: tuple[str, ...] = ()

    def talk(self, environment: Mapping[str, str]) -> Talk | None:
        """Somebody to ask, None without credentials; raises ValueError when some of them are missing."""
        prefix = f"AUDIENCESYNC_LIVE_{self.name}_"
        there = {name.removeprefix(prefix): value for name, value in environment.items()
                 if name.startswith(prefix) and value}
        if missing := [suffix for suffix in self.required if suffix not in there]:
            if any(suffix in there for suffix in self.required):
                raise ValueError(f"{', '.join(f'{prefix}{suffix}' for suffix in missing)} is missing")
            return None
        settings = {**self.required, **self.optional, "URL": "url"}
        return Talk(self.made.model_validate({settings[suffix]: value for suffix, value in there.items()
                                              if suffix in settings}),
                    {suffix: value for suffix, value in there.items() if suffix in self.extras})

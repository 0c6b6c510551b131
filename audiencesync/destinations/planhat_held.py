"""What is remembered of endusers found by their email, and what comes of a page's calls with that.

Names that are remembered, all by computation, so that each one's sync minds its own:
`u:<key>:<user>` is the enduser whom this user's true or values were told to, as `<_id>|<email>`; a leading `!` says
that he has to be left, since another enduser has the new email. `o:<key>:<email>` is the user whom the traits of this
enduser are of, and `t:<name>` the computation that a computed trait is of.
`i:<email>` is an `_id` that was looked up; within a page, without being written down, `a:<email>` says that it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from audiencesync.destinations.planhat_rows import Row
from audiencesync.model import Batch, Call, Person, Refusal


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
class Wave:
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

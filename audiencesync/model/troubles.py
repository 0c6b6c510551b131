"""What waits or went wrong, as `status`, alerts and metrics speak of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

ALERTS: dict[str, str] = {
    "failed": "An audience's run failed for good, and is not tried again before its next slot.",
    "stale": "The source's data is older than source.fresh allows, so audiences are not computed.",
    "held": "A change is so large that a person must allow it.",
    "fields": "A destination lacks a field that an audience needs, or has one of another type.",
    "late": "A destination was not brought up to date for two intervals of an audience's schedule.",
    "rejected": "A destination refuses more than a twentieth of an audience's members.",
    "refused": "A destination refuses the credentials or the address, and is paused.",
    "account": "A destination's account is another than the one told so far.",
    "definitions": "A definition file has a mistake, so its last good version is in force.",
    "state": "The state database cannot be used.",
}
"""What people are called for, and what it means; everything else that waits is only shown."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that waits or went wrong: what, why, since when, until when, and the exact command that helps.

    `kind` is one of ALERTS, or anything else for what calls nobody; `key` and `destination` are empty where it
    concerns all. `leaving` says whether bytes leave for the destination meanwhile; `oldest_unsent` is the instant of
    the oldest change that is not told yet.
    """

    kind: str
    what: str
    why: str
    help: str
    since: datetime | None = None
    until: datetime | None = None
    key: str = ""
    destination: str = ""
    leaving: bool = False
    oldest_unsent: datetime | None = None

    @property
    def calls_somebody(self) -> bool:
        """Whether an alert is sent for it."""
        return self.kind in ALERTS

"""Calls people when a trouble begins and when it is over, once, whichever process sees it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from audiencesync import clock
from audiencesync.errors import DeliveryError
from audiencesync.model import AlertChannel, Trouble
from audiencesync.store import told
from audiencesync.store.connect import Store
from audiencesync.store.told import Told

LOGGER = logging.getLogger(__name__)

LONGEST_PAUSE = 300.0
"""Seconds at most until a channel that does not take alerts is tried again."""

Subject = tuple[str, str]
"""What makes two troubles the same: their kind, and what they are about."""


@dataclass(slots=True)
class Alarms:
    """What a process knows of its channels: which of them fails, until when it is left alone, what was told unstored.

    `unstored` are troubles with the state itself, which cannot be remembered there.
    """

    project: str
    unstored: dict[tuple[str, Subject], Trouble] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    def tell(self, store: Store, channels: Iterable[AlertChannel], troubles: Iterable[Trouble],
             sure: Callable[[Told], bool], keep: Callable[[], None]) -> None:
        """Bring each channel up to date with the troubles that call somebody.

        `sure` says of a trouble that is told, or would be, whether this process can know that it lasts or is over;
        `keep` renews the right to tell, since channels may be slow.
        """
        open_now = {(one.kind, one.what): one for one in troubles if one.calls_somebody and sure(_as_told(one))}
        for channel in channels:
            known = {(one.kind, one.what): one for one in told.troubles(store, channel.name) if sure(one)}
            wanted = {subject: one for subject, one in open_now.items() if one.kind in channel.on}
            for subject in wanted.keys() - known.keys():
                keep()
                if self._send(channel, wanted[subject], recovered=False):
                    told.remember(store, channel.name, wanted[subject])
            for subject in known.keys() - wanted.keys():
                keep()
                if self._send(channel, _over(known[subject]), recovered=True):
                    told.forget(store, channel.name, known[subject])

    def tell_of_state(self, channels: Iterable[AlertChannel], trouble: Trouble | None) -> None:
        """The same for the state itself, which is away now, or no more."""
        open_now: Mapping[Subject, Trouble] = {} if trouble is None else {(trouble.kind, trouble.what): trouble}
        for channel in channels:
            if "state" not in channel.on:
                continue
            known = {subject for name, subject in self.unstored if name == channel.name}
            for subject in open_now.keys() - known:
                if self._send(channel, open_now[subject], recovered=False):
                    self.unstored[channel.name, subject] = open_now[subject]
            for subject in known - open_now.keys():
                if self._send(channel, _over(Told(*subject, "", "")), recovered=True):
                    del self.unstored[channel.name, subject]

    def _send(self, channel: AlertChannel, trouble: Trouble, *, recovered: bool) -> bool:
        from audiencesync.alerts import send

        if clock.monotonic() < self._not_before.get(channel.name, 0.0):
            return False
        try:
            send(channel, trouble, recovered=recovered, project=self.project)
        except DeliveryError as error:
            failures = self._failures.get(channel.name, 0) + 1
            self._failures[channel.name] = failures
            self._not_before[channel.name] = clock.monotonic() + min(LONGEST_PAUSE, 5.0 * 2 ** min(failures, 10))
            if failures == 1:
                LOGGER.error("an alert was not taken; it is tried again", extra={
                    "channel": channel.name, "kind": trouble.kind, "reason": str(error)})
            return False
        self._failures.pop(channel.name, None)
        LOGGER.info("alert sent", extra={"channel": channel.name, "kind": trouble.kind, "what": trouble.what,
                                         "state": "recovered" if recovered else "open"})
        return True


def _as_told(trouble: Trouble) -> Told:
    return Told(trouble.kind, trouble.what, trouble.key, trouble.destination)


def _over(one: Told) -> Trouble:
    return Trouble(one.kind, one.what, "it is over", "nothing is to be done", key=one.key, destination=one.destination)

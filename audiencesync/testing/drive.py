"""Brings calls to a destination as a sync does: page by page, wave by wave, by the very machine that decides there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from audiencesync.delivery import Commit, Delivery, Flight, Pace, Read, Send, Stop, Wait
from audiencesync.errors import DeliveryError
from audiencesync.model import Batch, Call, Channel, Destination, Packer, Page, Receipt, Refusal

MOST_STEPS = 200_000


@dataclass
class Journal:
    """What became of some calls: those told, those rejected, every request, what was learned, how it ended.

    `remembered` is handed from one sync to the next as the state would keep it; `errors` are what requests came to.
    """

    remembered: dict[str, str] = field(default_factory=dict)
    accepted: Counter[Call] = field(default_factory=Counter)
    refused: list[tuple[Call, Refusal]] = field(default_factory=list)
    sent: list[Batch] = field(default_factory=list)
    errors: list[DeliveryError] = field(default_factory=list)
    stop: Stop = field(default_factory=Stop)

    def take(self, step: Commit) -> None:
        """Remember what a commit says."""
        self.accepted.update(step.progress.accepted)
        self.refused += step.progress.refused
        for name, value in step.progress.learned.items():
            self.remembered[name] = value
            if not value:
                del self.remembered[name]


def drive(destination: Destination, packer: Packer, calls: Sequence[Call], *, size: int = 50, seconds: float = 5.0,
          remembered: Mapping[str, str] | None = None) -> Journal:
    """Bring `calls` (ordered by user) to a destination in pages of about `size`; pauses take no time here.

    `seconds` is the longest one request may take. What a request came to never leaves: the journal says it.
    """
    journal = Journal(dict(remembered or {}))
    pages = _pages(calls, min(size, destination.page))
    machine = Delivery(packer, claimed=None, acknowledged=None, concurrency=destination.concurrency,
                       pace=Pace(destination.limits()), draw=lambda limit: limit / 2)
    now = 1000.0
    with closing(destination.channel()) as channel:
        for _ in range(MOST_STEPS):
            step = machine.next_step(now)
            if isinstance(step, Read):
                page = next(pages, None)
                machine.offer(page, {name: journal.remembered[name] for name in packer.names(page.calls if page else ())
                                     if name in journal.remembered})
            elif isinstance(step, Commit):
                journal.take(step)
                machine.committed(step, now)
            elif isinstance(step, Send):
                machine.answered(step.flight, _answer(channel, step.flight, journal, seconds), now)
            elif isinstance(step, Wait):
                assert step.until is not None, "it waits for nothing"
                now = step.until
            else:
                journal.stop = step
                return journal
    raise AssertionError("it never ends")


def _answer(channel: Channel, flight: Flight, journal: Journal,
            seconds: float) -> Mapping[int, Refusal] | Receipt | DeliveryError:
    journal.sent.append(flight.batch)
    try:
        return channel.send(flight.batch, seconds=seconds)
    except DeliveryError as error:
        journal.errors.append(error)
        return error


def _pages(calls: Sequence[Call], size: int) -> Iterator[Page]:
    """Pages of at least `size` calls that end between users."""
    page: list[Call] = []
    for _, mine in groupby(calls, key=itemgetter(0)):
        page += mine
        if len(page) >= size:
            yield Page(page[-1].user_id, page)
            page = []
    if page:
        yield Page(page[-1].user_id, page)


def imagined(packer: Packer, calls: Sequence[Call]) -> int:
    """The requests that a plan would count for `calls`, asking nobody."""
    known: dict[str, str] = {}
    waiting, requests = list(calls), 0
    while waiting:
        packed = packer.pack_known(waiting, known)
        asking = [batch for batch in packed.batches if batch.asks]
        taught = [packer.imagine(batch) for batch in asking]
        for one in taught:
            known |= one
        requests += len(packed.batches)
        waiting = sorted([*packed.later, *(call for batch in asking for call in batch.calls)], key=itemgetter(0, 1))
        assert packed.batches or not waiting, "a plan of it would never end"
        assert requests < 20 * (len(calls) + 1), "a plan of it would hardly end"
    return requests

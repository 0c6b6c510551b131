"""What plain queries say, asked without any of the machinery that is being shown, and whether the server agrees."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from audiencesync.demo.server import Receiver, Told
from audiencesync.model import Audience

Pairs = set[tuple[str, str]]
"""(key, user) of every membership."""


class Truth:
    """Who is a member of what by plain queries at one moment after the other.

    `members` are those of the last moment looked at, `ever` those of any, `changes` how many calls it takes to tell
    somebody who looked each time.
    """

    def __init__(self, shop: Path, audiences: Sequence[Audience]) -> None:
        self._shop, self._audiences = shop, audiences
        self.members: Pairs = set()
        self.ever: Pairs = set()
        self.changes = 0

    def look(self, as_of: datetime) -> None:
        """Ask for every audience as of a moment, later than the last."""
        found: Pairs = set()
        with closing(sqlite3.connect(self._shop)) as shop:
            for audience in self._audiences:
                values = {name: f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else value
                          for name, value in audience.bindings(as_of).items()}
                found |= {(audience.key, row[0]) for row in shop.execute(audience.sql, values)}
        self.changes += len(found ^ self.members)
        self.members = found
        self.ever |= found

    def disagreements(self, receiver: Receiver) -> Iterator[str]:
        """Every way in which the server was told something else than the truth; nothing when it is exact."""
        told = receiver.told
        members = {pair for pair, value in told.items() if value}
        counts = {
            "memberships were never told": len(self.members - members),
            "memberships that ended are still true at the server": len(members - self.members),
            "users were told of without ever being members": len(told.keys() - self.ever),
            "messageIds came with two bodies": len(receiver.changed),
        }
        yield from (f"{count:,} {what}" for what, count in counts.items() if count)
        if len(receiver.history) != self.changes:
            yield f"{len(receiver.history):,} calls were told where {self.changes:,} memberships changed"


def came_and_went(history: Sequence[Told]) -> tuple[Told, Told]:
    """The call that said true and the one that said false, of the first user told both."""
    entered: dict[tuple[str, str], Told] = {}
    for call in history:
        if call.value:
            entered[call.key, call.user_id] = call
        elif (call.key, call.user_id) in entered:
            return entered[call.key, call.user_id], call
    raise LookupError("nobody came and went")


def orders_of(shop: Path, user_id: str) -> list[str]:
    """A user's orders as lines to read, newest last."""
    with closing(sqlite3.connect(shop)) as connection:
        rows = connection.execute("SELECT completed_at, total, refunded_at FROM orders WHERE user_id = ? "
                                  "ORDER BY completed_at", (user_id,)).fetchall()
    return [f"{completed}  {total:>8.2f}" + (f"  refunded {refunded}" if refunded else "")
            for completed, total, refunded in rows]

"""The parts of a simulated world: its time, a network that loses and delays, servers that remember, mortal processes.

The core and its state are the real ones; only the wire, the clock and death are made up.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from sqlalchemy import Connection

from audiencesync.delivery import Flight
from audiencesync.destinations.segment import Segment
from audiencesync.errors import CallsRefused, NotTaken, Unanswered
from audiencesync.store import tables
from audiencesync.store.connect import Store
from audiencesync.store.engine import open_engine
from audiencesync.sync.wire import Answer

if TYPE_CHECKING:
    from tests.simulator import World

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
LONGEST_DELAY = 150.0


class Killed(BaseException):
    """The process is dead: not even its finally blocks may change anything."""


class Tiny(Segment):
    """Segment with pages so small that seven users make a story."""

    page: ClassVar[int] = 2


class MortalStore(Store):
    """A process's own connection to the state, which dies with it."""

    alive = True

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[Connection]:
        if not self.alive:
            raise Killed
        with super().transaction(connection):
            yield connection


class HouseStore(MortalStore):
    """The connection of who keeps house: between his transactions the world goes on, and in any of them he may die."""

    between: Callable[[], None]
    left = 1 << 30

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.between()
        with super().write() as connection:
            yield connection
            self.count()
        self.count()

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.alive = False
            raise Killed


@dataclass
class Server:
    """The far end: applies what arrives, and keeps what the oracles ask for."""

    dedupes: bool
    refuses: set[str] = field(default_factory=set)
    ever_refused: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    told: dict[tuple[str, str], Any] = field(default_factory=dict)
    latest: dict[tuple[str, str], str] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    requests: int = 0

    def refuses_some(self, body: bytes) -> bool:
        return any(call["userId"] in self.refuses for call in orjson.loads(body)["batch"])

    def apply(self, body: bytes) -> None:
        self.requests += 1
        for call in orjson.loads(body)["batch"]:
            identity, user = call["messageId"], call["userId"]
            rendered = orjson.dumps(call)
            if self.bodies.setdefault(identity, rendered) != rendered:
                self.faults.append(f"I4: {identity} has two bodies")
            if self.dedupes and identity in self.seen:
                continue
            self.seen.add(identity)
            self.calls[call["context"]["personas"]["computation_key"]] += 1
            for key, value in call["traits"].items():
                if call["timestamp"] < self.latest.get((key, user), ""):
                    self.faults.append(f"I3: {user} {key} of {call['timestamp']} landed after {self.latest[key, user]}")
                self.latest[key, user] = call["timestamp"]
                self.told[key, user] = value


class SimulatedWire:
    """One process's way out; what left stays in the world's network when the process dies."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.server = world, name, world.servers[name]
        self.arrived: list[tuple[Flight, Answer]] = []

    def send(self, flight: Flight, *, seconds: float) -> None:
        assert seconds > 0, "a byte left after the deadline"
        world, body, rng = self.world, flight.batch.body, self.world.rng
        world.point("request.sending")
        world.oracle.leaving(self.name, flight)
        fate = rng.choices(("fine", "lost", "refused", "unanswered", "late", "twice"), world.fates)[0]
        delay = rng.uniform(0.05, 1.0)
        if fate == "refused":
            wait = rng.choice((None, None, 5.0, 90.0))
            world.later(delay, lambda: self.arrived.append((flight, NotTaken("429", status=429, wait=wait))))
        elif fate in ("lost", "unanswered", "late"):
            if fate != "lost":
                world.later(delay if fate == "unanswered" else rng.uniform(2.0, LONGEST_DELAY), lambda: self.take(body))
            world.later(2.0, lambda: self.arrived.append((flight, Unanswered("no answer"))))
        else:
            if fate == "twice":
                world.later(delay / 2, lambda: self.take(body))
            world.later(delay, lambda: self.arrived.append((flight, self.take(body))))
        world.point("request.answered")

    def take(self, body: bytes) -> Answer:
        if self.server.refuses_some(body):
            return CallsRefused("400", status=400)
        self.server.apply(body)
        return {}

    def answers(self, timeout: float) -> list[tuple[Flight, Answer]]:
        del timeout
        found, self.arrived = self.arrived, []
        return found

    def close(self) -> bool:
        """Nothing to let go of."""
        return True


@dataclass
class Process:
    """A running command for one destination, or the computation of one audience."""

    store: MortalStore
    begin: Callable[[], Iterator[Any]]
    story: Iterator[Any]
    sleepy: float
    frozen_until: float = 0.0


class Physics:
    """Time that passes when nothing else can happen, what is under way in it, and one state for everybody."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Any]] = []
        self.order = count()
        self.engine = open_engine("sqlite://")
        tables.metadata.create_all(self.engine)

    def clock(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.now)

    def later(self, delay: float, action: Any) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.order), action))

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, action = heapq.heappop(self.events)
            action()
        self.now = until

    def pass_time(self, *, idle: bool) -> None:
        if idle or self.rng.random() < 0.3:
            soonest = self.events[0][0] - self.now if self.events else 5.0
            self.advance(max(0.01, min(soonest, self.rng.uniform(0.1, 5.0))))

    def process_store(self) -> MortalStore:
        return MortalStore(self.engine, clock=self.clock)

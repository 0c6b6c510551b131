"""A world from one seed: the real core and the real state, under a clock, a network and crashes that are made up.

Only the wire and the clock are simulated. Requests may be lost, refused, answered too late or not at all, arrive late
or twice; processes are killed at any failpoint, freeze past their lease and wake; two of them work at once; audiences
change all the while, backfills are asked for, a destination is added later.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import orjson
from sqlalchemy import Connection, select

from audiencesync import failpoints
from audiencesync.delivery import Flight
from audiencesync.destinations.segment import Segment
from audiencesync.errors import AudiencesyncError, CallsRefused, LeaseHeld, NotTaken, Unanswered
from audiencesync.model import Audience, Chunk, Project, SourceSettings
from audiencesync.store import accounts, runs, tables
from audiencesync.store.connect import Store
from audiencesync.store.engine import open_engine
from audiencesync.store.stage import stage
from audiencesync.sync.deliver import Courier
from audiencesync.sync.opening import Agenda
from audiencesync.sync.wire import Answer

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
SETTLE, LONGEST_DELAY = 300.0, 150.0
USERS = [f"u{number}" for number in range(7)]


class Killed(BaseException):
    """The process is dead: not even its finally blocks may change anything."""


class Tiny(Segment):
    """Segment with pages so small that seven users make a story."""

    page: ClassVar[int] = 2


class MortalStore(Store):
    """A process's own connection to the state, which dies with it."""

    alive = True

    @contextmanager
    def write(self) -> Iterator[Connection]:
        if not self.alive:
            raise Killed
        with super().write() as connection:
            yield connection


@dataclass
class Server:
    """The far end: applies what arrives, and keeps what the oracles ask for."""

    dedupes: bool
    refuses: set[str] = field(default_factory=set)
    told: dict[tuple[str, str], bool] = field(default_factory=dict)
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
            for key, value in call["traits"].items():
                if call["timestamp"] < self.latest.get((key, user), ""):
                    self.faults.append(f"I3: {user} {key} of {call['timestamp']} landed after {self.latest[key, user]}")
                self.latest[key, user] = call["timestamp"]
                self.told[key, user] = value


class SimulatedWire:
    """One process's way out; what left stays in the world's network when the process dies."""

    def __init__(self, world: World, server: Server) -> None:
        self.world, self.server = world, server
        self.arrived: list[tuple[Flight, Answer]] = []

    def send(self, flight: Flight, *, seconds: float) -> None:
        assert seconds > 0, "a byte left after the deadline"
        world, body, rng = self.world, flight.batch.body, self.world.rng
        world.point("request.sending")
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
    """A running command for one destination."""

    name: str
    store: MortalStore
    courier: Courier
    story: Iterator[Any]
    frozen_until: float = 0.0


class World:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Any]] = []
        self.order = count()
        self.engine = open_engine("sqlite://")
        tables.metadata.create_all(self.engine)
        self.faulty = True
        self.running: Process | None = None
        self.audiences = [Audience(key, key, "", Path(f"{key}.sql"), destinations=("a", "b"))
                          for key in ("x", "y", "z")[:self.rng.choice((1, 2, 2, 3))]]
        self.members: dict[str, set[str]] = {audience.key: set() for audience in self.audiences}
        self.servers = {name: Server(self.rng.random() < 0.5) for name in ("a", "b")}
        self.fates = self.rng.choice(((1, 0, 0, 0, 0, 0), (80, 5, 5, 5, 5, 0), (60, 8, 8, 8, 8, 8),
                                     (40, 0, 0, 10, 40, 10)))
        self.deadly = self.rng.choice((0.0, 0.02, 0.1))
        self.sleepy = self.rng.choice((0.0, 0.003, 0.15))
        self.crowd = self.rng.choice(((1,), (1, 2), (2, 3)))
        self.restless = self.rng.choice((0.2, 0.5))
        self.added_later = self.rng.randint(0, 3)
        settings = Tiny(write_key="k", url="http://127.0.0.1:1/v1/batch", settle=timedelta(seconds=SETTLE),
                        concurrency=self.rng.choice((1, 2, 4)), timeout=timedelta(seconds=2))
        self.project = Project(Path(), "sim", "UTC", SourceSettings("sqlite://"), "sqlite://", tuple(self.audiences),
                               {"a": settings, "b": settings})
        self.clean = self.process_store()

    # the world's physics

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

    def process_store(self) -> MortalStore:
        return MortalStore(self.engine, clock=self.clock)

    def point(self, _name: str) -> None:
        if self.faulty and self.running is not None and self.rng.random() < self.deadly:
            self.running.store.alive = False
            raise Killed

    # what people and schedules do

    def compute(self) -> None:
        for audience in self.audiences:
            if self.rng.random() < 0.8:
                mine = self.members[audience.key]
                mine ^= {user for user in USERS if self.rng.random() < self.restless}
                with stage(self.clean, [Chunk(sorted(mine), None)]) as held:
                    runs.record(self.clean, held, audience, id_kind="user_id", as_of=self.clock(),
                                started_at=self.clock(), definition_hash="")

    def pause_or_resume(self) -> None:
        key, store = self.rng.choice(self.audiences).key, self.clean
        if self.rng.random() < 0.5:
            accounts.pause_computation(store, key, kind="audience", reason="", who="somebody")
        else:
            accounts.resume_computation(store, key, who="somebody", reason="")

    def command(self, name: str, *, backfill: bool = False, typed: bool = True) -> Process:
        store = self.process_store()
        agenda = Agenda(self.project, store, name, self.audiences, typed=typed)
        if backfill:
            agenda.ask_backfill()
        server = self.servers[name]
        courier = Courier(store, self.project.destinations[name], agenda, holder=f"sim/{next(self.order)}",
                          wire=lambda _: SimulatedWire(self, server), monotonic=lambda: self.now,
                          draw=lambda limit: self.rng.uniform(0, limit),
                          interrupted=lambda: "asked" if self.faulty and self.rng.random() < 0.002 else "")
        return Process(name, store, courier, courier.deliver())

    def work(self, processes: list[Process], steps: int = 4000) -> None:
        """Let the processes take turns until all have ended."""
        while processes:
            steps -= 1
            assert steps, f"world {self.seed}: it never ends"
            awake = [process for process in processes if process.frozen_until <= self.now]
            if awake:
                process = self.rng.choice(awake)
                if not self.step(process):
                    processes.remove(process)
                elif self.faulty and self.rng.random() < self.sleepy:
                    process.frozen_until = self.now + self.rng.uniform(5, 120)
            if self.faulty and self.rng.random() < 0.02:
                self.rng.choice((self.compute, self.compute, self.pause_or_resume))()
            self.pass_time(idle=not awake)

    def pass_time(self, *, idle: bool) -> None:
        if idle or self.rng.random() < 0.3:
            soonest = self.events[0][0] - self.now if self.events else 5.0
            self.advance(max(0.01, min(soonest, self.rng.uniform(0.1, 5.0))))

    def step(self, process: Process) -> bool:
        self.running = process
        try:
            next(process.story)
        except LeaseHeld:
            # as with --wait: the other one may be dead or asleep
            process.story, process.frozen_until = process.courier.deliver(), self.now + 7.0
        except (StopIteration, AudiencesyncError, Killed):
            return False
        finally:
            self.running = None
        return True

    # the whole story

    def play(self) -> list[str]:
        """Live through it and answer with every promise broken."""
        failpoints.install(self.point)
        try:
            for round_ in range(self.rng.randint(2, 4)):
                self.one_round(round_)
            self.faulty, self.fates, self.deadly = False, (1, 0, 0, 0, 0, 0), 0.0
            if self.rng.random() < 0.5:
                self.servers["a"].refuses = set()
            self.check_told()
            self.heal()
        finally:
            failpoints.install(None)
            self.engine.dispose()
        return [fault for server in self.servers.values() for fault in server.faults]

    def one_round(self, round_: int) -> None:
        self.compute()
        if self.rng.random() < 0.3:
            self.servers["a"].refuses = {self.rng.choice(USERS)} if self.rng.random() < 0.7 else set()
        names = ["a", "b"] if round_ >= self.added_later else ["a"]
        processes = [self.command(name, backfill=self.rng.random() < 0.15, typed=self.rng.random() < 0.7)
                     for name in names for _ in range(self.rng.choice(self.crowd))]
        self.work(processes)
        self.check_told()
        self.advance(self.rng.choice((1.0, 20.0, 40.0, 2 * SETTLE)))

    def heal(self) -> None:
        """Faults have stopped: clean syncs make each destination equal to the audiences, and one more sends nothing."""
        self.advance(3 * SETTLE)
        for audience in self.audiences:
            accounts.resume_computation(self.clean, audience.key, who="somebody", reason="")
        self.compute()
        for _ in range(2):  # what was open is finished, then the newest run is told, each after its settle
            self.work([self.command(name) for name in self.servers])
            self.advance(3 * SETTLE)
        self.check_told()
        self.check_identities()
        for name, server in self.servers.items():
            self.check_destination(name, server)
            before = server.requests
            self.work([self.command(name)])
            if server.requests != before:
                server.faults.append(f"I5: {server.requests - before} requests though nothing changed")

    def check_identities(self) -> None:
        """One decision has one messageId: each that arrived derives from the stored secret of one sync."""
        with self.clean.read() as connection:
            found = connection.execute(select(tables.syncs.c.destination, tables.syncs.c.secret,
                                              tables.computations.c.key).join(tables.spans, tables.spans.c.sync_id ==
                                              tables.syncs.c.id).join(tables.computations)).all()
            refused = {(row.destination, row.user_id) for row in connection.execute(select(tables.rejections))}
        for name, server in self.servers.items():
            derived = {blake2b(f"{row.key}\0{user}".encode(), key=row.secret, digest_size=16).hexdigest()
                       for row in found if row.destination == name for user in USERS}
            if strange := {identity.removeprefix("as_") for identity in server.bodies} - derived:
                server.faults.append(f"I4: {len(strange)} messageIds of no sync's")
            if forgotten := {user for destination, user in refused if destination == name} - server.refuses:
                server.faults.append(f"I2: {forgotten} count as refused though they were told")

    def check_destination(self, name: str, server: Server) -> None:
        for audience in self.audiences:
            for user in USERS:
                told = server.told.get((audience.key, user))
                member = user in self.members[audience.key]
                if user not in server.refuses and member != bool(told):
                    server.faults.append(f"I2: {name} holds {told} for {user} in {audience.key}, who is {member}")

    # I1: what the state says was told is what was confirmed

    def check_told(self) -> None:
        with self.clean.read() as connection:
            known = {row.key: row.id for row in connection.execute(select(tables.computations))}
            rows = connection.execute(select(tables.memberships)).all()
            positions = {(row.destination, row.computation_id): row.run
                         for row in connection.execute(select(tables.positions))}
            open_ = connection.execute(select(tables.spans, tables.syncs.c.destination, tables.syncs.c.mode,
                                              tables.syncs.c.claimed, tables.syncs.c.acknowledged)
                                       .join(tables.syncs).where(tables.syncs.c.status == "open")).all()
            refused = {(row.destination, row.computation_id, row.user_id)
                       for row in connection.execute(select(tables.rejections))}
        spans: dict[Any, list[Any]] = {}
        for span in open_:
            spans.setdefault((span.destination, span.computation_id), []).append(span)
        for key, computation in known.items():
            for name, server in self.servers.items():
                mine = spans.get((name, computation), [])
                if len(mine) > 1:
                    server.faults.append(f"rule 1: {len(mine)} open syncs of {key}")
                at = positions.get((name, computation), 0)
                for user in USERS:
                    if (name, computation, user) not in refused and user not in server.refuses:
                        self.check_user(server, key, user, at, mine[0] if mine else None,
                                        [row for row in rows
                                         if (row.computation_id, row.user_id) == (computation, user)])

    def check_user(self, server: Server, key: str, user: str, at: int, span: Any, rows: list[Any]) -> None:
        if span is not None and span.claimed is not None and user <= span.claimed:
            if span.acknowledged is None or user > span.acknowledged:
                return  # unresolved: it may or may not have arrived
            at = span.to_run
        ever = any(row.since_run <= at for row in rows)
        member = any(row.since_run <= at and (row.until_run is None or row.until_run > at) for row in rows)
        told = server.told.get((key, user))
        if bool(told) != member or (member and not ever):
            server.faults.append(f"I1: the state says {member} was told of {user} in {key}, it was {told} (run {at})")


def play(seed: int) -> list[str]:
    """The promises that the world of this seed breaks."""
    return World(seed).play()

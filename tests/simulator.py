"""A world from one seed: the real core and the real state, under a clock, a network and crashes that are made up.

Only the wire and the clock are simulated. Requests may be lost, refused, answered too late or not at all, arrive late
or twice; processes are killed at any failpoint, freeze past their lease and wake; two of them work at once, two compute
at once; audiences change all the while, backfills are asked for, a destination is added later; what is too large is
held, approved, discarded or harmless again; audiences are paused and retired, and what is over is forgotten. In a third
of the worlds one of them is a computed trait, whose values and columns change as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from audiencesync import failpoints
from audiencesync.errors import AudiencesyncError, LeaseHeld, LeaseLost, OlderRun, StateUnavailable, UsageError
from audiencesync.model import Audience, Chunk, Project, SourceSettings
from audiencesync.store import accounts, decisions, housekeeping, leases, runs
from audiencesync.store.connect import Store
from audiencesync.store.decisions import APPROVED, DISCARDED, Act, Decision
from audiencesync.store.stage import stage
from audiencesync.sync.deliver import Courier
from audiencesync.sync.opening import Agenda
from audiencesync.sync.standing import overview
from tests.oracles import USERS, Members, Oracle
from tests.simulated import BEGINNING, HouseStore, Killed, MortalStore, Physics, Process, Server, SimulatedWire, Tiny
from tests.valued import NOTHING, Table, Valued

SETTLE = 300.0
WHO = "somebody"
ACT = Act(WHO, "a command")
GUARDS: tuple[dict[str, Any], ...] = (
    {"max_exit": 1, "min_exits": 2}, {"max_exit": 0.3, "min_exits": 2}, {"max_exit": 0.5, "min_exits": 1},
    {"max_enter": 3}, {"max_exit": 2, "min_exits": 1, "max_initial": 2})
"""Limits so small that seven users are over them."""


class World(Physics):
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.faulty = True
        self.running: Process | None = None
        self.opened = False
        self.processes: list[Process] = []
        guarded = self.rng.random() < 0.6
        self.audiences = [Audience(key, key, "", Path(f"{key}.sql"), destinations=("a", "b"),
                                   guard=self.rng.choice(GUARDS) if guarded and self.rng.random() < 0.8 else {})
                          for key in ("x", "y", "z")[:self.rng.choice((1, 2, 2, 3))]]
        self.valued = Valued(seed)
        self.valued.take(self.audiences, USERS)
        self.guards = {audience.key: audience.guard for audience in self.audiences}
        self.files = set(self.guards)
        self.members: dict[str, set[str]] = {audience.key: set() for audience in self.audiences}
        self.servers = {name: Server(self.rng.random() < 0.5) for name in ("a", "b")}
        self.fates = self.rng.choice(((1, 0, 0, 0, 0, 0), (80, 5, 5, 5, 5, 0), (60, 8, 8, 8, 8, 8),
                                     (40, 0, 0, 10, 40, 10)))
        self.deadly = self.rng.choice((0.0, 0.02, 0.1))
        self.sleepy = self.rng.choice((0.0, 0.003, 0.15))
        self.crowd = self.rng.choice(((1,), (1, 2), (2, 3)))
        self.restless = self.rng.choice((0.2, 0.5))
        self.added_later = self.rng.randint(0, 3)
        self.acts = [self.compute, self.compute, self.pause_or_resume]
        for share, act in ((guarded, self.decide), (0.4, self.forget), (0.5, self.compute_alone), (0.35, self.retire),
                           (0.3, self.pause_more)):
            self.acts += [act] * 2 * (self.rng.random() < share)
        settings = Tiny(write_key="k", url="http://127.0.0.1:1/v1/batch", settle=timedelta(seconds=SETTLE),
                        concurrency=self.rng.choice((1, 2, 4)), timeout=timedelta(seconds=2))
        self.project = Project(Path(), "sim", "UTC", SourceSettings("sqlite://"), "sqlite://", tuple(self.audiences),
                               {"a": settings, "b": settings})
        self.clean = self.process_store()
        self.oracle = Oracle(self)
        self.held: list[tuple[tuple[str, str], Any]] = []

    def audience(self, key: str) -> Audience:
        return next(audience for audience in self.audiences if audience.key == key)

    def point(self, name: str) -> None:
        self.opened = self.opened or name == "sync.opened"
        if self.faulty and self.running is not None and self.rng.random() < self.deadly:
            self.running.store.alive = False
            raise Killed

    # what schedules do

    def compute(self) -> None:
        for audience in self.audiences:
            if self.rng.random() < 0.8:
                self.change(audience.key)
                self.record(self.clean, audience, self.clock())

    def change(self, key: str) -> None:
        """Let some enter and some exit; or all but one be where a destination was last told they were."""
        mine, runs_ = self.members[key], self.oracle.history.get(key)
        if runs_ and self.guards[key] and self.rng.random() < 0.2:
            mine.clear()
            mine |= runs_[self.oracle.positions().get((self.rng.choice("ab"), key), 0)]
            mine ^= {self.rng.choice(USERS)}
        else:
            mine ^= {user for user in USERS if self.rng.random() < self.restless}
        if key == self.valued.key:
            self.valued.change()

    def found(self, key: str, members: Members | None = None) -> tuple[Members, Table]:
        """What a run finds now, of these members or of those there are: who they are, and a computed trait's values."""
        found = frozenset(self.members[key]) if members is None else members
        return found, self.valued.table(found) if key == self.valued.key else NOTHING

    def record(self, store: Store, audience: Audience, moment: datetime, found: tuple[Members, Table] | None = None,
               lease: leases.Lease | None = None) -> None:
        members, table = found or self.found(audience.key)
        chunk = table.chunk() if audience.kind == "trait" else Chunk(sorted(members), None)
        try:
            with stage(store, [chunk]) as held:
                run = runs.record(store, held, audience, id_kind="user_id", as_of=moment, started_at=moment,
                                  definition_hash="", lease=lease, traits=table.kinds())
        except (LeaseLost, OlderRun):
            raise
        except UsageError:
            assert all((name, audience.key) in self.oracle.ended for name in self.servers)
        else:
            self.oracle.ran(audience.key, run.number, members, table)

    def compute_alone(self) -> None:
        """Begin to compute an audience as a service does: under a lease, as of an instant that all of them share."""
        audience, store = self.rng.choice(self.audiences), self.process_store()
        self.processes.append(Process(store, lambda: self.computing(store, audience), self.computing(store, audience),
                                      max(self.sleepy, 0.2)))

    def computing(self, store: MortalStore, audience: Audience) -> Iterator[None]:
        holder = f"sim/{next(self.order)}"
        lease = leases.acquire(store, f"computation:{audience.key}", holder=holder, monotonic=lambda: self.now)
        self.oracle.workers[audience.key] = holder
        self.change(audience.key)
        moment, found = BEGINNING + timedelta(seconds=self.now // 60 * 60), self.found(audience.key)
        for _ in range(self.rng.randint(1, 9)):
            yield
            if self.rng.random() < 0.3 and self.oracle.workers[audience.key] == holder:
                leases.renew(store, lease)
        mine = self.oracle.workers[audience.key] == holder
        try:
            self.record(store, audience, moment, found, lease)
        except LeaseLost:
            self.oracle.happened["late write refused"] += 1
            if mine and self.forget not in self.acts:
                self.oracle.fault(f"I9: {holder} was kept from writing though nobody took his lease")
        except OlderRun:
            return
        else:
            self.oracle.happened["computed alone"] += 1
            if not mine:
                self.oracle.fault(f"I9: {holder} wrote though another process computed {audience.key} since")
        leases.release(store, lease)

    def forget(self) -> None:
        """Keep house, perhaps only until death, with a retention of no length at all or of ages."""
        store = HouseStore(self.engine, clock=self.clock)
        store.between = self.meanwhile
        store.left = self.rng.choice((1 << 30, 1 << 30, self.rng.randint(0, 12)))
        before = self.clock() - timedelta(seconds=self.rng.choice((1e6, 900.0, 60.0, 5.0, 0.0, -5.0)))
        try:
            gone = housekeeping.forget(store, before)
        except Killed:
            self.oracle.happened["died keeping house"] += 1
        else:
            self.oracle.happened.update({f"{name} forgotten": count for name, count in gone.items()})

    def meanwhile(self) -> None:
        """What others do between two transactions of one."""
        for _ in range(self.rng.choice((0, 0, 1, 4))):
            awake = [process for process in self.processes if process.frozen_until <= self.now]
            if awake and not self.step(process := self.rng.choice(awake)):
                self.processes.remove(process)
            if self.faulty and self.rng.random() < 0.1:
                self.compute()

    # what people do

    def pause_or_resume(self) -> None:
        audience = self.rng.choice(self.audiences)
        key = audience.key
        if self.rng.random() < 0.5:
            accounts.pause_computation(self.clean, key, kind=audience.kind, reason="", who=WHO)
            self.oracle.stopped.setdefault(key, self.now)
        else:
            accounts.resume_computation(self.clean, key, who=WHO, reason="")
            self.oracle.stopped.pop(key, None)

    def pause_more(self) -> None:
        """Pause or resume a destination, or everything."""
        name, what = self.rng.choice(((accounts.EVERYTHING, "everything"), ("a", "destination a")))
        if self.rng.random() < 0.5:
            accounts.pause_destination(self.clean, name, reason="", who=WHO)
            self.oracle.stopped.setdefault(what, self.now)
        else:
            accounts.resume_destination(self.clean, name, who=WHO, reason="")
            self.oracle.stopped.pop(what, None)

    def look(self) -> None:
        """See what is held, as a person does before he decides."""
        self.held = sorted((where, hold) for where, hold in overview(self.project, self.clean, counted=False)
                           .holds.items())

    def decide(self) -> None:
        """Approve or discard a change, sometimes one that was seen long ago."""
        if self.rng.random() < 0.7:
            self.look()
        if self.held:
            (key, name), hold = self.rng.choice(self.held)
            self.decided(key, name, hold, APPROVED if self.rng.random() < 0.7 else DISCARDED)

    def decided(self, key: str, name: str, hold: Any, verdict: str) -> None:
        known = runs.latest(self.clean, [key])[key].computation_id
        decision = Decision(hold.to_run, hold.net.entered, hold.net.exited, verdict)
        decisions.decide(self.clean, key, [(name, known, decision)], ACT)
        self.oracle.decided(name, key, decision)

    def retire(self) -> None:
        """End an audience as the command does, for ever or at one destination, while others go on."""
        key = self.rng.choice(self.audiences).key
        known = runs.latest(self.clean, [key]).get(key)
        if known is None or known.run is None:
            return
        whole, clear = self.rng.random() < 0.5, self.rng.random() < 0.7
        names = decisions.told_at(self.clean, known.computation_id) if whole else [self.rng.choice("ab")]
        self.meanwhile()
        if whole and clear and not known.retired and known.run.members:
            try:
                lease = leases.acquire(self.clean, f"computation:{key}", holder=WHO, monotonic=lambda: self.now)
            except LeaseHeld:
                return
            self.oracle.workers[key] = WHO
            self.record(self.clean, self.audience(key), self.clock(), (frozenset(), NOTHING), lease)
            leases.release(self.clean, lease)
            self.meanwhile()
        decisions.retire(self.clean, known.computation_id, key, ACT, names=names if clear or not whole else (),
                         clear=clear, whole=whole)
        self.oracle.retired(key, names, clear=clear, whole=whole)
        if whole:
            self.oracle.stopped.pop(key, None)  # who ends it for ever need not resume it
            self.files -= {key} if self.rng.random() < 0.5 else set()

    # processes

    def command(self, name: str, *, backfill: bool = False, typed: bool = True) -> Process:
        store = self.process_store()
        agenda = Agenda(self.project, store, name, [one for one in self.audiences if one.key in self.files],
                        typed=typed, farewells=not backfill)
        if backfill:
            agenda.ask_backfill()
        courier = Courier(store, self.project.destinations[name], agenda, holder=f"sim/{next(self.order)}",
                          wire=lambda _: SimulatedWire(self, name), monotonic=lambda: self.now,
                          draw=lambda limit: self.rng.uniform(0, limit),
                          interrupted=lambda: "asked" if self.faulty and self.rng.random() < 0.002 else "")
        return Process(store, courier.deliver, courier.deliver(), self.sleepy)

    def work(self, processes: list[Process], steps: int = 4000) -> None:
        """Let the processes take turns until all have ended."""
        self.processes = processes
        while self.processes:
            steps -= 1
            assert steps, f"world {self.seed}: it never ends"
            awake = [process for process in self.processes if process.frozen_until <= self.now]
            if awake:
                process = self.rng.choice(awake)
                if not self.step(process):
                    self.processes.remove(process)
                elif self.faulty and self.rng.random() < process.sleepy:
                    process.frozen_until = self.now + self.rng.uniform(5, 120)
            if self.faulty and self.rng.random() < 0.02:
                self.rng.choice(self.acts)()
            self.pass_time(idle=not awake)

    def step(self, process: Process) -> bool:
        self.running = process
        try:
            next(process.story)
        except LeaseHeld:
            # as with --wait: the other one may be dead or asleep
            process.story, process.frozen_until = process.begin(), self.now + 7.0
        except StateUnavailable as error:
            self.oracle.fault(f"a bug: {error.__cause__!r}")
            return False
        except (StopIteration, AudiencesyncError, Killed):
            return False
        finally:
            self.running = None
            if self.opened:
                self.oracle.look()
                self.opened = False
        return True

    # the whole story

    def play(self) -> list[str]:
        """Live through it and answer with every promise broken."""
        failpoints.install(self.point)
        batch, housekeeping.BATCH = housekeeping.BATCH, 2
        try:
            for round_ in range(self.rng.randint(2, 4)):
                self.one_round(round_)
            self.faulty, self.fates, self.deadly = False, (1, 0, 0, 0, 0, 0), 0.0
            if self.rng.random() < 0.5:
                self.servers["a"].refuses = set()
            self.oracle.check_told()
            self.heal()
        finally:
            housekeeping.BATCH = batch
            failpoints.install(None)
            self.engine.dispose()
        return [*self.oracle.faults, *(fault for server in self.servers.values() for fault in server.faults)]

    def one_round(self, round_: int) -> None:
        self.compute()
        if self.rng.random() < 0.3:
            server = self.servers["a"]
            server.refuses = {self.rng.choice(USERS)} if self.rng.random() < 0.7 else set()
            server.ever_refused |= server.refuses
        names = ["a", "b"] if round_ >= self.added_later else ["a"]
        processes = [self.command(name, backfill=self.rng.random() < 0.15, typed=self.rng.random() < 0.7)
                     for name in names for _ in range(self.rng.choice(self.crowd))]
        self.processes = processes
        for act in self.acts[3:]:
            if self.rng.random() < 0.3:
                act()
        self.work(processes)
        self.oracle.check_told()
        self.advance(self.rng.choice((1.0, 20.0, 40.0, 2 * SETTLE)))

    def heal(self) -> None:
        """Faults have stopped: clean syncs make each destination equal to the audiences, and one more sends nothing."""
        self.advance(3 * SETTLE)
        for audience in self.audiences:
            accounts.resume_computation(self.clean, audience.key, who=WHO, reason="")
        for name in (accounts.EVERYTHING, *self.servers):
            accounts.resume_destination(self.clean, name, who=WHO, reason="")
        self.oracle.stopped.clear()
        self.compute()
        self.clean_syncs()
        if self.check_held():
            self.end_holds()
        if self.rng.random() < 0.4:
            self.work([self.command(name, backfill=True) for name in self.servers])
            self.oracle.check_told()
        self.oracle.check_refused()
        for name, server in self.servers.items():
            self.oracle.check_destination(name, server)
            requests = server.requests
            self.work([self.command(name)])
            if server.requests != requests:
                self.oracle.fault(f"I5: {server.requests - requests} requests to {name} though nothing changed")

    def clean_syncs(self) -> None:
        """What was open is finished, then the newest run is told, each after its settle; and all that was so is."""
        for _ in range(2):
            self.work([self.command(name) for name in self.servers])
            self.advance(3 * SETTLE)
            if self.forget in self.acts:
                self.forget()
        self.oracle.check_told()
        for name, server in self.servers.items():
            self.oracle.check_destination(name, server)

    def check_held(self) -> bool:
        """What is held is what is shown as held, and nothing of it is sent, however often it is tried."""
        self.look()
        shown = sorted((name, key) for (key, name), _ in self.held)
        if shown != sorted(self.oracle.held_now()):
            self.oracle.fault(f"I8: held are {self.oracle.held_now()}, shown is {shown}")
        before = {(name, key): self.servers[name].calls[key] for name, key in shown}
        if before:
            self.clean_syncs()
        for (name, key), calls in before.items():
            if more := self.servers[name].calls[key] - calls:
                self.oracle.fault(f"I8: {more} calls of {key} to {name}, which is held")
        return bool(before)

    def end_holds(self) -> None:
        """Each audience that is held is approved, discarded, harmless again or left as it is."""
        at, free = self.oracle.positions(), set()
        for key in sorted({key for (key, _), _ in self.held}):
            mine = [(name, hold) for (of, name), hold in self.held if of == key]
            ending = self.rng.choice((APPROVED, DISCARDED, "harmless", "left"))
            if ending == "harmless":
                name, _ = mine[0]
                told = self.oracle.history[key][at.get((name, key), 0)]
                self.record(self.clean, self.audience(key), self.clock(), self.found(key, told))
                free.add((name, key))
            elif ending != "left":
                for name, hold in mine:
                    self.decided(key, name, hold, ending)
                free |= {(name, key) for name, _ in mine if ending == APPROVED}
            self.oracle.happened[f"{ending} at last"] += 1
        self.clean_syncs()
        if stuck := free & set(self.oracle.held_now()):
            self.oracle.fault(f"I2: {sorted(stuck)} are held though they were let go")

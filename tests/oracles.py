"""The promises of a simulated world, judged by sets that remember everything: the world asks, and nothing is believed.

What the core says of itself (its rows, its counts, its status) is compared with what was computed, decided and sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import select

from audiencesync.delivery import Flight
from audiencesync.store import tables
from audiencesync.store.decisions import APPROVED, Decision
from tests.valued import Table

if TYPE_CHECKING:
    from tests.simulator import Server, World

GLANCE = 1.0
"""Seconds after which a sync under way has seen that it shall stop."""

USERS = [f"u{number}" for number in range(7)]

Members = frozenset[str]
NOBODY: Members = frozenset()


class Meant(NamedTuple):
    """What a messageId stands for: a call of one sync for one user, and whether its content holds him by itself.

    `again` is what it tells him if he was refused before.
    """

    destination: str
    key: str
    user: str
    told: Mapping[str, Any] | None
    again: Mapping[str, Any]
    whole: bool = False

    def means(self, traits: Mapping[str, Any], told: Mapping[str, Any] | None, names: Sequence[str]) -> bool:
        """Whether this is what is told; where that is all, columns of former runs may be taken back besides."""
        if told is None:
            return False
        if self.whole or told is self.again:
            traits = {name: value for name, value in traits.items()
                      if name in told or value is not None or name not in names}
        return dict(told) == dict(traits)


@dataclass
class Oracle:
    """What truly happened in a world, and every promise that was broken."""

    world: World
    faults: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    history: dict[str, dict[int, Members]] = field(default_factory=dict)
    """The members at the end of each run, by key; nobody at run 0."""
    decisions: dict[tuple[str, str], Decision] = field(default_factory=dict)
    ended: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)
    """Where an audience was retired, by (destination, key): `kept` or `cleared`, and since when."""
    stopped: dict[str, float] = field(default_factory=dict)
    """Since when everything, a destination or an audience is paused."""
    workers: dict[str, str] = field(default_factory=dict)
    """Who took the lease to compute an audience last."""
    meant: dict[str, Meant] = field(default_factory=dict)
    _secrets: set[bytes] = field(default_factory=set)
    _seen: int = 0

    def fault(self, words: str) -> None:
        self.faults.append(f"{words} (at {self.world.now:.1f})")

    # what the world tells

    def ran(self, key: str, number: int, members: Members, table: Table) -> None:
        runs = self.history.setdefault(key, {0: NOBODY})
        if number <= max(runs):
            self.fault(f"run {number} of {key} was written after run {max(runs)}")
        runs[number] = members
        if key == self.world.valued.key:
            if before := set(self.world.valued.tables[max(self.world.valued.tables)].columns):
                self.happened["column came"] += bool(set(table.columns) - before)
                self.happened["column went"] += bool(before - set(table.columns))
            self.world.valued.tables[number] = table

    def newest(self, key: str) -> int:
        return max(self.history.get(key, (0,)))

    def decided(self, destination: str, key: str, decision: Decision) -> None:
        self.decisions[destination, key] = decision
        self.happened[decision.verdict] += 1

    def retired(self, key: str, names: list[str], *, clear: bool, whole: bool) -> None:
        self.happened[f"retired {'whole' if whole else 'here'}{', cleared' if clear else ''}"] += 1
        begun = {meant.destination for meant in self.meant.values() if meant.key == key}
        begun |= {name for (name, of), run in self.positions().items() if run and of == key}
        for name in self.world.servers:
            if clear and (name in names or (whole and name in begun)):
                self.ended[name, key] = ("cleared", self.world.now)
            elif whole or name in names:
                self.ended.setdefault((name, key), ("kept", self.world.now))

    def is_ended(self, destination: str, key: str, how: str) -> bool:
        return self.ended.get((destination, key), ("", 0.0))[0] == how

    # brakes, by sets

    def held(self, key: str, low: int, high: int) -> bool:
        """Whether the change from run `low` to run `high` is too large to go without a person's word."""
        guard: Mapping[str, Any] = self.world.guards[key]
        before, after = self.history[key][low], self.history[key][high]
        entered, exited = len(after - before), len(before - after)
        if not low:
            return bool(entered > guard.get("max_initial", 99))
        most = guard.get("max_exit", 0.3)
        over = exited > (most * len(before) if isinstance(most, float) else most)
        return bool((over and exited >= guard.get("min_exits", 50)) or entered > guard.get("max_enter", 99))

    def approved(self, destination: str, key: str, low: int, high: int) -> bool:
        """Whether a person allowed this very change, with these very counts."""
        before, after = self.history[key][low], self.history[key][high]
        shown = Decision(high, len(after - before), len(before - after), APPROVED)
        return self.decisions.get((destination, key)) == shown

    # a sync that opens

    def look(self) -> None:
        """Judge each sync that was opened since the last look."""
        columns = (tables.syncs, tables.spans.c.from_run, tables.spans.c.to_run, tables.computations.c.key)
        joined = tables.syncs.join(tables.spans).join(tables.computations)
        with self.world.clean.read() as connection:
            rows = connection.execute(select(*columns).select_from(joined).where(tables.syncs.c.id > self._seen)
                                      .order_by(tables.syncs.c.id)).all()
        fresh = [row for row in rows if row.secret not in self._secrets]  # a half that was split off is not new
        for same in groupby(fresh, key=attrgetter("id")):
            spans = list(same[1])
            least = most = 0
            for row in spans:
                self._judge(row)
                content = self._expect(row)
                least += len(content)
                most += len(content | self.world.servers[row.destination].ever_refused)
            if not least <= spans[0].total <= most:
                keys = [row.key for row in spans]
                self.fault(f"a {spans[0].mode} sync of {keys} holds {spans[0].total} calls, not {least} to {most}")
        self._secrets |= {row.secret for row in fresh}
        self._seen = max((row.id for row in rows), default=self._seen)

    def _judge(self, row: Any) -> None:
        """Whether this span may be sent at all."""
        name, key, low, high = row.destination, row.key, row.from_run, row.to_run
        self.happened[row.mode] += 1
        where = f"{row.mode} sync of {key} to {name} from {low} to {high}"
        if self.is_ended(name, key, "kept"):
            self.fault(f"rule 9: a {where} though it is retired there")
        elif self.is_ended(name, key, "cleared"):
            self.happened["farewell"] += high == 0
            if high and high != low:
                self.fault(f"rule 9: a {where} though it is to be cleared")
        elif row.mode != "backfill" and low != high:
            if high < self.newest(key) and not self.approved(name, key, low, high):
                self.fault(f"a {where}, which is not the newest run")
            if self.held(key, low, high):
                self.happened["sent since it was approved"] += 1
                if not self.approved(name, key, low, high):
                    self.fault(f"I8: a {where} though it is held; decided: {self.decisions.get((name, key))}")

    def _expect(self, row: Any) -> Members:
        """Remember whom each messageId of this span would be for, and what it would say; who is its content."""
        calls = self._values(row) if row.key == self.world.valued.key else self._memberships(row)
        for user, (told, again) in calls.items():
            identity = blake2b(f"{row.key}\0{user}".encode(), key=row.secret, digest_size=16).hexdigest()
            self.meant[f"as_{identity}"] = Meant(row.destination, row.key, user, told, again, row.mode == "backfill")
        return frozenset(user for user, (told, _) in calls.items() if told is not None)

    def _memberships(self, row: Any) -> dict[str, tuple[Mapping[str, Any] | None, Mapping[str, Any]]]:
        runs = self.history[row.key]
        now, then = runs[row.to_run], runs[row.from_run]
        ever = NOBODY.union(*(members for number, members in runs.items() if number <= row.to_run))
        content = {"initial": now, "backfill": ever, "incremental": now ^ then}[row.mode]
        return {user: ({row.key: user in now} if user in content else None, {row.key: user in now}) for user in USERS}

    def _values(self, row: Any) -> dict[str, tuple[Mapping[str, Any] | None, Mapping[str, Any]]]:
        valued, low, high = self.world.valued, row.from_run, row.to_run
        begun = bool(valued.visited[row.destination, row.key])
        valued.visited[row.destination, row.key] |= {low, high} - {0}
        calls = {}
        for user in USERS:
            told = valued.told(row.mode, user, low, high, begun=begun)
            calls[user] = told, valued.whole(user, valued.tables[high], valued.tables[low], farewell=not high)
            if told is not None and row.mode == "incremental":
                columns = set(valued.tables[high].columns)
                self.happened["some traits told"] += bool(columns) and not columns <= told.keys()
                self.happened["former column told"] += bool(columns) and not told.keys() <= columns
                self.happened["traits told to who dropped out"] += user not in valued.tables[high].rows
        return calls

    # a request that leaves

    def leaving(self, name: str, flight: Flight) -> None:
        """Judge the bytes at the moment they go."""
        server = self.world.servers[name]
        for call in orjson.loads(flight.batch.body)["batch"]:
            known = self.meant.get(call["messageId"])
            if known is None:
                self.fault(f"I4: a call to {name} of no sync")
                continue
            if (name, call["userId"]) != (known.destination, known.user):
                self.fault(f"I4: a call for {call['userId']} at {name}, meant was {known}")
            refused = known.user in server.ever_refused
            if known.told is None and not refused:
                self.fault(f"I5: {known.user} was told of {known.key} though nothing of him changed: {call['traits']}")
            elif not any(known.means(call["traits"], told, self.world.valued.names_of(known.key))
                         for told in (known.told, *([known.again] if refused else []))):
                self.fault(f"I4: {call['traits']} left for {call['userId']} at {name}, meant was {known}")
            self._may_leave(name, known.key, flight)

    def _may_leave(self, name: str, key: str, flight: Flight) -> None:
        """What is stopped finishes the page that was begun, and begins no other."""
        since = [moment for what, moment in self.stopped.items() if what in ("everything", f"destination {name}", key)]
        if self.is_ended(name, key, "kept"):
            since.append(self.ended[name, key][1])
        if since and self.world.now > min(since) + GLANCE and not flight.page.touched:
            self.fault(f"I8: {key} was sent to {name} {self.world.now - min(since):.1f} s after it was stopped")

    # where everything stands

    def positions(self) -> dict[tuple[str, str], int]:
        """The run of each (destination, key) that was told anything."""
        with self.world.clean.read() as connection:
            return {(row.destination, row.key): row.run for row in connection.execute(
                select(tables.positions.c.destination, tables.positions.c.run, tables.computations.c.key)
                .join(tables.computations))}

    def held_now(self) -> list[tuple[str, str]]:
        """The (destination, key) that wait for a person's word, or were discarded, though nothing else keeps them."""
        at = self.positions()
        return [(name, key) for name in self.world.servers for key in self.history
                if (name, key) not in self.ended and at.get((name, key), 0) < self.newest(key)
                and self.held(key, at.get((name, key), 0), self.newest(key))]

    def check_destination(self, name: str, server: Server) -> None:
        """I2: it holds exactly the audiences; what is held there, as it was last told; of what was cleared, nobody."""
        at, held = self.positions(), self.held_now()
        for key, runs in self.history.items():
            if self.is_ended(name, key, "kept"):
                continue  # what it was last told was compared with the state
            number = at.get((name, key), 0) if (name, key) in held else self.newest(key)
            expected = NOBODY if (name, key) in self.ended else runs[number]
            apart = server.ever_refused if (name, key) in held else server.refuses
            if key == self.world.valued.key:
                self._check_values(name, server, number, apart)
                continue
            for user in USERS:
                told, member = server.told.get((key, user)), user in expected
                if user not in apart and member != bool(told):
                    self.fault(f"I2: {name} holds {told} for {user} in {key} (run {number}), who is {member}")

    def _check_values(self, name: str, server: Server, number: int, apart: set[str]) -> None:
        """I2 for values."""
        valued, where = self.world.valued, (name, self.world.valued.key)
        left = where in self.ended
        valued.visited[where] |= {self.positions().get(where, 0)} - {0}
        for user in USERS:
            if user not in apart:
                for words in valued.faults(where, user, number, server.told, refused=user in server.ever_refused,
                                           left=left):
                    self.fault(f"I2: {words}")

    def check_refused(self) -> None:
        """Whoever is taken again counts as refused no more."""
        with self.world.clean.read() as connection:
            refused = {(row.destination, row.user_id) for row in connection.execute(
                select(tables.rejections, tables.computations.c.key)
                .join(tables.computations, tables.computations.c.id == tables.rejections.c.computation_id))
                       if (row.destination, row.key) not in self.ended and
                       (row.destination, row.key) not in self.held_now()}
        for name, server in self.world.servers.items():
            if forgotten := {user for destination, user in refused if destination == name} - server.refuses:
                self.fault(f"I2: {forgotten} count as refused at {name} though they were told")

    def check_told(self) -> None:
        """I1: what the state says was told is what was confirmed, and what it remembers is what was computed."""
        with self.world.clean.read() as connection:
            rows = connection.execute(select(tables.memberships, tables.computations.c.key)
                                      .join(tables.computations, tables.computations.c.id ==
                                            tables.memberships.c.computation_id)).all()
            open_ = connection.execute(select(tables.syncs, tables.spans.c.from_run, tables.spans.c.to_run,
                                              tables.computations.c.key)
                                       .select_from(tables.syncs.join(tables.spans).join(tables.computations))
                                       .where(tables.syncs.c.status == "open")).all()
            refused = {(row.destination, row.key, row.user_id) for row in connection.execute(
                select(tables.rejections, tables.computations.c.key)
                .join(tables.computations, tables.computations.c.id == tables.rejections.c.computation_id))}
        at = self.positions()
        spans: dict[tuple[str, str], Any] = {}
        for span in open_:
            if (span.destination, span.key) in spans:
                self.fault(f"rule 1: two open syncs of {span.key} to {span.destination}")
            spans[span.destination, span.key] = span
        for key, runs in self.history.items():
            mine = [row for row in rows if row.key == key]
            for name, server in self.world.servers.items():
                number, span = at.get((name, key), 0), spans.get((name, key))
                for run in {number, *(() if span is None else (span.to_run,))}:
                    if (known := members_of(mine, run)) != runs[run]:
                        self.fault(f"rule 10: the state takes {sorted(known)} for {key} as of run {run}, where {name} "
                                   f"stands, they were {sorted(runs[run])}")
                    for words in self.world.valued.remembered(mine, run) if key == self.world.valued.key else ():
                        self.fault(f"rule 10: the state takes other values as of run {run} of {key}, {words}")
                if key == self.world.valued.key:
                    self.world.valued.visited[name, key] |= {number} - {0}
                for user in USERS:
                    if (name, key, user) not in refused and user not in server.refuses:
                        self._check_user(name, key, user, number, span)

    def _check_user(self, name: str, key: str, user: str, at: int, span: Any) -> None:
        if span is not None and span.claimed is not None and user <= span.claimed:
            if span.acknowledged is None or user > span.acknowledged:
                return  # unresolved: it may or may not have arrived
            at = span.to_run
        server = self.world.servers[name]
        if key == self.world.valued.key:
            left = not at and (span is None or span.from_run > 0)
            for words in self.world.valued.faults((name, key), user, at, server.told, left=left,
                                                  refused=user in server.ever_refused):
                self.fault(f"I1: {words}")
            return
        member, told = user in self.history[key][at], server.told.get((key, user))
        if bool(told) != member:
            self.fault(f"I1: the state says {member} was told of {user} in {key}, it was {told} (run {at})")


def members_of(rows: list[Any], run: int) -> Members:
    """Who was a member at the end of a run, by rows of memberships."""
    return frozenset(row.user_id for row in rows
                     if row.since_run <= run and (row.until_run is None or row.until_run > run))

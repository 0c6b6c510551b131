"""One effective worker: what a lease gives, refuses and takes away, on the clock of the database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from audiencesync.errors import LeaseHeld, LeaseLost
from audiencesync.model import Progress
from audiencesync.store import leases, syncs, tables
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from tests.histories import at, dump, record, span

NAME = "destination:segment"
FAR = "another host/1/1"
SECOND = timedelta(seconds=1)


@dataclass
class Clock:
    """The database's time and a process's own, which one test moves together and another apart."""

    hour: datetime = field(default_factory=lambda: at(0))
    own: float = 1000.0

    def __call__(self) -> datetime:
        return self.hour

    def monotonic(self) -> float:
        return self.own

    def advance(self, seconds: float, *, own: float | None = None) -> None:
        self.hour += timedelta(seconds=seconds)
        self.own += seconds if own is None else own


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(state_url: str, clock: Clock) -> Iterator[Store]:
    opened = Store.open(state_url)
    upgrade(opened)
    opened.close()
    made = Store(opened.engine, clock=clock)
    yield made
    made.close()


def take(store: Store, clock: Clock, holder: str = FAR) -> leases.Lease:
    return leases.acquire(store, NAME, holder=holder, life=30 * SECOND, monotonic=clock.monotonic)


def test_a_living_holder_keeps_everybody_else_out_until_it_expires(store: Store, clock: Clock) -> None:
    lease = take(store, clock)
    clock.advance(29.9)
    with pytest.raises(LeaseHeld, match="--wait") as caught:
        take(store, clock, "a third host/1/1")
    assert caught.value.exit_code == 99
    clock.advance(0.1)
    other = take(store, clock, "a third host/1/1")
    assert other.fence == lease.fence + 1
    with pytest.raises(LeaseLost):
        leases.renew(store, lease)
    leases.renew(store, other)


def test_renewing_moves_the_deadline_on_and_a_lost_lease_is_never_renewed(store: Store, clock: Clock) -> None:
    lease = take(store, clock)
    for _ in range(5):
        clock.advance(25)
        leases.renew(store, lease)
        assert lease.remaining == 30
    clock.advance(30)
    assert lease.remaining <= 0, "so that no byte leaves"
    leases.renew(store, lease)
    assert lease.remaining == 30, "nobody took it, so nobody has acted meanwhile"
    clock.advance(30)
    take(store, clock, "a third host/1/1")
    with pytest.raises(LeaseLost) as caught:
        leases.renew(store, lease)
    assert caught.value.exit_code == 75
    assert lease.remaining <= 0


def test_the_holders_own_deadline_is_never_later_than_the_databases(store: Store, clock: Clock) -> None:
    """Also while the database takes its time to answer."""
    slow = Store(store.engine, clock=lambda: (clock.advance(4), clock())[1])
    began = clock.own
    lease = leases.acquire(slow, NAME, holder=FAR, life=30 * SECOND, monotonic=clock.monotonic)
    assert lease.deadline == began + 30
    [row] = dump(store)["leases"]
    assert row[3] - at(0) >= timedelta(seconds=lease.deadline - 1000)
    began = clock.own
    leases.renew(slow, lease)
    assert lease.deadline == began + 30


def test_a_lease_given_back_is_free_at_once_and_worth_nothing_to_its_former_holder(store: Store, clock: Clock) -> None:
    lease = take(store, clock)
    leases.release(store, lease)
    with pytest.raises(LeaseLost):
        leases.renew(store, lease)
    other = take(store, clock, "a third host/1/1")
    leases.release(store, lease)
    leases.renew(store, other)


def test_leases_of_two_destinations_know_nothing_of_each_other(store: Store, clock: Clock) -> None:
    take(store, clock)
    leases.acquire(store, "destination:crisp", holder=FAR)


def test_a_dead_process_of_this_host_holds_nothing_and_a_living_one_everything(store: Store, clock: Clock) -> None:
    script = "from audiencesync.store.leases import this_process; print(this_process(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout
        holder = process.stdout.readline().strip()
        take(store, clock, holder)
        assert not leases.is_dead(holder)
        with pytest.raises(LeaseHeld):
            take(store, clock, leases.this_process())
        process.kill()
    assert leases.is_dead(holder)
    assert take(store, clock, leases.this_process()).fence == 2


def test_only_a_process_of_this_very_kernel_can_be_known_to_be_dead() -> None:
    place, pid, began = leases.this_process().split("/")
    assert pid == str(os.getpid())
    assert not leases.is_dead(leases.this_process())
    assert leases.is_dead(f"{place}/{pid}/{began}0"), "another process had this number before"
    assert not leases.is_dead(f"elsewhere/{pid}/{began}0")
    assert not leases.is_dead("anything")
    assert not leases.is_dead(f"{place}/x/1")


def test_of_many_processes_that_ask_at_once_one_gets_it(store: Store, state_url: str) -> None:
    """Also the very first time, when there is no row yet."""
    start = threading.Barrier(6)

    def ask(number: int) -> bool:
        mine = Store.open(state_url)
        start.wait(30)
        try:
            leases.acquire(mine, NAME, holder=f"host {number}/1/1")
        except LeaseHeld:
            return False
        finally:
            mine.close()
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, range(6))) == [False] * 5 + [True]


def _given_back(store: Store, clock: Clock) -> None:
    del clock
    with store.write() as connection:
        connection.execute(update(tables.leases).values(holder=None))


def _lost_to_another(store: Store, clock: Clock) -> None:
    clock.advance(30)
    take(store, clock, "a third host/1/1")


@pytest.mark.parametrize("lose", [_given_back, _lost_to_another])
def test_a_holder_that_slept_changes_nothing(store: Store, clock: Clock, lose: object) -> None:
    """I9, for every write a worker does: none of them goes through without the lease."""
    record(store, "x", ["ann", "bob"], 0)
    record(store, "x", ["ann"], 1)
    lease = take(store, clock)
    first = syncs.open_sync(store, lease, destination="segment", mode="initial", parts=[span(store, "x", 0, 1)],
                            retries_due=at(0))
    assert first is not None
    syncs.advance(store, lease, first, Progress("ann", None), settle=SECOND, finished=False)
    [opened] = syncs.open_syncs(store, "segment")
    lose(store, clock)  # type: ignore[operator]
    before = dump(store)

    def open_another(low: int) -> None:
        syncs.open_sync(store, lease, destination="segment", mode="incremental", parts=[span(store, "x", low, 2)],
                        retries_due=at(0))

    for act in (
        lambda: open_another(1),
        lambda: open_another(2),
        lambda: syncs.advance(store, lease, opened, Progress("bob", "bob"), settle=SECOND, finished=True),
        lambda: syncs.unsettle(store, lease, [opened], settle=SECOND),
        lambda: syncs.split(store, lease, opened, {opened.spans[0].computation_id}),
        lambda: leases.renew(store, lease),
    ):
        with pytest.raises(LeaseLost):
            act()
    assert dump(store) == before


def test_the_time_of_the_database_decides_and_not_the_hosts(state_url: str) -> None:
    store = Store.open(state_url)
    upgrade(store)
    with store.read() as connection:
        now = store.now(connection)
    assert now.utcoffset() == timedelta(0)
    lease = leases.acquire(store, NAME, holder=FAR)
    [(*_, expires)] = dump(store)["leases"]
    assert now + leases.LIFE <= expires <= now + leases.LIFE + 60 * SECOND
    leases.release(store, lease)
    store.close()


def test_a_killed_process_that_nobody_has_taken_note_of_yet_is_dead() -> None:
    words = "from audiencesync.store import leases; print(leases.this_process(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None
        holder = process.stdout.readline().strip()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert leases.is_dead(holder)

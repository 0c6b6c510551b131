"""The story: compute every audience, plan what differs, deliver it, acknowledge it, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from audiencesync.errors import AudiencesyncError, LeaseHeld
from audiencesync.model import Audience, Outcome, Project, Report, Run
from audiencesync.store import housekeeping, leases, runs, syncs
from audiencesync.store.connect import Store
from audiencesync.store.positions import known_positions
from audiencesync.sync.compute import Errors, compute
from audiencesync.sync.deliver import AGAIN, Courier, Tick
from audiencesync.sync.due import desks
from audiencesync.sync.opening import Agenda

logging.getLogger("audiencesync").addHandler(logging.NullHandler())  # a command says by itself what went wrong


@dataclass(frozen=True, slots=True)
class Request:
    """What a command asks for; `wait` are the seconds it waits for another process's lease.

    `interrupted` gives the reason to end, or nothing; `watch` is told where each sync stands, and before that, without
    a destination, how many audiences are computed. `typed` is a person's command, which tries refused users at once;
    `farewells` says whether retired audiences are cleared by it, too.
    """

    audiences: Sequence[Audience]
    destinations: Sequence[str]
    as_of: datetime | None = None
    wait: float = 0.0
    typed: bool = True
    farewells: bool = True
    interrupted: Callable[[], str] = field(default=lambda: "")
    watch: Callable[[Tick], None] = field(default=lambda _: None)


def sync(project: Project, store: Store, request: Request) -> Report:
    """Compute everything selected now, and bring each destination to the newest run."""
    done, errors = compute(project, store, request.audiences, as_of=request.as_of,
                           interrupted=lambda: bool(request.interrupted()),
                           watch=lambda number, total: request.watch(Tick("", "compute", number, total)))
    return _report(project, store, request, tuple(done), errors, backfill=False)


def due(project: Project, store: Store, request: Request) -> Report:
    """Compute what the schedules of these audiences say is due, and tell each destination what it is owed."""
    found = desks(project, store, request.audiences, interrupted=lambda: bool(request.interrupted()),
                  holder=leases.this_process())
    looks = [desk.work() for desk in found]
    housekeeping.tidy(store, project.retention)
    return _report(project, store, request, tuple(run for look in looks for run in look.runs),
                   [error for look in looks for error in look.errors], backfill=False)


def backfill(project: Project, store: Store, request: Request) -> Report:
    """Send everyone again as of what each destination was last told; resumes what an earlier call began."""
    return _report(project, store, request, (), [], backfill=True)


def _report(project: Project, store: Store, request: Request, done: tuple[Run, ...], errors: Errors, *,
            backfill: bool) -> Report:
    outcomes: list[Outcome] = []
    for found, failed in _each(request.destinations,
                               lambda name: tell(project, store, request, name, again=backfill)):
        outcomes += found
        errors += failed
    known = runs.latest(store, [audience.key for audience in request.audiences])
    mine = {due.computation_id for due in known.values()}
    return Report(done, tuple(outcomes), tuple(errors),
                  sum(_rejected(store, name, mine) for name in request.destinations))


def _rejected(store: Store, name: str, mine: set[int]) -> int:
    """The refused users of these computations who are tried again: not where one was retired without being cleared."""
    stands = known_positions(store, name)
    ended = {computation for computation, at in stands.items() if at.retired_at is not None and at.clear_as_of is None}
    refused = syncs.rejected_counts(store, name)
    return sum(count for computation, count in refused.items() if computation in mine - ended)


def _each(names: Sequence[str], deliver: Callable[[str], tuple[list[Outcome], Errors]]) -> \
        Iterable[tuple[list[Outcome], Errors]]:
    if len(names) < 2:
        return [deliver(name) for name in names]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        return list(pool.map(deliver, names))


def tell(project: Project, store: Store, request: Request, name: str, *, again: bool = False) -> \
        tuple[list[Outcome], Errors]:
    """Bring one destination to the newest runs; whatever goes wrong with it never stops the others."""
    audiences = [audience for audience in request.audiences if name in audience.destinations]
    if reason := request.interrupted():
        return [Outcome(name, "", "interrupted", reason=reason, help=AGAIN)], []
    agenda = Agenda(project, store, name, audiences, typed=request.typed, farewells=request.farewells and not again)
    if again:
        agenda.ask_backfill()
    courier = Courier(store, project.destinations[name], agenda, interrupted=request.interrupted)
    until = time.monotonic() + request.wait
    errors: Errors = []
    while True:
        try:
            for tick in courier.deliver():
                request.watch(tick)
        except LeaseHeld as error:
            if time.monotonic() < until and not request.interrupted():
                time.sleep(0.2)
                continue
            errors.append((error.exit_code, str(error)))
        except AudiencesyncError as error:
            errors.append((error.exit_code, f"{name}: {error}"))
        outcomes = [outcome for outcome in courier.outcomes if outcome.status != "yielded" or outcome.sent]
        if again:  # somebody asked for these very audiences, so a paused one is not just left out
            outcomes = [replace(one, status="paused") if one.status == "skipped" else one for one in outcomes]
        if audiences and not outcomes and not errors:
            outcomes = [Outcome(name, "incremental", "done", keys=tuple(audience.key for audience in audiences))]
        return outcomes, errors

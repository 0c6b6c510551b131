"""Compute: ask the source for each audience as of one instant, and remember who entered and who exited."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from audiencesync import meter
from audiencesync.errors import (
    AudiencesyncError,
    Interrupted,
    LeaseLost,
    OlderRun,
    SourceUnavailable,
    StateUnavailable,
)
from audiencesync.model import ID_COLUMNS, Audience, Project, Run
from audiencesync.report import cause
from audiencesync.store import runs
from audiencesync.store.connect import Store
from audiencesync.store.leases import Lease
from audiencesync.store.stage import stage
from audiencesync.sync.blocked import everything_paused
from audiencesync.sync.uses import check_used, given, in_order

if TYPE_CHECKING:
    from audiencesync.source import Source

Errors = list[tuple[int, str]]
LOGGER = logging.getLogger(__name__)


def definition_hash(audience: Audience) -> str:
    """A short hash of all that decides who is a member."""
    parts = [audience.sql, repr(audience.include), repr(sorted(audience.variables.items()))]
    parts += [repr(more) for more in (audience.uses, sorted(audience.types.items())) if more]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def instant(store: Store, as_of: datetime | None) -> datetime:
    """The instant all runs of one command share: the one asked for, or now, in whole milliseconds."""
    if as_of is None:
        with store.read() as connection:
            as_of = store.now(connection)
    return as_of.replace(microsecond=as_of.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True)
class Computer:
    """Makes runs as of one instant; `interrupted` ends them.

    `stale` says why the source may not be asked now, `unfit` why that cannot be said; `failed` are the exit codes of
    those that failed, by key; `included` the keys of those that a column travels along with, by the column.
    """

    store: Store
    source: Source
    moment: datetime
    interrupted: Callable[[], bool]
    stale: str = ""
    unfit: AudiencesyncError | None = None
    failed: dict[str, int] = field(default_factory=dict)
    included: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, project: Project, store: Store, source: Source, moment: datetime,
           interrupted: Callable[[], bool]) -> Computer:
        """One for this instant, which knows how fresh the source is."""
        from audiencesync.source import why_stale

        columns = {column.casefold(): audience.key for audience in project.audiences for column in audience.include
                   if column not in ID_COLUMNS}
        computer = cls(store, source, moment, interrupted, included=columns)
        if project.source.fresh is None:
            return computer
        try:
            return replace(computer, stale=why_stale(source, project.source.fresh, moment, interrupted=interrupted))
        except Interrupted:
            raise
        except AudiencesyncError as error:
            return replace(computer, unfit=error)

    def run(self, audience: Audience, *, lease: Lease | None = None, retried: bool = False) -> tuple[Run, Errors]:
        """One audience's run and, where it failed, the exit code and the words for it; a paused one is left alone.

        Under a `lease` it is only written while that is held. A source that is away is `retried` by whoever asks so.
        Raises OlderRun, Interrupted, LeaseLost and StateUnavailable, after which nothing is written.
        """
        began = time.monotonic()
        run, errors = self._attempt(audience, lease, retried=retried)
        if errors:
            self.failed[audience.key] = errors[0][0]
        seconds = time.monotonic() - began
        if run.status != "paused":
            meter.run(audience.key, run.status, seconds, entered=run.entered, exited=run.exited)
            LOGGER.log(logging.WARNING if errors else logging.INFO, "run %s", run.status, extra={
                "computation": audience.key, "run": run.number, "as_of": run.as_of.isoformat(), "members": run.members,
                "entered": run.entered, "exited": run.exited, "seconds": round(seconds, 3),
                "error": cause(run.error)})
        return run, errors

    def _attempt(self, audience: Audience, lease: Lease | None, *, retried: bool) -> tuple[Run, Errors]:
        known = runs.latest(self.store, [audience.key]).get(audience.key)
        if known is not None and known.paused:
            return Run(audience.key, known.run.number if known.run else 0, self.moment, "paused"), []
        started = instant(self.store, None)
        try:
            if known is not None:
                runs.check_key(audience, retired=known.retired)
                runs.check_run(known, known.run, audience, None, self.moment)
            if not self.stale:
                return self._recorded(audience, started, lease), []
            failed = Failed("stale", SourceUnavailable.exit_code, f"{audience.key} is not computed: {self.stale}")
        except (OlderRun, Interrupted, LeaseLost, StateUnavailable):
            raise
        except SourceUnavailable as error:
            failed = Failed("unavailable" if retried else "failed", error.exit_code, str(error))
        except Exception as error:  # noqa: BLE001 - whatever one audience's database does, the others go on
            failed = Failed("failed", *_explained(audience, error))
        return runs.record_failure(self.store, audience, lease, status=failed.status, as_of=self.moment,
                                   started_at=started, error=failed.words), [(failed.code, failed.words)]

    def _recorded(self, audience: Audience, started: datetime, lease: Lease | None) -> Run:
        if self.unfit is not None:
            raise self.unfit
        check_used(audience, self.failed)
        result = self.source.read(audience, self.moment, interrupted=self.interrupted,
                                  given=given(self.store, audience))
        with stage(self.store, result.chunks) as held:
            return runs.record(self.store, held, audience, id_kind=result.id_kind, as_of=self.moment,
                               started_at=started, definition_hash=definition_hash(audience), lease=lease,
                               traits=result.traits, included=self.included)


@dataclass(frozen=True, slots=True)
class Failed:
    """How a run that changes nothing is remembered, and which exit code it asks for."""

    status: str
    code: int
    words: str


def compute(project: Project, store: Store, audiences: Iterable[Audience], *, as_of: datetime | None,
            interrupted: Callable[[], bool],
            watch: Callable[[int, int], None] = lambda _number, _total: None) -> tuple[list[Run], Errors]:
    """Run each audience that is not paused, behind those it uses; one that fails never stops others that use it not.

    `watch` is told how many are done, of how many. A signal ends it with what is done; raises StateUnavailable, which
    concerns them all. While everything is paused nothing is asked.
    """
    from audiencesync.source import open_source

    moment = instant(store, as_of)
    wanted = in_order(audiences)
    done: list[Run] = []
    errors: Errors = []
    if everything_paused(store, project.root):
        return [Run(audience.key, 0, moment, "paused") for audience in wanted], []
    with open_source(project.source) as source:
        computer: Computer | None = None
        for number, audience in enumerate(wanted):
            watch(number, len(wanted))
            try:
                computer = computer or Computer.at(project, store, source, moment, interrupted)
                run, failed = computer.run(audience)
                done.append(run)
                errors += [error for error in failed if error not in errors]
            except Interrupted as error:
                return done, [*errors, (error.exit_code, str(error))]
            except OlderRun as error:
                newest = runs.latest(store, [audience.key])[audience.key].run
                if as_of is None and newest is not None and newest.as_of <= instant(store, None):
                    done.append(newest)  # somebody else computed it while this process was on its way
                else:
                    errors.append((error.exit_code, str(error)))
                    assert computer is not None
                    computer.failed[audience.key] = error.exit_code
        watch(len(wanted), len(wanted))
    return done, errors


def _explained(audience: Audience, error: Exception) -> tuple[int, str]:
    """The exit code and the words for a failed run; of a foreign error only its kind, since it may quote data."""
    if isinstance(error, AudiencesyncError):
        return error.exit_code, str(error)
    return AudiencesyncError.exit_code, f"{audience.key}: a bug: {type(error).__name__}; please report it"

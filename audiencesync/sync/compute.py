"""Compute: ask the source for each audience as of one instant, and remember who entered and who exited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from audiencesync.errors import AudiencesyncError, Interrupted, OlderRun, StateUnavailable
from audiencesync.model import Audience, Project, Run
from audiencesync.store import runs
from audiencesync.store.connect import Store
from audiencesync.store.stage import stage

if TYPE_CHECKING:
    from audiencesync.source import Source

Errors = list[tuple[int, str]]


def definition_hash(audience: Audience) -> str:
    """A short hash of all that decides who is a member."""
    parts = (audience.sql, repr(audience.include), repr(sorted(audience.variables.items())))
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def instant(store: Store, as_of: datetime | None) -> datetime:
    """The instant all runs of one command share: the one asked for, or now, in whole milliseconds."""
    if as_of is None:
        with store.read() as connection:
            as_of = store.now(connection)
    return as_of.replace(microsecond=as_of.microsecond // 1000 * 1000)


def compute(project: Project, store: Store, audiences: Iterable[Audience], *, as_of: datetime | None,
            interrupted: Callable[[], bool],
            watch: Callable[[int, int], None] = lambda _number, _total: None) -> tuple[list[Run], Errors]:
    """Run each audience that is not paused; one that fails says so and never stops the others.

    `watch` is told how many are done, of how many. A signal ends it with what is done; raises StateUnavailable, which
    concerns them all.
    """
    from audiencesync.source import open_source

    moment = instant(store, as_of)
    wanted = list(audiences)
    known = runs.latest(store, [audience.key for audience in wanted])
    done: list[Run] = []
    errors: Errors = []
    with open_source(project.source) as source:
        for number, audience in enumerate(wanted):
            watch(number, len(wanted))
            try:
                done.append(_run(store, source, audience, moment, known.get(audience.key), interrupted))
            except StateUnavailable:
                raise
            except Interrupted as error:
                return done, [*errors, (error.exit_code, str(error))]
            except OlderRun as error:
                newest = runs.latest(store, [audience.key])[audience.key].run
                if as_of is None and newest is not None and newest.as_of <= instant(store, None):
                    done.append(newest)  # somebody else computed it while this process was on its way
                else:
                    errors.append((error.exit_code, str(error)))
            except Exception as error:  # noqa: BLE001 - whatever one audience's database does, the others go on
                code, words = _explained(audience, error)
                errors.append((code, words))
                done.append(runs.record_failure(store, audience, as_of=moment, started_at=instant(store, None),
                                                error=words))
        watch(len(wanted), len(wanted))
    return done, errors


def _explained(audience: Audience, error: Exception) -> tuple[int, str]:
    """The exit code and the words for a failed run; of a foreign error only its kind, since it may quote data."""
    if isinstance(error, AudiencesyncError):
        return error.exit_code, str(error)
    return AudiencesyncError.exit_code, f"{audience.key}: a bug: {type(error).__name__}; please report it"


def _run(store: Store, source: Source, audience: Audience, moment: datetime, before: runs.Due | None,
         interrupted: Callable[[], bool]) -> Run:
    if before is not None and before.paused:
        return Run(audience.key, before.run.number if before.run else 0, moment, "paused")
    started = instant(store, None)
    if before is not None:
        runs.check_run(before, before.run, audience, None, moment)
    result = source.read(audience, moment, interrupted=interrupted)
    with stage(store, result.chunks) as held:
        return runs.record(store, held, audience, id_kind=result.id_kind, as_of=moment, started_at=started,
                           definition_hash=definition_hash(audience))

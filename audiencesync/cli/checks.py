"""What `doctor` looks at: the program, the project, the state, the source, each destination."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from audiencesync import __version__
from audiencesync.cli.context import Session, state_exists
from audiencesync.errors import AccountRefused, AudiencesyncError, CallsRefused, DeliveryError
from audiencesync.model import Destination
from audiencesync.report import counted

if TYPE_CHECKING:
    from audiencesync.model import Audience
    from audiencesync.store.connect import Store

MEND, TRY_LATER = 2, 75

REFUSED = (AccountRefused, CallsRefused)
"""What does not pass by itself: somebody has to mend the project, or the destination."""


class Check(NamedTuple):
    """One thing looked at: ok, warn or fail, and the exit code it asks for."""

    status: str
    name: str
    words: str
    code: int = 0


def examine(session: Session, *, fix: bool = False) -> list[Check]:
    """Look at everything, one thing after another; what fails never hides the rest.

    With `fix` the fields that destinations need are declared there.
    """
    checks = [Check("ok", "program", f"audiencesync {__version__}, Python {platform.python_version()}")]
    found = _guarded("project", partial(_project, session))
    checks += found
    if any(check.status == "fail" for check in found):
        return checks
    found = _guarded("state", partial(_state, session))
    checks += found + _guarded("source", partial(_source, session))
    sound = all(check.status != "fail" for check in found)
    for name, destination in session.project.destinations.items():
        checks += _guarded(name, partial(_destination, session, name, destination, fix=fix, sound=sound))
    return checks


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    checks: list[Check] = []
    try:
        checks.extend(look())
    except DeliveryError as error:
        checks.append(Check("fail", name, str(error), MEND if isinstance(error, REFUSED) else TRY_LATER))
    except AudiencesyncError as error:
        checks.append(Check("fail", name, str(error), error.exit_code))
    return checks


def _lines(name: str, lines: Iterator[str]) -> Iterator[Check]:
    for line in lines:
        warned = line.startswith("warning:")
        yield Check("warn" if warned else "ok", name, line.removeprefix("warning:").strip())


def _project(session: Session) -> Iterator[Check]:
    project = session.project
    yield Check("ok", "project", f"{project.root / 'audiencesync.yml'}: {counted(len(project.audiences), 'audience')}, "
                                 f"{counted(len(project.destinations), 'destination')}")
    for warning in project.warnings:
        yield Check("warn", "project", warning)


def _state(session: Session) -> Iterator[Check]:
    from audiencesync.store import doctor, migrate
    from audiencesync.store.connect import Store
    from audiencesync.sync.standing import overview

    if not state_exists(session.project.state):
        yield _no_state(session, "there is none yet; the first sync makes it")
        return
    store = Store.open(session.project.state, create=False)
    try:
        found = migrate.check(store)
        if found == "empty" and session.project.state_must_exist:
            yield _no_state(session)
        elif found == "behind":
            yield Check("warn", "state", "written by an older version; the next sync migrates it, or: "
                                         "audiencesync db upgrade")
        else:
            yield Check("ok", "state", f"{store.engine.dialect.name}, "
                        + ("empty; the first sync makes its tables" if found == "empty" else
                           f"at revision {migrate.known()[-1]}"))
        yield from _lines("state", doctor.look(store))
        if found == "ready" and (waits := overview(session.project, store).troubles):
            yield Check("warn", "state", f"{counted(len(waits), 'thing')} to look at; see: audiencesync status")
        with store.read() as connection:
            skew = abs(store.now(connection) - datetime.now(UTC))
        if skew > timedelta(seconds=5):
            yield Check("warn", "clock", f"the state's clock and this host's are {skew.total_seconds():.0f} s apart; "
                                         "leases and settle times count by the state's")
    finally:
        store.close()


def _no_state(session: Session, words: str = "") -> Check:
    if session.project.state_must_exist:
        return Check("fail", "state", "there is none, and state_must_exist forbids to begin one: is its disk mounted? "
                                      "The very first one is made by: audiencesync db upgrade", TRY_LATER)
    return Check("ok", "state", words)


def _source(session: Session) -> Iterator[Check]:
    from audiencesync.source import open_source

    with open_source(session.project.source) as source:
        yield from _lines("source", source.check())


def _destination(session: Session, name: str, destination: Destination, *, fix: bool, sound: bool) -> Iterator[Check]:
    """Whether it is reached, its fields, and its initial syncs; a state that is not `sound` tells nothing of these."""
    usual = type(destination).model_fields["settle"].default
    if not destination.settle and usual:
        yield Check("warn", name, "settle is 0s: a request that was not answered may arrive late, over a newer value")
    audiences = [audience for audience in session.project.audiences if name in audience.destinations]
    with _standing(session, sound=sound) as (store, known):
        yield from _asked(store, name, destination, audiences, fix=fix)
        if known:
            yield from _initial_syncs(session, store, name, audiences)


def _asked(store: Store | None, name: str, destination: Destination, audiences: Sequence[Audience], *,
           fix: bool) -> Iterator[Check]:
    """What the destination itself says, in its turn beside its syncs; where it cannot be its turn it is not asked."""
    from audiencesync.sync.asking import NotNow
    from audiencesync.sync.preflight import declare, reach, turns_at

    try:
        with turns_at(store, name, destination) as turns:
            yield from _lines(name, reach(turns, destination))
            for field in declare(store, turns, name, destination, audiences, fix=fix):
                words = f"{field.name}: {field.words}"
                if field.status == "wrong" or (field.status == "missing" and fix):
                    yield Check("fail", name, words, MEND)
                else:
                    yield Check("warn" if field.status == "missing" else "ok", name, words)
    except NotNow as error:
        yield Check("warn", name, f"not asked now: {error}")


def _initial_syncs(session: Session, store: Store | None, name: str, audiences: Sequence[Audience]) -> Iterator[Check]:
    from audiencesync.report.words import lasting
    from audiencesync.sync.preflight import initial_syncs

    before = {"new": "not run yet: for each ", "begun": "begun, with another ", "ready": ""}
    for one in initial_syncs(session.project, store, name, audiences):
        time = "as long as it takes to answer" if one.seconds is None else f"{lasting(one.seconds)} at {one.limits}"
        who = f"the initial sync of {one.key} ({before[one.known]}{counted(one.members, 'member')}) takes" \
            if one.key else "these initial syncs together take"
        yield Check("ok", name, f"{who} {counted(one.requests, 'request')}, {time}")


@contextmanager
def _standing(session: Session, *, sound: bool) -> Iterator[tuple[Store | None, bool]]:
    """The state that this version understands, None where there is none; and whether it is known what was told."""
    from audiencesync.store import migrate
    from audiencesync.store.connect import Store

    if not sound or not state_exists(session.project.state):
        yield None, sound
        return
    store = Store.open(session.project.state, create=False)
    try:
        found = migrate.check(store)
        yield (store if found == "ready" else None), found != "behind"
    finally:
        store.close()

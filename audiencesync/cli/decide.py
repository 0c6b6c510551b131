"""What a person decides of a change that is held, of an account, and of an audience's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session
from audiencesync.cli.subjects import resume_destination, subject_of, who
from audiencesync.errors import UsageError

if TYPE_CHECKING:
    from audiencesync.store.connect import Store
    from audiencesync.store.leases import Lease
    from audiencesync.store.runs import Due
    from audiencesync.sync.brakes import Hold

RUN = click.option("--run", "number", type=click.IntRange(1), default=None, metavar="N",
                   help="Only if the change held now is the one up to this run.")


@click.command()
@click.argument("name", metavar="KEY|DESTINATION")
@options.destination("Approve it for this destination only.")
@RUN
@options.accounts
@options.reason()
@options.wait()
@options.output()
@click.pass_obj
def approve(session: Session, name: str, destinations: Sequence[str], number: int | None, account: str | None,
            reason: str, wait: float) -> None:
    """Allow a change that is held, exactly as it is now; or say whose account a destination is.

    The approval is of the counts shown and of the run they were counted for: whatever comes later is judged anew.
    """
    from audiencesync.store.decisions import APPROVED

    with session.writing() as store:
        subject = subject_of(session, store, name)
        if subject.kind == "destination":
            if account is None:
                raise UsageError(f"{subject.name} is a destination: say --same-account or --new-account; of a change "
                                 f"that is held say which audience: audiencesync approve KEY "
                                 f"--destination {subject.name}")
            words = resume_destination(session, store, subject.name, account, wait, reason=reason, verb="approve")
            session.say({"kind": "destination", "name": subject.name, "message": words}, words)
            return
        if account is not None:
            raise UsageError(f"{subject.name} is an audience; --{account}-account is for a destination")
        _decide(session, store, subject.name, destinations, number, APPROVED, reason)


@click.command()
@click.argument("name", metavar="KEY")
@options.destination("Discard it for this destination only.")
@RUN
@options.reason()
@options.output()
@click.pass_obj
def discard(session: Session, name: str, destinations: Sequence[str], number: int | None, reason: str) -> None:
    """Send nothing of a change that is held, and ask nobody again, until a newer run is harmless.

    Nothing is moved or lost: destinations keep what they know, and are brought up to date by that newer run.
    """
    from audiencesync.store.decisions import DISCARDED

    with session.writing() as store:
        subject = subject_of(session, store, name)
        if subject.kind == "destination":
            raise UsageError(f"{subject.name} is a destination; say which audience's change is meant")
        _decide(session, store, subject.name, destinations, number, DISCARDED, reason)


def _decide(session: Session, store: Store, key: str, names: Sequence[str], number: int | None, verdict: str,
            reason: str) -> None:
    from audiencesync.store import runs
    from audiencesync.store.decisions import Act, Decision, decide
    from audiencesync.sync.standing import overview

    verb = "approve" if verdict == "approved" else "discard"
    wanted = session.destinations(names)
    seen = overview(session.project, store, counted=False)
    held = {name: hold for (of, name), hold in seen.holds.items() if of == key and name in wanted}
    if not held:
        where = f" at {', '.join(names)}" if names else ""
        raise UsageError(f"nothing of {key} is held{where} now; audiencesync status shows what is")
    identity = runs.latest(store, [key])[key].computation_id
    stands = {one.destination: one.position for one in seen.standings if one.key == key}
    held = {name: _shown(store, identity, key, name, hold, stands[name], number, verb) for name, hold in held.items()}
    act = Act(who(), " ".join([verb, key, *(f"--destination {name}" for name in held),
                               f"--run {next(iter(held.values())).to_run}"]), reason)
    decide(store, key, [(name, identity, Decision(hold.to_run, hold.net.entered, hold.net.exited, verdict))
                        for name, hold in held.items()], act)
    then = ("sent by the next: audiencesync sync" if verb == "approve" else
            "not sent; a newer run that is harmless goes on by itself")
    words = "\n".join(f"{key} at {name}: +{hold.net.entered:,} -{hold.net.exited:,} up to run {hold.to_run} "
                      f"{verdict}: {then}" for name, hold in held.items())
    session.say({"key": key, "verdict": verdict, "message": words, "decisions": [
        {"destination": name, "run": hold.to_run, "entered": hold.net.entered, "exited": hold.net.exited}
        for name, hold in held.items()]}, words)


def _shown(store: Store, identity: int, key: str, name: str, hold: Hold, position: int, number: int | None,
           verb: str) -> Hold:
    """The change as it was shown: up to the run that is named, though newer ones have come since."""
    from audiencesync.store.decisions import members_at
    from audiencesync.sync import brakes

    if number is None or number == hold.to_run:
        return hold
    if position < number < hold.to_run:
        before = members_at(store, identity, position)
        return replace(hold, to_run=number, net=brakes.Net(*brakes.net(store, identity, position, number), before))
    raise UsageError(f"{key} at {name}: what is held now is up to run {hold.to_run}, not {number}: {hold.why}; "
                     f"if that is meant: audiencesync {verb} {key} --destination {name} --run {hold.to_run}")


@click.command()
@click.argument("key", metavar="KEY")
@click.option("--clear", is_flag=True, help="Tell everybody who has it that it is over.")
@options.destination("Retire it at this destination only.")
@options.reason()
@options.wait()
@options.output()
@click.pass_obj
def retire(session: Session, key: str, clear: bool, destinations: Sequence[str], reason: str, wait: float) -> None:
    """Stop an audience or trait for ever, everywhere or at one destination; its key stays taken.

    Without --clear destinations keep what they were told. With it the next sync tells every member there `false`, of a
    trait everybody who has a value `null`; this command is the approval of that.
    """
    from audiencesync.store import runs

    with session.writing() as store:
        known = runs.latest(store, [key]).get(key)
        if known is None or known.run is None:
            if subject_of(session, store, key).kind == "destination":
                raise UsageError(f"{key} is a destination; say which audience: audiencesync retire KEY "
                                 f"--destination {key}")
            raise UsageError(f"{key} was never run, so nobody was told of it: delete its file, and it is gone")
        words = _retired(session, store, known, destinations, reason, wait, clear=clear)
    session.say({"key": key, "cleared": clear, "destinations": list(destinations), "message": words}, words)


def _retired(session: Session, store: Store, known: Due, names: Sequence[str], reason: str, wait: float, *,
             clear: bool) -> str:
    from audiencesync.cli.subjects import lease_of
    from audiencesync.store import leases
    from audiencesync.store.decisions import Act, retire, told_at

    key, told = known.key, told_at(store, known.computation_id)
    if names and (unknown := set(names) - set(told) - set(session.project.destinations)):
        raise UsageError(f"{key} was never told to {', '.join(sorted(unknown))}, and there is no such destination")
    where = list(names) if names else list(told)
    act = Act(who(), " ".join(["retire", key, *(["--clear"] if clear else []),
                               *(f"--destination {name}" for name in names)]), reason)
    lease = lease_of(store, f"computation:{key}", wait)  # nobody computes it between its last run and its end
    try:
        if clear and not names:
            _empty(store, known, lease)
        retire(store, known.computation_id, key, act, names=where if names or clear else (), clear=clear,
               whole=not names)
    finally:
        leases.release(store, lease)
    path = next((audience.path for audience in session.project.audiences if audience.key == key), None)
    at = f"at {', '.join(where) or 'no destination'}"
    lines = [f"{key} is retired" + (f" {at}" if names else " for ever, and its key stays taken")]
    lines.append(f"the next audiencesync sync tells everybody {at} that it is over" if clear else
                 f"destinations keep what they were told; audiencesync retire {key} --clear tells all that it is over")
    if path is not None and not names:
        lines.append(f"delete {path}, which is not run any more")
    users = [audience for audience in session.project.audiences if key in audience.uses and not names]
    lines += [f"{user.path} uses it, and fails from now on: take {key} out of its uses: and its SQL" for user in users]
    return "\n".join(lines)


def _empty(store: Store, known: Due, lease: Lease) -> None:
    """The last run, in which nobody is: from then on the state itself says that everybody left."""
    from audiencesync.model import Audience
    from audiencesync.store import runs
    from audiencesync.store.stage import stage
    from audiencesync.sync.compute import instant

    if known.run is None or known.retired or not known.run.members:
        return
    moment = max(instant(store, None), known.run.as_of)
    with stage(store, ()) as held:
        runs.record(store, held, Audience(known.key, known.key, "", Path(known.key), kind=known.kind), lease=lease,
                    id_kind=str(known.id_kind), as_of=moment, started_at=moment, definition_hash="retired")

"""What a person decides, and the state remembers with his name: pause, resume."""

from __future__ import annotations

import getpass
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session, meant
from audiencesync.errors import LeaseHeld, UsageError

if TYPE_CHECKING:
    from audiencesync.store.connect import Store
    from audiencesync.store.leases import Lease


class _Subject(NamedTuple):
    """What a name means: an audience or a destination."""

    kind: str
    name: str


def who() -> str:
    """The person at work, as the state remembers him."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _subject(session: Session, store: Store, written: str) -> _Subject:
    from audiencesync.store.views import doors, known

    audiences = {*(audience.key for audience in session.project.audiences), *(one.key for one in known(store))}
    destinations = {*session.project.destinations, *doors(store)[0]}
    found = [_Subject(kind, name) for kind, names in (("audience", audiences), ("destination", destinations))
             for name in (written, written.removeprefix(f"{kind}:")) if name in names]
    found = list(dict.fromkeys(found))
    if not found:
        raise UsageError(f"there is no audience and no destination {written!r}"
                         f"{meant(written, sorted({*audiences, *destinations}))}")
    if len(found) > 1:
        raise UsageError(f"{written!r} is an audience and a destination; say audience:{written} or "
                         f"destination:{written}")
    return found[0]


def _under_way(store: Store, name: str) -> str:
    from audiencesync.store.views import doors

    door = doors(store)[0].get(name)
    if door is None or door.busy_until is None:
        return ""
    return "\na process is at work there now; it stops before its next page"


def _answer(session: Session, subject: _Subject, words: str, *, paused: bool) -> None:
    session.say({"kind": subject.kind, "name": subject.name, "paused": paused, "message": words}, words)


@click.command()
@click.argument("name", metavar="KEY|DESTINATION")
@click.option("--reason", default="", metavar="WORDS", help="Why, for those who look later.")
@options.output()
@click.pass_obj
def pause(session: Session, name: str, reason: str) -> None:
    """Stop an audience or a destination until it is resumed; everything is kept.

    Where a name is both, write audience:NAME or destination:NAME.
    """
    from audiencesync.store import accounts

    with session.writing() as store:
        subject = _subject(session, store, name)
        if subject.kind == "destination":
            accounts.pause_destination(store, subject.name, reason=reason, who=who())
            words = (f"no sync to {subject.name} begins any more; audiences are still computed, and what changes is "
                     f"told after: audiencesync resume {name}{_under_way(store, subject.name)}")
        else:
            accounts.pause_computation(store, subject.name, kind="audience", reason=reason, who=who())
            words = (f"{subject.name} is not computed and not told any more; destinations keep what they know until: "
                     f"audiencesync resume {name}")
    _answer(session, subject, words, paused=True)


@click.command()
@click.argument("name", metavar="KEY|DESTINATION")
@click.option("--same-account", "account", flag_value="same", help="The key was renewed; go on where it stood.")
@click.option("--new-account", "account", flag_value="new", help="The account is another: tell it everything anew.")
@options.wait()
@options.output()
@click.pass_obj
def resume(session: Session, name: str, account: str | None, wait: float) -> None:
    """Let a paused audience or destination go on."""
    with session.writing() as store:
        subject = _subject(session, store, name)
        if subject.kind == "destination":
            words = _resume_destination(session, store, subject.name, account, wait)
        elif account is not None:
            raise UsageError(f"{subject.name} is an audience; --{account}-account is for a destination")
        else:
            from audiencesync.store import accounts

            accounts.resume_computation(store, subject.name, who=who(), reason="")
            words = f"{subject.name} is computed and told again by the next: audiencesync sync"
    _answer(session, subject, words, paused=False)


def _resume_destination(session: Session, store: Store, name: str, account: str | None, wait: float) -> str:
    from audiencesync.store import accounts, leases

    settings = session.project.destinations.get(name)
    fingerprint = settings.fingerprint() if settings else None
    known, _ = accounts.account(store, name)
    if account == "new":
        lease = _lease(store, name, wait)
        try:
            given_up = accounts.new_account(store, lease, name, fingerprint=fingerprint, who=who())
        finally:
            leases.release(store, lease)
        also = f"; {given_up} unfinished syncs to the former account were given up" if given_up else ""
        return f"{name} is told every member anew, by the next: audiencesync sync{also}"
    if account == "same":
        accounts.resume_destination(store, name, who=who(), reason="same account", fingerprint=fingerprint)
    elif settings is not None and known.fingerprint not in (None, fingerprint):
        raise UsageError(f"the account of {name} is another than the one told so far; say --same-account when the key "
                         "was renewed, or --new-account to tell it everything anew")
    else:
        accounts.resume_destination(store, name, who=who(), reason="")
    return f"{name} is told again, from where it stood, by the next: audiencesync sync"


def _lease(store: Store, name: str, wait: float) -> Lease:
    """The lease under which nobody else sends; waits for whoever has it, or raises LeaseHeld."""
    from audiencesync.store import leases

    until = time.monotonic() + wait
    while True:
        try:
            return leases.acquire(store, f"destination:{name}", holder=leases.this_process())
        except LeaseHeld:
            if time.monotonic() >= until:
                raise
            time.sleep(0.2)

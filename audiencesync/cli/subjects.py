"""What the names in a command mean, who typed it, and the one way to say whose account a destination is."""

from __future__ import annotations

import getpass
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from audiencesync.cli.context import Session, meant
from audiencesync.errors import LeaseHeld, UsageError

if TYPE_CHECKING:
    from audiencesync.store.connect import Store
    from audiencesync.store.leases import Lease


class Subject(NamedTuple):
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


def subject_of(session: Session, store: Store, written: str) -> Subject:
    """The audience or the destination that a name means; raises UsageError for one that means none, or both."""
    from audiencesync.store.views import doors, known

    audiences = {*(audience.key for audience in session.project.audiences), *(one.key for one in known(store))}
    destinations = {*session.project.destinations, *doors(store)[0]}
    found = [Subject(kind, name) for kind, names in (("audience", audiences), ("destination", destinations))
             for name in (written, written.removeprefix(f"{kind}:")) if name in names]
    found = list(dict.fromkeys(found))
    if not found:
        raise UsageError(f"there is no audience and no destination {written!r}"
                         f"{meant(written, sorted({*audiences, *destinations}))}")
    if len(found) > 1:
        raise UsageError(f"{written!r} is an audience and a destination; say audience:{written} or "
                         f"destination:{written}")
    return found[0]


def resume_destination(session: Session, store: Store, name: str, account: str | None, wait: float, *, reason: str,
                       verb: str = "resume") -> str:
    """Let a destination be told again, as the same account or as a new one; what is to be said of it.

    Only `resume` lifts the pause of a person; to `approve` an account is no word on that.
    """
    from audiencesync.store import accounts, leases

    settings = session.project.destinations.get(name)
    fingerprint = settings.fingerprint() if settings else None
    known, _ = accounts.account(store, name)
    if account == "new":
        lease = lease_of(store, f"destination:{name}", wait)
        try:
            given_up = accounts.new_account(store, lease, name, fingerprint=fingerprint, who=who(), reason=reason,
                                            lifts=verb == "resume")
        finally:
            leases.release(store, lease)
        also = f"; {given_up} unfinished syncs to the former account were given up" if given_up else ""
        return f"{name} is told every member anew, by the next: audiencesync sync{also}"
    if account == "same":
        accounts.resume_destination(store, name, who=who(), reason=reason or "same account",
                                    command=verb if verb == "resume" else f"{verb} {name} --same-account",
                                    lifts=verb == "resume", fingerprint=fingerprint)
    elif settings is not None and known.fingerprint not in (None, fingerprint):
        raise UsageError(f"the account of {name} is another than the one told so far; say --same-account when the key "
                         "was renewed, or --new-account to tell it everything anew")
    else:
        accounts.resume_destination(store, name, who=who(), reason=reason)
    return f"{name} is told again, from where it stood, by the next: audiencesync sync"


def lease_of(store: Store, name: str, wait: float) -> Lease:
    """The lease under which nobody else sends; waits for whoever has it, or raises LeaseHeld."""
    from audiencesync.store import leases

    until = time.monotonic() + wait
    while True:
        try:
            return leases.acquire(store, name, holder=leases.this_process())
        except LeaseHeld:
            if time.monotonic() >= until:
                raise
            time.sleep(0.2)

"""Why nothing may be sent now: a pause of everything, of one destination, another account, a wait it asked for."""

from __future__ import annotations

from pathlib import Path

from audiencesync.model import Destination, Outcome
from audiencesync.store import accounts
from audiencesync.store.connect import Store

STOP_FILE = "audiencesync.stop"
"""While a file of this name lies beside audiencesync.yml everything is paused, also when the state is away."""

RESUME_ALL = "audiencesync resume --all"
ACCOUNT = ("the account is another than the one told so far: the same with a renewed key, or a new one that is to be "
           "told everything anew?")


def stop_file(root: Path) -> str:
    """Why everything is paused by the file in the project's folder; empty where there is none."""
    try:
        text = (root / STOP_FILE).read_text(encoding="utf-8", errors="replace")[:200]
    except FileNotFoundError:
        return ""
    except OSError:
        text = ""
    return f"everything is paused by the file {STOP_FILE}" + (f": {text.strip()}" if text.strip() else "")


def everything_paused(store: Store, root: Path) -> str:
    """Why nothing is computed and nothing sent, by the file or by the state; empty where nothing of that kind is so."""
    if why := stop_file(root):
        return why
    known, _ = accounts.account(store, accounts.EVERYTHING)
    return paused_by_all(known.pause_reason) if known.by_all else ""


def paused_by_all(reason: str | None) -> str:
    """How a pause of everything is told."""
    return "everything is paused" + (f": {reason}" if reason else "")


def account_help(name: str) -> str:
    """The command that says whose account it is."""
    return f"audiencesync approve {name} --same-account  or  audiencesync approve {name} --new-account"


def blocked_account(store: Store, root: Path, name: str, destination: Destination) -> Outcome | None:
    """Why nothing may be sent to the destination now, or None."""
    if why := stop_file(root):
        return Outcome(name, "", "paused", reason=why, help=RESUME_ALL)
    known, now = accounts.account(store, name)
    fingerprint = destination.fingerprint()
    if known.by_all:
        return Outcome(name, "", "paused", reason=paused_by_all(known.pause_reason), help=RESUME_ALL)
    if known.paused_at is not None:
        return Outcome(name, "", "paused", reason=known.pause_reason or "paused", help=f"audiencesync resume {name}")
    if known.fingerprint is not None and fingerprint != known.fingerprint:
        return Outcome(name, "", "held", reason=ACCOUNT, help=account_help(name))
    if known.retry_at is not None and known.retry_at > now:
        return Outcome(name, "", "waiting", reason=known.retry_reason or "asked to come back later",
                       until=known.retry_at, help="run the same command after that")
    return None

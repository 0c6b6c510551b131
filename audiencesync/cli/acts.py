"""What a person decides, and the state remembers with his name: pause and resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session
from audiencesync.cli.subjects import Subject, resume_destination, subject_of, who
from audiencesync.errors import ProjectError, StateUnavailable, UsageError

if TYPE_CHECKING:
    from audiencesync.store.connect import Store

EVERYTHING = Subject("everything", "everything")


def _under_way(store: Store, name: str) -> str:
    from audiencesync.store.views import doors

    door = doors(store)[0].get(name)
    if door is None or door.busy_until is None:
        return ""
    return "\na process is at work there now; it stops before its next page"


def _answer(session: Session, subject: Subject, words: str, *, paused: bool) -> None:
    session.say({"kind": subject.kind, "name": subject.name, "paused": paused, "message": words}, words)


def _meant(name: str | None, *, everything: bool) -> str | None:
    """The name; None for everything."""
    if everything == (name is not None):
        raise click.UsageError("name an audience or a destination, or write --all for everything")
    return name


@click.command()
@click.argument("name", metavar="[KEY|DESTINATION]", required=False)
@click.option("--all", "everything", is_flag=True, help="Everything: nothing is computed, nothing is sent.")
@options.reason()
@options.output()
@click.pass_obj
def pause(session: Session, name: str | None, everything: bool, reason: str) -> None:
    """Stop an audience or a destination until it is resumed; everything is kept.

    Where a name is both, write audience:NAME or destination:NAME. With --all everything stops; while the state is away
    a file does it: audiencesync.stop beside audiencesync.yml.
    """
    from audiencesync.store import accounts

    if (wanted := _meant(name, everything=everything)) is None:
        _answer(session, EVERYTHING, _pause_everything(session, reason), paused=True)
        return
    with session.writing() as store:
        subject = subject_of(session, store, wanted)
        if subject.kind == "destination":
            accounts.pause_destination(store, subject.name, reason=reason, who=who())
            words = (f"no sync to {subject.name} begins any more; audiences are still computed, and what changes is "
                     f"told after: audiencesync resume {name}{_under_way(store, subject.name)}")
        else:
            accounts.pause_computation(store, subject.name, kind="audience", reason=reason, who=who())
            words = (f"{subject.name} is not computed and not told any more; destinations keep what they know until: "
                     f"audiencesync resume {name}")
    _answer(session, subject, words, paused=True)


def _pause_everything(session: Session, reason: str) -> str:
    from audiencesync.project.files import FILE
    from audiencesync.store import accounts
    from audiencesync.sync.blocked import RESUME_ALL

    try:
        with session.writing() as store:
            accounts.pause_destination(store, accounts.EVERYTHING, reason=reason, who=who())
    except (StateUnavailable, UsageError) as error:
        path = _stop_file(session)
        if not (session.directory / FILE).exists():
            raise
        try:
            path.write_text(f"{reason or 'no reason given'} ({who()})\n", encoding="utf-8")
        except OSError as denied:
            raise UsageError(f"the state cannot be used, and {path} cannot be written: {denied.strerror}") from error
        what = "the project's files" if isinstance(error, ProjectError) else "the state"
        return (f"{what} cannot be used now, so the file {path} pauses everything that runs from this folder: "
                f"nothing is computed and nothing is sent until: {RESUME_ALL}")
    return f"nothing is computed and nothing is sent any more, anywhere, until: {RESUME_ALL}"


def _resume_everything(session: Session, reason: str) -> None:
    from audiencesync.store import accounts

    path = _stop_file(session)
    stopped = path.exists()
    path.unlink(missing_ok=True)
    try:
        with session.writing() as store:
            accounts.resume_destination(store, accounts.EVERYTHING, who=who(), reason=reason)
    except (StateUnavailable, UsageError):
        if stopped:
            click.echo(f"the file {path} is gone and pauses nothing any more; whether the state does cannot be known "
                       "now", err=True)
        raise


def _stop_file(session: Session) -> Path:
    from audiencesync.sync.blocked import STOP_FILE

    return session.directory / STOP_FILE


@click.command()
@click.argument("name", metavar="[KEY|DESTINATION]", required=False)
@click.option("--all", "everything", is_flag=True, help="Everything; what was paused by its own name stays so.")
@options.accounts
@options.reason()
@options.wait()
@options.output()
@click.pass_obj
def resume(session: Session, name: str | None, everything: bool, account: str | None, reason: str,
           wait: float) -> None:
    """Let a paused audience or destination go on."""
    from audiencesync.store import accounts

    if (wanted := _meant(name, everything=everything)) is None:
        _resume_everything(session, reason)
        _answer(session, EVERYTHING, "everything goes on; what was paused by its own name stays so", paused=False)
        return
    with session.writing() as store:
        subject = subject_of(session, store, wanted)
        if subject.kind == "destination":
            words = resume_destination(session, store, subject.name, account, wait, reason=reason)
        elif account is not None:
            raise UsageError(f"{subject.name} is an audience; --{account}-account is for a destination")
        else:
            accounts.resume_computation(store, subject.name, who=who(), reason=reason)
            words = f"{subject.name} is computed and told again by the next: audiencesync sync"
    _answer(session, subject, words, paused=False)

"""What is said of an error, in text and in JSON, and with which exit code a command ends."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import NoReturn

import click

from audiencesync.cli.context import Session
from audiencesync.errors import AudiencesyncError, ProjectError

INTERRUPTED, BUG = 75, 70


def explain(error: BaseException, session: Session | None) -> NoReturn:
    """Say what went wrong, once, and end; with `-o json` stdout still gets its one document."""
    if isinstance(error, click.ClickException):
        _document(session, error.exit_code, error.format_message())
        raise error
    code, message = _words(error)
    if code == BUG and os.environ.get("AUDIENCESYNC_DEBUG") == "1":
        traceback.print_exception(error)
    click.echo(message if isinstance(error, ProjectError) else f"error: {message}", err=True)
    _document(session, code, message)
    raise click.exceptions.Exit(code)


def _document(session: Session | None, code: int, message: str) -> None:
    if session is not None and session.output == "json" and not session.answered:
        session.say({**session.empty, "errors": [{"exit_code": code, "message": message}], "exit_code": code})


def _words(error: BaseException) -> tuple[int, str]:
    if isinstance(error, AudiencesyncError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "asked to end (SIGINT)"
    # the error's own words may hold somebody's data, so only its kind and its place are told
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "audiencesync" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return BUG, (f"this is a bug: {type(error).__name__} in {place}; nothing is lost, the same command goes on where "
                 "this one stopped. AUDIENCESYNC_DEBUG=1 shows more, for a report")

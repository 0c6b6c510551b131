"""Two hours at a time: the same sync that the command runs, called in this process to save its start-up each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from audiencesync.demo.truth import Truth
from audiencesync.errors import AudiencesyncError
from audiencesync.model import Project, Report


def open_project(directory: Path, environment: Mapping[str, str]) -> Project:
    """The project as the command reads it."""
    from audiencesync.destinations import registry
    from audiencesync.project import load

    return load(directory, registry=registry(), environment=environment)


def move(project: Project, moments: list[datetime], truth: Truth, echo: Callable[[str], None]) -> None:
    """Sync as of each moment and print a row for it; AudiencesyncError when one does not go through."""
    from audiencesync.store.connect import Store
    from audiencesync.sync import Request, sync

    keys = [audience.key for audience in project.audiences]
    widths = [max(len(key), 11) for key in keys]
    names = [f"{key:>{width}}" for key, width in zip(keys, widths, strict=True)]
    echo("   " + "  ".join([f"{'as of (UTC)':16}", *names, "calls"]))
    store = Store.open(project.state)
    try:
        for moment in moments:
            truth.look(moment)
            report = sync(project, store, Request(project.audiences, ["segment"], as_of=moment))
            _check(report)
            changes = {run.key: f"+{run.entered} -{run.exited}" for run in report.runs}
            cells = [f"{changes[key]:>{width}}" for key, width in zip(keys, widths, strict=True)]
            sent = sum(outcome.sent for outcome in report.syncs)
            echo("   " + "  ".join([f"{moment:%Y-%m-%d %H:%M}", *cells, f"{sent:>5}"]))
    finally:
        store.close()


def _check(report: Report) -> None:
    wrong = [message for _, message in report.errors]
    wrong += [f"{outcome.destination}: {outcome.reason}" for outcome in report.syncs if outcome.status != "done"]
    if wrong:
        raise AudiencesyncError(f"the demo's own sync did not go through: {'; '.join(wrong)}")

"""The commands that compute and tell: plan, sync, backfill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session

if TYPE_CHECKING:
    from audiencesync.model import Audience, Project, Report
    from audiencesync.store.connect import Store
    from audiencesync.sync import Request

    Work = Callable[[Project, Store, Request], Report]


@click.command()
@options.selection()
@options.destination("Tell this destination only.")
@options.as_of("Compute as of this instant in place of now.")
@click.option("--due", is_flag=True, help="Compute only what the schedules say is due, for cron, Airflow, Kubernetes.")
@options.max_duration()
@options.wait()
@options.allow()
@options.output(runs=[], syncs=[], rejected=0)
@click.pass_obj
def sync(session: Session, patterns: Sequence[str], destinations: Sequence[str], as_of: datetime | None, due: bool,
         max_duration: float | None, wait: float, allow: frozenset[str]) -> None:
    """Compute everything selected now, and tell each destination what changed.

    SELECT is a key, a glob, tag:x, destination:x or kind:audience; everything unless given. The first sync tells a
    destination every member, later ones only who entered or exited. One that was stopped goes on where it was.
    """
    from audiencesync import sync as story

    if due and as_of is not None:
        raise click.UsageError("--due computes as of the slots of the schedules; leave --as-of out")
    _deliver(session, story.due if due else story.sync, patterns, destinations, as_of=as_of, wait=wait, allow=allow,
             due=due, limit=max_duration)


@click.command()
@options.selection(required=True)
@options.destination("Tell this destination only.")
@options.wait()
@options.allow()
@options.output(runs=[], syncs=[], rejected=0)
@click.pass_obj
def backfill(session: Session, patterns: Sequence[str], destinations: Sequence[str], wait: float,
             allow: frozenset[str]) -> None:
    """Send everybody again, as of what each destination was last told.

    Members are told true, former members false. A second call while one is unfinished goes on with it.
    """
    from audiencesync.sync import backfill as work

    _deliver(session, work, patterns, destinations, as_of=None, wait=wait, allow=allow)


@click.command()
@options.selection()
@options.destination("Plan for this destination only.")
@options.as_of("Plan as of this instant in place of now.")
@options.output("markdown", audiences=[], syncs=[], destinations=[])
@click.pass_obj
def plan(session: Session, patterns: Sequence[str], destinations: Sequence[str], as_of: datetime | None) -> None:
    """Show exactly what sync would send, without writing or sending anything.

    Who enters and exits, the calls, users and requests for each destination, and the minutes they take at its rate.
    """
    from audiencesync import report as reports
    from audiencesync.cli.signals import interruptible
    from audiencesync.cli.warned import warned
    from audiencesync.sync.plan import plan as work

    chosen, wanted = _chosen(session, patterns, destinations)
    with interruptible() as interrupted, session.reading() as store, warned():
        found = work(session.project, store, chosen, wanted, as_of=as_of, interrupted=lambda: bool(interrupted()),
                     farewells=not patterns)
    for _, message in found.errors:
        click.echo(f"error: {message}", err=True)
    draw = reports.plan_markdown if session.output == "markdown" else reports.plan_text
    session.say(reports.plan_document(found), draw(found, session.zone))
    session.end(reports.plan_exit_code(found))


def _chosen(session: Session, patterns: Sequence[str], names: Sequence[str], *,
            due: bool = False) -> tuple[tuple[Audience, ...], tuple[str, ...]]:
    """The audiences selected, and the destinations they go to; with names, only what goes to those.

    Without patterns every destination is meant: one that no audience goes to any more may have to be cleared.

    Of what is `due` those are left out that never are by themselves.
    """
    from audiencesync.sync.due import scheduled

    chosen, destinations = session.audiences(patterns), session.destinations(names)
    chosen = scheduled(chosen) if due else chosen
    if names:
        chosen = tuple(audience for audience in chosen if set(audience.destinations) & set(destinations))
    if patterns:
        destinations = tuple(name for name in destinations if any(name in one.destinations for one in chosen))
    return chosen, destinations


def _deliver(session: Session, work: Work, patterns: Sequence[str], names: Sequence[str], *, as_of: datetime | None,
             wait: float, allow: frozenset[str], due: bool = False, limit: float | None = None) -> None:
    from audiencesync import report as reports
    from audiencesync.cli.progress import watching
    from audiencesync.cli.signals import interruptible
    from audiencesync.cli.warned import warned
    from audiencesync.sync import Request

    chosen, wanted = _chosen(session, patterns, names, due=due)
    _warn_of_the_future(as_of)
    with interruptible() as signalled, session.writing() as store, watching() as watch, warned():
        report = work(session.project, store, Request(
            chosen, wanted, as_of=as_of, wait=wait, interrupted=_within(limit, signalled), watch=watch, typed=not due,
            farewells=not patterns))
    for _, message in report.errors:
        click.echo(f"error: {message}", err=True)
    session.say(reports.document(report, allow), reports.text(report, session.zone))
    session.end(reports.exit_code(report, allow))


def _within(limit: float | None, signalled: Callable[[], str]) -> Callable[[], str]:
    """The reason to end: a signal, or that so many seconds are over."""
    from audiencesync import clock

    if limit is None:
        return signalled
    until = clock.monotonic() + limit
    return lambda: signalled() or ("the time of --max-duration is spent" if clock.monotonic() > until else "")


def _warn_of_the_future(as_of: datetime | None) -> None:
    """A run can be made for any instant, but none after it for an earlier one."""
    from datetime import UTC, timedelta

    if as_of is not None and as_of > datetime.now(UTC) + timedelta(minutes=1):
        click.echo(f"warning: {as_of:%Y-%m-%d %H:%M}Z lies ahead of the clock; until then a sync without --as-of is "
                   "refused, since no run goes back in time", err=True)

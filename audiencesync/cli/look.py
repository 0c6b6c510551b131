"""The commands that only read the state: status, runs, show, user, rejected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session, meant

if TYPE_CHECKING:
    from audiencesync.store.connect import Store


def _limit(number: int) -> options.Decorator:
    return click.option("--limit", type=click.IntRange(1), default=number, show_default=True, metavar="N",
                        help="How many at most.")


def _keys(session: Session, store: Store, patterns: Sequence[str]) -> Collection[str] | None:
    """The keys that the patterns mean, also of audiences whose file is gone; None for all."""
    if not patterns:
        return None
    from audiencesync.store.views import known

    gone = {one.key for one in known(store)} & set(patterns)
    rest = [pattern for pattern in patterns if pattern not in gone]
    return gone | ({audience.key for audience in session.audiences(rest)} if rest else set())


def _goes_to(session: Session) -> dict[str, tuple[str, ...]]:
    return {audience.key: audience.destinations for audience in session.project.audiences}


@click.command()
@click.option("--check", is_flag=True, help="End with 75, 4 or 3 where something must be seen to, for other programs.")
@options.allow()
@options.output()
@click.pass_obj
def status(session: Session, check: bool, allow: frozenset[str]) -> None:
    """Show where everything stands, and what waits for what."""
    from audiencesync.cli import standing
    from audiencesync.report import code_of
    from audiencesync.sync.standing import overview

    with session.reading() as store:
        seen = overview(session.project, store)
        code = code_of(standing.check_codes(seen), allow) if check else 0
        session.say({**standing.document(seen), "exit_code": code}, standing.text(seen, session.zone))
    session.end(code)


@click.command()
@options.selection()
@_limit(50)
@options.output(runs=[])
@click.pass_obj
def runs(session: Session, patterns: Sequence[str], limit: int) -> None:
    """List the runs, newest first."""
    from audiencesync.cli.audience import run_document, runs_table
    from audiencesync.store.views import history

    with session.reading() as store:
        found = history(store, _keys(session, store, patterns), limit=limit)
    session.say({"runs": [run_document(ran) for ran in found]},
                runs_table(found, session.zone) if found else "there are no runs yet; make one: audiencesync sync")


@click.command()
@click.argument("name")
@click.option("--sql", is_flag=True, help="Print only its SQL, also that of a trait without SQL.")
@options.output()
@click.pass_obj
def show(session: Session, name: str, *, sql: bool) -> None:
    """Show one audience: its definition, its runs, and where destinations stand."""
    from dataclasses import replace

    from audiencesync.cli import audience as pages
    from audiencesync.errors import UsageError
    from audiencesync.store import views

    definition = next((audience for audience in session.project.audiences if audience.key == name), None)
    if sql and definition is not None:
        session.say(pages.sql_document(definition), pages.sql_text(definition))
        return
    with session.reading() as store:
        found = views.known(store)
        one = next((known for known in found if known.key == name), None)
        if definition is None and one is None:
            keys = sorted({*_goes_to(session), *(known.key for known in found)})
            raise UsageError(f"there is no audience {name!r}{meant(name, keys)}")
        if sql:
            raise UsageError(f"the file of {name!r} is gone, and its SQL with it")
        users = tuple(audience.key for audience in session.project.audiences if name in audience.uses)
        portrait = replace(pages.portrait(store, definition, one), used_by=users)
    session.say(pages.document(portrait), pages.text(portrait, session.zone))


@click.command()
@click.argument("user_id", metavar="ID")
@options.output()
@click.pass_obj
def user(session: Session, user_id: str) -> None:
    """Show what is known of one user, and what each destination was told of him.

    ID is the id exactly as the audience's SQL gives it.
    """
    from audiencesync.cli import person
    from audiencesync.errors import UsageError
    from audiencesync.store import views_user

    if user_id.encode(errors="ignore").decode() != user_id:
        raise UsageError("this id is no UTF-8 text, so no user can have it")
    with session.reading() as store:
        found = views_user.user(store, user_id, _goes_to(session))
    session.say(person.document(user_id, found), person.text(user_id, found, session.zone))


@click.command()
@options.selection()
@options.destination("Of this destination only.")
@_limit(100)
@options.output(rejected=[], total=0)
@click.pass_obj
def rejected(session: Session, patterns: Sequence[str], destinations: Sequence[str], limit: int) -> None:
    """List the users that destinations refuse, and why."""
    from audiencesync.cli.person import rejected_document, rejected_table
    from audiencesync.store import views

    names = session.destinations(destinations) if destinations else None
    with session.reading() as store:
        found, total = views.rejected(store, keys=_keys(session, store, patterns), names=names, limit=limit)
    more = f"\n{total - len(found):,} more; see --limit" if total > len(found) else ""
    session.say({"rejected": [rejected_document(one) for one in found], "total": total},
                rejected_table(found, session.zone) + more if found else "nobody is refused")

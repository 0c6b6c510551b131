"""The commands around a project: init, demo, validate, doctor, db, schema."""

from __future__ import annotations

from pathlib import Path

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session
from audiencesync.errors import Problem, ProjectError, UsageError


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--docker", is_flag=True, help="Also a Dockerfile and a compose.yml, to let it run in a container.")
@click.pass_obj
def init(session: Session, directory: Path | None, *, docker: bool) -> None:
    """Write a project to start from.

    What it writes passes `validate` as it is: the source is a SQLite file shop.db, the destination a file. Nothing
    that is there already is touched. With --docker a state that is not there is an error: the first one is made by
    `db upgrade`.
    """
    from audiencesync.cli.scaffold import scaffold

    root = directory or session.directory
    for line in scaffold(root, docker=docker):
        click.echo(line)
    where = "" if root == Path() else f"cd {root} && "
    click.echo(f"\nnext: {where}audiencesync validate, then audiencesync doctor, then audiencesync plan")


@click.command()
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.pass_obj
def demo(session: Session, directory: Path | None) -> None:
    """See it all work in an empty folder, offline, within a minute."""
    from audiencesync.demo import run

    session.end(run(directory, echo=click.echo))


@click.command()
@options.selection()
@options.output(problems=[])
@click.pass_obj
def validate(session: Session, patterns: tuple[str, ...]) -> None:
    """Check all files without asking any database.

    Ends with 2 where there is an error; warnings alone are fine.
    """
    from audiencesync.project.cases import read_cases
    from audiencesync.project.check import check_sql, dialect_of
    from audiencesync.report import counted

    warnings: tuple[str, ...] = ()
    problems: list[Problem] = []
    try:
        chosen = session.audiences(patterns)
    except ProjectError as error:
        problems += error.problems
        seen = "nothing else can be checked before these are mended"
    else:
        dialect, warnings = dialect_of(session.project.source.url), session.project.warnings
        for audience in chosen:
            problems += check_sql(audience, dialect)
        problems += read_cases(session.project, chosen).problems
        seen = f"{counted(len(chosen), 'audience')}, {counted(len(session.project.destinations), 'destination')}"
    wrong = sum(problem.severity == "error" for problem in problems)
    mild = len(problems) - wrong + len(warnings)
    found = f"{counted(wrong, 'error')}, {counted(mild, 'warning')}" if wrong or mild else "all well"
    session.say({"problems": [*map(_row, problems), *map(_warning, warnings)], "exit_code": 2 if wrong else 0},
                "\n".join([*warnings, *map(str, problems), f"{seen}: {found}"]))
    session.end(2 if wrong else 0)


def _row(problem: Problem) -> dict[str, object]:
    return {"file": problem.file, "line": problem.line, "column": problem.column, "severity": problem.severity,
            "message": problem.message, "hint": problem.hint}


def _warning(text: str) -> dict[str, object]:
    """A warning that loading a project gives as text: file:line:column: warning: message, then what helps."""
    first, *rest = text.split("\n")
    file, line, column, words = first.split(":", 3)
    hint = next((part.strip()[2:] for part in rest if part.strip().startswith("= ")), "")
    return {"file": file, "line": int(line), "column": int(column), "severity": "warning",
            "message": words.removeprefix(" warning: "), "hint": hint}


@click.command()
@click.option("--fix", is_flag=True, help="Declare the fields that destinations need and do not have.")
@options.output(checks=[])
@click.pass_obj
def doctor(session: Session, *, fix: bool) -> None:
    """Check that the state, the source and the destinations can be reached, and what destinations need.

    Nothing is written and nobody is told anything; with --fix missing fields are declared at the destinations, which a
    first sync does by itself unless create_fields is false. Ends with 2 when the project must be mended, 75 when
    something cannot be reached.
    """
    from audiencesync.cli.checks import examine

    checks = examine(session, fix=fix)
    codes = {check.code for check in checks}
    code = next((wanted for wanted in (2, 75) if wanted in codes), 0)
    session.say({"checks": [{"status": one.status, "name": one.name, "words": one.words} for one in checks],
                 "exit_code": code},
                "\n".join(f"{one.status:<4} {one.name}: {one.words}" for one in checks))
    session.end(code)


@click.group()
def db() -> None:
    """Look after the state database."""


@db.command()
@options.output()
@click.pass_obj
def upgrade(session: Session) -> None:
    """Make or migrate the state now; sync does it by itself."""
    from audiencesync.store import migrate
    from audiencesync.store.connect import Store

    store = Store.open(session.project.state)
    try:
        done = migrate.upgrade(store)
    finally:
        store.close()
    newest = migrate.known()[-1]
    session.say({"upgraded": done, "revision": newest},
                f"the state is {'now ' if done else 'already '}at revision {newest}")


@db.command()
@options.output()
@click.pass_obj
def check(session: Session) -> None:
    """Say whether the state fits this version.

    Ends with 0 when it does, or when there is none yet; with 2 when it is older or newer.
    """
    from audiencesync.cli.context import state_exists
    from audiencesync.store import migrate
    from audiencesync.store.connect import Store

    state = "empty"
    if state_exists(session.project.state):
        store = Store.open(session.project.state, create=False)
        try:
            state = migrate.check(store)
        finally:
            store.close()
    words = {"empty": "there is no state yet; the first sync makes it",
             "behind": "the state was written by an older version; run: audiencesync db upgrade",
             "ready": f"the state is at revision {migrate.known()[-1]}, as this version expects"}
    session.say({"state": state, "newest": migrate.known()[-1]}, words[state])
    session.end(2 if state == "behind" else 0)


@click.command()
@click.option("--write", is_flag=True, help="Write it into the project, where editors find it.")
@click.pass_obj
def schema(session: Session, write: bool) -> None:
    """Print the JSON Schema of audiencesync.yml."""
    from audiencesync.cli.scaffold import MODELINE, SCHEMA, schema_text

    if not write:
        session.say({}, schema_text().rstrip())
        return
    if not session.directory.is_dir():
        raise UsageError(f"there is no folder {session.directory}")
    path = session.directory / SCHEMA
    path.parent.mkdir(exist_ok=True)
    path.write_text(schema_text(), encoding="utf-8")
    click.echo(f"wrote {path}; for completion in editors the first line of audiencesync.yml is\n{MODELINE}")

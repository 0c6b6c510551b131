"""The command that tests definitions."""

from __future__ import annotations

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session


@click.command()
@options.selection()
@click.option("--url", default="", envvar="AUDIENCESYNC_TESTS", metavar="URL",
              help="The database in which tests are run: a PostgreSQL server, or sqlite:// or duckdb://. SQLite and "
                   "DuckDB sources need none.")
@options.output(tests=[], problems=[])
@click.pass_obj
def test(session: Session, patterns: tuple[str, ...], *, url: str) -> None:
    """Run the tests beside definitions, each on tables of its own.

    The source is never asked.

    A test lies in x.test.yml beside x.sql. In PostgreSQL everything happens in transactions that are rolled back. Ends
    with 2 when a test fails or has a mistake, 75 when the database cannot be reached.
    """
    from audiencesync.project.cases import read_cases
    from audiencesync.report.cases import verdicts_code, verdicts_document, verdicts_text

    chosen = session.audiences(patterns)
    cases = read_cases(session.project, chosen)
    if not cases.found and not cases.problems:
        session.say({"tests": [], "problems": [], "passed": 0, "failed": 0, "exit_code": 0},
                    "there are no tests yet; write one as audiences/NAME.test.yml beside audiences/NAME.sql"
                    if len(chosen) == len(session.project.audiences) else "none of these has a test")
        session.end(0)
    verdicts = []
    if cases.found:
        from audiencesync.cases import open_bench, run_case
        from audiencesync.cli.signals import interruptible

        bench = open_bench(session.project.source, url)
        with interruptible() as reason:
            verdicts = [run_case(audience, case, bench, lambda: bool(reason())) for audience, case in cases.found]
    session.say(verdicts_document(verdicts, cases.problems), verdicts_text(verdicts, cases.problems))
    session.end(verdicts_code(verdicts, cases.problems))

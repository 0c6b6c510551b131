"""The command line: a table of commands, each imported when it runs, and one place where errors become exit codes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from audiencesync import __version__
from audiencesync.cli.context import Session

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("setup", "Write a project to start from."),
    "demo": ("setup", "See it all work in an empty folder, offline, within a minute."),
    "validate": ("setup", "Check all files without asking any database."),
    "test": ("test", "Run the tests beside definitions, each on tables of its own."),
    "doctor": (
        "setup", "Check that the state, the source and the destinations can be reached, and what destinations need."),
    "plan": ("sync", "Show exactly what sync would send, without writing or sending anything."),
    "sync": ("sync", "Compute everything selected now, and tell each destination what changed."),
    "backfill": ("sync", "Send everybody again, as of what each destination was last told."),
    "serve": (
        "serve", "Compute every audience on its schedule and keep every destination in step, until asked to end."),
    "status": ("look", "Show where everything stands, and what waits for what."),
    "runs": ("look", "List the runs, newest first."),
    "show": ("look", "Show one audience: its definition, its runs, and where destinations stand."),
    "user": ("look", "Show what is known of one user, and what each destination was told of him."),
    "rejected": ("look", "List the users that destinations refuse, and why."),
    "verify": ("verify", "Read people back from a destination, and report who holds something else than he was told."),
    "pause": ("acts", "Stop an audience or a destination until it is resumed; everything is kept."),
    "resume": ("acts", "Let a paused audience or destination go on."),
    "approve": (
        "decide", "Allow a change that is held, exactly as it is now; or say whose account a destination is."),
    "discard": (
        "decide", "Send nothing of a change that is held, and ask nobody again, until a newer run is harmless."),
    "retire": ("decide", "Stop an audience or trait for ever, everywhere or at one destination; its key stays taken."),
    "db": ("setup", "Look after the state database."),
    "schema": ("setup", "Print the JSON Schema of audiencesync.yml."),
}
"""Every command by its name: the module it lives in, and its help in one line, so that the list imports nothing."""


LENIENT = ("look", "acts", "decide")
"""The modules whose commands work also while some files have mistakes."""


class Commands(click.Group):
    """A group that imports a command when it is called, and ends every error with one message and its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, imported now."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"audiencesync.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was typed, or what was meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of `--help`, from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever goes wrong is said once, and never as a traceback."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:  # the outermost door: nothing may pass it unexplained
            from audiencesync.cli.failures import explain

            explain(error, ctx.obj)
            raise


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
             epilog="Exit codes: 0 done, 2 wrong usage, project or SQL, 3 rejected users remain, 4 something is held, "
                    "75 try again later, 99 another process is at work, 70 a bug.")
@click.option("--project", "directory", metavar="DIR", default=".", envvar="AUDIENCESYNC_PROJECT", show_envvar=True,
              help="The folder of audiencesync.yml; this one unless given.")
@click.version_option(__version__, prog_name="audiencesync", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, directory: str) -> None:
    """Keeps audiences, written as SQL, in step with the tools that talk to customers."""
    ctx.obj = Session(directory, lenient=COMMANDS.get(ctx.invoked_subcommand or "", ("", ""))[0] in LENIENT)


def run() -> None:
    """Run the command line with this process's arguments, and exit with the contract's code."""
    cli.main(prog_name="audiencesync")

"""Options that several commands share, and the ways values are written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from audiencesync.cli.context import Session

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _instant(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """A moment in ISO 8601; one without a zone is UTC."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is not a moment; write 2026-11-22T06:00:00Z "
                                 "(no zone means UTC)") from None


def _seconds(_ctx: click.Context, _parameter: click.Parameter, value: str) -> float:
    """A duration such as 60s, as seconds."""
    from audiencesync.schedule import parse_duration

    try:
        return parse_duration(value).total_seconds()
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _allowed(_ctx: click.Context, _parameter: click.Parameter, value: str) -> frozenset[str]:
    """Some of `rejected` and `held`, with commas between."""
    words = frozenset(word.strip() for word in value.split(",") if word.strip())
    if words - {"rejected", "held"}:
        raise click.BadParameter(f"{value!r}: there are rejected and held")
    return words


def selection(*, required: bool = False) -> Decorator:
    """The SELECT arguments."""
    return click.argument("patterns", metavar="SELECT..." if required else "[SELECT]...", nargs=-1, required=required)


def destination(words: str) -> Decorator:
    """--destination, which may be given several times."""
    return click.option("--destination", "destinations", multiple=True, metavar="NAME", help=words)


def as_of(words: str) -> Decorator:
    """--as-of."""
    return click.option("--as-of", callback=_instant, metavar="ISO-TIME", help=words)


def wait() -> Decorator:
    """--wait, in seconds."""
    return click.option("--wait", callback=_seconds, default="0s", metavar="DURATION",
                        help="How long to wait for another process that is at work, such as 60s.")


def max_duration() -> Decorator:
    """--max-duration, in seconds; None without a limit."""
    return click.option("--max-duration", default=None, metavar="DURATION",
                        callback=lambda ctx, parameter, value: None if value is None else _seconds(
                            ctx, parameter, value),
                        help="End with 75 after so long, such as 90m; the next call goes on.")


def accounts(command: Callable[..., Any]) -> Callable[..., Any]:
    """--same-account and --new-account, of which one may be given: `account` is same, new or None."""
    def remember(word: str) -> Callable[[click.Context, click.Parameter, bool], None]:
        def take(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
            if value and ctx.params.get("account"):
                raise click.UsageError("--same-account or --new-account, not both", ctx)
            ctx.params["account"] = word if value else ctx.params.get("account")

        return take

    for word, what in (("new", "The account is another: tell it everything anew."),
                       ("same", "The key was renewed; go on where it stood.")):
        command = click.option(f"--{word}-account", is_flag=True, expose_value=False, callback=remember(word),
                               help=what)(command)
    return command


def reason() -> Decorator:
    """--reason."""
    return click.option("--reason", default="", metavar="WORDS", help="Why, for those who look later.")


def allow() -> Decorator:
    """--allow."""
    return click.option("--allow", callback=_allowed, default="", metavar="rejected,held",
                        help="End with 0 where 3 (rejected) or 4 (held) would be the exit code.")


def output(*more: str, **empty: object) -> Decorator:
    """-o, one of text, json and what `more` names; `empty` is what JSON holds besides the errors where all failed."""
    def remember(ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
        session = ctx.find_root().obj
        if isinstance(session, Session):
            session.output, session.empty = value, empty
        return value

    return click.option("-o", "--output", type=click.Choice(["text", "json", *more]), default="text", is_eager=True,
                        expose_value=False, callback=remember, help="How to print the result on stdout.")

"""The command that reads people back from a destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session

if TYPE_CHECKING:
    from audiencesync.sync.verify import Drift

DRIFT = 3

LONGEST = 60
"""Characters of a value that a table shows."""


@click.command()
@click.argument("destination", metavar="DESTINATION")
@click.option("--sample", metavar="N", type=click.IntRange(1, 100_000), default=200, show_default=True,
              help="How many people are read back at most, drawn by chance.")
@options.output(drift=[])
@click.pass_obj
def verify(session: Session, destination: str, sample: int) -> None:
    """Read people back from a destination, and report who holds something else than he was told.

    Nobody is told anything; whoever is not there any more is forgotten, so that a backfill makes him anew. What is
    being told just now, and who is rejected, is left out. Ends with 0 when everybody holds what he was told, with 3
    where somebody does not, 2 when the destination cannot be read back or refuses the key, 75 when it cannot be asked
    now, 99 while another process works on it.
    """
    from audiencesync.errors import AccountRefused, DeliveryError, LeaseHeld, Unavailable, UsageError
    from audiencesync.report import counted
    from audiencesync.report.words import table
    from audiencesync.sync.verify import verify as read_back

    [name] = session.destinations([destination])
    with session.reading() as store:
        try:
            found = read_back(session.project, store, name, sample=sample)
        except AccountRefused as error:
            raise UsageError(f"{name}: {error}") from error
        except DeliveryError as error:
            raise Unavailable(f"{name}: {error}") from error
        except LeaseHeld as error:
            raise LeaseHeld(f"{str(error).partition(';')[0]}; verify it when that is done") from error
    rows = [[one.user_id, one.key, str(one.told).lower(), _shown(one)] for one in found.drift]
    words = [f"{name}: {counted(found.people, 'user')} read back, {counted(found.values, 'value')} compared, "
             + (f"{len(rows):,} not as told" if rows else "all as told")]
    words += [f"{key}: a sync of it is under way, so it was left out" for key in found.waiting]
    if found.left_out:
        words.append(f"{counted(found.left_out, 'user')} left out, whose email names nobody or somebody else")
    if rows:
        words.append(f"  -> audiencesync backfill --destination {name}  tells everybody again")
    drawn = [table(["user", "audience", "told", "found"], rows)] if rows else []
    code = DRIFT if rows else 0
    session.say({"destination": name, "people": found.people, "values": found.values, "left_out": found.left_out,
                 "drift": [{"user": one.user_id, "key": one.key, "told": one.told, "found": one.found,
                            "there": one.there} for one in found.drift],
                 "waiting": list(found.waiting), "exit_code": code}, "\n\n".join([*drawn, "\n".join(words)]))
    session.end(code)


def _shown(one: Drift) -> str:
    """What was found, in a cell of a table."""
    if one.found is None:
        return "no value" if one.there else "not there"
    return str(one.found).lower() if isinstance(one.found, bool) else repr(one.found)[:LONGEST]

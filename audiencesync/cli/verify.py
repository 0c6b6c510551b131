"""The command that reads people back from a destination."""

from __future__ import annotations

import click

from audiencesync.cli import options
from audiencesync.cli.context import Session

DRIFT = 3


@click.command()
@click.argument("destination", metavar="DESTINATION")
@click.option("--sample", metavar="N", type=click.IntRange(1, 100_000), default=200, show_default=True,
              help="About how many people are read back, drawn by chance.")
@options.output(drift=[])
@click.pass_obj
def verify(session: Session, destination: str, sample: int) -> None:
    """Read people back from a destination, and report who holds something else than he was told.

    Nobody is told anything; whoever is not there any more is forgotten, so that a backfill makes him anew. What is
    being told just now, and who is rejected, is left out. Ends with 0 when everybody holds what he was told, with 3
    where somebody does not, 75 when the destination cannot be asked, 99 while another process works on it.
    """
    from audiencesync.errors import AccountRefused, DeliveryError, Unavailable, UsageError
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
    rows = [[one.user_id, one.key, str(one.told).lower(), "not there" if one.found is None else repr(one.found)]
            for one in found.drift]
    words = [f"{name}: {counted(found.people, 'user')} read back, {counted(found.values, 'value')} compared, "
             + (f"{len(rows):,} not as told" if rows else "all as told")]
    words += [f"{key}: a sync of it is under way, so it was left out" for key in found.waiting]
    if rows:
        words.append(f"  -> audiencesync backfill --destination {name}  tells everybody again")
    drawn = [table(["user", "audience", "told", "found"], rows)] if rows else []
    code = DRIFT if rows else 0
    session.say({"destination": name, "people": found.people, "values": found.values,
                 "drift": [{"user": one.user_id, "key": one.key, "told": one.told, "found": one.found}
                           for one in found.drift],
                 "waiting": list(found.waiting), "exit_code": code}, "\n\n".join([*drawn, "\n".join(words)]))
    session.end(code)

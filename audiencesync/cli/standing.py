"""What `status` says: each audience, each destination, and whatever waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo

from audiencesync.cli.audience import run_document, standing_document, standings_table
from audiencesync.model import Project
from audiencesync.report import counted, moment, number, plain, stamp, table
from audiencesync.store.connect import Store
from audiencesync.store.views import Door, Known, Standing, doors, known, standings

AGAIN = "audiencesync sync"


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that waits: what, why, since when, until when, and the command that helps."""

    what: str
    why: str
    since: datetime | None
    until: datetime | None
    help: str


@dataclass(frozen=True, slots=True)
class Overview:
    """All that `status` shows; `gone` are the keys whose file is no longer there, `new` those never run."""

    known: tuple[Known, ...]
    gone: frozenset[str]
    new: tuple[str, ...]
    standings: tuple[Standing, ...]
    waits: tuple[Wait, ...]


def overview(project: Project, store: Store) -> Overview:
    """Ask the state where everything stands."""
    found = known(store)
    here = {audience.key: audience.destinations for audience in project.audiences}
    keys = {one.key for one in found}
    gone = frozenset(one.key for one in found if one.key not in here and one.retired_at is None)
    stand = standings(store, found, here)
    met, now = doors(store)
    waits = [*_of_destinations(project, met, now), *_of_audiences(found, gone), *_of_syncs(stand, met, now)]
    return Overview(tuple(found), gone, tuple(key for key in here if key not in keys), tuple(stand), tuple(waits))


def _of_destinations(project: Project, met: dict[str, Door], now: datetime) -> Iterator[Wait]:
    for name, door in met.items():
        what = f"destination {name}"
        settings = project.destinations.get(name)
        if door.paused_at is not None:
            yield Wait(what, f"paused: {door.pause_reason or 'no reason given'}", door.paused_at, None,
                       f"audiencesync resume {name}")
        if settings is not None and door.fingerprint not in (None, settings.fingerprint()):
            yield Wait(what, "the account is another than the one told so far", None, None,
                       f"audiencesync resume {name} --same-account (the key was renewed) or --new-account "
                       "(tell it everything anew)")
        if door.retry_at is not None and door.retry_at > now:
            yield Wait(what, door.retry_reason or "it asked to come back later", None, door.retry_at, AGAIN)
        if door.busy_until is not None:
            yield Wait(what, "a process is at work (its lease is renewed while it lives)", None, door.busy_until,
                       f"{AGAIN} --wait 60s")


def _of_audiences(found: Iterable[Known], gone: frozenset[str]) -> Iterator[Wait]:
    for one in found:
        what = f"audience {one.key}"
        if one.paused_at is not None:
            yield Wait(what, f"paused: {one.pause_reason or 'no reason given'}", one.paused_at, None,
                       f"audiencesync resume {one.key}")
        if one.failed is not None and one.key not in gone:
            yield Wait(what, f"its last run failed: {one.failed.run.error}", one.failed.ended_at, None,
                       f"mend it, then: {AGAIN} {one.key}")
        if one.key in gone:
            yield Wait(what, "its file is gone, so destinations keep what they were told", None, None,
                       "put the file back, or clear it at the destinations before it is forgotten")


def _of_syncs(stand: Iterable[Standing], met: dict[str, Door], now: datetime) -> Iterator[Wait]:
    seen: set[int] = set()
    for one in stand:
        what = f"{one.key} at {one.destination}"
        if one.sync is not None and one.sync not in seen:
            seen.add(one.sync)
            some = "; some requests may or may not have arrived, and go again" if one.unresolved else ""
            said = met[one.destination].retry_reason if one.destination in met else None
            why = f"; it stopped at: {said}" if said else ""
            yield Wait(what, f"the {one.mode} sync is not finished: {one.told:,} of {one.total:,} told{some}{why}",
                       one.opened_at, None, AGAIN)
        if one.settled_at is not None and one.settled_at > now:
            yield Wait(what, "an unanswered request may still arrive (settle), so the next sync waits", None,
                       one.settled_at, f"{AGAIN}, after that")
        elif one.pending and one.sync is None:
            yield Wait(what, f"{counted(one.pending, 'call')} due", None, None, AGAIN)
        if one.rejected:
            yield Wait(what, f"{counted(one.rejected, 'user')} refused", one.refused_since, one.next_try,
                       f"audiencesync rejected --destination {one.destination}; every sync tries them again")


def document(seen: Overview) -> dict[str, object]:
    """The overview for programs."""
    return {
        "audiences": [
            {"key": one.key, "file": one.key not in seen.gone, "paused": one.paused_at is not None,
             "pause_reason": one.pause_reason, "retired": one.retired_at is not None,
             "last_run": run_document(one.run) if one.run else None,
             "failed_run": run_document(one.failed) if one.failed else None} for one in seen.known
        ] + [{"key": key, "file": True, "paused": False, "pause_reason": None, "retired": False, "last_run": None,
              "failed_run": None} for key in seen.new],
        "destinations": [standing_document(one) for one in seen.standings],
        "waits": [{"what": one.what, "why": one.why, "since": stamp(one.since), "until": stamp(one.until),
                   "help": one.help} for one in seen.waits],
    }


def text(seen: Overview, zone: tzinfo) -> str:
    """The overview for people."""
    if not seen.known and not seen.new:
        return "there are no audiences yet; write one as audiences/NAME.sql"
    parts = [_audiences(seen, zone)]
    if seen.standings:
        parts.append(standings_table(seen.standings))
    parts.append("\n".join(_wait(one, zone) for one in seen.waits) if seen.waits else "nothing waits")
    return "\n\n".join(parts)


def _audiences(seen: Overview, zone: tzinfo) -> str:
    rows = []
    for one in seen.known:
        state = ("retired" if one.retired_at else "file is gone" if one.key in seen.gone else "paused" if one.paused_at
                 else "failed" if one.failed else "")
        last = one.run.run if one.run else None
        rows.append([one.key, moment(last.as_of, zone), number(last.members), number(last.entered, sign="+"),
                     number(last.exited, sign="-"), state] if last else [one.key, "-", "-", "-", "-", state])
    rows += [[key, "-", "-", "-", "-", "not run yet"] for key in seen.new]
    return table(["audience", "last run as of", "members", "entered", "exited", ""], rows,
                 right=["members", "entered", "exited"])


def _wait(one: Wait, zone: tzinfo) -> str:
    since = f", since {moment(one.since, zone)}" if one.since else ""
    until = f", until {moment(one.until, zone)}" if one.until else ""
    return f"{plain(f'{one.what}: {one.why}{since}{until}')}\n  -> {one.help}"

"""What waits or went wrong, each with its cause, since when, and the exact next command."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from audiencesync.model import Trouble
from audiencesync.report import cause, counted
from audiencesync.schedule import longest_interval
from audiencesync.store.accounts import EVERYTHING, OURSELVES
from audiencesync.store.standings import Standing
from audiencesync.store.views import Door
from audiencesync.sync import fields
from audiencesync.sync.blocked import ACCOUNT, RESUME_ALL, account_help, paused_by_all, stop_file
from audiencesync.sync.brakes import held
from audiencesync.sync.due import MANUAL, zone_of

if TYPE_CHECKING:
    from audiencesync.sync.standing import Overview

AGAIN = "audiencesync sync"

SHARE = 0.05
"""The part of an audience's members that may be refused before somebody is called."""

LATE = 2
"""Intervals of a schedule without success after which a destination is late."""

GRACE = timedelta(seconds=30)
"""What a run and its sync may take beyond that, at most another interval: a slot's own work is no lateness."""


def troubles(seen: Overview) -> Iterator[Trouble]:
    """All of it, what concerns everything first."""
    yield from _of_everything(seen)
    for name in seen.doors:
        if name != EVERYTHING:
            yield from _of_destination(seen, seen.doors[name])
    yield from _of_audiences(seen)
    told: set[int | None] = {None}
    for one in seen.standings:
        yield from _of_sync(seen, one, first=one.sync not in told)
        told.add(one.sync)
    for (key, name), (why, status) in seen.unfit.items():
        kind, help_ = ("fields", fields.HELP) if status == "held" else ("retry", AGAIN)
        yield Trouble(kind, f"{key} at {name}", why, help_, key=key, destination=name)
    for name in seen.project.destinations:
        yield from _late(seen, name)
    for left in seen.taken:
        if left.key in seen.defined:
            yield Trouble("taken", f"{left.key} at {left.destination}",
                          f"the audience goes there no more, and {counted(left.members, 'member')} still hold true",
                          f"audiencesync retire {left.key} --destination {left.destination} --clear",
                          key=left.key, destination=left.destination)


def _of_everything(seen: Overview) -> Iterator[Trouble]:
    door = seen.doors.get(EVERYTHING)
    if why := stop_file(seen.project.root):
        yield Trouble("paused", "everything", why, RESUME_ALL)
    if door is not None and door.paused_at is not None:
        yield Trouble("paused", "everything", paused_by_all(door.pause_reason), RESUME_ALL, since=door.paused_at)
    if seen.services and not any(beat.alive for beat in seen.services):
        last = max(seen.services, key=lambda beat: beat.until)
        yield Trouble("service", f"the service {last.name}", "it fell silent, and no other serves this project",
                      "start it again: audiencesync serve", since=min(last.until, seen.now))


def _of_destination(seen: Overview, door: Door) -> Iterator[Trouble]:
    name, what = door.name, f"destination {door.name}"
    settings, oldest = seen.project.destinations.get(name), _oldest(seen, name)
    if door.paused_at is not None and door.paused_by == OURSELVES:
        yield Trouble("refused", what, f"paused: {door.pause_reason or 'it refuses us'}",
                      f"mend the key or the address, then: audiencesync resume {name}", since=door.paused_at,
                      destination=name, oldest_unsent=oldest)
    elif door.paused_at is not None:
        yield Trouble("paused", what, f"paused: {door.pause_reason or 'no reason given'}",
                      f"audiencesync resume {name}", since=door.paused_at, destination=name, oldest_unsent=oldest)
    if settings is not None and door.fingerprint not in (None, settings.fingerprint()):
        yield Trouble("account", what, ACCOUNT, account_help(name), since=oldest, destination=name,
                      oldest_unsent=oldest)
    if door.retry_at is not None and door.retry_at > seen.now:
        yield Trouble("retry", what, door.retry_reason or "it asked to come back later", AGAIN, until=door.retry_at,
                      destination=name, oldest_unsent=oldest)
    if door.busy_until is not None:
        yield Trouble("busy", what, "a process is at work (its lease is renewed while it lives)",
                      f"{AGAIN} --wait 60s", until=door.busy_until, destination=name, leaving=_leaving(seen, name),
                      oldest_unsent=oldest)


def _of_audiences(seen: Overview) -> Iterator[Trouble]:
    stale = [one for one in seen.known if one.failed is not None and one.failed.run.status == "stale"
             and one.key in seen.defined and one.retired_at is None]
    if stale:
        newest = max((one.failed for one in stale if one.failed is not None), key=lambda ran: ran.ended_at)
        why = (newest.run.error or "").partition(" is not computed: ")[2]
        yield Trouble("stale", "the source", f"{counted(len(stale), 'audience')} not computed: {why}",
                      "see to the load of the source; the next slot, or audiencesync sync, computes them again",
                      since=min(one.failing_since for one in stale if one.failing_since is not None))
    for one in seen.known:
        what = f"audience {one.key}"
        if one.retired_at is not None:
            if one.key in seen.defined:
                yield Trouble("retired", what, "it is retired, and its file is still there",
                              f"delete {seen.defined[one.key].path}, or give it another key", key=one.key)
            continue
        if one.paused_at is not None:
            yield Trouble("paused", what, f"paused: {one.pause_reason or 'no reason given'}",
                          f"audiencesync resume {one.key}", since=one.paused_at, key=one.key)
        if one.failed is not None and one.key not in seen.gone and one.failed.run.status != "stale":
            final = one.failed.run.status == "failed"
            yield Trouble("failed" if final else "retrying", what,
                          f"its last run failed: {cause(one.failed.run.error)}"
                          + ("" if final else "; it is tried again"),
                          f"mend it, then: {AGAIN} {one.key}", since=one.failing_since, key=one.key)
        if one.key in seen.gone:
            yield Trouble("gone", what, "its file is gone, so destinations keep what they were told",
                          f"put it back, or tell everybody that it is over: audiencesync retire {one.key} --clear",
                          key=one.key)


def _of_sync(seen: Overview, one: Standing, *, first: bool) -> Iterator[Trouble]:
    """What one audience waits for at one destination; a sync of several is told of with the `first` of them."""
    at = partial(Trouble, what=f"{one.key} at {one.destination}", key=one.key, destination=one.destination,
                 oldest_unsent=one.oldest_unsent)
    leaving = _leaving(seen, one.destination) and one.sync is not None
    hold = seen.holds.get((one.key, one.destination))
    if one.sync is not None and first:
        some = "; some requests may or may not have arrived, and go again" if one.unresolved else ""
        said = seen.doors[one.destination].retry_reason if one.destination in seen.doors else None
        why = f"; it stopped at: {said}" if said else ""
        yield at("open", why=f"the {one.mode} sync is not finished: {one.told:,} of {one.total:,} told{some}{why}",
                 help=AGAIN, since=one.opened_at, leaving=leaving)
    settling = one.settled_at is not None and one.settled_at > seen.now
    if settling:
        yield at("settle", why="an unanswered request may still arrive (settle), so the next sync waits",
                 help=f"{AGAIN}, after that", until=one.settled_at)
    if hold is not None:
        kind, why, help_ = held(one.key, one.destination, hold)
        yield at(kind, why=why, help=help_, since=one.oldest_unsent)
    if one.leaves and one.destination in _destinations_of(seen, one.key):
        yield at("retired", why="it is retired there and told no more, though its file still names the destination",
                 help=f"take {one.destination} out of the file's destinations")
    elif one.pending and one.sync is None and hold is None and not settling:
        yield at("pending", why=f"{counted(one.pending, 'call')} due", help=AGAIN, since=one.oldest_unsent)
    if one.rejected:
        ran = seen.by_key[one.key].run
        members = ran.run.members if ran else 0
        yield at("rejected" if one.rejected > SHARE * members else "refusals",
                 why=f"{counted(one.rejected, 'user')} refused", since=one.refused_since, until=one.next_try,
                 help=f"audiencesync rejected --destination {one.destination}; every sync tries them again",
                 leaving=leaving)


def _destinations_of(seen: Overview, key: str) -> tuple[str, ...]:
    """The destinations that the file of an audience names which goes on elsewhere."""
    alive = any(one.key == key and one.retired_at is None for one in seen.known)
    return seen.defined[key].destinations if alive and key in seen.defined else ()


def _late(seen: Overview, name: str) -> Iterator[Trouble]:
    """One trouble for a destination, however many audiences are late there."""
    door = seen.doors.get(name)
    if EVERYTHING in seen.doors and seen.doors[EVERYTHING].paused_at is not None:
        return
    if door is not None and (door.paused_at is not None
                             or door.fingerprint not in (None, seen.project.destinations[name].fingerprint())):
        return
    late = sorted(((since, one) for one in seen.standings if one.destination == name
                  and (since := late_since(seen, one)) is not None), key=itemgetter(0))
    if not late:
        return
    since, first = late[0]
    why = door.retry_reason if door is not None and door.retry_reason else "nothing brought it up to date"
    keys = ", ".join(sorted(one.key for _, one in late)[:5]) + (", ..." if len(late) > 5 else "")
    yield Trouble("late", f"destination {name}", f"no success for {LATE} intervals with {keys}: {why}",
                  f"{AGAIN} --destination {name}", since=since, destination=name,
                  key=first.key if len(late) == 1 else "", leaving=_leaving(seen, name),
                  oldest_unsent=_oldest(seen, name))


def late_since(seen: Overview, one: Standing) -> datetime | None:
    """As of when a destination was last up to date with an audience, if that is too long ago; None while it is not.

    What is paused, held, failed or stale has its own trouble; an initial sync that goes on is no lateness.
    """
    audience = seen.defined.get(one.key)
    known = seen.by_key[one.key]
    if (audience is None or audience.schedule == MANUAL or one.leaves or known.paused_at is not None
            or known.run is None or known.failed is not None or (one.key, one.destination) in seen.holds):
        return None
    failing = one.destination in seen.doors and seen.doors[one.destination].retry_reason is not None
    if one.sync is not None and one.mode != "incremental" and not failing:
        return None
    since = one.position_as_of or known.first_as_of
    interval = longest_interval(audience.schedule, since, zone_of(seen.project)) if since is not None else None
    if since is None or interval is None:
        return None
    return since if seen.now - since > LATE * interval + min(GRACE, interval) else None


def _leaving(seen: Overview, name: str) -> bool:
    """Whether bytes leave for a destination: somebody is at work there, and something is open."""
    door = seen.doors.get(name)
    return (door is not None and door.busy_until is not None and door.paused_at is None
            and any(one.destination == name and one.sync is not None for one in seen.standings))


def _oldest(seen: Overview, name: str) -> datetime | None:
    return min((one.oldest_unsent for one in seen.standings if one.destination == name
                and one.oldest_unsent is not None), default=None)

"""What `status` says: each audience, each destination, and whatever waits."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from audiencesync.cli.audience import run_document, standing_document, standings_table
from audiencesync.model import Trouble
from audiencesync.report import moment, number, plain, stamp, table
from audiencesync.sync.standing import Overview


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
        "waits": [{"kind": one.kind, "what": one.what, "why": one.why, "since": stamp(one.since),
                   "until": stamp(one.until), "help": one.help, "key": one.key, "destination": one.destination,
                   "leaving": one.leaving, "oldest_unsent": stamp(one.oldest_unsent),
                   "runbook": f"docs/runbook.md#{one.kind}" if one.calls_somebody else None} for one in seen.troubles],
        "schedules": [{"schedule": schedule, "next": stamp(at)} for schedule, at in seen.slots],
        "services": [{"name": one.name, "alive": one.alive, "until": stamp(one.until)} for one in seen.services],
    }


def text(seen: Overview, zone: tzinfo) -> str:
    """The overview for people."""
    if not seen.known and not seen.new:
        return "there are no audiences yet; write one as audiences/NAME.sql"
    parts = [_audiences(seen, zone)]
    if seen.standings:
        parts.append(standings_table(seen.standings))
    if seen.slots:
        parts.append("\n".join(f"{schedule}: next {moment(at, zone)}" for schedule, at in seen.slots))
    found = sorted(seen.troubles, key=lambda one: not one.calls_somebody)
    parts.append("\n".join(_wait(one, seen.now, zone) for one in found) if found else "nothing waits")
    return "\n\n".join(parts)


def _audiences(seen: Overview, zone: tzinfo) -> str:
    rows = []
    for one in seen.known:
        state = ("retired" if one.retired_at else "file is gone" if one.key in seen.gone else "paused" if one.paused_at
                 else one.failed.run.status if one.failed else "")
        last = one.run.run if one.run else None
        rows.append([one.key, moment(last.as_of, zone), number(last.members), number(last.entered, sign="+"),
                     number(last.exited, sign="-"), state] if last else [one.key, "-", "-", "-", "-", state])
    rows += [[key, "-", "-", "-", "-", "not run yet"] for key in seen.new]
    return table(["audience", "last run as of", "members", "entered", "exited", ""], rows,
                 right=["members", "entered", "exited"])


def _wait(one: Trouble, now: datetime, zone: tzinfo) -> str:
    since = f", since {moment(one.since, zone)}" if one.since else ""
    until = f", until {moment(one.until, zone)}" if one.until else ""
    unsent = f"; oldest unsent change {_age(now - one.oldest_unsent)} old" if one.oldest_unsent else ""
    leaving = f"; {'bytes are leaving' if one.leaving else 'nothing is leaving'}" if one.destination else ""
    return f"{plain(f'{one.what}: {one.why}{since}{until}{leaving}{unsent}')}\n  -> {one.help}"


def _age(span: timedelta) -> str:
    """How long ago, as people say it."""
    seconds = max(0, int(span.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def check_codes(seen: Overview) -> frozenset[int]:
    """The exit codes that what is wrong asks for: 75 for what is out of step, 4 for what is held, 3 for the refused."""
    codes = {"held": 4, "account": 4, "rejected": 3, "refusals": 3, "service": 75}
    return frozenset(codes.get(one.kind, 75) for one in seen.troubles if one.calls_somebody or one.kind in codes)

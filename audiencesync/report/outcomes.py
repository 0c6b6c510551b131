"""What a sync or a backfill came to: its exit code, its JSON document, its lines of text."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, tzinfo

from audiencesync.model import Outcome, Report, Run
from audiencesync.report.words import counted, moment, number, plain, stamp, table

ORDER = (70, 2, 99, 75, 4, 3, 0)
"""Exit codes; the first that applies is the command's."""

_STATUS = {"done": 0, "waiting": 75, "paused": 75, "skipped": 0, "interrupted": 75, "held": 4, "leased": 99}


def exit_code(report: Report, allow: Collection[str] = ()) -> int:
    """The exit code of the contract; what `allow` names (rejected, held) counts as done."""
    codes = {code for code, _ in report.errors} | {_STATUS.get(one.status, 70) for one in merged(report.syncs)}
    codes.add(3 if report.rejected else 0)
    return code_of(codes, allow)


def code_of(codes: Collection[int], allow: Collection[str] = ()) -> int:
    """The exit code that goes before the others, but for those that `allow` (rejected, held) counts as done."""
    return first_of(set(codes) - {code for code, name in ((3, "rejected"), (4, "held")) if name in allow})


def first_of(codes: Collection[int]) -> int:
    """The exit code that goes before the others; 0 when there is none."""
    return next((code for code in ORDER if code in codes), 70 if codes else 0)


def merged(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """One outcome a sync: where one made way for fresher changes and went on, its parts are added up."""
    parts: dict[tuple[str, str, tuple[str, ...]], Outcome] = {}
    found: list[Outcome] = []
    for outcome in outcomes:
        same = (outcome.destination, outcome.mode, outcome.keys)
        before = parts.pop(same, None)
        whole = outcome if before is None else replace(
            outcome, sent=before.sent + outcome.sent, rejected=before.rejected + outcome.rejected,
            requests=before.requests + outcome.requests)
        if outcome.status == "yielded":
            parts[same] = whole
        else:
            found.append(whole)
    return (*found, *(replace(part, status="waiting", help=part.help or "run the same command again")
                      for part in parts.values()))


def run_row(run: Run) -> dict[str, object]:
    """A run for programs."""
    return {"key": run.key, "run": run.number, "as_of": stamp(run.as_of), "status": run.status,
            "members": run.members, "entered": run.entered, "exited": run.exited, "changed": run.changed,
            "duplicates": run.duplicates, "error": run.error}


def document(report: Report, allow: Collection[str] = ()) -> dict[str, object]:
    """The whole report for programs."""
    return {
        "runs": [run_row(run) for run in report.runs],
        "syncs": [{"destination": one.destination, "mode": one.mode, "status": one.status, "sent": one.sent,
                   "rejected": one.rejected, "remaining": one.remaining, "total": one.total,
                   "requests": one.requests, "keys": list(one.keys), "reason": one.reason,
                   "until": stamp(one.until), "help": one.help} for one in merged(report.syncs)],
        "errors": [{"exit_code": code, "message": message} for code, message in report.errors],
        "rejected": report.rejected,
        "exit_code": exit_code(report, allow),
    }


def text(report: Report, zone: tzinfo = UTC) -> str:
    """The report for people; errors are for stderr and not part of it."""
    parts = []
    if report.runs:
        parts.append(_runs(report.runs, zone))
    outcomes = merged(report.syncs)
    if outcomes:
        parts.append(_syncs(outcomes))
        parts += [_why(one, zone) for one in outcomes if one.status != "done"]
    if report.rejected:
        parts.append(f"{counted(report.rejected, 'user')} refused by a destination; see: audiencesync rejected")
    return "\n\n".join(parts)


def _runs(runs: Iterable[Run], zone: tzinfo) -> str:
    shown = list(runs)
    other = ["other values"] if any(run.updated for run in shown) else []
    return table(
        ["audience", "as of", "status", "members", "entered", "exited", *other],
        [[run.key, moment(run.as_of, zone), run.status,
          *(["-", "-", "-", "-"] if run.status != "done" else
            [number(run.members), number(run.entered, sign="+"), number(run.exited, sign="-"), number(run.updated)])
          [:3 + len(other)]] for run in shown],
        right=["members", "entered", "exited", *other])


def _syncs(outcomes: Iterable[Outcome]) -> str:
    return table(
        ["destination", "sync", "status", "sent", "rejected", "remaining", "requests"],
        [[one.destination, one.mode or "-", _status(one), number(one.sent), number(one.rejected), number(one.remaining),
          number(one.requests)] for one in outcomes],
        right=["sent", "rejected", "remaining", "requests"])


def _status(one: Outcome) -> str:
    return "nothing new" if one.status == "done" and not (one.total or one.sent or one.rejected) else one.status


def _why(one: Outcome, zone: tzinfo) -> str:
    what = f"{one.destination} ({', '.join(one.keys)})" if one.keys else one.destination
    reason = f": {one.reason}" if one.reason not in ("", one.status) else ""
    until = f", until {moment(one.until, zone)}" if one.until else ""
    help_ = f"\n  -> {one.help}" if one.help else ""
    return plain(f"{what} is {one.status}{reason}{until}") + help_

"""What a plan says: for people, for a pull request, for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, tzinfo

from audiencesync.model import Plan, PlannedAudience, PlannedDelivery
from audiencesync.report.outcomes import first_of
from audiencesync.report.words import counted, lasting, moment, number, plain, stamp, table

WORTH_SAYING = 300
"""Seconds that an initial sync takes to be spoken of by itself."""

Table = Callable[[Sequence[str], Sequence[Sequence[str]], Sequence[str]], str]


def plan_exit_code(plan: Plan) -> int:
    """What the audiences that cannot be computed ask for; a plan that waits or is large is still a plan."""
    return first_of({code for code, _ in plan.errors})


def plan_document(plan: Plan) -> dict[str, object]:
    """The plan for programs; `minutes` is null where no rate limits the destination."""
    return {
        "as_of": stamp(plan.as_of),
        "audiences": [{"key": one.key, "before": one.before, "members": one.members, "entered": one.entered,
                       "exited": one.exited, "updated": one.updated, "duplicates": one.duplicates, "note": one.note}
                      for one in plan.audiences],
        "syncs": [{"key": one.key, "destination": one.destination, "mode": one.mode, "status": one.status,
                   "calls": one.calls, "entered": one.entered, "exited": one.exited, "updated": one.updated,
                   "retried": one.retried, "reason": one.reason, "seconds": one.seconds} for one in plan.syncs],
        "destinations": [{"destination": one.destination, "calls": one.calls, "users": one.users,
                          "requests": one.requests, "refused": one.refused, "rate": one.rate, "seconds": one.seconds,
                          "minutes": None if one.seconds is None else round(one.seconds / 60, 2)}
                         for one in plan.deliveries],
        "left": list(plan.left),
        "taken": [{"key": one.key, "destination": one.destination, "members": one.members} for one in plan.taken],
        "errors": [{"exit_code": code, "message": message} for code, message in plan.errors],
        "exit_code": plan_exit_code(plan),
    }


def plan_text(plan: Plan, zone: tzinfo = UTC) -> str:
    """The plan for people."""
    tables = _tables(plan, lambda header, rows, right: table(header, rows, right=right))
    return "\n\n".join([*tables, "\n".join(_words(plan, zone))])


def plan_markdown(plan: Plan, zone: tzinfo = UTC) -> str:
    """The plan for a pull request."""
    words = [f"- **error**: {plain(message)}" for _, message in plan.errors]
    words += [f"- {line}" for line in _words(plan, zone)]
    return "\n\n".join(["### audiencesync plan", *_tables(plan, _markdown), "\n".join(words)])


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> str:
    lines = [header, ["---:" if name in right else "---" for name in header],
             *([plain(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tables(plan: Plan, draw: Table) -> list[str]:
    parts = []
    updated = any(one.updated for one in plan.audiences) or any(one.updated for one in plan.syncs)
    other = ["other values"] if updated else []
    if plan.audiences:
        parts.append(draw(
            ["audience", "was", "now", "entered", "exited", *other, ""],
            [[one.key, "-" if one.before is None else number(one.before), number(one.members),
              number(one.entered, sign="+"), number(one.exited, sign="-"), *(number(one.updated) for _ in other),
              one.note] for one in plan.audiences],
            ["was", "now", "entered", "exited", *other]))
    if plan.syncs:
        parts.append(draw(
            ["destination", "audience", "sync", "true", "false", *other, "again", "calls", ""],
            [[one.destination, one.key, one.mode, number(one.entered, sign="+"), number(one.exited, sign="-"),
              *(number(one.updated) for _ in other), number(one.retried), number(one.calls),
              "" if one.status == "ready" else f"{one.status}: {one.reason}"] for one in plan.syncs],
            ["true", "false", *other, "again", "calls"]))
    return parts


def _words(plan: Plan, zone: tzinfo) -> list[str]:
    lines = [_missing(one) for one in plan.audiences if one.exited and one.missing is not None]
    for one in plan.deliveries:
        refused = f"; {counted(one.refused, 'call')} can not be sent" if one.refused else ""
        lines.append(f"{one.destination}: {counted(one.calls, 'identify call')} to {counted(one.users, 'user')} in "
                     f"{counted(one.requests, 'request')}, {_duration(one)}{refused}")
        lines += _initial(plan, one.destination)
    lines += [f"{key}: its file is gone; destinations keep what they were told; audiencesync retire {key} --clear "
              "tells everybody there that it is over" for key in plan.left]
    lines += [f"{one.key} goes to {one.destination} no more, where {counted(one.members, 'member')} still "
              f"{'holds' if one.members == 1 else 'hold'} true; audiencesync retire {one.key} --destination "
              f"{one.destination} --clear tells them that it is over" for one in plan.taken if one.key not in plan.left]
    lines.append(f"As of {moment(plan.as_of, zone)}. Nothing was written and nothing was sent; audiencesync sync does.")
    return lines


def _missing(one: PlannedAudience) -> str:
    """What becomes of the traits of those who dropped out; said loudly, since few expect it of SQL traits."""
    who = f"{one.key}: {counted(one.exited, 'user')} dropped out of its result"
    if not one.missing:
        return f"{who} and {'is' if one.exited == 1 else 'are'} told nothing (when_missing: keep)"
    how = "when_missing: clear, as unless told" if one.missing == "null" else f"when_missing: {one.missing}"
    return f"{who}: EACH OF THEIR TRAITS IS TOLD AS {one.missing} ({how})"


def _duration(one: PlannedDelivery) -> str:
    if one.seconds is None:
        return "as fast as it answers"
    if not one.rate:
        return lasting(one.seconds)
    return f"{lasting(one.seconds)} at {one.rate}" + ("" if "/" in one.rate else " a second")


def _initial(plan: Plan, name: str) -> list[str]:
    """How long each initial sync of a destination takes, where that is long enough to be planned."""
    return [f"{name}: the initial sync of {one.key} takes {lasting(one.seconds)} of that" for one in plan.syncs
            if one.destination == name and one.mode == "initial" and one.seconds and one.seconds >= WORTH_SAYING]

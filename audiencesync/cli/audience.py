"""What `show` and `runs` say of audiences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo

import orjson

from audiencesync.model import Ago, Audience
from audiencesync.report import moment, number, plain, run_row, stamp, table
from audiencesync.schedule import show_duration
from audiencesync.store.connect import Store
from audiencesync.store.standings import Standing, standings
from audiencesync.store.traits import traits_of
from audiencesync.store.views import Acted, Known, Ran, acts_of, history, movers

_WORDS = {"null": "clear", "": "keep"}
"""How `when_missing` is written in a header; anything else is a value."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """One audience: its file (None when gone), what the state knows (None before its first run), and samples.

    `entered` and `exited` are the newest run in which somebody did, and some of them; `used_by` are keys of others;
    `traits` are a computed trait's kinds of values by name.
    """

    definition: Audience | None
    known: Known | None
    runs: tuple[Ran, ...]
    entered: tuple[int, list[str]] | None
    exited: tuple[int, list[str]] | None
    standings: tuple[Standing, ...]
    acts: tuple[Acted, ...] = ()
    used_by: tuple[str, ...] = ()
    traits: Mapping[str, str] = field(default_factory=dict)


def portrait(store: Store, definition: Audience | None, known: Known | None) -> Portrait:
    """Ask the state about one audience."""
    if known is None:
        return Portrait(definition, None, (), None, None, ())
    ran = history(store, [known.key], limit=10)
    came = next((one.run.number for one in ran if one.run.entered), None)
    went = next((one.run.number for one in ran if one.run.exited), None)
    return Portrait(
        definition, known, tuple(ran),
        (came, movers(store, known.computation_id, came, entered=True)) if came else None,
        (went, movers(store, known.computation_id, went, entered=False)) if went else None,
        tuple(standings(store, [known], {known.key: definition.destinations if definition else ()})),
        tuple(acts_of(store, known.key)),
        traits=traits_of(store, known.computation_id, known.run.run.number) if known.run else {})


def run_document(ran: Ran) -> dict[str, object]:
    """A run for programs."""
    return {**run_row(ran.run), "started": stamp(ran.started_at), "ended": stamp(ran.ended_at)}


def runs_table(found: Sequence[Ran], zone: tzinfo) -> str:
    """Runs side by side; below, why the failed ones did."""
    other = ["other values"] if any(ran.run.updated for ran in found) else []
    rows = [[ran.run.key, str(ran.run.number), moment(ran.run.as_of, zone), ran.run.status,
             *([number(ran.run.members), number(ran.run.entered, sign="+"), number(ran.run.exited, sign="-"),
                number(ran.run.updated)] if ran.run.status == "done" else ["-", "-", "-", "-"])[:3 + len(other)],
             f"{(ran.ended_at - ran.started_at).total_seconds():.1f}s"] for ran in found]
    failed = [f"run {ran.run.number} of {ran.run.key} {'' if ran.run.status == 'failed' else 'is '}{ran.run.status}: "
              f"{plain(ran.run.error)}" for ran in found if ran.run.error]
    header = ["audience", "run", "as of", "status", "members", "entered", "exited", *other, "took"]
    return "\n".join([table(header, rows, right=["run", "members", "entered", "exited", *other, "took"]), *failed])


def standing_document(one: Standing) -> dict[str, object]:
    """Where one destination stands with one audience, for programs."""
    return {"destination": one.destination, "key": one.key, "mode": one.mode, "position": one.position,
            "run": one.run, "pending": one.pending, "rejected": one.rejected, "next_try": stamp(one.next_try),
            "settled_at": stamp(one.settled_at), "open": one.sync is not None, "told": one.told, "total": one.total,
            "unresolved": one.unresolved, "opened_at": stamp(one.opened_at)}


def standings_table(stand: Iterable[Standing]) -> str:
    """Where destinations stand, side by side."""
    return table(["destination", "audience", "position", "next sync", "pending", "rejected"],
                 [[one.destination, one.key, f"run {one.position} of {one.run}" if one.position else "nothing told",
                   one.mode, number(one.pending), number(one.rejected)] for one in stand],
                 right=["pending", "rejected"])


def document(seen: Portrait) -> dict[str, object]:
    """One audience for programs."""
    last = seen.known.run.run if seen.known and seen.known.run else None
    sample = {name: {"run": found[0], "users": found[1]} if found else None
              for name, found in (("entered", seen.entered), ("exited", seen.exited))}
    return {
        "key": seen.definition.key if seen.definition else seen.known.key if seen.known else "",
        "definition": _definition(seen.definition) if seen.definition else None,
        "id_kind": seen.known.id_kind if seen.known else None,
        "used_by": list(seen.used_by), "traits": dict(seen.traits),
        "paused": bool(seen.known and seen.known.paused_at), "members": last.members if last else 0,
        "runs": [run_document(ran) for ran in seen.runs], **sample,
        "destinations": [standing_document(one) for one in seen.standings],
        "acts": [{"at": stamp(one.at), "who": one.who, "command": one.command, "reason": one.reason}
                 for one in seen.acts],
    }


def sql_document(one: Audience) -> dict[str, object]:
    """The SQL of one computation and its parameters, for programs."""
    return {"key": one.key, "sql": one.sql, "vars": _variables(one)}


def sql_text(one: Audience) -> str:
    """The SQL as it stands; before that which was made from a file without SQL, what its parameters are."""
    said = (f"-- :{name} = {plain(json.dumps(value, ensure_ascii=False))}" for name, value in _variables(one).items())
    return "\n".join([*(said if one.declared else ()), one.sql])


def _variables(one: Audience) -> dict[str, object]:
    return {name: f"now - {show_duration(value.before)}" if isinstance(value, Ago) else value
            for name, value in one.variables.items()}


def _definition(one: Audience) -> dict[str, object]:
    return {"name": one.name, "kind": one.kind, "description": one.description, "owner": one.owner,
            "tags": list(one.tags), "include": list(one.include), "destinations": list(one.destinations),
            "integrations": list(one.integrations), "schedule": one.schedule, "file": one.path.as_posix(),
            "line": one.line, "sql": one.sql, "uses": list(one.uses), "types": dict(one.types),
            "full_row": one.full_row, "when_missing": _WORDS.get(one.missing) or orjson.loads(one.missing),
            "vars": _variables(one)}


def text(seen: Portrait, zone: tzinfo) -> str:
    """One audience for people."""
    parts = [_facts(seen)]
    if seen.definition and not seen.definition.declared:
        parts.append("\n".join(f"    {line}" for line in seen.definition.sql.strip("\n").splitlines()))
    if seen.runs:
        parts.append(runs_table(seen.runs, zone))
    moved = [f"{word} with run {found[0]}: {', '.join(plain(user) for user in found[1])}"
             for word, found in (("entered", seen.entered), ("exited", seen.exited)) if found]
    if moved:
        parts.append("\n".join(moved))
    if seen.standings:
        parts.append(standings_table(seen.standings))
    if seen.acts:
        parts.append("\n".join(f"{moment(one.at, zone)}  {plain(one.who)}: {plain(one.command)}"
                               + (f" ({plain(one.reason)})" if one.reason else "") for one in seen.acts))
    return "\n\n".join(parts)


def _facts(seen: Portrait) -> str:
    facts: dict[str, object] = {"key": seen.known.key if seen.known else ""}
    if seen.definition:
        facts = {"key": seen.definition.key, **_definition(seen.definition)}
        del facts["sql"], facts["line"], facts["kind"], facts["types"]
        if seen.definition.kind == "audience":
            del facts["full_row"], facts["when_missing"]
    else:
        kept = "" if seen.known and seen.known.retired_at else "; destinations keep what they were told"
        facts["file"] = f"gone{kept}"
    facts["used by"] = list(seen.used_by)
    facts["traits"] = [f"{name} ({kind or 'NULL alone'})" for name, kind in seen.traits.items()]
    if seen.known:
        if seen.known.retired_at:
            facts["retired"] = "for ever, and its key stays taken"
        last = seen.known.run
        facts["id column"] = seen.known.id_kind
        facts["members"] = number(last.run.members) if last else "not run yet"
        if seen.known.paused_at:
            facts["paused"] = seen.known.pause_reason or "yes"
    width = max(map(len, facts))
    return "\n".join(f"{name.ljust(width)}  {plain(_shown(value))}" for name, value in facts.items() if value)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

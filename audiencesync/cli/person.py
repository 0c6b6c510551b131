"""What `user` and `rejected` say of people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from audiencesync.report import moment, plain, stamp, table
from audiencesync.store.views import Rejected
from audiencesync.store.views_user import Membership, Stretch, Told, Value, Word


def document(user_id: str, found: Sequence[Membership]) -> dict[str, object]:
    """One user for programs; every audience is named, also those he never was in."""
    return {"user_id": user_id, "seen": _seen(found), "audiences": [
        {"key": one.key, "member": one.member, **_edge(one),
         "history": [_stretch(stretch) for stretch in one.stretches],
         "destinations": [_word(word) for word in one.words]} for one in found]}


def _seen(found: Sequence[Membership]) -> bool:
    return any(one.stretches or any(word.rejected for word in one.words) for one in found)


def _edge(one: Membership) -> dict[str, object]:
    """Since which run he is in or out."""
    if not one.stretches:
        return {"since_run": None, "since": None}
    last = one.stretches[-1]
    return {"since_run": last.since_run if one.member else last.until_run,
            "since": stamp(last.since if one.member else last.until)}


def _stretch(one: Stretch) -> dict[str, object]:
    return {"since_run": one.since_run, "since": stamp(one.since), "until_run": one.until_run,
            "until": stamp(one.until)}


def _word(one: Word) -> dict[str, object]:
    return {"destination": one.destination, "told": _told(one.told) if one.told else None,
            "unresolved": one.unresolved, "pending": one.pending,
            "rejected": rejected_document(one.rejected) if one.rejected else None}


def _told(one: Told) -> dict[str, object]:
    return {"value": one.value, "run": one.run, "as_of": stamp(one.as_of), "at": stamp(one.at), "mode": one.mode}


def text(user_id: str, found: Sequence[Membership], zone: tzinfo) -> str:
    """One user for people."""
    if not _seen(found):
        return f"{plain(user_id)}: never seen in any audience"
    lines = [plain(user_id)]
    for one in found:
        lines.append("")
        lines.append(_headline(one, zone))
        lines += [f"  was in from {_run(past.since_run, past.since, zone)} until "
                  f"{_run(past.until_run, past.until, zone)}" for past in one.stretches if past.until_run is not None]
        lines += [f"  {word.destination}: {_words(word, zone)}" for word in one.words]
    return "\n".join(lines)


def _headline(one: Membership, zone: tzinfo) -> str:
    if not one.stretches:
        return f"{one.key}: out, and never was in"
    last = one.stretches[-1]
    if one.value is not None:
        return f"{one.key}: {plain(one.value)}, in since {_run(last.since_run, last.since, zone)}"
    if one.member:
        return f"{one.key}: in, since {_run(last.since_run, last.since, zone)}"
    return f"{one.key}: out, since {_run(last.until_run, last.until, zone)}"


def _run(number: int | None, at: object, zone: tzinfo) -> str:
    from datetime import datetime

    return f"run {number} ({moment(at, zone)})" if isinstance(at, datetime) else f"run {number}"


def _words(word: Word, zone: tzinfo) -> str:
    said = []
    if word.told:
        said.append(f"told {_value(word.told.value)} as of run {word.told.run}, by {moment(word.told.at, zone)} "
                    f"({word.told.mode})")
    elif word.rejected is None:
        said.append("told nothing")
    if word.unresolved is not None:
        said.append(f"{_value(word.unresolved)} was sent and not answered, and goes again")
    if word.pending is not None:
        said.append(f"{_value(word.pending)} is pending")
    if word.rejected:
        refused = word.rejected
        code = f" ({refused.status})" if refused.status else ""
        said.append(f"refused since {moment(refused.since, zone)}{code}: {plain(refused.reason)}; tried "
                    f"{refused.tries} times, again by every sync, by itself after {moment(refused.next_try, zone)}")
    return "; ".join(said)


def _value(value: Value) -> str:
    """What he is told to be: a boolean, or his computed traits."""
    if isinstance(value, str):
        return plain(value)
    return "that he dropped out" if value is None else "true" if value else "false"


def rejected_document(one: Rejected) -> dict[str, object]:
    """A refusal for programs."""
    return {"user_id": one.user_id, "key": one.key, "destination": one.destination, "reason": one.reason,
            "status": one.status, "tries": one.tries, "since": stamp(one.since), "next_try": stamp(one.next_try)}


def rejected_table(found: Sequence[Rejected], zone: tzinfo) -> str:
    """Refusals side by side."""
    return table(["user", "audience", "destination", "status", "tries", "since", "next try", "reason"],
                 [[one.user_id, one.key, one.destination, str(one.status or "-"), str(one.tries),
                   moment(one.since, zone), moment(one.next_try, zone), one.reason] for one in found],
                 right=["status", "tries"])

"""What an alert says: all that somebody woken at night needs, bounded in length, in the form its receiver takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from audiencesync.model.troubles import Trouble

LONGEST = 3000
"""Characters of a text that Slack shows in one piece; what is built here stays below it, escapes and all."""

_PROJECT, _KIND, _WHAT, _WHY, _HELP, _NAME = 100, 60, 300, 1200, 600, 255
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def message(form: str, trouble: Trouble, *, recovered: bool, project: str, now: datetime) -> dict[str, object]:
    """The JSON document that a channel of type `form`, slack or webhook, is sent about `trouble`."""
    if form == "slack":
        return {"text": "\n".join(_slack(trouble, recovered=recovered, project=project, now=now))}
    if form == "webhook":
        return _document(trouble, recovered=recovered, project=project, now=now)
    raise ValueError(f"an alert is sent to slack or to a webhook, not to {form!r}")


def page_of(kind: str) -> str:
    """Where the runbook says what to do about a kind of trouble."""
    return f"docs/runbook.md#{kind}"


def _document(trouble: Trouble, *, recovered: bool, project: str, now: datetime) -> dict[str, object]:
    unsent = trouble.oldest_unsent
    return {
        "project": _line(project, _PROJECT),
        "kind": _line(trouble.kind, _KIND),
        "state": "recovered" if recovered else "open",
        "at": _stamp(now),
        "what": _line(trouble.what, _WHAT),
        "why": _line(trouble.why, _WHY),
        "since": _stamp(trouble.since),
        "until": _stamp(trouble.until),
        "key": _line(trouble.key, _NAME),
        "destination": _line(trouble.destination, _NAME),
        "leaving": trouble.leaving,
        "oldest_unsent": _stamp(unsent),
        "oldest_unsent_seconds": None if unsent is None else max(0, round((now - unsent).total_seconds())),
        "help": _line(trouble.help, _HELP),
        "runbook": page_of(_line(trouble.kind, _KIND)),
    }


def _slack(trouble: Trouble, *, recovered: bool, project: str, now: datetime) -> Iterator[str]:
    """Lines of mrkdwn, in which & < > of a value are escaped so that none becomes a link or calls a whole channel."""
    sign, word = (":large_green_circle:", "recovered") if recovered else (":red_circle:", trouble.kind)
    yield f"{sign} *{_mrkdwn(project, _PROJECT)}*: {_mrkdwn(trouble.what, _WHAT)} ({_mrkdwn(word, _KIND)})"
    yield f"*{'Now' if recovered else 'Cause'}*: {_mrkdwn(trouble.why, _WHY)}"
    yield f"*Since*: {_moment(trouble.since, now)}"
    if trouble.until is not None:
        yield f"*Until*: {_moment(trouble.until, now)}"
    yield f"*Bytes are leaving*: {'yes' if trouble.leaving else 'no'}"
    unsent = trouble.oldest_unsent
    yield "*Oldest unsent change*: " + ("none" if unsent is None else f"{_age(now - unsent)} old")
    if not recovered:
        yield f"*Next*: `{_mrkdwn(trouble.help.replace('`', chr(39)), _HELP)}`"
    yield f"*Runbook*: {_mrkdwn(page_of(trouble.kind), _NAME)}"


def _mrkdwn(text: str, most: int) -> str:
    """The text on one line, escaped; cut so that no escape is cut in two."""
    pieces = [_ESCAPES.get(char, char) for char in _line(text, most)]
    while sum(map(len, pieces)) > most:
        del pieces[-2:]
        pieces.append("…")
    return "".join(pieces)


def _line(text: str, most: int) -> str:
    """The text without line ends or anything else that cannot be seen, and no longer than `most`."""
    cut = text if len(text) <= most else f"{text[:most - 1]}…"
    return "".join(char if char.isprintable() else " " for char in cut)


def _stamp(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(at: datetime | None, now: datetime) -> str:
    if at is None:
        return "not known"
    far = f"{_age(now - at)} ago" if at <= now else f"in {_age(at - now)}"
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({far})"


def _age(span: timedelta) -> str:
    """A length of time as people say it, in its two largest units."""
    seconds = max(0, round(span.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds} s"

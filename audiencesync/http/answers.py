"""What an HTTP answer means to a delivery, decided here for every destination, and what may be quoted from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from audiencesync.errors import AccountRefused, CallsRefused, KeyRefused, NotThere, TakenAlready, Throttled, Unanswered

LONGEST_WAIT = 3600.0
"""Seconds; a server that asks for more is asked again after this."""

QUOTED = 200
"""Characters of a server's words that an error repeats."""

_CALLS = {400, 413, 414, 422}
_TAKEN, _NOT_THERE = 409, 404
_ACCOUNT = {401, 402, 403, 407}
_SLOW_DOWN = {420, 429}
_AGAIN = {408, 423, 425, 460, 499}

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_EPOCH = 1_000_000_000
_SECONDS = re.compile(r"\d+(\.\d+)?", re.ASCII)
_WORD = re.compile(r"(?:\\u[0-9a-fA-F]{4}|[^\s\"'`,;:<>(){}\[\]\\]){4,}")


class Reply(NamedTuple):
    """A 2xx answer, body and all.

    `wait` are the seconds in which nothing more may be sent, by its rate headers; `skew` is how far its clock is ahead
    of ours, in seconds, or None when it does not tell.
    """

    status: int
    body: bytes
    wait: float | None = None
    skew: float | None = None

    @property
    def partial(self) -> bool:
        """Whether it says that only a part may have been done, as 206 and 207 do."""
        return self.status in (206, 207)

    def json(self) -> Any:
        """The body; raises Unanswered when it is no JSON, since then nobody knows what was done."""
        try:
            return orjson.loads(self.body)
        except ValueError:
            raise Unanswered(f"the answer {self.status} is not JSON, so it says nothing", status=self.status) from None


class Asked(NamedTuple):
    """What is needed to speak of a request without giving anything away.

    `host` is shown; `account` and `address` are the settings to check; `secrets` and words of `body` are masked.
    One about a single `person` may be answered with 404 when there is no such.
    """

    host: str
    account: str
    address: str
    secrets: Sequence[str]
    body: bytes
    person: bool = False


def judge(status: int, headers: Mapping[str, str], body: bytes, asked: Asked) -> Reply:
    """The reply of a 2xx; raises the DeliveryError that any other status is.

    A 4xx that nobody gave a meaning for single calls pauses the destination: that keeps everything and rejects nobody.
    """
    now = datetime.now(UTC)
    if 200 <= status < 300:
        used_up = _seconds(headers.get("x-ratelimit-remaining")) == 0
        return Reply(status, body, asked_wait(headers, now) if used_up else None, _skew(headers.get("date"), now))
    said = quote(body, asked)
    text = f"{asked.host} answered {status}" + (f": {said}" if said else "")
    wait = asked_wait(headers, now)
    if status in _SLOW_DOWN:
        raise Throttled(text, status=status, wait=wait)
    if status == _TAKEN:
        raise TakenAlready(text, status=status, body=body)
    if status in _CALLS:
        raise CallsRefused(text, status=status, body=body)
    if status == _NOT_THERE and asked.person:
        raise NotThere(text, status=status, body=body)
    if status in _ACCOUNT:
        raise KeyRefused(f"{text}; check {asked.account}", status=status, body=body)
    if status in _AGAIN or not 300 <= status < 500:
        raise Unanswered(text, status=status, wait=wait)
    if status < 400:
        raise AccountRefused(f"{text} (a redirect, which is not followed); check {asked.address}", status=status)
    raise AccountRefused(f"{text}; check {asked.address}", status=status)


def asked_wait(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait by Retry-After (seconds or a date) or X-RateLimit-Reset, at most an hour; None for nonsense."""
    wait = _seconds(headers.get("retry-after"))
    if wait is None:
        wait = _until(headers.get("retry-after"), now)
    if wait is None:
        wait = _seconds(headers.get("x-ratelimit-reset"))
        if wait is not None and wait > _EPOCH:
            wait = max(0.0, wait - now.timestamp())
    return None if wait is None else min(wait, LONGEST_WAIT)


def _seconds(text: str | None) -> float | None:
    return float(text) if text and _SECONDS.fullmatch(text.strip()) else None


def _skew(text: str | None, now: datetime) -> float | None:
    try:
        return (parsedate_to_datetime(text or "").astimezone(UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None


def _until(text: str | None, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text or "")
        return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def quote(text: bytes, asked: Asked) -> str:
    """The first words of what a server said, on one line, without secrets and without what it repeats of our users.

    An email address, and every word that the request's body contains other than as a name, are shown as ***.
    """
    words = text[:4 * QUOTED].decode("utf-8", "replace").strip()
    for secret in asked.secrets:
        words = words.replace(secret, "***") if secret else words
    words = _WORD.sub(lambda match: "***" if _personal(match[0], asked.body) else match[0], words)
    return "".join(char if char.isprintable() else _escaped(char) for char in words[:QUOTED])


def _personal(word: str, body: bytes) -> bool:
    """Also in the spellings of addresses and of JSON that is ASCII alone."""
    spellings = {word, unquote(word), _ESCAPE.sub(lambda match: chr(int(match[1], 16)), word)}
    return any(_repeated(spelling, body) for spelling in spellings)


def _repeated(word: str, body: bytes) -> bool:
    if "@" in word:
        return True
    text = re.escape(word.strip(".!?").encode("utf-8", "replace"))
    return bool(re.search(rb"(?<!\w)" + text + rb"(?!\w)", body)) and not re.search(rb'"' + text + rb'":', body)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()

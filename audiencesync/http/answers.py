"""What an HTTP answer means to a delivery, decided here for every destination, and what may be quoted from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from audiencesync.errors import AccountRefused, CallsRefused, NotTaken, Unanswered

LONGEST_WAIT = 3600.0
"""Seconds; a server that asks for more is asked again after this."""

QUOTED = 200
"""Characters of a server's words that an error repeats."""

_CALLS = {400, 409, 413, 414, 422}
_ACCOUNT = {401, 402, 403, 407}
_SLOW_DOWN = {420, 429}
_AGAIN = {408, 423, 425, 460, 499}

_EPOCH = 1_000_000_000
_SECONDS = re.compile(r"\d+(\.\d+)?", re.ASCII)
_WORD = re.compile(r"[^\s\"'`,;:<>(){}\[\]\\]{4,}")


class Reply(NamedTuple):
    """A 2xx answer, body and all."""

    status: int
    body: bytes


class Asked(NamedTuple):
    """What is needed to speak of a request without giving anything away.

    `host` is shown; `account` and `address` are the settings to check; `secrets` and words of `body` are masked.
    """

    host: str
    account: str
    address: str
    secrets: Sequence[str]
    body: bytes


def judge(status: int, headers: Mapping[str, str], body: bytes, asked: Asked) -> Reply:
    """The reply of a 2xx; raises the DeliveryError that any other status is.

    A 4xx that nobody gave a meaning for single calls pauses the destination: that keeps everything and rejects nobody.
    """
    if 200 <= status < 300:
        return Reply(status, body)
    said = quote(body, asked)
    text = f"{asked.host} answered {status}" + (f": {said}" if said else "")
    wait = asked_wait(headers, datetime.now(UTC))
    if status in _SLOW_DOWN:
        raise NotTaken(text, status=status, wait=wait)
    if status in _CALLS:
        raise CallsRefused(text, status=status)
    if status in _ACCOUNT:
        raise AccountRefused(f"{text}; check {asked.account}", status=status)
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
    if "@" in word:
        return True
    text = re.escape(word.strip(".!?").encode())
    return bool(re.search(rb"(?<!\w)" + text + rb"(?!\w)", body)) and not re.search(rb'"' + text + rb'":', body)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()

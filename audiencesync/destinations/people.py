"""What destinations that keep people have in common: their settings, a person's fields, calls grouped for requests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, ClassVar, Protocol

import orjson
from pydantic import ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from audiencesync.addresses import check_url
from audiencesync.model import Call, Destination, Packed, Packer, Refusal, digits

STANDARD = ("email", "first_name", "last_name", "name", "title", "phone", "avatar", "gender", "address")
"""Segment's standard traits (spec/identify) that the native destinations have fields of their own for."""

MISSING_EMAIL = "missing_email"
MISSING_COMPANY = "missing_company"
SHARED_EMAIL = "shared_email"
IDENTITY_CONFLICT = "identity_conflict"
UNKNOWN_USER = "unknown_user"
"""The reasons for which a user is rejected, as programs may count on them: they begin the reason's text."""


class People(Destination):
    """A destination that keeps people; its settings are those of every such."""

    model_config = ConfigDict(hide_input_in_errors=True)

    api_url: ClassVar[str]
    """The base URL that `url` stands in place of."""

    create_users: bool = Field(True, description="Whether a member it does not know is created; a false never does.")
    create_fields: bool = Field(True, description="Whether a sync declares the fields it needs; else doctor --fix.")
    allow_http: bool = Field(False, description="Send to an http:// url that is not on this machine.")
    url: str | None = Field(None, description="Another base URL of the API, such as that of a proxy.")

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str | None, info: ValidationInfo) -> str | None:
        return url if url is None else check_url(url, allow_http=bool(info.data.get("allow_http")))


class Steps(Protocol):
    """What becomes of a page's calls now."""

    def take(self, user: str, calls: Sequence[Call], /) -> None:
        """The next step of one user, of whom these are all the calls."""

    def packed(self) -> Packed:
        """All of it."""


class WavePacker(Packer):
    """Packs each user's next step, which what is known of him decides; of a page that knows the answers before it."""

    in_turn = True

    @abstractmethod
    def wave(self, known: Mapping[str, str]) -> Steps:
        """Where nobody has taken a step yet."""

    def pack(self, calls: Sequence[Call]) -> Packed:
        """As when nothing is known of anybody."""
        return self.pack_known(calls, {})

    def pack_known(self, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
        """Each user's next step."""
        wave = self.wave(known)
        for user, mine in by_user(calls):
            wave.take(user, mine)
        return wave.packed()


def one_word(secret: SecretStr, name: str) -> SecretStr:
    """The secret as it is; raises ValueError when it is empty or no single word, as an unset variable leaves it."""
    text = secret.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{name} is one word of letters and digits; is the variable set?")
    return secret


def split(included: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Included columns (the text of a JSON object) as standard traits and custom ones.

    A column `address.city` is part of the standard trait address: {"address": {"city": ...}}.
    """
    standard: dict[str, Any] = {}
    custom: dict[str, Any] = {}
    for name, value in (orjson.loads(included) if included else {}).items():
        first, _, rest = name.partition(".")
        if first == "address" and rest:
            standard.setdefault("address", {})[rest] = value
        elif name in STANDARD:
            standard[name] = value
        else:
            custom[name] = value
    return standard, custom


def email_of(call: Call, id_kind: str) -> str:
    """The user's email in lower case: his id where that is one, else the included column; empty where he has none."""
    found = call.user_id if id_kind == "email" else split(call.included)[0].get("email")
    return found.strip().lower() if isinstance(found, str) else ""


def by_user(calls: Sequence[Call]) -> Iterable[tuple[str, list[Call]]]:
    """Each user with all his calls, in order; `calls` are ordered by user."""
    for user, mine in groupby(calls, key=itemgetter(0)):
        yield user, list(mine)


def by_value(calls: Iterable[Call], most: int) -> Iterable[tuple[int, bool | str, list[Call]]]:
    """Span, value and at most `most` calls that share both, in the order of the spans."""
    groups: dict[tuple[int, bool | str], list[Call]] = {}
    for call in calls:
        groups.setdefault((call.span, call.value), []).append(call)
    for (span, value), mine in sorted(groups.items(), key=itemgetter(0)):
        for start in range(0, len(mine), most):
            yield span, value, mine[start:start + most]


def first_calls(calls: Sequence[Call]) -> tuple[list[Call], tuple[Call, ...]]:
    """Each user's first call, and the rest: so that a user is under way once, where a request is of one trait."""
    seen: set[str] = set()
    first: list[Call] = []
    rest: list[Call] = []
    for call in calls:
        (rest if call.user_id in seen else first).append(call)
        seen.add(call.user_id)
    return first, tuple(rest)


def refusal(code: str, words: str, status: int | None = None) -> Refusal:
    """A refusal whose reason begins with the code that programs may count on."""
    return Refusal(f"{code}: {words}", status)


def compact(value: Mapping[str, object] | Sequence[object]) -> bytes:
    """A body as JSON."""
    return orjson.dumps(value, default=digits)

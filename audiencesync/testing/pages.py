"""The calls that a destination is tried with: ids that break careless rendering, and an address for everybody."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from audiencesync.model import Call, Content, Destination, Envelope

AWKWARD = ("ann", "Ann", 'quo"te', "o'brien", "back\\slash", "a/slash", "../../up", "a+plus", "100%41", "q?u=e&r#y",
           "tab\there", "new\nline", "žluťoučký", "日本", "👩\u200d👧", "\u2028", "\x7f", "</script>", "a,b]}",
           ',{"type":"identify"', "u" * 300, "%s{0}", " lead and trail ", "true", "null", "-1", ".")
"""Ids of users, each of which some program somewhere could not carry."""

SECRET = bytes(range(32))

MESSAGE_ID = re.compile(rb'"messageId":"([^"]*)"')
"""Where a body in Segment's shape has the id by which receivers know a call again."""


class Limits(NamedTuple):
    """What a request may carry: calls, bytes of a body, bytes of a call; None where there is no limit."""

    calls: int | None = None
    body: int | None = None
    call: int | None = None


def envelope(key: str = "order_completed_last_30days", **other: Any) -> Envelope:
    """An envelope as a sync makes it."""
    values = {"id_kind": "user_id", "namespace": "shop", "version": "0.1.0",
              "timestamp": "2026-11-22T00:00:00.000Z", "computation_id": f"aud_{key}"}
    return Envelope(key, **{**values, **other})


def content(*envelopes: Envelope, secret: bytes = SECRET) -> Content:
    """A sync's content; of two audiences unless envelopes are given."""
    return Content(secret, envelopes or (envelope(), envelope("vip")))


def content_for(destination: Destination, *, secret: bytes = SECRET) -> Content:
    """Two audiences whose users are named by a kind of id that the destination understands."""
    kind = "user_id" if "user_id" in destination.id_kinds else destination.id_kinds[0]
    made = tuple(envelope(key, id_kind=kind) for key in ("order_completed_last_30days", "vip"))
    return Content(secret, made, keys=tuple(one.key for one in made))


def email(user: str) -> str:
    """The address of a user, which is his own and has letters that an address may have and a path may not."""
    return f"o'{blake2b(user.encode(), digest_size=5).hexdigest()}+a/b@example.com"


def included(needs: Sequence[str], user: str, note: str = "") -> str:
    """The included columns of a member as the text of a JSON object: his email, what is needed, a note if given."""
    columns = {name: email(user) if name == "email" else f"{name}-{email(user)[2:12]}" for name in ("email", *needs)}
    return orjson.dumps(columns | ({"note": note} if note else {})).decode()


def call(needs: Sequence[str], user: str, span: int, *, value: bool, note: str = "") -> Call:
    """A call as the core makes it: whoever left has no included columns."""
    return Call(user, span, value, included(needs, user, note) if value else None)


def page(needs: Sequence[str], seed: int, *, users: int = 40, emails: bool = False) -> list[Call]:
    """Calls of two audiences, ordered by user, some with both; `emails` names the users by their addresses."""
    draw = random.Random(seed)  # noqa: S311 - the same page for the same seed
    letters = ["x", "é", "漢", "🦊", '"', "\\", " ", "/", "+", "%"]
    drawn = ("".join(draw.choices(letters, k=draw.choice((1, 9, 90, 250)))) for _ in range(users))
    ids = {email(user) if emails else user for user in (*AWKWARD, *(user for user in drawn if user.strip()))}
    return [call(needs, user, span, value=draw.random() < 0.6, note=draw.choice(("", "", user)))
            for user in sorted(ids) for span in (0, 1) if draw.random() < 0.8]

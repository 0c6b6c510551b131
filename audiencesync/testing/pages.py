"""The calls that a destination is tried with: ids that break careless rendering, values of every kind, addresses."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from audiencesync.model import Call, Content, Destination, Envelope

AWKWARD = ("ann", "Ann", 'quo"te', "o'brien", "back\\slash", "a/slash", "../../up", "a+plus", "100%41", "q?u=e&r#y",
           "tab\there", "new\nline", "žluťoučký", "日本", "👩\u200d👧", "\u2028", "\x7f", "</script>", "a,b]}",
           ',{"type":"identify"', "u" * 300, "%s{0}", " lead and trail ", "true", "null", "-1", ".")
"""Ids of users, each of which some program somewhere could not carry."""

SECRET = bytes(range(32))

KINDS = {"lifetime_revenue": "number", "orders_ever": "number", "favourite_size": "string",
         "has_open_ticket": "boolean", "first_order_at": "timestamp", "sizes": "list"}
"""The traits of the third computation that a destination is tried with, and what kind of value each has."""

LONG = "123456789012345678901234567890.000000000000000000000000000001"
"""A number of whose digits a double keeps a third."""

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


def content_for(destination: Destination, *, secret: bytes = SECRET, send: str = "identify") -> Content:
    """Two audiences and a computation of traits, whose users are named by a kind of id that the destination takes."""
    kind = "user_id" if "user_id" in destination.id_kinds else destination.id_kinds[0]
    made = (*(envelope(key, id_kind=kind, send=send) for key in ("order_completed_last_30days", "vip")),
            envelope("customer_value", id_kind=kind, send=send, computation_class="trait",
                     computation_id="tra_customer_value", traits=tuple(KINDS)))
    return Content(secret, made, keys=tuple(one.key for one in made))


def fields_for(destination: Destination) -> dict[str, str]:
    """The names by which the traits of that content are known there, and their kinds."""
    return dict.fromkeys((one.key for one in content_for(destination).envelopes[:2]), "boolean") | KINDS


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


def computed(needs: Sequence[str], user: str, **values: object) -> Call:
    """A call of the computed traits; whoever has none of them any more has no included columns."""
    gone = all(value is None for value in values.values())
    text = orjson.dumps(values, default=lambda number: orjson.Fragment(str(number))).decode()
    return Call(user, 2, text, None if gone else included(needs, user))


def page(needs: Sequence[str], seed: int, *, users: int = 40, emails: bool = False) -> list[Call]:
    """Calls of two audiences, ordered by user, some with both; `emails` names the users by their addresses."""
    draw = random.Random(seed)  # noqa: S311 - the same page for the same seed
    return [call(needs, user, span, value=draw.random() < 0.6, note=draw.choice(("", "", user)))
            for user in _users(draw, users, emails=emails) for span in (0, 1) if draw.random() < 0.8]


def mixed(needs: Sequence[str], seed: int, *, users: int = 20, emails: bool = False, nulls: bool = True) -> list[Call]:
    """Calls of audiences and of computed traits, ordered by user; some traits are null unless it is without `nulls`."""
    draw = random.Random(seed)  # noqa: S311 - the same page for the same seed
    calls = []
    for user in _users(draw, users, emails=emails):
        calls += [call(needs, user, span, value=draw.random() < 0.6) for span in (0, 1) if draw.random() < 0.4]
        values = {name: None if nulls and draw.random() < 0.2 else _value(draw, kind, user)
                  for name, kind in KINDS.items() if draw.random() < 0.7}
        if values and draw.random() < 0.8:
            calls.append(computed(needs, user, **values))
    return calls


def _users(draw: random.Random, users: int, *, emails: bool) -> list[str]:
    letters = ["x", "é", "漢", "🦊", '"', "\\", " ", "/", "+", "%"]
    drawn = ["".join(draw.choices(letters, k=draw.choice((1, 9, 90, 250)))) for _ in range(users)]
    return sorted({email(user) if emails else user for user in (*AWKWARD, *(user for user in drawn if user.strip()))})


def _value(draw: random.Random, kind: str, user: str) -> object:
    """A value of a kind; the user's own id is as awkward a text as any."""
    if kind == "number":
        return draw.choice((0, -7, 9.5, 1e-7, 2**53 - 1, Decimal("0.10000000000000000555111512"), Decimal(LONG)))
    if kind == "list":
        return draw.choice((["S"], ["L", "XL"], [f"a {user[:50]}", "b, c"]))
    texts = {"string": (user[:200], "null", "XL"), "timestamp": ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678Z")}
    return draw.choice(texts[kind]) if kind in texts else draw.random() < 0.5

"""Calls as the tests of destinations bring them, and ids that break careless code."""

from __future__ import annotations

import orjson

from audiencesync.model import Call, Content
from audiencesync.testing import content, envelope

KEYS = ("vip", "big_spender", "dormant")
AWKWARD = ("user@123", "a/b", "a+b", "a b", "日本", "100%41", "q?u=e&r#y", ".", "..", "../../up", "o'brien", "5577")


def made(*keys: str, kind: str = "user_id") -> Content:
    """The content of a sync of these keys, or of all three."""
    return content(*(envelope(key, id_kind=kind) for key in keys or KEYS))


def true(user: str, span: int = 0, **columns: object) -> Call:
    """A member, with his included columns."""
    return Call(user, span, True, orjson.dumps(columns).decode() if columns else None)


def false(user: str, span: int = 0) -> Call:
    """Somebody who left."""
    return Call(user, span, False, None)


def computed(user: str, span: int = 0, *, columns: dict[str, object] | None = None, **values: object) -> Call:
    """What a user is told of a computed trait, with his included columns."""
    return Call(user, span, orjson.dumps(values).decode(), orjson.dumps(columns).decode() if columns else None)

"""Keys: the trait names under which destinations know an audience, made from names as Segment makes them."""

from __future__ import annotations

import re

LONGEST = 255

IDENTIFIER = 63
"""Bytes that PostgreSQL keeps of a name (Lexical Structure, Identifiers)."""

RESERVED = frozenset({
    "address", "age", "anonymousid", "avatar", "birthday", "company", "createdat", "description", "email", "firstname",
    "gender", "groupid", "id", "lastname", "name", "phone", "title", "userid", "username", "website",
})
"""Segment's standard traits of a user and its ids, without `_`: destinations give them a meaning of their own."""


def key_of(name: str) -> str:
    """The key of an audience called `name`; ValueError, asking for `key:`, when the name gives none that may be used.

    A name of letters only is underscored first (`OrderCompleted`), so digits are never split from letters
    (`Order completed last 30days`).
    """
    import inflection

    words = inflection.underscore(name) if name.strip().isalpha() else name
    key = re.sub(r"[-_]+", "_", inflection.parameterize(words, "_")).strip("_")
    if not key:
        raise ValueError(f"the name {name!r} has no Latin letters or digits to make a key of; write one as key:")
    _check(key, f"the name {name!r} gives the key {key!r}, which ", "; write another one as key:")
    return key


def check_key(key: str) -> str:
    """Return an explicit key verbatim, or raise ValueError when no destination could be asked to keep it."""
    if not key.strip():
        raise ValueError("the key is empty; write letters, digits and _")
    if key != key.strip() or not key.isprintable():
        raise ValueError(f"the key {key!r} has blanks at an end or characters that cannot be seen")
    _check(key, f"the key {key!r} ", "; write another one")
    return key


def kept(name: str, backend: str | None) -> str:
    """What a database keeps of the name of a table or column; `backend` is SQLAlchemy's name of its kind."""
    return name.encode()[:IDENTIFIER].decode(errors="ignore") if backend == "postgresql" else name


def _check(key: str, subject: str, remedy: str) -> None:
    if len(key) > LONGEST:
        raise ValueError(f"{subject[:80]}... is longer than {LONGEST} characters{remedy}")
    if re.sub(r"[\s_-]+", "", key.lower()) in RESERVED:
        raise ValueError(f"{subject}is a standard trait of users and would be overwritten{remedy}")

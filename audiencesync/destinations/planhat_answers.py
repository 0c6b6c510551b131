"""What Planhat's answer to a bulk upsert says of each row: taken, refused and why, or nothing.

Answers echo `_id` and keyables of what was inserted and updated; the shape of what stands in createdErrors,
updatedErrors and permissionErrors is not published. So an error belongs to the row that any value in it names, and
rows that neither an echo nor an error nor the count of nonupdates explains are sent again in smaller requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from audiencesync.destinations.people import IDENTITY_CONFLICT, UNKNOWN_USER, refusal
from audiencesync.destinations.planhat_rows import WHY, Row, Rows
from audiencesync.model import Receipt, Refusal

ECHOES, ERRORS = ("insertsKeys", "updatesKeys"), ("createdErrors", "updatedErrors", "permissionErrors")
IDS = ("modified", "upsertedIds")
COUNTS = ("created", "updated", "nonupdates")

_KEYABLES = {"_id", "externalid", "sourceid", "email", "id"}
_WORDS = re.compile(r"[\w.@+\-]+")
_COMPANY = re.compile(r"compan(?:y|ies)")
_CLASH = re.compile(r"(?<!not )(?<!n't )exists?\b|already|duplicate|taken|in use|unique|another")
_NOT = re.compile(r"missing|required|unknown|no such|not (?:be )?found|n[o']t exist|no match|not find|cannot find")
_WHO = re.compile(r"end ?user|\buser|contact|person|email|externalid|sourceid|\b_?id\b|entity|record|document")


@dataclass(slots=True)
class _Reading:
    """What is known of each row, by its number, while an answer is read."""

    taken: dict[int, str] = field(default_factory=dict)
    wrong: dict[int, list[object]] = field(default_factory=dict)
    doubted: set[int] = field(default_factory=set)
    unmade: set[int] = field(default_factory=set)
    nameless: bool = False


def read(body: bytes, status: int | None, batch: Rows, quote: Callable[[str], str], *, ok: bool,
         account: bool = False, partial: bool = True) -> Receipt | None:
    """The receipt of an answer; None when it tells nothing of single rows.

    `ok` says that it is no error's answer, `account` that it is one which may concern the account, `partial` that some
    rows may not be done though nothing names them (http response codes: 200 means all); `quote` makes a server's words
    fit for a report.
    """
    said = _parsed(body)
    if said is None:
        return None
    alone = len(batch.rows) == 1 and not account  # then whatever is wrong is wrong with him
    seen = _look(said, batch, alone=alone)
    rows = range(len(batch.rows))
    if not ok and not seen.wrong and alone:
        seen.wrong[0] = [said]
    if not ok and not seen.wrong and not seen.taken and not seen.doubted:
        return None
    left = [row for row in rows if row not in seen.taken and row not in seen.wrong and row not in seen.doubted]
    clear = ok and not seen.nameless and not seen.doubted
    quiet = not seen.wrong
    if clear and left and ((quiet and not partial) or _explained(said, len(left), len(rows) - len(seen.wrong),
                                                                 quiet=quiet)):
        seen.taken |= dict.fromkeys(left, "")
        left = []
    if clear and quiet and alone and left and not batch.rows[0].absent and [said.get(one) for one in COUNTS] == [0] * 3:
        seen.wrong[0], left = [], []  # whom his `_id` does not name any more
    return _receipt(batch, seen, {*left, *seen.doubted}, status, quote)


def is_answer(body: bytes) -> bool:
    """Whether this is what a bulk upsert is answered with, in any of its known parts."""
    said = _parsed(body)
    return said is not None and not said.keys().isdisjoint((*ECHOES, *ERRORS, *IDS, *COUNTS))


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        said = orjson.loads(body)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _explained(said: Mapping[str, Any], left: int, good: int, *, quiet: bool) -> bool:
    """Whether the counts account for the rows that no echo names, or nothing is counted and nothing wrong."""
    if quiet and said.keys().isdisjoint((*ECHOES, *IDS, *COUNTS)):
        return True
    counts = [count if isinstance(count := said.get(name), int) else 0 for name in COUNTS]
    return counts[2] == left or sum(counts) == good


def _look(said: Mapping[str, Any], batch: Rows, *, alone: bool) -> _Reading:
    index = {name: number for number, row in enumerate(batch.rows) for name in row.names}
    seen = _Reading()
    for echo in _listed(said, ECHOES):
        for value in echo.values() if isinstance(echo, dict) else (echo,):
            if isinstance(value, str) and (number := index.get(value)) is not None:
                found = echo.get("_id") if isinstance(echo, dict) else None
                seen.taken[number] = found if isinstance(found, str) else ""
    for value in _listed(said, IDS):
        if isinstance(value, str) and (number := index.get(value)) is not None:
            seen.taken.setdefault(number, value)
    for made, error in [(name, error) for name in ERRORS for error in _listed(said, (name,))]:
        named = {0} if alone else _named(error, index)
        if len(named) == 1:
            seen.unmade |= named if made == "createdErrors" else set()
            seen.wrong.setdefault(named.pop(), []).append(error)
        else:  # several are named, as for a duplicate: each must speak for itself
            seen.doubted |= named
            seen.nameless = seen.nameless or not named
    seen.doubted -= seen.wrong.keys()
    for number in (*seen.wrong, *seen.doubted):
        seen.taken.pop(number, None)
    return seen


def _listed(said: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Any]:
    """The entries under these names; an object in place of a list has an entry for each of its names."""
    for name in names:
        found = said.get(name)
        if isinstance(found, dict):
            yield from ({key: value} for key, value in found.items())
        elif isinstance(found, list):
            yield from found
        elif isinstance(found, str) and found:
            yield found


def leaves(value: object) -> Iterator[str]:
    """Every text in it, names of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)


def _keyed(value: object) -> Iterator[str]:
    """The texts that stand under a keyable's name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str) and key.lower() in _KEYABLES:
                yield inner
            yield from _keyed(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keyed(inner)


def _named(error: object, index: Mapping[str, int]) -> set[int]:
    """The rows that an error names: under a keyable's name, else as a whole text, else as words in one."""
    texts = list(leaves(error))
    for found in (_keyed(error), texts, (word for text in texts for word in _words(text))):
        if named := {index[text] for text in found if text in index}:
            return named
    joined = "\n".join(texts)
    return {number for name, number in index.items() if name in joined
            and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", joined)}


def _words(text: str) -> Iterator[str]:
    for word in _WORDS.findall(text):
        yield word
        yield word.rstrip(".-")


def _receipt(batch: Rows, seen: _Reading, again: set[int], status: int | None, quote: Callable[[str], str]) -> Receipt:
    """Rows to calls: refusals by call, lessons, and whom to ask again."""
    refused: dict[int, Refusal] = {}
    retried: list[int] = []
    repacked: list[int] = []
    learned: dict[str, str] = {}
    at = 0
    for number, row in enumerate(batch.rows):
        mine = range(at, at + len(row.calls))
        at += len(row.calls)
        if number in again:
            retried += mine
            continue
        if number not in seen.wrong:
            learned |= row.lessons(seen.taken[number])
            continue
        words = _words_of(seen.wrong[number], row)
        gone = number in seen.unmade and not any(call.tells for call in row.calls)  # and nobody is there to leave
        unmade = gone and "field" not in words.lower() and not any(_says(words, name) for name in row.fields)
        kind = "absent" if unmade or not seen.wrong[number] else _kind(words, row)
        learned |= {"clash": row.clash, "absent": row.lost}.get(kind, {})
        members = [index for index, call in zip(mine, row.calls, strict=True) if call.tells or kind != "absent"]
        if kind == "other" and len({any(_says(words, name) for name in names) for names in row.keys}) > 1:
            retried += mine  # a trait is wrong, and the user's other calls need not be
        elif found := _refusal(kind, row, words, status, quote):
            refused |= dict.fromkeys(members, found)
        elif not batch.asks:
            repacked += members
    return Receipt(refused, tuple(retried), learned, repack=tuple(repacked))


def _words_of(errors: list[object], row: Row) -> str:
    """The texts of errors, without what they repeat of the row and without its names."""
    words = " ".join(_new(errors, set(leaves(orjson.loads(row.body))), {"companyId", "email", *row.fields}))
    for name in sorted(row.names, key=len, reverse=True):
        words = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "***", words)
    return words


def _new(value: object, repeated: set[str], fields: set[str]) -> Iterator[str]:
    """The texts that are not repeated, with the names of fields that have such, as {"companyId": "required"}."""
    if isinstance(value, str):
        yield from () if value in repeated else (value,)
    elif isinstance(value, list):
        for inner in value:
            yield from _new(inner, repeated, fields)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if found := list(_new(inner, repeated, fields)):
                yield from (key, *found) if key in fields else found


def _kind(words: str, row: Row) -> str:
    """Whether an error means that nobody is there, that another has this email, or something else."""
    text = words.lower()
    if any(_says(words, name) for name in row.fields):
        return "other"
    if "email" in text and _CLASH.search(text):
        return "clash"
    return "absent" if _COMPANY.search(text) or (_NOT.search(text) and _WHO.search(text)) else "other"


def _says(words: str, key: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", words) is not None


def _refusal(kind: str, row: Row, words: str, status: int | None, quote: Callable[[str], str]) -> Refusal | None:
    """Why a member is refused; None where this kind of error refuses nobody."""
    if kind == "absent":
        if not row.absent:
            return None
        known = row.absent == UNKNOWN_USER or _COMPANY.search(words.lower())
        return refusal(row.absent if known else "refused", WHY[row.absent] if known else quote(words), status)
    if kind == "clash":
        return None if row.clash else refusal(IDENTITY_CONFLICT, "another enduser has this user's email", status)
    return refusal("refused", quote(words) or "Planhat names no reason", status)

"""The fields a destination needs for its keys, declared before anything of them is sent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import orjson

from audiencesync.errors import AccountRefused, CallsRefused, DeliveryError, Unanswered
from audiencesync.model import Destination, Trait
from audiencesync.store import identities
from audiencesync.store.connect import Store
from audiencesync.store.traits import fields_of

PATIENCE = timedelta(hours=1)
"""How long a scheduled sync takes it for true that a field is missing or of another type."""

SOON = timedelta(minutes=1)
"""How long it leaves fields alone that could not be asked for."""

TRUST = timedelta(days=1)
"""How long a field that was there is taken to be there still."""

HELP = "mend it there, then: audiencesync sync"


class Unfit(NamedTuple):
    """Why nothing of a key can be sent: `status` is held (a person must mend it) or waiting (it may pass)."""

    why: str
    status: str


def unfit(store: Store, name: str, destination: Destination, kinds: Mapping[str, str | None], *,
          lately: bool = True) -> Mapping[str, Unfit]:
    """Why nothing of these keys can be sent, whose kinds of ids are given: their ids, or their fields there.

    A field counts as it was seen `lately`, or as it was seen last.
    """
    found = {key: Unfit(f"{name} knows nobody by {kind}; it takes {' or '.join(destination.id_kinds)}", "held")
             for key, kind in kinds.items() if kind is not None and kind not in destination.id_kinds}
    names = fields_of(store, kinds) if declares(destination) else {}
    wrong = _unfit(store, name, {field for mine in names.values() for field in mine}, lately=lately)
    for key, mine in names.items():
        if key not in found and (worst := next((wrong[field] for field in mine if field in wrong), None)):
            found[key] = worst
    return found


def _unfit(store: Store, name: str, names: Collection[str], *, lately: bool) -> Mapping[str, Unfit]:
    """By the name of a field, why it takes no value."""
    seen = identities.known(store, name, [f"unfit:{field}" for field in names])
    if not seen:
        return {}
    found, now = {}, _now(store)
    for of, value in seen.items():
        said = orjson.loads(value)
        patience = SOON if said["status"] == "waiting" else PATIENCE
        if not lately or now - datetime.fromisoformat(said["at"]) < patience:
            found[of.partition(":")[2]] = Unfit(said["why"], said["status"])
    return found


def declares(destination: Destination) -> bool:
    """Whether its fields must be declared at all."""
    return type(destination).prepare is not Destination.prepare


def prepare(store: Store, name: str, destination: Destination, keys: Callable[[], Iterable[str]], *, again: bool,
            beat: Callable[[], None]) -> None:
    """Have the fields declared that were not yet, and remember how they stand; `beat` waits for each request's turn.

    With `again` also those are looked at that were unfit a moment ago, since a person may have mended them. What goes
    wrong with some fields concerns their keys alone; a DeliveryError is raised when there is no other.
    """
    if not declares(destination):
        return
    # one that is NULL for everybody has no kind to be declared of, and nothing of it is told
    kinds = {field: kind for mine in fields_of(store, sorted(set(keys()))).values() for field, kind in mine.items()
             if kind}
    ready = _trusted(store, name, kinds)
    left = {field: kind for field, kind in kinds.items() if field not in ready}
    if left and not again:
        known = _unfit(store, name, left, lately=True)
        left = {field: kind for field, kind in left.items() if field not in known}
    if not left:
        return
    found: dict[str, Trait] = {}
    try:
        beat()
        for field in _each(destination, left):
            found[field.name] = field
            beat()
    except DeliveryError as error:
        fit = ready or any(field.status in ("ready", "made") for field in found.values())
        alone = fit or isinstance(error, CallsRefused)
        status = "held" if isinstance(error, CallsRefused | AccountRefused) else "waiting"
        unclear = {key: Unfit(str(error), status) for key in left if key not in found} if alone else {}
        note(store, name, found.values(), unclear)
        if not alone:
            raise
    else:
        note(store, name, found.values())


def _each(destination: Destination, kinds: Mapping[str, str]) -> Iterable[Trait]:
    try:
        yield from destination.prepare(list(kinds), create=bool(getattr(destination, "create_fields", True)),
                                       kinds=kinds)
    except (DeliveryError, GeneratorExit):
        raise
    except Exception as error:  # what somebody else's class raises must not end the other destinations
        raise Unanswered(f"the destination failed in itself: {type(error).__name__}") from error


def note(store: Store, name: str, found: Iterable[Trait], unclear: Mapping[str, Unfit] | None = None) -> None:
    """Remember how fields stand, and which could not be asked for, so that nobody is asked again before long."""
    learned: dict[str, str] = {}
    misfits = dict(unclear or {})
    with store.write() as connection:
        now = store.now(connection)
        for field in found:
            if field.status in ("ready", "made"):
                learned |= {f"field:{field.name}": orjson.dumps(now).decode(), f"unfit:{field.name}": ""}
            else:
                misfits[field.name] = Unfit(field.words, "held")
        for key, one in misfits.items():
            learned |= {f"field:{key}": "", f"unfit:{key}": orjson.dumps({"at": now, **one._asdict()}).decode()}
        identities.remember(store, connection, name, learned)


def _trusted(store: Store, name: str, keys: Iterable[str]) -> set[str]:
    """The keys whose fields were there within a day; whoever deletes one there is noticed by the next."""
    known = identities.known(store, name, [f"field:{key}" for key in keys])
    now = _now(store)
    return {of.partition(":")[2] for of, value in known.items()
            if now - datetime.fromisoformat(orjson.loads(value)) < TRUST}


def _now(store: Store) -> datetime:
    with store.read() as connection:
        return store.now(connection)

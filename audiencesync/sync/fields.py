"""The fields a destination needs for its keys, declared before anything of them is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

import orjson

from audiencesync.errors import CallsRefused
from audiencesync.model import Destination, Trait
from audiencesync.store import identities
from audiencesync.store.connect import Store

PATIENCE = timedelta(hours=1)
"""How long a scheduled sync takes it for true that a field is missing or of another type."""

HELP = "mend it there, then: audiencesync sync"


def unfit(store: Store, name: str, destination: Destination, kinds: Mapping[str, str | None], *,
          lately: bool = True) -> Mapping[str, str]:
    """Why nothing of these keys can be sent, whose kinds of ids are given: their ids, or their fields there.

    A field counts as it was seen `lately`, or as it was seen last.
    """
    found = {key: f"{name} knows nobody by {kind}; it takes {' or '.join(destination.id_kinds)}"
             for key, kind in kinds.items() if kind is not None and kind not in destination.id_kinds}
    seen = identities.known(store, name, [f"unfit:{key}" for key in kinds])
    if not seen:
        return found
    with store.read() as connection:
        now = store.now(connection)
    said = {of.partition(":")[2]: orjson.loads(value) for of, value in seen.items()}
    return {key: one["why"] for key, one in said.items()
            if not lately or now - datetime.fromisoformat(one["at"]) < PATIENCE} | found


def prepare(store: Store, name: str, destination: Destination, keys: Callable[[], Iterable[str]], *,
            again: bool) -> None:
    """Have the fields declared that were not yet, and remember how they stand. Raises a DeliveryError.

    With `again` also those are looked at that were unfit a moment ago, since a person may have mended them.
    """
    if type(destination).prepare is Destination.prepare:
        return
    asked = sorted(set(keys()))
    ready = identities.known(store, name, [f"field:{key}" for key in asked])
    left = [key for key in asked if f"field:{key}" not in ready]
    if left and not again:
        known = unfit(store, name, destination, dict.fromkeys(left))
        left = [key for key in left if key not in known]
    if not left:
        return
    create = bool(getattr(destination, "create_fields", True))
    try:
        found = list(destination.prepare(left, create=create))
    except CallsRefused as error:
        found = [Trait(key, "wrong", str(error)) for key in left]
    note(store, name, found)


def note(store: Store, name: str, found: Iterable[Trait]) -> None:
    """Remember how fields stand, so that nobody is asked again."""
    with store.write() as connection:
        now = store.now(connection)
        learned: dict[str, str] = {}
        for field in found:
            fit = field.status in ("ready", "made")
            why = orjson.dumps({"at": now, "why": field.words}).decode()
            learned |= {f"field:{field.name}": "1" if fit else "", f"unfit:{field.name}": "" if fit else why}
        identities.remember(store, connection, name, learned)

"""What the bodies of an audience have in common, besides who is a member."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from audiencesync import __version__
from audiencesync.model import EVENT_KINDS, EVENTS, EVERYWHERE, TRAIT, Audience, Envelope, Project
from audiencesync.store import runs
from audiencesync.store.connect import Store
from audiencesync.store.positions import last_envelope
from audiencesync.store.traits import traits_of


def farewell(store: Store, destination: str, known: runs.Due, as_of: datetime, run: int) -> Envelope:
    """What the last bodies of a computation are made of, whose members as of `run` are told that they left.

    It is what the former ones were made of, since its file may be gone. Where there were none, as where all values were
    NULL, its kind is still what that run says. Where those who dropped out kept values, they are told, too.
    """
    last = last_envelope(store, destination, known.computation_id)
    names = tuple(traits_of(store, known.computation_id, run))
    kind = TRAIT if names else last.computation_class
    return replace(last, timestamp=stamp(as_of), computation_class=kind, missing="null", traits=(), traits_before=names,
                   full_row=last.missing != "null")


def stamp(as_of: datetime) -> str:
    """An instant as calls carry it: ISO 8601 in UTC, in milliseconds."""
    return as_of.strftime("%Y-%m-%dT%H:%M:%S.") + f"{as_of.microsecond // 1000:03}Z"


def envelope(project: Project, destination: str, audience: Audience, id_kind: str, as_of: datetime,
             traits: Iterable[str] = (), before: Iterable[str] = (), gone: Iterable[str] = ()) -> Envelope:
    """What every body of this audience to this destination has in common as of this instant.

    `traits` are the names of a computed trait's as of the newer run, those `before` as of the older one, and those
    `gone` between that a refused user may still hold.
    """
    settings = project.destinations[destination]
    identity = hashlib.blake2b(f"{project.name} {audience.key}".encode(), digest_size=14).hexdigest()[:27]
    follows = settings.follows(id_kind)
    send = audience.send.get(destination, audience.send.get(EVERYWHERE, settings.send))
    names: dict[str, str] = {**dict(settings.events.items()), **audience.events}
    entered, exited, computed = (names.get(what, name) for what, name in zip(EVENT_KINDS, EVENTS, strict=True))
    return Envelope(audience.key, id_kind, project.name, __version__, stamp(as_of), audience.kind,
                    f"{'tra' if audience.kind == TRAIT else 'aud'}_{identity}", audience.integrations,
                    follows if follows in audience.include else "", traits=tuple(traits), traits_before=tuple(before),
                    traits_gone=tuple(gone), missing=audience.missing, full_row=audience.full_row, send=send,
                    events=(entered, exited, computed))

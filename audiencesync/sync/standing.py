"""Where everything stands: each audience, each destination, and whatever waits or went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

from audiencesync.model import Audience, Left, Project, Trouble
from audiencesync.store import decisions, planning, runs
from audiencesync.store.connect import Store
from audiencesync.store.leases import Beat, beats
from audiencesync.store.positions import NOWHERE, known_positions
from audiencesync.store.standings import Standing, standings
from audiencesync.store.views import Door, Known, doors, known
from audiencesync.sync import brakes, fields
from audiencesync.sync.brakes import Hold
from audiencesync.sync.due import desks
from audiencesync.sync.fields import Unfit
from audiencesync.sync.troubles import troubles


@dataclass(frozen=True)
class Overview:
    """All that is known of where things stand, as of the state's own `now`.

    `gone` are the keys whose file is no longer there, `new` those never run; `holds` are by key and destination,
    `doors` the destinations as the state knows them, `services` the processes that serve this project.
    """

    project: Project
    now: datetime
    known: tuple[Known, ...]
    gone: frozenset[str]
    new: tuple[str, ...]
    standings: tuple[Standing, ...]
    holds: Mapping[tuple[str, str], Hold]
    doors: Mapping[str, Door]
    taken: tuple[Left, ...]
    services: tuple[Beat, ...]
    defined: Mapping[str, Audience]
    slots: tuple[tuple[str, datetime | None], ...] = ()
    """Each schedule, and when it is due next; None before its first run."""
    unfit: Mapping[tuple[str, str], Unfit] = field(default_factory=dict)
    """Why nothing of a key can be sent to a destination."""

    @cached_property
    def by_key(self) -> Mapping[str, Known]:
        """What is known, by key."""
        return {one.key: one for one in self.known}

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """Whatever waits or went wrong."""
        return tuple(troubles(self))


def overview(project: Project, store: Store, *, counted: bool = True) -> Overview:
    """Ask the state where everything stands; without `counted` nobody's pending changes are counted."""
    found = known(store)
    defined = {audience.key: audience for audience in project.audiences}
    goes_to = {audience.key: audience.destinations for audience in project.audiences}
    keys = {one.key for one in found}
    gone = frozenset(one.key for one in found if one.key not in defined and one.retired_at is None
                     and not project.broken)
    leaving = {name: decisions.farewells(store, name) for name in project.destinations}
    everywhere = {one.key: list(dict.fromkeys([*goes_to.get(one.key, ()),
                                               *(name for name, keys in leaving.items() if one.key in keys)]))
                  for one in found}
    stand = _alive(standings(store, found, everywhere, counted=counted), leaving,
                   {one.key for one in found if one.retired_at is not None})
    met, now = doors(store)
    return Overview(project, now, tuple(found), gone, tuple(key for key in defined if key not in keys), tuple(stand),
                    _holds(project, store, defined, stand), met,
                    tuple(left for left in planning.taken_away(store, goes_to)
                          if left.destination in project.destinations),
                    tuple(beats(store)), defined, tuple(
                        (desk.schedule, desk.next_slot())
                        for desk in desks(project, store, project.audiences, interrupted=bool, holder="")),
                    _unfit(project, store, found))


def _unfit(project: Project, store: Store, found: Sequence[Known]) -> dict[tuple[str, str], Unfit]:
    kinds = {one.key: one.id_kind for one in found if one.retired_at is None}
    goes = {audience.key: audience.destinations for audience in project.audiences if audience.key in kinds}
    return {(key, name): why for name, settings in project.destinations.items()
            for key, why in fields.unfit(store, name, settings, {key: kinds[key] for key in goes if name in goes[key]},
                                         lately=False).items()}


def _alive(stand: list[Standing], leaving: Mapping[str, list[str]], retired: set[str]) -> list[Standing]:
    """Where an audience was retired without being cleared nothing goes on, and nobody waits for anything."""
    found = []
    for one in stand:
        if one.leaves and one.key not in leaving.get(one.destination, ()):
            found.append(replace(one, mode="incremental", pending=0, rejected=0, next_try=None, refused_since=None,
                                 settled_at=None, sync=None, unresolved=False, opened_at=None))
        elif one.leaves or one.key not in retired:
            found.append(one)
    return found


def _holds(project: Project, store: Store, defined: Mapping[str, Audience],
           stand: list[Standing]) -> dict[tuple[str, str], Hold]:
    """What is held now, as the next sync would find it."""
    due = runs.latest(store, list(defined))
    held: dict[tuple[str, str], Hold] = {}
    for name in project.destinations:
        decided, stands = decisions.decisions_of(store, name), known_positions(store, name)
        for one in stand:
            mine = due.get(one.key)
            if one.destination != name or mine is None or mine.run is None or mine.retired or mine.paused or one.leaves:
                continue
            position = stands.get(mine.computation_id, NOWHERE).run
            if (one.sync is not None and one.mode != "backfill") or position >= mine.run.number:
                continue
            aim = brakes.target(store, defined[one.key], mine, position, decided.get(mine.computation_id))
            if aim.hold is not None:
                held[one.key, name] = aim.hold
    return held

"""Destinations, one file each; all of them, ours and others', come through the entry points of installed packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from audiencesync.errors import UsageError
from audiencesync.model import Destination

GROUP = "audiencesync.destinations"
"""A package adds a destination by an entry point of this group, named as its `type` in audiencesync.yml."""


class _Registry(Mapping[str, type[Destination]]):
    """Names are at hand at once; a class is imported when it is looked up, so that start-up pays for what is used."""

    def __init__(self, found: Mapping[str, frozenset[EntryPoint]]) -> None:
        self._found = found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> type[Destination]:
        points = self._found[name]
        if len({point.value for point in points}) > 1:
            rivals = ", ".join(sorted(f"{_package(point)} ({point.value})" for point in points))
            raise UsageError(f"several installed packages define the destination type {name!r}: {rivals}; "
                             "uninstall all but one")
        return _load(next(iter(points)))


def _load(point: EntryPoint) -> type[Destination]:
    try:
        loaded: object = point.load()
    except Exception as error:  # what somebody else's module raises is anybody's guess
        raise UsageError(f"the destination type {point.name!r} of the package {_package(point)} cannot be loaded from "
                         f"{point.value}: {type(error).__name__}: {error}; mend or reinstall that package") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Destination)):
        raise UsageError(f"the package {_package(point)} names {point.value} as the destination type {point.name!r}, "
                         "but that is no subclass of audiencesync.model.Destination")
    if getattr(loaded, "type", None) != point.name:
        raise UsageError(f"the package {_package(point)} names {point.value} as the destination type {point.name!r}, "
                         f"but its class says type = {getattr(loaded, 'type', None)!r}; the two must be the same")
    return loaded


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "(unknown)"


@cache
def registry() -> Mapping[str, type[Destination]]:
    """Every destination that is installed, by its `type`; looking one up raises UsageError when it cannot be loaded."""
    found: dict[str, set[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, set()).add(point)
    return _Registry({name: frozenset(found[name]) for name in sorted(found)})

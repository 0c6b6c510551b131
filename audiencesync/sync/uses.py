"""Definitions that read what others computed: who comes first, what each is given, whose failure is its own."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING

from audiencesync.errors import AudiencesyncError, QueryError, SourceUnavailable
from audiencesync.model import Audience, Shipped
from audiencesync.store import runs
from audiencesync.store.connect import Store

if TYPE_CHECKING:
    from audiencesync.store.runs import Due
    from audiencesync.store.slots import Latest


def in_order(audiences: Iterable[Audience]) -> list[Audience]:
    """Each behind those of the others that it uses, and else as they came."""
    mine = {audience.key: audience for audience in audiences}
    ordered: dict[str, Audience] = {}

    def put(audience: Audience, users: tuple[str, ...]) -> None:
        for key in audience.uses:
            if key in mine and key not in ordered and key not in users:
                put(mine[key], (*users, audience.key))
        ordered.setdefault(audience.key, audience)

    for audience in mine.values():
        put(audience, ())
    return list(ordered.values())


def given(store: Store, audience: Audience,
          planned: Callable[[str], Shipped | None] = lambda _: None) -> list[Shipped]:
    """The tables of what an audience uses: as planned, else as of the last run that ended well.

    Raises QueryError for one that never had such a run, and for one that is retired.
    """
    if not audience.uses:
        return []
    from audiencesync.store.members import shipped

    known = runs.latest(store, audience.uses)
    return [planned(key) or shipped(store, _usable(audience, key, known.get(key))) for key in audience.uses]


def _usable(audience: Audience, key: str, due: Due | None) -> Due:
    where = f"{audience.path.as_posix()}: it uses {key}, which"
    if due is not None and due.retired:
        raise QueryError(f"{where} is retired; take it out of uses: and of the SQL")
    if due is None or due.run is None:
        first = f"audiencesync resume {key}; " if due is not None and due.paused else ""
        raise QueryError(f"{where} was never computed; first: {first}audiencesync sync {key}")
    return due


def check_used(audience: Audience, failed: Mapping[str, int]) -> None:
    """Refuse an audience whose used ones are among those that `failed` just now, with exit codes by key.

    Their old members would look like a change. Raises what asks for the same exit code.
    """
    for key in audience.uses:
        if key in failed:
            kinds = {QueryError.exit_code: QueryError, SourceUnavailable.exit_code: SourceUnavailable}
            raise kinds.get(failed[key], AudiencesyncError)(
                f"{audience.key} is not computed, since {key}, which it uses, could not be")


def failures(audience: Audience, latest: Mapping[str, Latest], mine: Container[str]) -> dict[str, int]:
    """Which of `mine` it uses whose newest run failed, with an exit code for each."""
    return {key: QueryError.exit_code for key in audience.uses
            if key in mine and key in latest and _failed(latest[key])}


def mended(audience: Audience, latest: Mapping[str, Latest], mine: Container[str]) -> bool:
    """Whether it failed, and one of `mine` that it uses was computed since, so that it may be able to now."""
    last = latest.get(audience.key)
    return last is not None and _failed(last) and any(
        latest[key].as_of > last.as_of and not _failed(latest[key])
        for key in audience.uses if key in mine and key in latest)


def _failed(last: Latest) -> bool:
    return not last.tries and last.definition is None

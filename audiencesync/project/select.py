"""Which audiences a command means: keys, globs, `tag:x`, `destination:x`, `kind:audience`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from audiencesync.errors import UsageError
from audiencesync.model import Audience, Project
from audiencesync.project.page import did_you_mean


def select(project: Project, patterns: Sequence[str]) -> tuple[Audience, ...]:
    """The audiences that any of the patterns means, in the project's order; all of them when there is no pattern.

    Raises UsageError for a pattern that means none, because it is most likely misspelt.
    """
    if not patterns:
        return project.audiences
    chosen: set[str] = set()
    for pattern in patterns:
        found = {audience.key for audience in project.audiences if _means(pattern, audience)}
        if not found:
            hint = did_you_mean(pattern, _choices(project), known="there are")
            raise UsageError(f"{pattern!r} selects no audience" + (f"; {hint}" if hint else ""))
        chosen |= found
    return tuple(audience for audience in project.audiences if audience.key in chosen)


def _means(pattern: str, audience: Audience) -> bool:
    method, colon, value = pattern.partition(":")
    traits = {"tag": audience.tags, "destination": audience.destinations, "kind": (audience.kind,)}
    if colon and method in traits:
        return any(fnmatchcase(trait, value) for trait in traits[method])
    return pattern == audience.key or fnmatchcase(audience.key, pattern)


def _choices(project: Project) -> list[str]:
    """Everything that would select something, for the hint."""
    audiences = project.audiences
    return [*(audience.key for audience in audiences),
            *sorted({f"tag:{tag}" for audience in audiences for tag in audience.tags}),
            *sorted({f"destination:{name}" for audience in audiences for name in audience.destinations})]

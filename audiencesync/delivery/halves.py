"""Where a batch that was refused as a whole is cut."""

from __future__ import annotations

from collections.abc import Sequence

from audiencesync.model import Call


def halves(calls: Sequence[Call]) -> list[Sequence[Call]]:
    """Two halves, or the one call that there is; one user's calls stay together as long as there are others."""
    if len(calls) < 2:
        return [calls]
    middle = len(calls) // 2
    ends = [cut for cut in range(1, len(calls)) if calls[cut - 1].user_id != calls[cut].user_id]
    cut = min(ends, key=lambda end: abs(end - middle), default=middle)
    return [calls[:cut], calls[cut:]]

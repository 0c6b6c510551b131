"""Where a batch that was refused as a whole is cut."""

from __future__ import annotations

from collections.abc import Sequence

from audiencesync.model import Call


def halves(calls: Sequence[Call]) -> tuple[list[Sequence[Call]], Sequence[Call]]:
    """Two halves to ask of at once, cut between two users.

    Of one user's calls only the first half is asked of now, and the others are given apart: he is under way once.
    """
    if len(calls) == 1:
        return [calls], ()
    middle = len(calls) // 2
    ends = [cut for cut in range(1, len(calls)) if calls[cut - 1].user_id != calls[cut].user_id]
    if not ends:
        return [calls[:middle]], calls[middle:]
    cut = min(ends, key=lambda end: abs(end - middle))
    return [calls[:cut], calls[cut:]], ()

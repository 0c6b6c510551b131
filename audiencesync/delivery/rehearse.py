"""What calls will cost a destination, found by packing them as they would be sent and imagining the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from audiencesync.delivery.pace import load_of
from audiencesync.delivery.widest import pack
from audiencesync.model import Call, Packer
from audiencesync.schedule import RateLimit

WAVES = 100
"""Rounds of questions after which a rehearsal takes the rest for unknown."""

DAY = 86_400.0


class Cost(NamedTuple):
    """Requests, bytes of their bodies, calls that no request may carry, and identify calls as counted there."""

    requests: int = 0
    size: int = 0
    refused: int = 0
    items: int = 0

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(*map(sum, zip(self, other, strict=True)))

    def seconds(self, limits: Sequence[RateLimit], quota: int | None) -> float | None:
        """How long it takes at these limits; None where there are none."""
        weights = {"items": self.items, "requests": self.requests, "bytes": self.size}
        spans = [weights[limit.unit] / limit.limit * limit.seconds for limit in limits]
        if quota is not None:
            spans.append(self.requests / quota * DAY if self.requests > quota else 0.0)
        return max(spans, default=None)


def rehearse(packer: Packer, calls: Sequence[Call], known: Mapping[str, str]) -> Cost:
    """What a page costs, with every wave that its destination's answers would make possible."""
    learned, cost = dict(known), Cost()
    for _ in range(WAVES):
        packed = pack(packer, calls, learned)
        loads = [load_of(batch) for batch in packed.batches]
        cost = cost.plus(Cost(len(loads), sum(load.size for load in loads), len(packed.refused),
                              sum(load.items for load in loads)))
        asked = [call for batch in packed.batches if batch.asks for call in batch.calls]
        calls = sorted([*packed.later, *asked], key=lambda call: call[:2])
        if not calls or not packed.batches:
            break
        for batch in packed.batches:
            learned |= packer.imagine(batch)
    return cost

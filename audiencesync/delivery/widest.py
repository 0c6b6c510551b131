"""Keeps what no destination is sent out of its requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

from audiencesync.model import UNTOLD, Call, Packed, Packer, Refusal

WIDEST = 32_768
"""Bytes of one user's computed traits: what Segment takes of a whole call (HTTP API); others take less."""


def pack(packer: Packer, calls: Sequence[Call], known: Mapping[str, str]) -> Packed:
    """The requests that these calls make; a user whose traits are too wide is refused, and the others are not.

    A call that tells nothing, as of somebody who was refused and keeps what he has, needs no request.
    """
    if not calls or {bool}.issuperset(map(type, map(itemgetter(2), calls))):  # an audience's calls are neither
        return packer.pack_known(calls, known)
    if silent := [call for call in calls if call.value == UNTOLD]:
        packed = pack(packer, [call for call in calls if call.value != UNTOLD], known)
        return replace(packed, done=(*packed.done, *silent))
    wide = [(call, size) for call in calls if isinstance(call.value, str) and len(call.value) * 4 > WIDEST
            and (size := len(call.value.encode())) > WIDEST]
    if not wide:
        return packer.pack_known(calls, known)
    left = {call for call, _ in wide}
    packed = packer.pack_known([call for call in calls if call not in left], known)
    refused = [(call, Refusal(f"too_large: this user's traits are {size:,} bytes; at most {WIDEST:,} are told"))
               for call, size in wide]
    return replace(packed, refused=(*packed.refused, *refused))

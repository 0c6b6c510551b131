"""Bodies of identify calls, `{"batch": [...]}`, filled up to a receiver's limits as measured on their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import orjson

from audiencesync.destinations.identify import Renderer
from audiencesync.model import Batch, Call, Content, Packed, Packer, Refusal

FRAME = '{{"batch":[{}]}}'
FRAME_BYTES = len(FRAME.format(""))


class Most(NamedTuple):
    """What a receiver takes: calls in a body, bytes of a body and of a call, before gzip; `who` names it in reasons."""

    calls: int
    body: int
    call: int
    who: str


class Bodies(Packer):
    """Packs pages into bodies; with `merge` all traits of a user that may travel together are one identify call."""

    def __init__(self, content: Content, most: Most, *, merge: bool = False) -> None:
        self._renderer, self._most, self._merge = Renderer(content), most, merge

    def pack(self, calls: Sequence[Call]) -> Packed:
        """Render a page; a call over the limit is refused, where it carries several traits after each was tried."""
        if not calls:
            return Packed(())
        most, groups = self._most, None
        if self._merge:
            items, groups = self._renderer.render_merged(calls)
        else:
            items = self._renderer.render(calls)
        body = FRAME.format(",".join(items)).encode()
        # A character is at most four bytes, so a page of short calls that fits into one body needs no measuring.
        if len(items) <= most.calls and len(body) <= most.body and max(map(len, items)) * 4 <= most.call:
            return Packed((_of(tuple(calls if groups is None else chain(*groups)), body, len(items)),))
        return self._measured(items, groups or [(call,) for call in calls])

    def _measured(self, items: Sequence[str], groups: Sequence[tuple[Call, ...]]) -> Packed:
        """Cut a page into batches wherever the next call would go over a limit."""
        batches: list[Batch] = []
        refused: list[tuple[Call, Refusal]] = []
        taken: list[Call] = []
        bodies: list[bytes] = []
        size = FRAME_BYTES
        for body, group in self._in_bytes(items, groups):
            if len(body) > self._most.call:
                refused += [(call, self._too_large(len(body))) for call in group]
                continue
            if bodies and (len(bodies) == self._most.calls or size + len(body) > self._most.body):
                batches.append(_batch(taken, bodies))
                taken, bodies, size = [], [], FRAME_BYTES
            taken += group
            bodies.append(body)
            size += len(body) + 1
        if bodies:
            batches.append(_batch(taken, bodies))
        return Packed(tuple(batches), tuple(refused))

    def _in_bytes(self, items: Sequence[str],
                  groups: Sequence[tuple[Call, ...]]) -> Iterator[tuple[bytes, tuple[Call, ...]]]:
        for item, group in zip(items, groups, strict=True):
            body = item.encode()
            if len(body) <= self._most.call or len(group) == 1:
                yield body, group
            else:  # its traits may fit one by one
                yield from ((one.encode(), (call,))
                            for one, call in zip(self._renderer.render(group), group, strict=True))

    def _too_large(self, size: int) -> Refusal:
        return Refusal(f"too large: {size:,} bytes, {self._most.who} takes {self._most.call // 1000} KB")


def _batch(calls: Sequence[Call], bodies: Sequence[bytes]) -> Batch:
    start, end = FRAME.format("\0").encode().split(b"\0")
    return _of(tuple(calls), start + b",".join(bodies) + end, len(bodies))


def _of(calls: tuple[Call, ...], body: bytes, items: int) -> Batch:
    return Batch(calls, body, merged=items if items < len(calls) else None)


def by_message_id(batch: Batch) -> dict[str, list[int]]:
    """The calls of a batch, by their index, that each messageId in its body carries."""
    found: dict[str, list[int]] = {}
    start = 0
    for item in orjson.loads(batch.body)["batch"]:
        end = start + len(item["context"]["personas"].get("computation_keys", "1"))
        found[item["messageId"]] = list(range(start, end))
        start = end
    return found

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
        self._events = any(envelope.send != "identify" for envelope in content.envelopes)

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
        objects = len(items) + (body.count(b"\n") if self._events else 0)
        # A character is at most four bytes, so a page of short calls that fits into one body needs no measuring.
        if objects <= most.calls and len(body) <= most.body and max(map(len, items)) * 4 <= most.call:
            return Packed((_of(tuple(calls if groups is None else chain(*groups)), body, objects),))
        return self._measured(items, groups or [(call,) for call in calls])

    def _measured(self, items: Sequence[str], groups: Sequence[tuple[Call, ...]]) -> Packed:
        """Cut a page into batches wherever the next call would go over a limit."""
        batches: list[Batch] = []
        refused: list[tuple[Call, Refusal]] = []
        taken: list[Call] = []
        bodies: list[bytes] = []
        objects, size = 0, FRAME_BYTES
        for body, group in self._in_bytes(items, groups):
            parts = body.split(b"\n")
            if (widest := max(map(len, parts))) > self._most.call:
                refused += [(call, self._too_large(widest)) for call in group]
                continue
            if bodies and (objects + len(parts) > self._most.calls or size + len(body) > self._most.body):
                batches.append(_batch(taken, bodies))
                taken, bodies, objects, size = [], [], 0, FRAME_BYTES
            taken += group
            bodies.append(body)
            objects, size = objects + len(parts), size + len(body) + 1
        if bodies:
            batches.append(_batch(taken, bodies))
        return Packed(tuple(batches), tuple(refused))

    def _in_bytes(self, items: Sequence[str],
                  groups: Sequence[tuple[Call, ...]]) -> Iterator[tuple[bytes, tuple[Call, ...]]]:
        for item, group in zip(items, groups, strict=True):
            body = item.encode()
            if len(group) == 1 or max(map(len, body.split(b"\n"))) <= self._most.call:
                yield body, group
            else:  # its traits may fit one by one
                yield from ((one.encode(), (call,))
                            for one, call in zip(self._renderer.render(group), group, strict=True))

    def _too_large(self, size: int) -> Refusal:
        return Refusal(f"too large: {size:,} bytes, {self._most.who} takes {self._most.call // 1000} KB")


def _batch(calls: Sequence[Call], bodies: Sequence[bytes]) -> Batch:
    start, end = FRAME.format("\0").encode().split(b"\0")
    body = start + b",".join(bodies) + end
    return _of(tuple(calls), body, len(bodies) + body.count(b"\n"))


def _of(calls: tuple[Call, ...], body: bytes, objects: int) -> Batch:
    return Batch(calls, body.replace(b"\n", b","), merged=objects if objects != len(calls) else None)


def by_message_id(batch: Batch) -> dict[str, list[int]]:
    """The calls of a batch, by their index, that each messageId in its body carries.

    An event is of a call of the identify call before it, in their order, or else of the next call.
    """
    found: dict[str, list[int]] = {}
    end, at, last = 0, -1, None
    for item in orjson.loads(batch.body)["batch"]:
        personas = item["context"]["personas"]
        if item["type"] == "identify":
            start, end = end, end + len(personas.get("computation_keys", "1"))
            found[item["messageId"]] = list(range(start, end))
            at, last = start - 1, None
        else:
            mark = item.get("userId", item.get("anonymousId")), personas["computation_id"]
            at += mark != last
            end, last = max(end, at + 1), mark
            found[item["messageId"]] = [at]
    return found

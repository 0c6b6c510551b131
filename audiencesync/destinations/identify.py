"""Renders the identify calls of a sync in Segment's shape, which every destination that takes it as it is shares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby
from json.encoder import encode_basestring as quote
from operator import itemgetter
from typing import Any, NamedTuple

from audiencesync.destinations.track import Tracks
from audiencesync.model import EVENTS, TRAIT, Call, Content, Envelope

MOST_MIXTURES = 1000
"""Templates kept of traits that travel together: of ten audiences there are as many mixtures as that."""


class _Template(NamedTuple):
    """What all calls of one span have in common, as JSON text cut where a user's own values go."""

    hash: blake2b
    """Keyed with the sync's secret and fed with the span's key; a copy of it makes a user's messageId."""
    id_name: str
    """The text between the messageId and the user's id."""
    traits: str
    """The text from the end of the id into the traits."""
    true: str
    """The same with an audience's trait, for a member."""
    false: str
    """The same for somebody who left."""
    rest: str
    """The text after the traits."""
    own: tuple[str, ...]
    """The names of the traits that are ours, as JSON text; an included column never replaces them."""
    send: str
    """Identify, track or both."""
    tracks: Tracks | None
    """Makes its events, where there are any."""


class _Mixture(NamedTuple):
    """What all calls about the same several spans have in common."""

    hash: blake2b
    id_name: str
    traits: str
    """The text from the end of the id into the traits."""
    rest: str
    own: tuple[str, ...]
    """The names of the traits, in the order of the spans, and any other that no included column replaces."""


class Renderer:
    """Turns calls into JSON text by templates made once a sync: json.dumps for each would cost six times as much.

    A messageId is a hash, keyed with the sync's secret (at most 64 bytes), of the computation's key and the user: the
    same on every retry, different in every other sync, 35 characters that every receiver keeps as they are.
    An email in the place of a user's id is sent as userId and as traits.email, since Segment wants one of its two ids.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._templates = [_template(content.secret, envelope) for envelope in content.envelopes]
        self._email = bool(content.envelopes) and content.envelopes[0].id_kind == "email"
        bare = [replace(envelope, key="", computation_id="", traits=(), missing="", full_row=False, events=EVENTS)
                for envelope in content.envelopes]
        self._kin = [bare.index(envelope) for envelope in bare]
        self._plain = not any(one.send != "identify" or one.computation_class == TRAIT for one in content.envelopes)
        self._mixtures: dict[tuple[int, ...], _Mixture] = {}

    def render(self, calls: Sequence[Call]) -> list[str]:
        """The calls as compact JSON objects, in their order; where one is several, a line end parts them."""
        return self._memberships(calls) if self._plain else self._anything(calls)

    def _memberships(self, calls: Sequence[Call]) -> list[str]:
        """Of audiences told by identify calls, in fewer steps each."""
        templates, email, items = self._templates, self._email, []
        for user, span, value, included, _ in calls:
            start, id_name, _, true, false, rest, own, _, _ = templates[span]
            hashed = start.copy()
            hashed.update(user.encode())
            user_id = quote(user)
            columns = f',"email":{user_id}' if email else ""
            if included is not None:
                columns += _columns(included, own)
            items.append(f'{{"type":"identify","messageId":"as_{hashed.hexdigest()}"{id_name}{user_id}'
                         f"{true if value else false}{columns}{rest}")
        return items

    def _anything(self, calls: Sequence[Call]) -> list[str]:
        templates, email, items = self._templates, self._email, []
        for user, span, value, included, _ in calls:
            start, id_name, traits, true, false, rest, own, send, tracks = templates[span]
            user_id = quote(user)
            columns = f',"email":{user_id}' if email else ""
            if included is not None:
                columns += _columns(included, own)
            if send != "track":
                hashed = start.copy()
                hashed.update(user.encode())
                told = true if value is True else false if value is False else f"{traits}{value[1:-1]}"
                items.append(f'{{"type":"identify","messageId":"as_{hashed.hexdigest()}"{id_name}{user_id}'
                             f"{told}{columns}{rest}")
            if tracks is not None:
                before = [items.pop()] if send == "both" else []
                items.append("\n".join([*before, *tracks.render(user, value, columns[1:])]))
        return items

    def render_merged(self, calls: Sequence[Call]) -> tuple[list[str], list[tuple[Call, ...]]]:
        """As few JSON objects as can be, each of one user, and the calls that each of them carries.

        Traits travel together where nothing but the key tells their calls apart: neither instant nor integrations.
        """
        items: list[str] = []
        groups: list[tuple[Call, ...]] = []
        for _, mine in groupby(calls, key=itemgetter(0)):
            kin: dict[int, list[Call]] = {}
            for call in mine:
                kin.setdefault(self._kin[call.span], []).append(call)
            for together in kin.values():
                if len(together) == 1 or self._templates[together[0].span].send == "track":
                    items += self.render(together)
                    groups += [(call,) for call in together]
                else:
                    events = [part for item in self.render(together) for part in item.split("\n")[1:]]
                    items.append("\n".join([self._render_mixed(together), *events]))
                    groups.append(tuple(together))
        return items, groups

    def _render_mixed(self, calls: Sequence[Call]) -> str:
        spans = tuple(call.span for call in calls)
        mixture = self._mixtures.get(spans)
        if mixture is None:
            mixture = _mixture(self._content.secret, [self._content.envelopes[span] for span in spans])
            if len(self._mixtures) < MOST_MIXTURES:
                self._mixtures[spans] = mixture
        hashed, user_id = mixture.hash.copy(), quote(calls[0].user_id)
        hashed.update(calls[0].user_id.encode())
        told = [call.value[1:-1] if isinstance(call.value, str) else f"{key}:{'true' if call.value else 'false'}"
                for key, call in zip(mixture.own, calls, strict=False)]
        traits = ",".join(told)
        columns = f',"email":{user_id}' if self._email else ""
        if included := list(dict.fromkeys(call.included for call in calls if call.included is not None)):
            columns += _columns(included[0] if len(included) == 1 else _united(included), mixture.own)
        return (f'{{"type":"identify","messageId":"as_{hashed.hexdigest()}"{mixture.id_name}{user_id}{mixture.traits}'
                f"{traits}{columns}{mixture.rest}")


def _template(secret: bytes, envelope: Envelope) -> _Template:
    about = {"computation_id": envelope.computation_id, "computation_key": envelope.key}
    into = _traits(envelope)
    return _Template(
        hash=blake2b(envelope.key.encode() + b"\0", key=secret, digest_size=16),
        id_name=_id_name(envelope),
        traits=into,
        true=f"{into}{quote(envelope.key)}:true",
        false=f"{into}{quote(envelope.key)}:false",
        rest=_rest(envelope, about),
        own=_own(envelope),
        send=envelope.send,
        tracks=None if envelope.send == "identify" else Tracks(secret, envelope, _context(envelope, about),
                                                               _integrations(envelope)),
    )


def _mixture(secret: bytes, envelopes: Sequence[Envelope]) -> _Mixture:
    first, keys = envelopes[0], [envelope.key for envelope in envelopes]
    return _Mixture(
        hash=blake2b("\0".join([*keys, ""]).encode(), key=secret, digest_size=16),
        id_name=_id_name(first),
        traits=_traits(first),
        rest=_rest(first, {"computation_keys": keys}),
        own=(*(quote(key) for key in keys), *(name for one in envelopes for name in _own(one)[1:])),
    )


def _id_name(envelope: Envelope) -> str:
    return ',"anonymousId":' if envelope.id_kind == "anonymous_id" else ',"userId":'


def _traits(envelope: Envelope) -> str:
    return f',"timestamp":{quote(envelope.timestamp)},"traits":{{'


def _own(envelope: Envelope) -> tuple[str, ...]:
    email = ["email"] if envelope.id_kind == "email" else []
    return tuple(quote(name) for name in (envelope.key, *email, *envelope.traits))


def _context(envelope: Envelope, about: dict[str, Any]) -> dict[str, Any]:
    personas = {"computation_class": envelope.computation_class, **about, "namespace": envelope.namespace,
                "space_id": envelope.namespace}
    return {"personas": personas, "integrations": {"personas": False},
            "library": {"name": "audiencesync", "version": envelope.version}}


def _rest(envelope: Envelope, about: dict[str, Any]) -> str:
    """The text after the traits; `about` says which computations the call is of."""
    return f'}},"context":{_compact(_context(envelope, about))},"integrations":{_compact(_integrations(envelope))}}}'


def _integrations(envelope: Envelope) -> dict[str, bool]:
    return {"All": False, **dict.fromkeys(envelope.integrations, True)} if envelope.integrations else {}


def _united(included: Sequence[str]) -> str:
    """The included columns of several computations as one JSON object; a later one's value goes before an earlier's."""
    columns: dict[str, Any] = {}
    for text in included:
        columns |= json.loads(text)
    return _compact(columns)


def _columns(included: str, own: tuple[str, ...]) -> str:
    """The included columns (the text of a JSON object) as they continue an object, without the traits that are ours."""
    for name in (*own, "\\u"):
        if name in included:
            columns = json.loads(included)
            included = _compact({column: value for column, value in columns.items() if quote(column) not in own})
    inner = included.strip()[1:-1].strip()
    return f",{inner}" if inner else ""


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

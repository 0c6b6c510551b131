"""Renders the identify calls of a sync in Segment's shape, which every destination that takes it as it is shares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from json.encoder import encode_basestring as quote
from typing import NamedTuple

from audiencesync.model import Call, Content, Envelope


class _Template(NamedTuple):
    """What all calls of one span have in common, as JSON text cut where a user's own values go."""

    hash: blake2b
    """Keyed with the sync's secret and fed with the span's key; a copy of it makes a user's messageId."""
    id_name: str
    """The text between the messageId and the user's id."""
    true: str
    """The text from the end of the id into the traits, for a member."""
    false: str
    """The same for somebody who left."""
    rest: str
    """The text after the traits."""
    own: tuple[str, ...]
    """The names of the traits that are ours, as JSON text; an included column never replaces them."""


class Renderer:
    """Turns calls into JSON text by templates made once a sync: json.dumps for each would cost six times as much.

    A messageId is a hash, keyed with the sync's secret (at most 64 bytes), of the computation's key and the user: the
    same on every retry, different in every other sync, 35 characters that every receiver keeps as they are.
    An email in the place of a user's id is sent as userId and as traits.email, since Segment wants one of its two ids.
    """

    def __init__(self, content: Content) -> None:
        self._templates = [_template(content.secret, envelope) for envelope in content.envelopes]
        self._email = bool(content.envelopes) and content.envelopes[0].id_kind == "email"

    def render(self, calls: Sequence[Call]) -> list[str]:
        """The calls as compact JSON objects, in their order."""
        templates, email, items = self._templates, self._email, []
        for user, span, value, included in calls:
            start, id_name, true, false, rest, own = templates[span]
            hashed = start.copy()
            hashed.update(user.encode())
            user_id = quote(user)
            columns = f',"email":{user_id}' if email else ""
            if included is not None:
                columns += _columns(included, own)
            items.append(f'{{"type":"identify","messageId":"as_{hashed.hexdigest()}"{id_name}{user_id}'
                         f"{true if value else false}{columns}{rest}")
        return items


def _template(secret: bytes, envelope: Envelope) -> _Template:
    personas = {"computation_class": envelope.computation_class, "computation_id": envelope.computation_id,
                "computation_key": envelope.key, "namespace": envelope.namespace, "space_id": envelope.namespace}
    context = {"personas": personas, "integrations": {"personas": False},
               "library": {"name": "audiencesync", "version": envelope.version}}
    integrations: dict[str, bool] = {}
    if envelope.integrations:
        integrations = {"All": False, **dict.fromkeys(envelope.integrations, True)}
    own = [envelope.key, "email"] if envelope.id_kind == "email" else [envelope.key]
    id_field = "anonymousId" if envelope.id_kind == "anonymous_id" else "userId"
    traits = f',"timestamp":{quote(envelope.timestamp)},"traits":{{{quote(envelope.key)}:'
    return _Template(
        hash=blake2b(envelope.key.encode() + b"\0", key=secret, digest_size=16),
        id_name=f',"{id_field}":',
        true=f"{traits}true",
        false=f"{traits}false",
        rest=f'}},"context":{_compact(context)},"integrations":{_compact(integrations)}}}',
        own=tuple(quote(name) for name in own),
    )


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

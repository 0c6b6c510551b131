"""Renders the track calls of a computation as Segment's Engage sends them: entered, exited, computed (its spec)."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from json.encoder import encode_basestring as quote
from typing import Any

import orjson

from audiencesync.destinations.people import compact
from audiencesync.model import Envelope, exact


class Tracks:
    """The events of one span; `context` and `integrations` are those of its identify calls.

    Properties are `audience_key` (or `trait_key`) and what it names; included columns, such as the email, go to
    context.traits, where Segment has them. Of a computed trait there is an event for each value that is told.
    """

    def __init__(self, secret: bytes, envelope: Envelope, context: dict[str, Any],
                 integrations: dict[str, bool]) -> None:
        self._key, self._key_text = envelope.key, quote(envelope.key)
        self._entered, self._exited, self._computed = map(quote, envelope.events)
        self._hash = blake2b(b"track\0" + envelope.key.encode() + b"\0", key=secret, digest_size=16)
        self._id_name = '"anonymousId"' if envelope.id_kind == "anonymous_id" else '"userId"'
        self._timestamp = quote(envelope.timestamp)
        self._context, self._integrations = context, orjson.dumps(integrations).decode()
        self._contexts: dict[str, str] = {}

    def render(self, user: str, value: bool | str, columns: str) -> Iterator[str]:
        """The events of one call; `columns` is the inside of a JSON object."""
        if isinstance(value, bool):
            properties = f'"audience_key":{self._key_text},{self._key_text}:{"true" if value else "false"}'
            yield self._event(self._entered if value else self._exited, user, self._key, properties, columns)
            return
        for name, told in exact(value).items():
            properties = f'"trait_key":{quote(name)},{quote(name)}:{compact(told).decode()}'
            yield self._event(self._computed, user, name, properties, columns)

    def _event(self, event: str, user: str, key: str, properties: str, columns: str) -> str:
        hashed = self._hash.copy()
        hashed.update(f"{user}\0{key}".encode())
        traits = f',"traits":{{{columns}}}' if columns else ""
        return (f'{{"type":"track","event":{event},"messageId":"as_{hashed.hexdigest()}",{self._id_name}:'
                f'{quote(user)},"timestamp":{self._timestamp},"properties":{{{properties}}},'
                f'"context":{{{self._inside(key)}{traits}}},"integrations":{self._integrations}}}')

    def _inside(self, key: str) -> str:
        """The context without its braces; a destination looks for what `computation_key` says in the properties."""
        if key not in self._contexts:
            personas = {**self._context["personas"], "computation_key": key}
            self._contexts[key] = orjson.dumps({**self._context, "personas": personas}).decode()[1:-1]
        return self._contexts[key]

"""One conversation with one API: at its pace, about throw-away people, who are taken away when it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from secrets import token_hex
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import orjson

from audiencesync.addresses import is_loopback
from audiencesync.destinations.api import Api
from audiencesync.errors import CallsRefused, DeliveryError, NotThere, Throttled
from audiencesync.model import Call, Destination, Person, Receipt
from audiencesync.testing import content, envelope

KEYS = ("audiencesync_live", "audiencesync_live_2")
"""Traits of throw-away people; the same every time, so that a vendor without a way to delete fields keeps two."""

PATIENCE = 60.0
"""Seconds until a change shows at the latest: some APIs take it first and do it later, or answer from a cache."""

TRIES, COOL_DOWN = 4, 60.0
"""How often a request is made that is too fast, and the seconds between where none are named."""

MOST = 1000
"""People of one request, at most, when it is sought how many it takes."""

Found = TypeVar("Found")


class Unaskable(Exception):
    """Why a question has no answer here; its words say what would help."""


class Talk:
    """A context manager; `extras` are what questions need besides the destination's settings.

    On loopback nothing is waited for. When it ends, `left` names the people who could not be taken away.
    """

    def __init__(self, destination: Destination, extras: Mapping[str, str] | None = None) -> None:
        self.destination: Any = destination
        self.extras = extras or {}
        self.left: list[str] = []
        address = urlsplit(str(getattr(destination, "url", None) or ""))
        self._local = is_loopback(address.hostname or "")
        self._pause = max((limit.seconds / limit.limit for limit in destination.limits() if limit.unit == "requests"),
                          default=0.0)
        self._after: list[tuple[str, Callable[[], object]]] = []
        self._api: Api | None = None
        self._next = 0.0
        self._declared = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for name, act in reversed(self._after):
            try:
                act()
            except NotThere:
                continue
            except DeliveryError as refused:
                self.left.append(f"{name} ({refused})")
        if self._api is not None:
            self._api.close()

    def name(self) -> str:
        """A name that nobody has."""
        return f"audiencesync-live-{token_hex(6)}"

    def email(self, name: str) -> str:
        """The address of a throw-away person, at a domain that takes no mail."""
        return f"{name}@example.com"

    def later(self, name: str, act: str | Callable[[], object]) -> None:
        """At the end make this request (or call this), so that nothing is left of somebody."""
        self._after.append((name, act if callable(act) else lambda: self.ask(act, person=True)))

    def keys(self) -> tuple[str, ...]:
        """Traits that can be told, declared as a sync declares them."""
        if not self._declared:
            for trait in self._patiently(lambda there: list(there.prepare(KEYS, create=True)), self.destination):
                if trait.status not in ("ready", "made"):
                    raise Unaskable(f"the field {trait.name} is {trait.status}: {trait.words}")
            self._declared = True
        return KEYS

    def ask(self, route: str, value: object = None, *, person: bool = False) -> Any:
        """The JSON of a 2xx; raises the DeliveryError of anything else."""
        if self._api is None:
            opened: Callable[[], Api] = getattr(self.destination, "api", None) or self.destination._api
            self._api = opened()
        body = b"" if value is None else orjson.dumps(value)
        seconds = self.destination.timeout.total_seconds()
        reply = self._patiently(lambda api: api.ask(route, body, seconds=seconds, person=person), self._api)
        return reply.json() if reply.body.strip() else None

    def takes(self, route: str, value: object = None) -> bool:
        """Whether a request is taken, or refused for what it says."""
        try:
            self.ask(route, value, person=True)
        except CallsRefused:
            return False
        return True

    def tell(self, name: str, value: bool = True, *, by: Destination | None = None) -> Receipt:
        """Tell somebody's first trait as a sync does, by this destination or another; the receipt of the last wave."""
        destination = by or self.destination
        packer = destination.packer(content(envelope(KEYS[0])))
        calls = [Call(name, 0, value, orjson.dumps({"email": self.email(name)}).decode())]
        (batch,) = packer.pack_known(calls, {f"u:{name}": "1"} if not value else {}).batches
        with closing(destination.channel()) as channel:
            seconds = destination.timeout.total_seconds()
            answer = self._patiently(lambda way: way.send(batch, seconds=seconds), channel)
        return answer if isinstance(answer, Receipt) else Receipt(answer)

    def held(self, name: str) -> Mapping[str, Any] | None:
        """What somebody has there, read as `verify` reads it; None when there is nobody."""
        person = Person(name, "user_id", orjson.dumps({"email": self.email(name)}).decode(), {})
        found = self._patiently(lambda there: list(there.read_back([person])), self.destination)
        return found[0][1] if found else None

    def has(self, name: str, key: str) -> bool:
        """Whether somebody's trait is true, or becomes so while it is waited for."""
        return bool(self.until(lambda: (self.held(name) or {}).get(key) is True))

    def until(self, look: Callable[[], Found]) -> Found:
        """What is seen as soon as there is anything, or in the end."""
        end, pause = monotonic() + (0.0 if self._local else PATIENCE), 1.0
        while not (found := look()) and monotonic() < end:
            sleep(pause)
            pause = min(10.0, pause * 2)
        return found

    def largest(self, take: Callable[[list[str]], bool], someone: Callable[[], str],
                stranger: Callable[[], str]) -> str:
        """How many people one request takes: strangers fill it where they are let pass, else people made for it.

        Of those no more are made than the setting `batch` wants.
        """
        people = [someone()]
        fill, most = (stranger, MOST) if take([people[0], stranger()]) else (someone, self.destination.batch)

        def taken(number: int) -> bool:
            people.extend(fill() for _ in range(number - len(people)))
            return take(people[:number])

        if taken(most):
            return f"{most} or more"
        good, bad = 0, most
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if taken(middle) else (good, middle)
        return str(good)

    def _patiently(self, act: Callable[[Any], Any], way: object) -> Any:
        """Do it as fast as the API lets us, and again when that was too fast."""
        for left in reversed(range(TRIES)):
            self._breathe()
            try:
                return act(way)
            except Throttled as error:
                if self._local or not left:
                    raise
                sleep(COOL_DOWN if error.wait is None else error.wait)
        raise AssertionError

    def _breathe(self) -> None:
        if not self._local:
            sleep(max(0.0, self._next - monotonic()))
            self._next = monotonic() + self._pause

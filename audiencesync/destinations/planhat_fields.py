"""The custom fields of Planhat's endusers: which type a trait wants, which are there, how one is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from audiencesync.destinations.api import Api, in_path
from audiencesync.errors import CallsRefused
from audiencesync.model import Trait

LISTED, MOST_LISTS = 500, 100
"""Custom fields to a list, and how many lists are read."""

TEXTS = ("text", "rich text", "list", "phone", "email", "url")

TYPES = {"boolean": ("checkbox",), "number": ("number",), "string": TEXTS, "timestamp": ("date",),
         "list": ("multipicklist",)}
"""The types of custom fields that hold a kind of value (Custom Field): the first is what is made."""


class Fields:
    """Endusers' custom fields; `parent` is how their model is spelled unless some field tells.

    `lists` is the type that a list gets, `seconds` the longest one request may take.
    """

    def __init__(self, api: Api, parent: str, *, lists: str, seconds: float) -> None:
        self._api, self._parent, self._seconds = api, parent, seconds
        self._types = TYPES | ({"list": ("text", "rich text")} if lists == "text" else {})

    def prepare(self, kinds: Mapping[str, str], *, create: bool) -> Iterator[Trait]:
        """How the fields of these traits stand, by the kinds of their values; raises a DeliveryError."""
        types, parent = self._found()
        for name, kind in kinds.items():
            wanted, there = self._types[kind], types.get(name)
            if there in wanted:
                yield Trait(name, "ready", f"a {there} of endusers")
            elif there is not None:
                yield Trait(name, "wrong", f"the custom field {name} is of type {there}, and a {wanted[0]} is wanted: "
                            "rename or delete it in Planhat")
            elif not create:
                yield Trait(name, "missing", "no custom field of endusers has this name")
            else:
                yield self._made(name, parent, wanted[0])

    def _made(self, name: str, parent: str, type_: str) -> Trait:
        body = orjson.dumps({"name": name, "parent": parent, "type": type_, "isHidden": False})
        try:
            self._api.ask("POST /customfields", body, seconds=self._seconds)
        except CallsRefused as error:
            return Trait(name, "missing", f"it cannot be made as a {type_}: {error}; check field_parent")
        return Trait(name, "made", f"made as a {type_} of endusers")

    def _found(self) -> tuple[dict[str, str], str]:
        """The types of endusers' custom fields by name, and how their parent is spelled."""
        for ask in (f"parent={in_path(self._parent)}&", ""):
            found = [one for one in self._listed(f"GET /customfields?{ask}limit={LISTED}")
                     if str(one.get("parent")).lower() in ("enduser", self._parent.lower())]
            if found:
                return {str(one.get("name")): str(one.get("type")) for one in found}, str(found[0]["parent"])
        return {}, self._parent

    def _listed(self, route: str) -> Iterator[Mapping[str, Any]]:
        """Every list there is: there is no total, so until one is short, or one repeats what was there."""
        last: object = None
        for number in range(MOST_LISTS):
            found = self._api.ask(f"{route}&offset={number * LISTED}", seconds=self._seconds).json()
            found = found if isinstance(found, list) else [found]
            if found == last:
                return
            yield from (one for one in found if isinstance(one, dict))
            if len(found) < LISTED:
                return
            last = found

"""From what pydantic finds in the data to mistakes at their places in the file."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from audiencesync.project.document import Document, Loc
from audiencesync.project.page import did_you_mean, nearest

M = TypeVar("M", bound=BaseModel)
Details = Mapping[str, Any]

_WORDS = {
    "string_type": "must be text; put it in quotes",
    "bool_type": "must be true or false", "bool_parsing": "must be true or false",
    "int_type": "must be a whole number", "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number", "float_parsing": "must be a number",
    "dict_type": "must be a mapping, of lines like  key: value",
    "model_type": "must be a mapping, of lines like  key: value",
    "tuple_type": "must be a list, such as [a, b]", "list_type": "must be a list, such as [a, b]",
}


def validated(model: type[M], data: object, document: Document, *, at: Loc = (),
              pieces: Mapping[Loc, list[str]] | None = None) -> M | None:
    """`data`, which stands at `at` in the document, as a model; None when it has mistakes, which go to the page.

    No message repeats one of `pieces`, the texts by place that came from outside or are secret.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = [(_clean(at, item, document), item) for item in error.errors(include_url=False)]
    meant: set[Loc] = set()
    told: set[Loc] = set()
    for loc, item in sorted(found, key=lambda entry: entry[1]["type"] != "extra_forbidden"):
        if loc in told or loc in meant or _already_known(loc, document):
            continue
        told.add(loc)
        if item["type"] == "extra_forbidden":
            if loc in document.values and loc not in (pieces or {}):
                document.page.hide(document.values[loc])
            options = fields_of(model, loc[len(at):-1])
            meant.add((*loc[:-1], nearest(str(loc[-1]), options)))
            document.mistake(loc, f"unknown key {loc[-1]!r}", hint=did_you_mean(str(loc[-1]), options), key=True)
        else:
            _tell(document, loc, item, (pieces or {}).get(loc, ()))
    return None


def salvaged(model: type[M], data: Mapping[str, object]) -> M:
    """What is sound of data with mistakes, for a model all of whose fields have defaults, to go on checking with."""
    good: dict[str, object] = {}
    for key, value in data.items():
        with contextlib.suppress(ValidationError):
            good |= {key: value} if model.model_validate({key: value}) else {}
    return model.model_validate(good)


def fields_of(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that a model knows at `loc`; none where there is no model."""
    for part in (part for part in loc if not isinstance(part, int)):
        field = model.model_fields.get(part)
        inner = [kind for kind in (field.annotation, *typing.get_args(field.annotation))
                 if isinstance(kind, type) and issubclass(kind, BaseModel)] if field else []
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _clean(at: Loc, item: Details, document: Document) -> Loc:
    """A location without the names that pydantic adds for the members of a union and the keys of a mapping."""
    cleaned = at
    for part in item["loc"]:
        if (*cleaned, part) in document.keys or (*cleaned, part) in document.values:
            cleaned = (*cleaned, part)
    return (*cleaned, item["loc"][-1]) if item["type"] == "missing" else cleaned


def _already_known(loc: Loc, document: Document) -> bool:
    return any(loc[:length] in document.broken for length in range(len(loc) + 1))


def _tell(document: Document, loc: Loc, item: Details, pieces: typing.Iterable[str]) -> None:
    subject = next((repr(part) for part in reversed(loc) if isinstance(part, str)), "this")
    kind, value = item["type"], item["input"]
    hint = ""
    if kind == "missing":
        message = f"the key {subject} is missing"
    elif value is None and kind in _WORDS:
        message = f"{subject} is empty"
    elif kind == "literal_error" and isinstance(value, str):
        options = [part.strip(" '") for part in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        message, hint = f"{subject} must be one of {', '.join(options)}", did_you_mean(value, options)
    elif kind in _WORDS:
        message = f"{subject} {_WORDS[kind]}"
    elif kind == "value_error":
        message = str(item["ctx"]["error"])
        if message.startswith("it "):
            message = subject + message[2:]
        elif not message.startswith(("'", "the ")):
            message = f"{subject}: {message}"
    else:
        message = item["msg"].replace("Input", subject, 1)
    for piece in pieces:
        message = message.replace(repr(piece), "the value")
        message = message.replace(piece, "...") if len(piece) > 3 else message
    document.mistake(loc, message, hint=hint, key=item["loc"][-1:] == ("[key]",) or kind == "missing")

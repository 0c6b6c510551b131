"""The JSON Schema of audiencesync.yml, from the very models that check it, for completion in editors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from audiencesync.model import Destination
from audiencesync.project.settings import ProjectFile
from audiencesync.project.values import DESTINATION_NAME, VARIABLE_NAME
from audiencesync.schedule import show_duration

_ISO_DURATION = re.compile(r"P(?:\d|T\d)")
_NARROW = ("integer", "number", "boolean")
_REFERENCE = {"type": "string", "pattern": r"\$\{.+\}"}


def json_schema(registry: Mapping[str, type[Destination]]) -> dict[str, Any]:
    """The schema of audiencesync.yml with the destinations of `registry`, each told from the others by its `type`."""
    schema = ProjectFile.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    for kind, destination in sorted(registry.items()):
        own = destination.model_json_schema(ref_template=f"#/$defs/{kind}.{{model}}")
        definitions.update({f"{kind}.{name}": inner for name, inner in own.pop("$defs", {}).items()})
        own["properties"] = {"type": {"const": kind}, **own.get("properties", {})}
        own["required"] = ["type", *own.get("required", [])]
        definitions[f"destination.{kind}"] = own
    schema["properties"]["destinations"] |= {
        "propertyNames": {"pattern": f"^{DESTINATION_NAME}$"},
        "additionalProperties": {"oneOf": [{"$ref": f"#/$defs/destination.{kind}"} for kind in sorted(registry)]}}
    schema["properties"]["vars"]["propertyNames"] = {"pattern": f"^(?!now$){VARIABLE_NAME}$"}
    for table in (schema, *definitions.values()):
        table["properties"] = {key: _written(value) for key, value in table.get("properties", {}).items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "audiencesync.yml"}


def _written(value: dict[str, Any]) -> dict[str, Any]:
    """A property as people write it: durations as 15m, and `${VAR}` in place of a number, a truth value or a choice."""
    default = value.get("default")
    if isinstance(default, str) and _ISO_DURATION.match(default):
        value = {**value, "default": show_duration(TypeAdapter(timedelta).validate_python(default))}
    if any(part.get("type") in _NARROW or "enum" in part for part in value.get("anyOf", [])):
        return {**value, "anyOf": [*value["anyOf"], _REFERENCE]}
    if value.get("type") in _NARROW or "enum" in value:
        kept: dict[str, Any] = {key: value[key] for key in ("description", "title", "default") if key in value}
        return {**kept, "anyOf": [{key: part for key, part in value.items() if key not in kept}, _REFERENCE]}
    return value

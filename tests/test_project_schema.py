"""Editors get the same rules as the loader, with every destination that is registered."""

from __future__ import annotations

import json
import re

from audiencesync.project import json_schema
from tests.project_files import REGISTRY, Toy

KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def mistakes(value, schema, root):
    """What a value breaks of the few words of JSON Schema that the schema uses, as paths."""
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target | {key: part for key, part in schema.items() if key != "$ref"}
    for word in ("anyOf", "oneOf"):
        if word in schema:
            fitting = [option for option in schema[word] if not mistakes(value, option, root)]
            if not fitting or (word == "oneOf" and len(fitting) > 1):
                return [word]
    kinds = schema.get("type", [])
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return ["type"]
    found = [word for word in ("const", "enum") if word in schema
             and value not in (schema["enum"] if word == "enum" else [schema["const"]])]
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append("pattern")
    if isinstance(value, dict):
        found += _of_object(value, schema, root)
    if isinstance(value, list):
        items = schema.get("items", {})
        found += [f"{index}.{one}" for index, part in enumerate(value) for one in mistakes(part, items, root)]
    return found


def _is(value, kind):
    if kind in {"integer", "number"}:
        return isinstance(value, int | float if kind == "number" else int) and not isinstance(value, bool)
    return isinstance(value, KINDS[kind])


def _of_object(value, schema, root):
    found = [f"missing {key}" for key in schema.get("required", []) if key not in value]
    for key, part in value.items():
        if not re.search(schema.get("propertyNames", {}).get("pattern", ""), key):
            found.append(f"name {key}")
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
        found += [f"unknown {key}"] if inner is False else [
            f"{key}.{one}" for one in mistakes(part, {} if inner is True else inner, root)]
    return found


GOOD = {
    "name": "shop", "timezone": "UTC", "state": "sqlite:///x.db",
    "source": {"url": "${URL}", "statement_timeout": "10m", "allow_files": "${FILES}",
               "fresh": {"sql": "SELECT 1", "max_age": "6h"}},
    "defaults": {"schedule": "every 2h", "destinations": ["toy"], "guard": {"max_exit": "30%", "min_exits": None}},
    "state_must_exist": True, "retention": "30d",
    "alerts": [{"type": "slack", "url": "${SLACK_URL}", "on": ["failed", "held"]},
               {"type": "${KIND}", "url": "${HOOK}", "name": "ops"}],
    "destinations": {"toy": {"type": "toy", "write_key": "abc", "concurrency": 4, "gzip": True},
                     "mail": {"type": "mailer", "write_key": "abc", "rate": 800, "concurrency": "${N}"}},
    "vars": {"a": 5, "since": "now - 30d"},
}


def test_a_good_project_file_fits_the_schema():
    schema = json_schema(REGISTRY)
    assert mistakes(GOOD, schema, schema) == []
    assert json.loads(json.dumps(schema)) == schema


def test_a_bad_project_file_does_not_fit_the_schema():
    schema = json_schema(REGISTRY)
    for change, expected in [
        ({"nmae": "x"}, "unknown nmae"), ({"source": {}}, "source.missing url"), ({"name": 5}, "name.type"),
        ({"destinations": {"toy": {"write_key": "abc"}}}, "destinations.toy.oneOf"),
        ({"destinations": {"toy": {"type": "tyo", "write_key": "abc"}}}, "destinations.toy.oneOf"),
        ({"destinations": {"toy": {"type": "toy"}}}, "destinations.toy.oneOf"),
        ({"destinations": {"toy": {"type": "toy", "write_key": "a", "regin": "x"}}}, "destinations.toy.oneOf"),
        ({"destinations": {"t o y": {"type": "toy", "write_key": "a"}}}, "destinations.name t o y"),
        ({"vars": {"now": 1}}, "vars.name now"), ({"vars": {"a b": 1}}, "vars.name a b"),
        ({"vars": {"a": [1]}}, "vars.a.type"),
        ({"defaults": {"guard": {"max_exit": "lots"}}}, "defaults.guard.max_exit.anyOf"),
        ({"source": {"url": "x", "fresh": {"sql": "SELECT 1"}}}, "source.fresh.anyOf"),
        ({"alerts": [{"type": "slack"}]}, "alerts.0.missing url"),
        ({"alerts": [{"type": "slack", "url": "x", "on": ["faild"]}]}, "alerts.0.on.0.enum"),
        ({"alerts": [{"type": "slak", "url": "x"}]}, "alerts.0.type.anyOf"),
    ]:
        assert mistakes(GOOD | change, schema, schema) == [expected]


def test_a_destination_that_registers_itself_is_in_the_schema():
    class Third(Toy):
        """Someone else's."""

        type = "third"
        colour: str

    before, after = json_schema(REGISTRY), json_schema({**REGISTRY, "third": Third})
    document = {"name": "shop", "source": {"url": "x"}, "destinations": {
        "t": {"type": "third", "write_key": "abc", "colour": "red"}}}
    assert mistakes(document, before, before) == ["destinations.t.oneOf"]
    assert mistakes(document, after, after) == []


def test_defaults_are_shown_as_people_write_them():
    schema = json_schema(REGISTRY)
    assert schema["$defs"]["SourceTable"]["properties"]["statement_timeout"]["default"] == "10m"
    assert schema["$defs"]["destination.toy"]["properties"]["settle"]["default"] == "15m"
    assert schema["properties"]["retention"]["default"] == "90d"
    limits = schema["$defs"]["Guard"]["properties"]
    assert {name: limit["default"] for name, limit in limits.items()} == {
        "max_exit": "30%", "min_exits": 50, "max_enter": None, "max_initial": None}


def test_the_schema_of_no_destinations_is_still_a_schema():
    schema = json_schema({})
    assert mistakes({"name": "shop", "source": {"url": "x"}}, schema, schema) == []
    assert schema["$schema"].startswith("https://json-schema.org/")

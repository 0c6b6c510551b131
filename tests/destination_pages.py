"""The README's part on destinations, made from the classes: `python -m tests.destination_pages` writes it anew."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import ClassVar, Literal

import yaml
from pydantic import SecretStr

from audiencesync.destinations import registry
from audiencesync.model import Channel, Content, Destination, Packer
from tests.documents import HOUSE

BEGIN, END = "<!-- made from the classes: python -m tests.destination_pages -->", "<!-- until here -->"

FILE = HOUSE / "README.md"


class Plain(Destination):
    """Only what every destination has."""

    type: ClassVar[str] = "plain"

    def packer(self, content: Content) -> Packer:
        raise NotImplementedError

    def channel(self) -> Channel:
        raise NotImplementedError


def page() -> str:
    """The whole part: a table of all, and for each its minimal file and its own settings."""
    kinds = [registry()[name] for name in registry()]
    return "\n".join([BEGIN, "", *_table(kinds), "", *(line for kind in kinds for line in _section(kind)), END])


def _table(kinds: list[type[Destination]]) -> Iterator[str]:
    yield "| type | what it is | finds a user by | whom it does not know is | a request carries | its limits |"
    yield "|---|---|---|---|---|---|"
    shapes = {"call": "calls, one for each audience of a user", "row": "users, each with all his changes",
              "column": "one value of one trait for many users"}
    for kind in kinds:
        cells = [f"[`{kind.type}`](#type-{kind.type})", _first(kind), kind.identifies, kind.unknown,
                 shapes[kind.shape], kind.published]
        yield f"| {' | '.join(cells)} |"


def _first(kind: type[Destination]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0].partition(". ")[0].rstrip(".")


def _section(kind: type[Destination]) -> Iterator[str]:
    yield from (f"### `type: {kind.type}`", "", "```yaml", *minimal(kind).splitlines(), "```", "",
                *_words(kind), "", "| key | default | meaning |", "|---|---|---|")
    for name, default in own(kind).items():
        words = (kind.model_fields[name].description or "").rstrip(".").replace("|", "\\|") + _options(kind, name)
        words += f": what stands in place of `{api}`" if name == "url" and (api := getattr(kind, "api_url", "")) else ""
        yield f"| `{name}` | {default if default in ('required', 'none') else f'`{default}`'} | {words} |"
    yield ""


def _options(kind: type[Destination], name: str) -> str:
    """The words that a setting may be, where there are only some."""
    annotation = kind.model_fields[name].annotation
    literals = [part for part in (annotation, *typing.get_args(annotation)) if typing.get_origin(part) is Literal]
    words = [f"`{word}`" for part in literals for word in typing.get_args(part)]
    return f": {', '.join(words)}" if words else ""


def own(kind: type[Destination]) -> dict[str, str]:
    """The settings that are a destination's own, or have another default than everywhere, with their defaults."""
    return {name: default for name, default in defaults(kind).items() if defaults(Plain).get(name) != default}


def defaults(kind: type[Destination]) -> dict[str, str]:
    """Every setting with its default, as people write it."""
    made = kind.model_construct()
    found = {}
    for name, field in kind.model_fields.items():
        value = None if field.is_required() else made.model_dump(mode="json", include={name}, warnings=False)[name]
        written = "none" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
        found[name] = "required" if field.is_required() else written
    return found


def _words(kind: type[Destination]) -> Iterator[str]:
    text = " ".join(line.strip() for line in (kind.__doc__ or "").strip().splitlines())
    line = ""
    for word in text.split():
        if len(line) + len(word) + 1 > 118:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line


def minimal(kind: type[Destination]) -> str:
    """The least that audiencesync.yml must say to use it; what is secret comes from the environment."""
    settings: dict[str, object] = {"type": kind.type}
    for name, value in kind.example.items():
        secret = SecretStr in (kind.model_fields[name].annotation, *typing.get_args(kind.model_fields[name].annotation))
        settings[name] = f"${{{kind.type}_{name}}}".upper() if secret else value
    flow = yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=1000).strip()
    return (f'name: shop\nsource: {{url: "${{WAREHOUSE_URL}}"}}\ndestinations:\n  {kind.type}: {flow}')


def written(text: str) -> str:
    """The README with this part in its place."""
    before, _, rest = text.partition(BEGIN)
    return before + page() + rest.partition(END)[2]


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text(encoding="utf-8")), encoding="utf-8")

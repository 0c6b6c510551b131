"""The documents that people read, taken apart: blocks, tables, headings, and the commands that they tell to type."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml

HOUSE = Path(__file__).parents[1]
README = (HOUSE / "README.md").read_text(encoding="utf-8")
PAGES = {path.relative_to(HOUSE).as_posix(): path.read_text(encoding="utf-8")
         for path in (HOUSE / "README.md", *sorted((HOUSE / "docs").glob("*.md")))}


def blocks(language: str, page: str = README) -> list[str]:
    """The fenced blocks of a page in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


def part(title: str, page: str = README) -> str:
    """The text under a heading, up to the next of its rank or a higher one."""
    level, text = next((len(found[1]), page[found.end():]) for found in
                       re.finditer(r"^(#+) (.*)$", page, re.MULTILINE) if found[2] == title)
    return re.split(rf"^#{{1,{level}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> dict[str, list[str]]:
    """The table rows under a heading by their first cell, which is `code`."""
    found = {}
    for line in part(title).splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].startswith("`"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def anchors(page: str) -> set[str]:
    """The names by which a page's headings are linked to."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


def invocations(page: str) -> Iterator[str]:
    """Every `audiencesync ...` that a page tells people to type, or to have typed by cron, systemd or a container."""
    shell = [line for block in blocks("sh", page) for line in block.splitlines()]
    shell += re.findall(r"^[*/\d ]+ \* \* \* (.*)$", page, re.MULTILINE)
    shell += re.findall(r"^ExecStart=(.*)$", page, re.MULTILINE)
    shell += re.findall(r'bash_command="([^"]*)"', page)
    inline = [text for text in re.findall(r"`([^`\n]+)`", prose(page)) if text.startswith("audiencesync ")]
    for text in (*shell, *inline):
        for command in text.partition(" #")[0].split("&&"):
            called = re.search(r"(?:^|.*[ /])audiencesync ([^:].*)", command.strip())
            if called and "COMMAND" not in command:
                yield f"audiencesync {called[1]}"


def containers(thing: object) -> Iterator[str]:
    """What the containers anywhere in a manifest call; the image's entry point is the program."""
    if isinstance(thing, dict):
        if "args" in thing:
            yield shlex.join(["audiencesync", *thing["args"]])
        thing = list(thing.values())
    for inner in thing if isinstance(thing, list) else ():
        yield from containers(inner)


def manifests(page: str) -> Iterator[object]:
    """Every YAML document in the fences of a page; raises YAMLError for what is none."""
    for block in blocks("yaml", page):
        yield from yaml.safe_load_all(block)


def everything_typed() -> list[str]:
    """Each command once, wherever it stands."""
    [image] = re.findall(r"^CMD (.*)$", (HOUSE / "docs/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return sorted({*(line for page in PAGES.values() for line in invocations(page)),
                   *(line for page in PAGES.values() for manifest in manifests(page) for line in containers(manifest)),
                   shlex.join(["audiencesync", *json.loads(image)])})

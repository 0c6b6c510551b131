"""What the README says is so: its commands, settings, codes, errors and examples are held against the program."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from audiencesync import __version__, errors
from audiencesync.cli import COMMANDS, cli
from audiencesync.cli.context import Session
from audiencesync.destinations import registry
from audiencesync.model import Destination
from audiencesync.naming import key_of
from audiencesync.project import load
from audiencesync.project.check import check_sql
from audiencesync.project.settings import Header, ProjectFile
from audiencesync.report.outcomes import ORDER
from audiencesync.schedule import show_duration
from tests.commands import Shop

HOUSE = Path(__file__).parents[1]
README = (HOUSE / "README.md").read_text(encoding="utf-8")
OPENING = next(re.finditer(r"```sh\n(.*?)```", README, re.DOTALL))[1].splitlines()


def blocks(language: str) -> list[str]:
    """The fenced blocks in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def part(title: str) -> str:
    """The text under a heading, up to the next of its rank or a higher one."""
    level, text = next((len(found[1]), README[found.end():]) for found in
                       re.finditer(r"^(#+) (.*)$", README, re.MULTILINE) if found[2] == title)
    return re.split(rf"^#{{1,{level}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> dict[str, list[str]]:
    """The table rows under a heading by their first cell, which is `code`."""
    found = {}
    for line in part(title).splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].startswith("`"):
            found[cells[0].strip("`")] = cells[1:]
    return found


def leaves() -> dict[str, click.Command]:
    """Every command that does something, by the words that call it."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": made for inner, made in command.commands.items()}
        else:
            found[name] = command
    return found


def usage(name: str, command: click.Command) -> str:
    """A command with its arguments, as help shows it."""
    return " ".join([name, *(piece for piece in command.collect_usage_pieces(click.Context(command))
                             if piece != "[OPTIONS]")])


def options(command: click.Command) -> set[str]:
    """Every way to write each of its options."""
    return {word for parameter in command.params if isinstance(parameter, click.Option) for word in parameter.opts}


def invocations() -> Iterator[str]:
    """Every `audiencesync ...` that the README tells people to type."""
    shell = [line for block in blocks("sh") for line in block.splitlines()]
    shell += [line.partition("cd /srv/shop && ")[2] for line in README.splitlines() if " * * * cd /srv/shop" in line]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE))
    for text in (*shell, *inline):
        for command in text.partition(" #")[0].split("&&"):
            words = command.strip().removeprefix(".venv/bin/")
            if words.startswith("audiencesync ") and "COMMAND" not in words:
                yield words


@pytest.mark.parametrize("line", sorted(set(invocations())))
def test_a_command_in_the_readme_can_be_typed(line: str) -> None:
    words = shlex.split(line)[1:]
    if words == ["--version"]:
        return
    context = click.Context(cli, obj=Session("."))
    while words:
        group = context.command
        assert isinstance(group, click.Group)
        command = group.get_command(context, words[0])
        assert command, f"{line}: there is no command {words[0]!r}"
        try:
            context = command.make_context(words[0], words[1:], parent=context)
        except click.UsageError as error:
            pytest.fail(f"{line}: {error.format_message()}")
        words = [] if not isinstance(command, click.Group) else words[1:]


def test_every_command_stands_in_the_readme_with_its_arguments_and_options() -> None:
    told = rows("Commands")
    expected = {usage(name, command): options(command) for name, command in leaves().items()}
    described = {name: set(re.findall(r"`([^`]+)`", cells[1])) for name, cells in told.items() if len(cells) == 2}
    assert described == expected


def test_every_option_is_explained() -> None:
    explained = {word for name, cells in rows("Commands").items() if len(cells) == 1
                 for word in re.findall(r"(?<!\w)--?[a-z-]+", name)}
    all_of_them = {word for command in leaves().values() for word in options(command)}
    beside = {word for name, cells in rows("Commands").items() if len(cells) == 2
              for word in re.findall(r"(?<!\w)--[a-z-]+", cells[0])}
    elsewhere = set(re.findall(r"(?<!\w)--[a-z-]+", part("Questions")))
    assert all_of_them - {"--output"} <= explained | beside | elsewhere


def test_every_environment_variable_is_explained() -> None:
    known = {name for path in (HOUSE / "audiencesync").rglob("*.py")
             for name in re.findall(r"\bAUDIENCESYNC_[A-Z]+\b", path.read_text(encoding="utf-8"))}
    assert known == {name for name in rows("Commands") if name.startswith("AUDIENCESYNC_")}


def written(field: FieldInfo) -> str:
    """A setting's default as people write it."""
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, timedelta):
        return show_duration(value)
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each setting of a model by its dotted name, with its default."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", written(field)


def described(title: str) -> dict[str, str]:
    """The settings that a table describes, with their defaults."""
    return {name: cells[0].strip("`") for name, cells in rows(title).items()}


def test_every_setting_of_the_project_is_described_with_its_default() -> None:
    in_words = {"defaults.destinations": "all"}
    assert described("audiencesync.yml") == {**dict(settings(ProjectFile)), **in_words}


def test_every_key_of_a_header_is_described_with_its_default() -> None:
    expected = {name: written(field) for name, field in Header.model_fields.items() if name != "guard"}
    in_words = {"name": "the file's name", "key": "from the name", "types": "none", "vars": "none",
                "destinations": "defaults.destinations", "schedule": "defaults.schedule", "guard": "defaults.guard"}
    assert described("The header of an audience") == {**expected, **in_words}


def test_every_setting_of_every_destination_is_described_with_its_default() -> None:
    shared = dict(settings(Destination))
    assert described("Every destination") == {"type": "required", **shared}
    for name, kind in registry().items():
        own = {field: default for field, default in settings(kind) if shared.get(field) != default}
        assert described(f"`type: {name}`") == own


def test_every_exit_code_is_told() -> None:
    table = re.findall(r"^\| (\d+) \|", part("Errors and exit codes"), re.MULTILINE)
    assert sorted(map(int, table)) == sorted(ORDER)
    assert f"the first of {', '.join(str(code) for code in ORDER if code)} is the exit code" in README


def test_the_tree_of_errors_is_the_one_in_the_code() -> None:
    assert errors.__doc__
    tree = errors.__doc__[errors.__doc__.index("AudiencesyncError"):].rstrip()
    assert f"```text\n{tree}\n```" in README
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert names == set(re.findall(r"^[│├└─ ]*([A-Z]\w+)", tree, re.MULTILINE))


def project(root: Path, *, tells: str = "segment") -> Shop:
    """The project of the README, its YAML and its SQL as they stand there, with one order in its source."""
    with closing(sqlite3.connect(root / "shop.db")) as shop, shop:
        shop.execute("CREATE TABLE orders (user_id TEXT, email TEXT, total REAL, completed_at TEXT)")
        shop.execute("INSERT INTO orders VALUES ('u123', 'ada@example.com', 9, '2026-11-01 12:00:00')")
    (root / ".env").write_text("WAREHOUSE_URL=sqlite:///shop.db\nSEGMENT_WRITE_KEY=wk\n")
    main = blocks("yaml")[0].replace("destinations: [segment]", f"destinations: [{tells}]")
    return Shop(root, "", main=main, **audiences())


def audiences() -> dict[str, str]:
    """The SQL files of the README by the names that their keys want."""
    first, second = blocks("sql")
    return {"order_completed_last_30days": first, "high_value": second}


def test_the_examples_are_a_project_without_mistakes(tmp_path: Path) -> None:
    loaded = load(project(tmp_path).root, registry=registry(), environment={})
    assert loaded.warnings == ()
    assert [audience.key for audience in loaded.audiences] == ["high_value", "order_completed_last_30days"]
    assert [problem for audience in loaded.audiences for problem in check_sql(audience, "sqlite")] == []


def test_the_first_example_has_eight_lines_and_causes_the_call_beside_it(tmp_path: Path) -> None:
    assert blocks("sql")[0].count("\n") == 8
    [shown] = blocks("json")
    call = json.loads(shown)
    shop = project(tmp_path, tells="trial")
    said = shop.run("sync", "order_*", "--as-of", call["timestamp"])
    assert said.code == 0, said.err
    sent = json.loads((tmp_path / "calls.jsonl").read_text())
    assert re.fullmatch("as_[0-9a-f]{32}", call["messageId"])
    assert {**sent, "messageId": call["messageId"]} == call


def test_the_plan_that_is_shown_has_the_shape_of_a_plan(tmp_path: Path) -> None:
    said = project(tmp_path).run("plan", "--as-of", "2026-11-22T06:00:00Z")
    assert said.code == 0, said.err
    shown = next(block for block in blocks("text") if "identify call" in block)
    assert shapes(shown)
    assert shapes(shown) == shapes(said.out)


def shapes(text: str) -> set[str]:
    """The header of each table and the sentences, with numbers and names taken out."""
    header = {" ".join(line.split()) for line in text.splitlines() if line.startswith(("audience ", "destination "))}
    lines = [line for line in text.splitlines() if line.endswith((".", " a second"))]
    return header | {re.sub(r"s\b", "", re.sub(r"\d[\d,:-]*", "9", line)).replace("CET", "UTC") for line in lines}


def test_a_mistake_is_shown_as_the_readme_shows_it(tmp_path: Path) -> None:
    main = project(tmp_path).root / "audiencesync.yml"
    main.write_text(main.read_text().replace('write_key: "${SEGMENT_WRITE_KEY}", region: us', "write_kay: abc"))
    with pytest.raises(errors.ProjectError) as raised:
        load(tmp_path, registry=registry(), environment={})
    shown = next(block for block in blocks("text") if "write_kay" in block)
    found = next(problem for problem in raised.value.problems if "write_kay" in problem.message)
    assert str(found) == shown.rstrip("\n")


def test_names_give_the_keys_that_the_readme_says() -> None:
    assert f"`Order completed last 30days` gives `{key_of('Order completed last 30days')}`" in " ".join(README.split())


def test_the_opening_commands_are_the_ones_that_are_tried() -> None:
    first, second = OPENING
    assert first == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/audiencesync demo"
    if (HOUSE / ".ci/run").exists():
        assert second in (HOUSE / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert second.startswith("python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && ")


def test_every_link_leads_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
               for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        known = target.removeprefix("#") in anchors if target.startswith("#") else (HOUSE / target).is_file()
        assert known, target


def test_the_changelog_tells_of_this_version() -> None:
    assert re.search(rf"^## \[?{re.escape(__version__)}\b", (HOUSE / "CHANGELOG.md").read_text(encoding="utf-8"),
                     re.MULTILINE)


def test_a_first_screen_says_what_it_is_in_one_sentence() -> None:
    sentence = README.split("\n\n")[1]
    assert sentence.count(".") == 1
    assert sentence.endswith(".")
    assert len(sentence) < 160


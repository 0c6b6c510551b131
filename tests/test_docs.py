"""What the README and docs/ say is so: commands, settings, codes, errors and examples are held against the program."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from audiencesync import __version__, errors
from audiencesync.alerts import message
from audiencesync.cli import COMMANDS, cli
from audiencesync.cli.context import Session
from audiencesync.destinations import registry
from audiencesync.model import ALERTS, Trouble
from audiencesync.naming import key_of
from audiencesync.project import load
from audiencesync.project.check import check_sql
from audiencesync.project.settings import Guard, Header, ProjectFile
from audiencesync.report.outcomes import ORDER
from audiencesync.schedule import show_duration
from audiencesync.service.metrics import AudienceFacts, DestinationFacts, Facts, Metrics, StandingFacts
from tests import destination_pages
from tests.commands import Shop
from tests.documents import HOUSE, PAGES, README, anchors, blocks, everything_typed, part, prose, rows

OPENING = next(re.finditer(r"```sh\n(.*?)```", README, re.DOTALL))[1].splitlines()


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


@pytest.mark.parametrize("line", everything_typed())
def test_a_command_in_the_documents_can_be_typed(line: str) -> None:
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
                "destinations": "defaults.destinations", "schedule": "defaults.schedule", "guard": "defaults.guard",
                "kind": "by the folder", "send": "as the destination", "events": "as the destination"}
    assert described("The header of an audience") == {**expected, **in_words}


def test_every_setting_of_every_destination_is_described_with_its_default() -> None:
    assert described("Every destination") == {"type": "required", **destination_pages.defaults(destination_pages.Plain)}
    for name, kind in registry().items():
        assert described(f"`type: {name}`") == destination_pages.own(kind)


def test_the_part_on_destinations_is_made_from_their_classes() -> None:
    assert destination_pages.written(README) == README, "python -m tests.destination_pages"


@pytest.mark.parametrize("name", list(registry()))
def test_the_least_file_of_each_destination_is_valid(name: str, tmp_path: Path) -> None:
    main = destination_pages.minimal(registry()[name])
    shop = Shop(tmp_path / "shop", "sqlite:///state.db", main=main)
    shop.environment |= dict.fromkeys(re.findall(r"\$\{(\w+)\}", main), "s3cret")
    shop.environment["WAREHOUSE_URL"] = "sqlite:///shop.db"
    shop.write("audiences/buyers.sql", "/* audiencesync\ninclude: [email]\n*/\n"
               "SELECT user_id, 'a@b.co' AS email FROM orders WHERE at <= :now\n")
    said = shop.run("validate")
    assert said.code == 0, said.out + said.err


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
    main = next(block for block in blocks("yaml") if "source:" in block)
    main = main.replace("destinations: [segment]", f"destinations: [{tells}]")
    return Shop(root, "", main=main, **audiences())


def audiences() -> dict[str, str]:
    """The SQL files of the README by the names that their keys want."""
    first, *_, last = blocks("sql")
    return {"order_completed_last_30days": first, "high_value": last}


def test_the_examples_are_a_project_without_mistakes(tmp_path: Path) -> None:
    loaded = load(project(tmp_path).root, registry=registry(), environment={})
    assert loaded.warnings == ()
    assert [audience.key for audience in loaded.audiences] == ["high_value", "order_completed_last_30days"]
    assert [problem for audience in loaded.audiences for problem in check_sql(audience, "sqlite")] == []


def test_the_examples_of_computed_traits_run_and_their_test_passes(tmp_path: Path) -> None:
    told = "Computed traits"
    shop = project(tmp_path, tells="trial")
    shop.write("audiencesync.yml", (tmp_path / "audiencesync.yml").read_text() + "events: {table: events}\n")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as source, source:
        source.execute("CREATE TABLE events (user_id TEXT, event TEXT, at TEXT, properties TEXT)")
        source.execute("INSERT INTO events VALUES ('u123', 'Order Completed', '2026-11-01 12:00:00', ?)",
                       ('{"total": 99.5, "category": "shoes"}',))
    value, risk = blocks("sql", part(told))
    declared, case = blocks("yaml", part(told))
    shop.write("traits/customer_value.sql", value)
    shop.write("traits/revenue_last_90days.yml", declared)
    shop.write("audiences/vip.sql", "SELECT user_id FROM orders WHERE completed_at <= :now GROUP BY user_id\n")
    shop.write("audiences/vip_at_risk.sql", risk)
    shop.write("audiences/high_value.test.yml", case)
    assert shop.run("test").code == 0, shop.run("test").out
    said = shop.run("sync", "--as-of", "2026-12-22", "--destination", "trial")
    assert said.code == 0, said.err
    traits: dict[str, object] = {}
    for line in (tmp_path / "calls.jsonl").read_text().splitlines():
        traits |= json.loads(line)["traits"]
    assert traits == {"big_spender": False, "last_order_at": "2026-11-01 12:00:00", "lifetime_revenue": 9,
                      "orders_total": 1, "revenue_last_90days": 99.5, "vip": True, "vip_at_risk": True}


def test_the_first_example_has_eight_lines_and_causes_the_call_beside_it(tmp_path: Path) -> None:
    assert blocks("sql")[0].count("\n") == 8
    call = json.loads(blocks("json")[0])
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


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(PAGES[name])):
        path, _, anchor = target.partition("#")
        file = (HOUSE / name).parent / path if path else HOUSE / name
        assert file.is_file(), target
        assert not anchor or anchor in anchors(PAGES[file.resolve().relative_to(HOUSE).as_posix()]), target


def test_the_changelog_tells_of_this_version() -> None:
    assert re.search(rf"^## \[?{re.escape(__version__)}\b", (HOUSE / "CHANGELOG.md").read_text(encoding="utf-8"),
                     re.MULTILINE)


def test_a_first_screen_says_what_it_is_in_one_sentence() -> None:
    sentence = README.split("\n\n")[1]
    assert sentence.count(".") == 1
    assert sentence.endswith(".")
    assert len(sentence) < 160



def shop_of_sixty(root: Path) -> Shop:
    """A project whose sixty buyers were told to a file, and seem to be gone since."""
    shop = Shop(root / "shop", f"sqlite:///{root}/state.db", main="""\
name: shop
source: {url: "sqlite:///shop.db"}
state: ${STATE}
destinations: {segment: {type: file, path: calls.jsonl}}
""")
    users = [f"u{number}" for number in range(60)]
    shop.orders(*users)
    assert shop.run("sync").code == 0
    shop.forget(*users)
    assert shop.run("sync").code == 4
    return shop


def test_what_is_held_is_shown_as_the_readme_shows_it(tmp_path: Path) -> None:
    [shown] = [block for block in blocks("text") if "would exit" in block]
    said = shop_of_sixty(tmp_path).run("status").out
    assert held(shown)
    assert held(shown) == held(said[said.index("buyers at segment"):])


def held(text: str) -> str:
    """What is said of a change that is held, with numbers, names and times taken out."""
    text = re.sub(r"order_completed_last_30days|buyers", "KEY", text)
    text = re.sub(r"(?:[\d,:-]+ )+(?:CET|UTC)|\d+[smhd] old", "THEN", text)
    return re.sub(r"[\d,]+\b", "9", text).strip()


def test_the_limits_of_a_guard_are_the_ones_that_are_built_in() -> None:
    limits = Guard().model_dump()
    assert f"`max_exit` ({limits['max_exit']:.0%}".replace("%", " %)") in README
    assert f"`min_exits` ({limits['min_exits']})" in README


def test_the_kinds_of_alerts_are_all_told_and_mean_what_they_mean() -> None:
    told = {name: cells[0].replace("`", "") for name, cells in rows("Being watched").items() if name in ALERTS}
    assert told == {kind: f"{words[0].lower()}{words[1:-1]}" for kind, words in ALERTS.items()}


def test_a_webhook_gets_the_document_that_is_shown() -> None:
    shown = json.loads(blocks("json")[1])
    since = datetime.fromisoformat(shown["since"])
    trouble = Trouble("held", shown["what"], shown["why"], shown["help"], since=since, key=shown["key"],
                      destination=shown["destination"], oldest_unsent=since)
    sent = message("webhook", trouble, recovered=False, project="shop", now=datetime.fromisoformat(shown["at"]))
    assert sent == shown


def test_every_metric_is_told_with_its_labels() -> None:
    facts = Facts((AudienceFacts("a", 1, 1.0),), (DestinationFacts("d"),), (StandingFacts("a", "d", 1, 1.0),), {})
    metrics = Metrics(lambda: facts)
    metrics.calls("d", "a", "accepted", 1)
    metrics.request("d", "answered", 0.1)
    metrics.run("a", "done", 0.1, entered=1)
    seen: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(audiencesync_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$",
                                   metrics.page()[0].decode(), re.MULTILINE):
        seen.setdefault(name, set()).update(re.findall(r"(\w+)=\"", labels))
    told = {name: {word for word in cells[0].split(", ") if word} for name, cells in rows("Being watched").items()
            if name.startswith("audiencesync_")}
    assert told == {name: labels - {"le"} for name, labels in seen.items()}

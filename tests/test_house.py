"""The house rules, held by the same command as everything else: style, types, floors, sizes, and what files may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PACKAGE = HOUSE / "audiencesync"
LONGEST_MODULE, LONGEST_FUNCTION = 250, 40

FOREIGN = {
    "a machine's path": r"(?<![\w.$}])/(?:wo" r"rk|ro" r"ot|ho" r"me/\w+|Us" r"ers/\w+|tmp/ve" r"nv)/",
    "a package registry": r"(?:py" r"pi|pythonho" r"sted|registry\.np" r"mjs|deb\.de" r"bian)\.(?:org|com)",
    "a ticket's number": r"(?<![\w&#/\[])#[1-9]\d{0,4}(?=[\s.,;:)\]]|$)|\b(?:[Ii]ssue|[Tt]icket|GH-|PR) ?#?\d+\b",
}
"""What no tracked file says, in pieces so that this file does not say it either."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Every module of the package: its name as people write it, its text, its tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "_migrations" not in path.parts:
            text = path.read_text(encoding="utf-8")
            yield path.relative_to(HOUSE).as_posix(), text, ast.parse(text)


def run(*command: str) -> None:
    """Run one of the house's tools; what it finds is the failure's message."""
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(command[1:])}\n{done.stdout}{done.stderr}"


def tracked() -> list[Path]:
    """The files of the git checkout; skips where this is none."""
    if not (HOUSE / ".git").exists():
        pytest.skip("not a git checkout, so nothing says which files are the project's")
    try:
        listed = subprocess.run(["git", "-c", f"safe.directory={HOUSE}", "ls-files", "-z"], cwd=HOUSE,
                                capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert listed.returncode == 0, listed.stderr
    return [HOUSE / name for name in listed.stdout.split("\0") if name and (HOUSE / name).is_file()]


def test_ruff_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", "--quiet", "--output-format", "concise", ".")


def test_mypy_strict_finds_nothing() -> None:
    run(sys.executable, "-m", "mypy", "--no-error-summary")


def test_imports_point_down_and_rooms_do_not_see_each_other() -> None:
    run(sys.executable, str(Path(sysconfig.get_path("scripts"), "lint-imports")), "--no-logo", "--no-cache")


def test_modules_are_short() -> None:
    long = [f"{name}: {count} lines" for name, text, _ in modules() if (count := text.count("\n")) > LONGEST_MODULE]
    assert not long, f"over {LONGEST_MODULE} lines: {', '.join(long)}"


def test_functions_are_short() -> None:
    long = [f"{name}:{node.lineno} {node.name}: {lines} lines" for name, _, tree in modules() for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (lines := (node.end_lineno or 0) - node.lineno) > LONGEST_FUNCTION]
    assert not long, f"over {LONGEST_FUNCTION} lines: {', '.join(long)}"


def test_whoever_catches_everything_says_why() -> None:
    silent = []
    for name, text, tree in modules():
        lines = text.splitlines()
        for node in ast.walk(tree):
            broad = isinstance(node, ast.ExceptHandler) and (node.type is None or names_everything(node.type))
            hidden = (isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "suppress"
                      and any(map(names_everything, node.args)))
            if (broad or hidden) and not re.search(r"# (?!noqa(?::[\w, ]+)?$).{10}", lines[node.lineno - 1]):
                silent.append(f"{name}:{node.lineno}")
    assert not silent, f"catches everything without a comment that says why: {', '.join(silent)}"


def names_everything(node: ast.expr) -> bool:
    """Whether this expression after `except` catches whatever comes."""
    return any(isinstance(part, ast.Name) and part.id in {"Exception", "BaseException"} for part in ast.walk(node))


def test_every_module_is_named_by_what_it_is_for() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc", "lib"}
    vague = [name for name, _, _ in modules() if drawers & set(re.split(r"[/._]", name))]
    assert not vague, f"named as a drawer for anything: {', '.join(vague)}"


def test_every_public_thing_has_a_docstring() -> None:
    bare = [place for name, _, tree in modules() for place in undescribed(tree, name)]
    assert not bare, f"without a docstring: {', '.join(bare)}"


def undescribed(tree: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    """The public definitions in a module or class that say nothing of themselves; overloads and settings are none."""
    if not ast.get_docstring(tree):
        yield name
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from undescribed(node, f"{name}:{node.lineno} {node.name}")
            elif not ast.get_docstring(node):
                yield f"{name}:{node.lineno} {node.name}"


@pytest.mark.parametrize("what", FOREIGN)
def test_no_tracked_file_names(what: str) -> None:
    found = []
    for path in tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(HOUSE)}:{number}: {line.strip()[:100]}" for number, line in enumerate(lines, 1)
                  if re.search(FOREIGN[what], line)]
    assert not found, f"{what} stands in\n" + "\n".join(found)


def test_tests_need_nothing_that_the_test_extra_does_not_install() -> None:
    ours = {"audiencesync", "tests", "bench", *sys.stdlib_module_names}
    wanted = {name.partition(".")[0] for path in sorted((HOUSE / "tests").glob("*.py"))
              for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in imported(node)} - ours
    known = {"sqlalchemy", "alembic", "httpx", "inflection", "click", "pydantic", "yaml", "sqlglot", "orjson", "rich",
             "dotenv", "psycopg", "duckdb", "pytz", "pytest", "hypothesis", "structlog", "prometheus_client",
             "apscheduler", "cronsim", "segment", "crisp_api"}
    assert wanted <= known, f"no extra in pyproject.toml installs {', '.join(sorted(wanted - known))}"


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports by their full names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []

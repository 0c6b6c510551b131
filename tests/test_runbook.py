"""Whoever is woken by an alert finds its page, with something to look at and something to type on it."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from audiencesync.alerts import page_of
from audiencesync.model import ALERTS
from audiencesync.sync import brakes, troubles
from tests.documents import PAGES, anchors, invocations, part

RUNBOOK = PAGES["docs/runbook.md"]
STEPS = ("It means", "Usually because", "Meanwhile", "Look", "Do", "It goes away")
"""What each page says, in this order."""


@pytest.mark.parametrize("kind", ALERTS)
def test_an_alert_has_a_page_that_says_everything_in_order(kind: str) -> None:
    assert [found for found in re.findall(r"^\*\*([A-Z][a-z ]+)\*\*", part(kind, RUNBOOK), re.MULTILINE)
            if found in STEPS] == list(STEPS)


@pytest.mark.parametrize("kind", ALERTS)
def test_an_alert_s_page_has_a_command_to_look_with_and_one_to_type(kind: str) -> None:
    look, do = re.split(r"^\*\*Do\*\*", part(kind, RUNBOOK), maxsplit=1, flags=re.MULTILINE)
    assert list(invocations(look))
    assert list(invocations(do)) or kind == "definitions", "files are mended by hand"


@pytest.mark.parametrize("kind", ALERTS)
def test_the_link_in_an_alert_leads_to_its_page(kind: str) -> None:
    path, _, anchor = page_of(kind).partition("#")
    assert anchor in anchors(PAGES[path])


def test_the_runbook_has_no_page_for_what_is_no_alert() -> None:
    pages = set(re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE))
    assert pages == {*ALERTS, "What calls nobody"}


def test_whatever_status_shows_stands_in_the_runbook() -> None:
    others = set(re.findall(r"^\*\*(\w+)\*\*: ", part("What calls nobody", RUNBOOK), re.MULTILINE))
    assert kinds() >= {"held", "discarded", "retry", "refusals", "service"}, "they are not found any more"
    assert kinds() - set(ALERTS) == others


def kinds() -> set[str]:
    """Every kind of trouble that the code can speak of, but for those that only a service knows."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(troubles))) if isinstance(node, ast.Call)
             and isinstance(node.func, ast.Name) and node.func.id in {"Trouble", "at"} and node.args]
    told = [node.value for node in ast.walk(ast.parse(inspect.getsource(brakes.held)))
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)]
    words = [word for call in calls for word in choices(call.args[0])] + [tuple_.elts[0] for tuple_ in told]
    return {word.value for word in words if isinstance(word, ast.Constant)}


def choices(word: ast.expr) -> list[ast.expr]:
    """The values that an expression with `if` and `else` may have."""
    return [*choices(word.body), *choices(word.orelse)] if isinstance(word, ast.IfExp) else [word]

"""The live questions: each finds out what a fake plays; and, where credentials are, what the real APIs do.

With AUDIENCESYNC_LIVE_... in the environment (docs/live.md) the last test of this file is made, otherwise it is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from audiencesync.destinations.richpanel import Richpanel
from tests.fakes.planhat import PlanhatFake
from tests.fakes.richpanel import SECRET, RichpanelFake
from tests.fakes.usercom import UserComFake
from tests.live import ACCOUNTS, crisp, planhat, richpanel, usercom
from tests.live.played import CASES, Alternative
from tests.live.question import Account, Question
from tests.live.talk import Talk, Unaskable
from tests.loopback import Fault, Loopback

HOUSE = Path(__file__).parents[1]
REAL = [(account, question) for account in ACCOUNTS if (asked := account.talk(os.environ))
        for question in account.questions if {*question.needs} <= asked.extras.keys()]
ENVIRONMENT = dict(os.environ) if REAL else {}


def talk_with(server: Loopback, question: Question) -> Talk:
    """A conversation with a fake, with the settings of a destination's example."""
    (account,) = (one for one in ACCOUNTS if question in one.questions)
    extras = {"APP_KEY": str(Richpanel.example["api_key"]), "APP_SECRET": SECRET}
    return Talk(account.made.model_validate({**account.made.example, "url": server.url}),
                {name: value for name, value in extras.items() if name in account.extras})


@pytest.mark.parametrize(("question", "fake", "switches", "reading"), CASES, ids=[
    f"{question.name}-{reading}-{number}" for number, (question, _, _, reading) in enumerate(CASES)])
def test_a_question_finds_out_what_a_fake_plays(question: Question, fake: Callable[..., Any],
                                                switches: Mapping[str, Any], reading: str) -> None:
    with fake(**switches) as server:
        with talk_with(server, question) as talk:
            assert question.ask(talk) == reading
        live = [one for one in getattr(server, "people", {}).values() if "audiencesync-live" in str(one)]
        if isinstance(server, RichpanelFake):
            assert len(live) <= len(talk.left)
            assert not any(value is True for one in live for value in one.values())
        else:
            assert not live
            assert not talk.left
        assert {*getattr(server, "violations", [])} <= {"a creation without nickname"}


@pytest.mark.parametrize("question", {id(case[0]): case[0] for case in CASES}.values(), ids=lambda one: one.name)
def test_every_reading_that_has_words_is_played(question: Question) -> None:
    played = {reading for asked, _, _, reading in CASES if asked is question}
    assert len(played) > 1
    assert {*question.wrong, *question.hints} <= played
    assert question.least or question.assumes in played
    assert not question.wrong.keys() & {question.assumes, *question.hints}


def test_every_question_is_put_to_a_fake() -> None:
    assert {id(question) for account in ACCOUNTS for question in account.questions} == {id(one[0]) for one in CASES}


def test_the_defaults_assume_what_the_fakes_play_by_themselves() -> None:
    for question, _, switches, reading in CASES:
        if not switches:
            (account,) = (one for one in ACCOUNTS if question in one.questions)
            finding = question.judge(reading, account.made.model_validate(account.made.example))
            assert not finding.wrong, finding.line


def test_a_setting_that_a_finding_names_is_one() -> None:
    for account in ACCOUNTS:
        for question in account.questions:
            for name in filter(None, (question.setting, question.least)):
                assert name == "include" or name in account.made.model_fields


def test_people_of_planhat_need_a_company_that_the_environment_names() -> None:
    question = planhat.ACCOUNT.questions[0]
    with PlanhatFake() as server:
        server.companies = {"acme": "elsewhere.example"}
        with talk_with(server, question) as talk:
            with pytest.raises(Unaskable, match="AUDIENCESYNC_LIVE_PLANHAT_COMPANY"):
                question.ask(talk)
            talk.extras = {"COMPANY": "acme"}
            assert question.ask(talk) == "merge"
        assert not server.people


def test_who_cannot_be_taken_away_is_named() -> None:
    with UserComFake() as server:
        with talk_with(server, usercom.ACCOUNT.questions[2]) as talk:
            name = usercom.someone(talk)
        assert [one.partition(" ")[0] for one in talk.left] == [name]


def test_whoever_was_too_fast_asks_again_and_waits_for_a_change() -> None:
    question = usercom.ACCOUNT.questions[1]
    too_fast = Fault(status=429, headers={"Retry-After": "0"})
    with UserComFake(script=[too_fast]) as server, talk_with(server, question) as talk:
        talk._local = False
        assert question.ask(talk) == "ignored"
        seen = iter([None, "shown"])
        assert talk.until(lambda: next(seen)) == "shown"


def test_credentials_are_found_in_the_environment_and_half_of_them_are_a_mistake() -> None:
    assert not any(account.talk({"PATH": "/bin", "AUDIENCESYNC_LIVE_CRISP_KEY": ""}) for account in ACCOUNTS)
    with pytest.raises(ValueError, match="AUDIENCESYNC_LIVE_USERCOM_SUBDOMAIN is missing"):
        usercom.ACCOUNT.talk({"AUDIENCESYNC_LIVE_USERCOM_KEY": "k"})
    talk = planhat.ACCOUNT.talk({"AUDIENCESYNC_LIVE_PLANHAT_TOKEN": "ph", "AUDIENCESYNC_LIVE_PLANHAT_COMPANY": "acme"})
    assert talk
    assert (talk.destination.api_token.get_secret_value(), talk.extras) == ("ph", {"COMPANY": "acme"})


def test_the_live_tests_say_which_readings_hold_and_fail_where_a_default_assumes_the_other() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AUDIENCESYNC_")}
    with Alternative() as first, RichpanelFake(nesting="body") as second:
        for account, server in ((crisp.ACCOUNT, first), (richpanel.ACCOUNT, second)):
            given = {suffix: str(account.made.example[name]) for suffix, name in account.required.items()}
            clean |= {f"AUDIENCESYNC_LIVE_{account.name}_{suffix}": value
                      for suffix, value in {**given, "URL": server.url}.items()}
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "real_api",
                               "tests/test_live.py"], cwd=HOUSE, env=clean, capture_output=True, text=True,
                              timeout=120, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert f"1 failed, {len(crisp.ACCOUNT.questions) + 1} passed" in said
    assert "skipped" not in said
    assert "crisp, other keys of a batch: merge, as assumed (of bulk)" in said
    assert "nesting of properties: body, where customer is assumed (of nesting): set it to body" in said
    assert "left there: audiencesync-live-" in said
    assert not [secret for secret in (str(crisp.Crisp.example["key"]), str(Richpanel.example["api_key"]))
                if secret in said]


if REAL:
    @pytest.mark.parametrize(("account", "question"), REAL, ids=[f"{one.name.lower()}-{asked.name}"
                                                                 for one, asked in REAL])
    def test_the_defaults_assume_what_the_real_api_does(account: Account, question: Question,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
        talk = account.talk(ENVIRONMENT)
        assert talk
        try:
            with talk:
                finding = question.judge(question.ask(talk), talk.destination)
        except Unaskable as error:
            pytest.fail(f"{question.name}: {error}", pytrace=False)
        finally:
            with capsys.disabled():
                print("".join(f"\n  left there: {name}" for name in talk.left))
        with capsys.disabled():
            print(f"  {finding.line}")
        if finding.wrong:
            pytest.fail(finding.line, pytrace=False)

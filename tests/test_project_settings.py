"""What a project says of its source's age, its state, its guards and its alerts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from audiencesync.errors import ProjectError
from audiencesync.model import ALERTS, Freshness
from tests.project_files import ENVIRONMENT, MAIN, SQL, places, problems, project

HOOK = "https://hooks.example.com/services/T0/B0/very-secret-hook"
OUTSIDE = ENVIRONMENT | {"HOOK": HOOK, "LOCAL": "http://127.0.0.1:9093/hook", "OPEN": "http://example.com/very-secret"}


def test_the_age_of_the_source_the_state_and_the_retention_are_read(tmp_path):
    read = project(tmp_path, MAIN.replace('shop.db"}', """shop.db", fresh: {
        sql: "SELECT max(loaded_at) FROM orders", max_age: 6h}}
state_must_exist: true
retention: 1d"""))
    assert read.source.fresh == Freshness("SELECT max(loaded_at) FROM orders", timedelta(hours=6))
    assert (read.state_must_exist, read.retention) == (True, timedelta(days=1))


@pytest.mark.parametrize(("old", "new", "expected"), [
    ('db"}', 'db", fresh: {sql: SELECT 1}}', "2:36: the key 'max_age' is missing"),
    ('db"}', 'db", fresh: {max_age: 6h}}', "2:36: the key 'sql' is missing"),
    ('db"}', 'db", fresh: 6h}', "2:43: 'fresh' must be a mapping, of lines like  key: value"),
    ('db"}', 'db", fresh: {sql: " ", max_age: 6h}}', "2:49: 'sql' is empty"),
    ('db"}', 'db", fresh: {sql: SELECT 1, max_age: 0h}}', "2:68: 'max_age': no data is that new; write how old"),
    ('db"}', 'db", fresh: {sql: SELECT 1, max_age: old}}', "2:68: 'old' is not a duration"),
    ("name: shop", "name: shop\nstate_must_exist: maybe", "2:19: 'state_must_exist' must be true or false"),
    ("name: shop", "name: shop\nretention: 23h", "2:12: 'retention' is shorter than a day; write at least 1d"),
    ("name: shop", "name: shop\nretention: 90", "2:12: 'retention': 90 is not a duration"),
    ("name: shop", "name: shop\ndefaults: {schedule: 'cron \"61 * * * *\"'}",
     "2:22: 'cron \"61 * * * *\"' is not a schedule; '61' is no minute"),
])
def test_a_mistake_in_them_has_its_place(tmp_path, old, new, expected):
    [told] = places(problems(tmp_path, MAIN.replace(old, new)))
    assert told.startswith(f"audiencesync.yml:{expected}")


def test_an_alias_of_cron_is_kept_as_the_five_fields_it_stands_for(tmp_path):
    [audience] = project(tmp_path, buyers="/* audiencesync\nschedule: cron @daily\n*/" + SQL).audiences
    assert audience.schedule == 'cron "0 0 * * *"'


@pytest.mark.parametrize(("defaults", "header", "guard"), [
    ("", "", {"max_exit": 0.3, "min_exits": 50}),
    ("max_exit: 10%", "", {"max_exit": 0.1, "min_exits": 50}),
    ("max_exit: 10%, max_enter: 500", "max_exit: 20, min_exits: 0",
     {"max_exit": 20, "min_exits": 0, "max_enter": 500}),
    ("max_exit: 10%, min_exits: 5, max_initial: 1000", "max_exit: null, min_exits: ~, max_initial: null",
     {"max_exit": 0.3, "min_exits": 50}),
    ("min_exits: null, max_enter: null", "max_enter: 5%", {"max_exit": 0.3, "min_exits": 50, "max_enter": 0.05}),
    ("max_exit: 10%", "max_exit: 30%", {"max_exit": 0.3, "min_exits": 50}),
])
def test_a_header_s_limits_go_before_the_defaults_and_these_before_what_is_built_in(tmp_path, defaults, header, guard):
    main = MAIN.replace("name: shop", f"name: shop\ndefaults: {{guard: {{{defaults}}}}}")
    [audience] = project(tmp_path, main, buyers=f"/* audiencesync\nguard: {{{header}}}\n*/" + SQL).audiences
    assert audience.guard == guard
    assert {name: type(limit) for name, limit in audience.guard.items()} == {
        name: type(limit) for name, limit in guard.items()}


def alerting(*channels):
    """A project file with these channels, each as YAML in one line, from line 2 on."""
    return MAIN.replace("name: shop", "name: shop\nalerts:" + "".join(f"\n  - {one}" for one in channels))


def test_alerts_go_to_channels_of_which_each_has_a_name(tmp_path):
    read = project(tmp_path, alerting(
        '{type: slack, url: "${HOOK}"}', '{type: slack, url: "${HOOK}", on: [failed, held], name: slack-2}',
        '{type: slack, url: "${HOOK}"}', '{type: webhook, url: "${LOCAL}", on: [late]}',
        '{type: webhook, url: "${HOOK}", name: webhook}'), OUTSIDE)
    assert [(one.name, one.type, one.on) for one in read.alerts] == [
        ("slack", "slack", tuple(ALERTS)), ("slack-2", "slack", ("failed", "held")),
        ("slack-3", "slack", tuple(ALERTS)), ("webhook-2", "webhook", ("late",)),
        ("webhook", "webhook", tuple(ALERTS))]
    assert [one.url for one in read.alerts] == [OUTSIDE[name] for name in ("HOOK", "HOOK", "HOOK", "LOCAL", "HOOK")]
    assert "very-secret" not in repr(read.alerts)
    assert read.warnings == ()


@pytest.mark.parametrize(("channel", "expected", "hint"), [
    ('type: slak, url: "${HOOK}"', "3:12: 'type' must be one of slack, webhook", "did you mean 'slack'?"),
    ('url: "${HOOK}"', "3:5: the key 'type' is missing", ""),
    ("type: slack", "3:5: the key 'url' is missing", ""),
    ('type: slack, ulr: "${HOOK}"', "3:19: unknown key 'ulr'", "did you mean 'url'? known: type, url, on, name"),
    ('type: slack, url: "${HOOKS}"', "3:25: environment variable HOOKS is not set", "did you mean 'HOOK'?"),
    ('type: slack, url: "${OPEN}"', "3:24: 'url': http would send keys and people in the clear; write https", ""),
    ('type: slack, url: "${TOY_KEY}"', "3:24: 'url': this is not a URL that can be sent to", ""),
    ("type: slack, url: ''", "3:24: 'url': this is not a URL that can be sent to", ""),
    ('type: slack, url: "${HOOK}", on: [failed, hold]',
     f"3:48: 'on' must be one of {', '.join(ALERTS)}", "did you mean 'held'?"),
    ('type: slack, url: "${HOOK}", on: failed', "3:39: 'on' must be a list, such as [a, b]", ""),
    ('type: slack, url: "${HOOK}", on: []', "3:35: 'on' is empty, so nobody would ever be told", ""),
    ('type: slack, url: "${HOOK}", on: [late, late]', "3:35: 'late' is named twice", ""),
    ('type: slack, url: "${HOOK}", name: a b', "3:41: 'a b' is not the name of a channel", ""),
])
def test_a_mistake_in_a_channel_has_its_place(tmp_path, channel, expected, hint):
    [problem] = problems(tmp_path, alerting(f"{{{channel}}}"), OUTSIDE)
    assert places((problem,))[0].startswith(f"audiencesync.yml:{expected}")
    assert problem.hint.startswith(hint)
    assert "very-secret" not in str(problem)


def test_a_name_given_to_two_channels_is_told_beside_other_mistakes(tmp_path):
    found = problems(tmp_path, alerting('{type: slack, url: "${HOOK}", name: ops}',
                                        '{type: webhook, url: "${HOOK}", name: ops}') + "nmae: x\n", OUTSIDE)
    assert places(found) == ["audiencesync.yml:4:43: two channels are called 'ops'; the first in line 3",
                             "audiencesync.yml:8:1: unknown key 'nmae'"]


@pytest.mark.parametrize("channel", [
    f"{{type: slack, url: '{HOOK}'}}", f"{{type: slack, url: {HOOK}, on: [faild]}}", f"{{type: slack, ulr: {HOOK}}}",
    f"{{type: slack, url: 'http{HOOK[5:]}'}}", f"{{type: slack, url: '{HOOK}', url: '{HOOK}'}}", f"'{HOOK}'",
    f"{{type: slack, url: [{HOOK}]}}", f"{{type: slack, url: '${{NONE:-{HOOK}}}'}}", f"{{slack: {HOOK}}}",
    f"{{type: {HOOK}}}", f"{{type: slack, url: '{HOOK}?token=very-secret'}}", f"{{url: {{slack: {HOOK}}}}}",
])
def test_the_address_of_a_channel_is_a_secret(tmp_path, channel):
    try:
        told = "\n".join(project(tmp_path, alerting(channel), OUTSIDE).warnings)
    except ProjectError as error:
        told = str(error)
    assert "is a secret and stands in this file" in told
    assert "very-secret" not in told


@pytest.mark.parametrize("channel", [
    f"{{type: slack, url: '{HOOK}${{NOPE}}'}}", f"{{type: slack, url: '{HOOK}${{TOY_KEY}}', on: []}}",
    f"{{type: slack, url: {HOOK}", f"{{type: slack, url: {HOOK}: x}}",
])
def test_an_address_that_cannot_be_read_or_is_partly_from_outside_is_not_shown_either(tmp_path, channel):
    told = "\n".join(map(str, problems(tmp_path, alerting(channel), OUTSIDE)))
    assert told
    assert "very-secret" not in told


@pytest.mark.parametrize("alerts", [f"{HOOK}", f"{{type: slack, url: {HOOK}}}", f"{{slack: {{url: {HOOK}}}}}"])
def test_alerts_that_are_no_list_are_told_so_without_their_addresses(tmp_path, alerts):
    found = problems(tmp_path, MAIN.replace("name: shop", f"name: shop\nalerts: {alerts}"))
    assert any("'alerts' must be a list" in problem.message for problem in found)
    assert "very-secret" not in "\n".join(map(str, found))


def test_a_part_of_an_address_from_outside_is_enough(tmp_path):
    main = alerting("{type: slack, url: 'https://hooks.example.com/${TOY_KEY}'}")
    assert project(tmp_path, main, OUTSIDE).warnings == ()


def test_a_literal_address_is_a_warning_that_names_a_variable(tmp_path):
    [warning] = project(tmp_path, alerting(f"{{type: slack, url: {HOOK}}}"), OUTSIDE).warnings
    assert warning.startswith("audiencesync.yml:3:24: warning: 'url' is a secret and stands in this file")
    assert "write ${ALERTS_URL}" in warning

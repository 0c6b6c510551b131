"""A selection names audiences by key, glob, tag, destination or kind; one that names none is misspelt."""

from __future__ import annotations

import pytest

from audiencesync.errors import UsageError
from audiencesync.project import select
from tests.project_files import MAIN, SQL, project


@pytest.fixture
def shop(tmp_path):
    return project(
        tmp_path, MAIN + "  other: {type: toy, write_key: '${TOY_KEY}'}\n",
        big_spenders="/* audiencesync\ntags: [vip, money]\n*/" + SQL,
        big_savers="/* audiencesync\ntags: [vip]\ndestinations: [other]\n*/" + SQL,
        dormant="/* audiencesync\ndestinations: [toy]\n*/" + SQL)


@pytest.mark.parametrize(("patterns", "keys"), [
    ([], ["big_savers", "big_spenders", "dormant"]),
    (["dormant"], ["dormant"]),
    (["dormant", "big_savers"], ["big_savers", "dormant"]),
    (["big_*"], ["big_savers", "big_spenders"]),
    (["big_s[p]enders", "big_spenders"], ["big_spenders"]),
    (["tag:vip"], ["big_savers", "big_spenders"]),
    (["tag:mon*", "dormant"], ["big_spenders", "dormant"]),
    (["destination:other"], ["big_savers", "big_spenders"]),
    (["kind:audience"], ["big_savers", "big_spenders", "dormant"]),
])
def test_patterns_select_what_they_name_in_the_project_s_order(shop, patterns, keys):
    assert [audience.key for audience in select(shop, patterns)] == keys


@pytest.mark.parametrize(("pattern", "hint"), [
    ("dormnat", "did you mean 'dormant'?"), ("tag:vpi", "did you mean 'tag:vip'?"),
    ("tags:vip", "did you mean 'tag:vip'?"),
    ("destination:othr", "did you mean 'destination:other'?"), ("kind:trait", ""),
    ("DORMANT", "did you mean 'dormant'?"),
    ("", "there are: big_savers, big_spenders, dormant"), ("zzz*", "there are: "),
])
def test_a_pattern_that_selects_nothing_is_wrong_usage(shop, pattern, hint):
    with pytest.raises(UsageError) as caught:
        select(shop, ["dormant", pattern])
    assert str(caught.value).startswith(f"{pattern!r} selects no audience")
    assert hint in str(caught.value)
    assert caught.value.exit_code == 2

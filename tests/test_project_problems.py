"""Bad input gets a place, words that say what it is, and what would help."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiencesync.errors import ProjectError
from audiencesync.project import load
from tests.project_files import ENVIRONMENT, MAIN, REGISTRY, SQL, places, problems, project, write

MISTAKEN = """\
name: shop
timezone: Europe/Berln
source:
  url: ${WAREHOUSE_URL}
  statement_timout: 10m
defaults:
  schedule: every 2 hours
  destinations: [tyo]
  guard: {max_exit: 130%}
destinations:
  toy: {type: toy, write_key: "${TOY_KEY}", regin: eu}
  toy2: {type: tooy}
  toy3: {type: toy, wirte_key: "${TOY_KEY}", concurrency: 100}
  toy 4: {region: x}
vars: {high_value: 500, now: 3, x: [1], later: now + 1d}
nmae: x
name: again
"""
MISTAKEN_SQL = """\
/* audiencesync
name: 日本の顧客
include: [user_id]
destination: [toy]
destinations: [toy, toyy]
schedule: hourly
*/
SELECT 1
"""


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path):
    write(tmp_path, {".env": "TOY_KEY=abc\nthis is = no: line '\n", "audiences/latin.sql": b"SELECT '\xe9'"})
    found = problems(tmp_path, MISTAKEN, {"WAREHOUSE_URI": "x"}, asian=MISTAKEN_SQL, email=SQL, empty="-- nothing\n;")
    told = places(found)
    assert [place.partition(": ")[0] for place in told] == [
        "audiencesync.yml:2:11", "audiencesync.yml:4:8", "audiencesync.yml:5:3", "audiencesync.yml:7:13",
        "audiencesync.yml:8:18", "audiencesync.yml:9:21", "audiencesync.yml:11:45", "audiencesync.yml:12:16",
        "audiencesync.yml:13:21", "audiencesync.yml:13:59", "audiencesync.yml:14:3", "audiencesync.yml:14:3",
        "audiencesync.yml:15:25", "audiencesync.yml:15:33", "audiencesync.yml:15:48", "audiencesync.yml:16:1",
        "audiencesync.yml:17:1", ".env:2:1",
        "audiences/asian.sql:2:7", "audiences/asian.sql:3:1", "audiences/asian.sql:4:1", "audiences/asian.sql:5:21",
        "audiences/asian.sql:6:11", "audiences/email.sql:1:1", "audiences/empty.sql:2:1", "audiences/latin.sql:1:1",
    ], "\n".join(told)


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("name: shop", "", "audiencesync.yml:1:1: the key 'name' is missing"),
    ("name: shop", "name:", "audiencesync.yml:1:6: 'name' is empty"),
    ("name: shop", "name: ' '", "audiencesync.yml:1:7: 'name' is empty"),
    ("name: shop", "name: 5", "audiencesync.yml:1:7: 'name' must be text; put it in quotes"),
    ("name: shop", "name: [a]", "audiencesync.yml:1:1: 'name' must be text; put it in quotes"),
    ('{url: "sqlite:///shop.db"}', "{}", "audiencesync.yml:2:1: the key 'url' is missing"),
    ('{url: "sqlite:///shop.db"}', "sqlite:///x",
     "audiencesync.yml:2:9: 'source' must be a mapping, of lines like  key: value"),
    ('{url: "sqlite:///shop.db"}', "{url: shop.db}",
     "audiencesync.yml:2:15: 'url' is no URL of a database; write postgresql+psycopg://user:${PASSWORD}@host/db"),
    ('{url: "sqlite:///shop.db"}', "{url: postgres://h/d}",
     "audiencesync.yml:2:15: 'url': SQLAlchemy calls this kind of database postgresql://, not postgres://"),
    ('db"}', 'db", lock_timeout: 30}',
     "audiencesync.yml:2:50: 'lock_timeout': 30 is not a duration; write 5s, 15m, 2h or 30d"),
    ('db"}', 'db", allow_files: maybe}', "audiencesync.yml:2:49: 'allow_files' must be true or false"),
    ("destinations:", "state: mysql://h/d\ndestinations:",
     "audiencesync.yml:3:8: the state is kept in SQLite or PostgreSQL, not in mysql"),
    ("destinations:", "state: sqlite://\ndestinations:",
     "audiencesync.yml:3:8: 'state': a state in memory forgets who was told what; write sqlite:///audiencesync.db"),
    ("destinations:", "timezone: ../etc\ndestinations:",
     "audiencesync.yml:3:11: '../etc' is no time zone; write one such as Europe/Berlin"),
    ("destinations:", "timezone: Europe\ndestinations:", "audiencesync.yml:3:11: 'Europe' is no time zone"),
    ("destinations:", "defaults: {destinations: toy}\ndestinations:",
     "audiencesync.yml:3:26: 'destinations' must be a list, such as [a, b]"),
    ("destinations:", "defaults: {destinations: [toy, toy]}\ndestinations:",
     "audiencesync.yml:3:12: 'toy' is named twice"),
    ("destinations:", "defaults: {guard: {min_exits: many}}\ndestinations:",
     "audiencesync.yml:3:31: 'min_exits' must be a whole number"),
    ("type: toy, ", "", "audiencesync.yml:4:3: destination 'toy' has no type"),
    ("toy: {type", "'t o y': {type",
     "audiencesync.yml:4:3: 't o y' is not the name of a destination; write letters, digits and _"),
    ("type: toy, ", "type: toy, timeout: fast, ",
     "audiencesync.yml:4:29: 'fast' is not a duration; write 5s, 15m, 2h or 30d"),
    ("type: toy, ", "type: toy, rate: fast, ",
     ("audiencesync.yml:4:26: 'fast' is not a rate; write 800 (items a second), 50/30s (requests in a window) "
      "or 500KB/1s")),
    ('write_key: "${TOY_KEY}"', "", "audiencesync.yml:4:3: the key 'write_key' is missing"),
    ("${TOY_KEY}", "${TOY_KEYS}", "audiencesync.yml:4:32: environment variable TOY_KEYS is not set"),
    ("${TOY_KEY}", "${EMPTY}", "audiencesync.yml:4:32: environment variable EMPTY is empty"),
    ("${TOY_KEY}", "${TOY-KEY}", "audiencesync.yml:4:32: this is no variable; write ${NAME} or ${NAME:-default}"),
    ("${TOY_KEY}", "${TOY_KEY", "audiencesync.yml:4:32: this is no variable; write ${NAME} or ${NAME:-default}"),
    ("toy: {", "- {", "audiencesync.yml:3:1: 'destinations' must be a mapping, of lines like  key: value"),
])
def test_each_mistake_in_the_project_file_has_its_place(tmp_path, old, new, expected):
    found = problems(tmp_path, MAIN.replace(old, new), ENVIRONMENT | {"EMPTY": ""}, buyers=SQL)
    assert places(found) == [expected] or places(found)[0].startswith(expected)
    assert len(found) == 1


@pytest.mark.parametrize(("main", "expected"), [
    ("", "1:1: there is nothing in it"),
    ("# later\n", "1:1: there is nothing in it"),
    ("- a\n", "1:1: this is no mapping"),
    ("name: shop\n\tsource: x\n", "2:1: this is not YAML"),
    ("name: a: b\n", "1:8: this is not YAML: mapping values are not allowed"),
    ("name: 'a\n", ": this is not YAML: found unexpected end of stream"),
    ("a: {b: [1, 2}\n", "1:13: this is not YAML"),
    ("name: {{ shop }}\n", "1:8: a key must be a word"),
    ("name: a\n---\nname: b\n", "2:1: a second YAML document begins here"),
    ("name: &n shop\nstate: *n\n", "2:8: aliases (*name) are not supported"),
    ("name: !!python/object/apply:os.system [ls]\n", "1:7: tags (!name) are not supported"),
    ("name: a\x00b\n", "1:1: this is not YAML"),
    ("[" * 900, "1:22: this is nested more than 20 levels deep"),
    (b"name: sh\xf6p\n", "1:1: the file is not UTF-8"),
    (b"\xff\xfen\x00a\x00", "1:1: the file is not UTF-8"),
])
def test_what_is_no_mapping_of_yaml_is_one_mistake(tmp_path, main, expected):
    found = [place for place in places(problems(tmp_path, main, buyers=SQL)) if "is missing" not in place]
    assert len(found) == 1
    assert found[0].startswith("audiencesync.yml:")
    assert expected in found[0]


def test_a_billion_laughs_are_none(tmp_path):
    laughs = "a: &a [x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert places(problems(tmp_path, laughs, buyers=SQL)) == [
        "audiencesync.yml:2:8: aliases (*name) are not supported; write the value again"]


def test_a_key_given_twice_is_refused_wherever_it_stands(tmp_path):
    found = problems(tmp_path, MAIN.replace("type: toy,", "type: toy, region: a, region: b,"),
                     buyers="/* audiencesync\nname: Buyers\nname: Sellers\n*/" + SQL)
    assert places(found) == [
        "audiencesync.yml:4:31: the key 'region' is given twice; it stands in line 4 already",
        "audiences/buyers.sql:3:1: the key 'name' is given twice; it stands in line 2 already"]


def test_two_destinations_with_one_name_are_a_key_given_twice(tmp_path):
    found = problems(tmp_path, MAIN + "  toy: {type: mailer, write_key: '${TOY_KEY}'}\n")
    assert places(found) == ["audiencesync.yml:5:3: the key 'toy' is given twice; it stands in line 4 already"]


def test_a_folder_without_a_project_file_is_told_how_to_begin(tmp_path):
    with pytest.raises(ProjectError, match="audiencesync init") as caught:
        load(tmp_path / "nowhere", registry=REGISTRY, environment={})
    assert caught.value.exit_code == 2
    write(tmp_path, {"audiencesync.yaml": MAIN})
    with pytest.raises(ProjectError, match=r"rename audiencesync\.yaml"):
        load(tmp_path, registry=REGISTRY, environment={})


@pytest.mark.parametrize(("sql", "expected"), [
    ("/* audiencesync\nname: 日本の顧客\n*/\nSELECT 1",
     "2:7: the name '日本の顧客' has no Latin letters or digits to make a key of; write one as key:"),
    ("/* audiencesync\n  name: Email\n*/\nSELECT 1",
     "2:9: the name 'Email' gives the key 'email', which is a standard trait of users"),
    ("/* audiencesync\nkey: ''\n*/\nSELECT 1", "2:6: the key is empty; write letters, digits and _"),
    (f"/* audiencesync\nkey: {'x' * 256}\n*/\nSELECT 1", "2:6: the key 'xxx"),
    ("/* audiencesync\nkind: triat\n*/\nSELECT 1", "2:7: 'kind' must be one of audience, trait"),
    ("/* audiencesync\nfull_row: true\n*/\nSELECT 1", "2:1: full_row belongs to computed traits"),
    ("/* audiencesync\nkind: trait\nwhen_missing: clera\n*/\nSELECT 1", "3:15: 'when_missing': did you mean 'clear'?"),
    ("/* audiencesync\nkind: trait\nwhen_missing: [0]\n*/\nSELECT 1",
     "3:1: 'when_missing': write clear (null is told)"),
    ("/* audiencesync\nkind: trait\ntypes: {a: int}\n*/\nSELECT 1", "3:12: "),
    ("/* audiencesync\nkind: trait\nevents: {entered: In}\n*/\nSELECT 1", "3:10: a trait is computed, so entered"),
    ("/* audiencesync\nevents: {computed: In}\n*/\nSELECT 1", "2:10: an audience is entered and exited"),
    ("/* audiencesync\nsend: {tyo: both}\n*/\nSELECT 1", "2:8: unknown destination 'tyo'"),
    ("/* audiencesync\nsend: tracks\n*/\nSELECT 1", "2:7: "),
    ("/* audiencesync\ntypes: {a: number}\n*/\nSELECT 1", "2:1: types belongs to computed traits"),
    ("/* audiencesync\ninclude: [email, user_id]\n*/\nSELECT 1", "2:1: 'user_id' names the user"),
    ("/* audiencesync\ninclude: [city, city]\n*/\nSELECT 1", "2:1: 'city' is named twice"),
    ("/* audiencesync\ninclude: [city, buyers]\n*/\nSELECT 1", "2:17: 'buyers' is the audience's own key"),
    ("/* audiencesync\ninclude: email\n*/\nSELECT 1", "2:10: 'include' must be a list"),
    ("/* audiencesync\ntags: [5]\n*/\nSELECT 1", "2:8: 'tags' must be text; put it in quotes"),
    ("/* audiencesync\nguard: {max_exit: x}\n*/\nSELECT 1", "2:19: 'x' is no limit; write 30% (of the audience)"),
    ("/* audiencesync\nvars: {a b: 1}\n*/\nSELECT 1", "2:8: 'a b' is not the name of a variable"),
    ("/* audiencesync\nvars: {a: now - 30}\n*/\nSELECT 1", "2:11: '30' is not a duration"),
    ("/* audiencesync\ndestinations: [tyo]\n*/\nSELECT 1", "2:16: unknown destination 'tyo'"),
    ("/* audiencesync name: Buyers\nkey: x */\nSELECT 1", "2:1: this is not YAML"),
    ('/* audiencesync\nschedule: cron "0 */3 * * *"\n*/\nSELECT 1', "2:19: */ ends the comment"),
    ("-- x\n/* audiencesync\nname: Buyers\nSELECT 1", "2:4: the comment with the header is not closed"),
    ("SELECT 1;\n /* audiencesync\nname: x */", "2:2: a header must be the first thing in the file"),
    ("/* audiencesync\nname: Buyers\n*/\n\n", "3:2: there is no SQL in it"),
    ("", "1:1: there is no SQL in it"),
    ("  -- x\n/* y */ ;\n", "2:9: there is no SQL in it"),
])
def test_each_mistake_in_an_audience_has_its_place_in_the_sql_file(tmp_path, sql, expected):
    found = [place for place in places(problems(tmp_path, buyers=sql)) if "the file is called" not in place]
    assert len(found) == 1, found
    assert found[0].startswith(f"audiences/buyers.sql:{expected}")


def test_two_audiences_may_not_share_a_key_whatever_its_case(tmp_path):
    [first, second] = [place for place in places(problems(
        tmp_path, buyers=SQL, other="/* audiencesync\nkey: BUYERS\n*/" + SQL)) if "taken" in place or "called" in place]
    assert second == "audiences/other.sql:2:6: the key 'BUYERS' is taken by audiences/buyers.sql"
    assert "the file is called" in first


def test_an_included_column_may_not_overwrite_another_audience(tmp_path):
    found = problems(tmp_path, buyers=SQL, other="/* audiencesync\ninclude: [email, buyers]\n*/" + SQL)
    assert places(found) == [
        "audiences/other.sql:2:18: the column 'buyers' would overwrite the audience of that key, audiences/buyers.sql"]


def test_of_a_column_and_the_key_that_it_would_overwrite_the_later_file_is_wrong(tmp_path):
    found = problems(tmp_path, buyers="/* audiencesync\ninclude: [city]\n*/" + SQL,
                     other="/* audiencesync\nkey: City\n*/" + SQL)
    assert places(found)[-1] == ("audiences/other.sql:2:6: the key 'City' would be overwritten by the column of that "
                                 "name, which audiences/buyers.sql includes")


def test_a_column_that_a_destination_needs_must_be_included(tmp_path):
    main = MAIN.replace("type: toy", "type: mailer")
    headers = {name: f"/* audiencesync\ninclude: [{column}]\n*/" for name, column in
               [("buyers", "city"), ("sellers", "email")]}
    [problem] = problems(tmp_path, main, **{name: header + SQL for name, header in headers.items()})
    assert places((problem,)) == ["audiences/buyers.sql:2:1: destination 'toy' needs the column 'email'"]
    assert "include: [city, email]" in problem.hint


@pytest.mark.parametrize(("main", "sql", "hint"), [
    (MAIN.replace("name: shop", "name: shop\nstat: x"), SQL, "did you mean 'state'?"),
    (MAIN.replace("write_key", "wirte_key"), SQL, "did you mean 'write_key'?"),
    (MAIN.replace("type: toy", "type: toi"), SQL, "did you mean 'toy'? known: toy, mailer"),
    (MAIN.replace("${TOY_KEY}", "${TOYKEY}"), SQL, "did you mean 'TOY_KEY'?"),
    (MAIN, "/* audiencesync\ndestination: [toy]\n*/" + SQL, "did you mean 'destinations'?"),
    (MAIN, "/* audiencesync\ndestinations: [ty]\n*/" + SQL, "did you mean 'toy'? known: toy"),
    (MAIN, "/* audiencesync\nkind: audeince\n*/" + SQL, "did you mean 'audience'? known: audience, trait"),
    (MAIN, "/* audiencesync\nguard: {max_exits: 5}\n*/" + SQL, "did you mean 'max_exit'?"),
])
def test_a_misspelt_word_is_answered_with_the_one_that_was_meant(tmp_path, main, sql, hint):
    [problem] = problems(tmp_path, main, buyers=sql)
    assert problem.hint.startswith(hint)


def test_a_problem_shows_its_line_and_underlines_what_is_meant(tmp_path):
    [problem] = problems(tmp_path, buyers="/* audiencesync\nname: Buyers\ndestinations: [toy, tyo]\n*/\n" + SQL)
    assert str(problem) == (
        "audiences/buyers.sql:3:21: error: unknown destination 'tyo'\n"
        "     3 | destinations: [toy, tyo]\n"
        "       |                     ^^^\n"
        "       = did you mean 'toy'? known: toy")


@pytest.mark.parametrize("line", [
    'write_key: "sk_live_1234"', "write_key: sk_live_1234, regin: eu", "write_key: '${TOY_KEY}sk_live_1234'",
    "write_key: '${NONE:-sk_live_1234}'", "wirte_kye: sk_live_1234", "write_key: sk_live_1234, timeout: x",
    "write_key: '${TOY_KEY}', region: 'https://u:sk_live_1234@h/x', timeout: x",
    "write_key: [sk_live_1234]", "write_key: [sk_live_1234",  "write_key: a: sk_live_1234",
])
def test_a_secret_written_into_the_file_is_never_shown(tmp_path, line):
    try:
        told = "\n".join(project(tmp_path, MAIN.replace('write_key: "${TOY_KEY}"', line)).warnings)
    except ProjectError as error:
        told = str(error)
    assert told
    assert "sk_live_1234" not in told


def test_a_secret_that_looks_like_a_number_is_never_shown(tmp_path):
    found = problems(tmp_path, MAIN.replace('"${TOY_KEY}"', "1234567"))
    assert places(found)[-1] == "audiencesync.yml:4:31: 'write_key' must be text; put it in quotes"
    assert "1234567" not in "\n".join(map(str, found))


def test_a_secret_written_over_lines_is_never_shown(tmp_path):
    main = MAIN.replace('{type: toy, write_key: "${TOY_KEY}"}',
                        '\n    type: toy\n    write_key: "abc\n      ${NOPE} sk_live_1234"\n')
    told = "\n".join(str(problem) for problem in problems(tmp_path, main))
    assert "7:7: error: environment variable NOPE is not set" in told
    assert "sk_live_1234" not in told


@pytest.mark.parametrize(("old", "new", "words"), [
    ("${TOY_KEY}", "sk_live_1234", "4:31: warning: 'write_key' is a secret and stands in this file"),
    ("sqlite:///shop.db", "postgresql://u:pw@h/d", "2:15: warning: the password in 'url' is a secret"),
    ("name: shop", "state: '${STATE:-postgresql://u:pw@h/d}'\nname: shop", "1:8: warning: the password in 'state'"),
])
def test_a_secret_written_into_the_file_is_a_warning(tmp_path, old, new, words):
    [warning] = project(tmp_path, MAIN.replace(old, new)).warnings
    assert words in warning
    assert "write ${" in warning
    assert "pw" not in warning


@pytest.mark.parametrize("url", ["postgresql://u:${PASSWORD}@h/d", "postgresql://u@h/d", "${URL}"])
def test_a_password_from_outside_is_no_warning(tmp_path, url):
    environment = ENVIRONMENT | {"PASSWORD": "pw", "URL": "postgresql://u:pw@h/d"}
    assert project(tmp_path, MAIN.replace("sqlite:///shop.db", url), environment).warnings == ()


@pytest.mark.parametrize("field", ["timeout", "rate", "region: 5, settle", "concurrency", "gzip"])
def test_a_value_from_outside_is_never_shown(tmp_path, field):
    told = "\n".join(map(str, problems(tmp_path, MAIN.replace("type: toy,", f"type: toy, {field}: '${{TOY_KEY}}',"))))
    assert f"{field.split()[-1]}: '${{TOY_KEY}}'" in told
    assert "very-secret-value" not in told


def test_a_broken_line_of_dotenv_is_told_but_not_shown(tmp_path):
    write(tmp_path, {".env": "A=1\nTOY KEY sk_live_1234\n"})
    [problem] = problems(tmp_path)
    assert str(problem).startswith(".env:2:1: error: this is no line of a .env file; write NAME=value")
    assert "sk_live_1234" not in str(problem)


def test_characters_that_steer_a_terminal_are_not_repeated(tmp_path):
    found = problems(tmp_path, MAIN + "x\ty: '\x1b[31m'\n".replace("\x1b", "\u202e"))
    assert "\u202e" not in str(found[0])
    assert "\t" not in str(found[0])


words = st.sampled_from([
    *MISTAKEN.split(" "), *MISTAKEN_SQL.split("\n"), *MAIN.split("\n"), "\n", "\n  ", ": ", "- ", "{", "[", "&a", "*a",
    "!b", "${", "$$", "/*", "*/", "--", "'", '"', "\t", "\x00", "\u2028", "9" * 500, "now - ",
])
texts = st.lists(words | st.text(max_size=3), max_size=25).map("".join)


@settings(max_examples=60, deadline=None)
@given(main=texts, sql=texts, dotenv=texts)
def test_whatever_stands_in_the_files_is_a_project_or_a_list_of_mistakes(main, sql, dotenv):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {".env": dotenv.encode("utf-8", "replace")})
        found = problems(Path(folder), main.encode("utf-8", "replace"), buyers=sql.encode("utf-8", "replace"))
    assert all(one.line >= 1 and one.column >= 1 and str(one) for one in found)

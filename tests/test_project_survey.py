"""A service reads files while people edit them: what is sound is used, and what is not is told."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from audiencesync.errors import ProjectError
from audiencesync.project import load, signature, survey
from tests.project_files import ENVIRONMENT, MAIN, REGISTRY, SQL, places, write

BROKEN = "/* audiencesync\ndestinations: [tyo]\n*/" + SQL


def surveyed(root, **files):
    """The survey of a project with these audiences beside what is there."""
    write(root, {f"audiences/{name}.sql": text for name, text in files.items()})
    if not (root / "audiencesync.yml").exists():
        write(root, {"audiencesync.yml": MAIN})
    return survey(root, registry=REGISTRY, environment=ENVIRONMENT)


def keys(found):
    """The keys of the audiences that can be used."""
    return [audience.key for audience in found.project.audiences]


def test_of_a_sound_project_nothing_is_broken(tmp_path):
    found = surveyed(tmp_path, buyers=SQL, sellers=SQL)
    assert (keys(found), found.problems, found.broken) == (["buyers", "sellers"], (), frozenset())
    assert found.project == load(tmp_path, registry=REGISTRY, environment=ENVIRONMENT)


@pytest.mark.parametrize("text", [BROKEN, "", "/* audiencesync\nname: [\n*/" + SQL, "/* audiencesync\nname: x", b"\xff",
                                  "/* audiencesync\nkind: traits\n*/" + SQL])
def test_a_file_with_a_mistake_is_broken_and_the_others_are_used(tmp_path, text):
    found = surveyed(tmp_path, buyers=SQL, other=text, sellers=SQL)
    assert keys(found) == ["buyers", "sellers"]
    assert found.broken == {Path("audiences/other.sql")}
    assert {problem.file for problem in found.problems} == {"audiences/other.sql"}
    with pytest.raises(ProjectError) as caught:
        load(tmp_path, registry=REGISTRY, environment=ENVIRONMENT)
    assert caught.value.problems == found.problems


def test_a_warning_breaks_nothing(tmp_path):
    found = surveyed(tmp_path, buyers="/* audiencesync\nname: Big Spenders\n*/" + SQL, other=BROKEN)
    assert keys(found) == ["big_spenders"]
    assert found.broken == {Path("audiences/other.sql")}
    assert [problem.severity for problem in found.problems] == ["warning", "error"]
    assert found.project.warnings == (str(found.problems[0]),)


@pytest.mark.parametrize(("name", "text"), [
    ("audiencesync.yml", MAIN + "nmae: x\n"), ("audiencesync.yml", MAIN.replace("type: toy", "type: tyo")),
    ("audiencesync.yml", ""), ("audiencesync.yml", MAIN.replace("TOY_KEY", "NOPE")), (".env", "no line of it\n"),
    ("audiencesync.yml", MAIN.replace("name: shop", "name: shop\ndefaults: {destinations: [tyo]}")),
])
def test_with_a_mistake_in_the_project_s_own_files_there_is_no_project(tmp_path, name, text):
    write(tmp_path, {name: text})
    found = surveyed(tmp_path, buyers=SQL, other="/* audiencesync\nkey: [\n*/" + SQL)
    assert found.project is None
    assert {problem.file for problem in found.problems} == {name, "audiences/other.sql"}
    assert found.broken == {Path("audiences/other.sql")}


def test_without_its_own_file_there_is_no_project(tmp_path):
    found = survey(tmp_path, registry=REGISTRY, environment=ENVIRONMENT)
    assert (found.project, found.broken) == (None, frozenset())
    assert places(found.problems) == ["audiencesync.yml:1:1: there is no such file in the project's folder"]


@pytest.mark.parametrize(("first", "second"), [
    ("/* audiencesync\nkey: buyers\n*/", ""), ("", "/* audiencesync\nkey: Amateurs\n*/"),
    ("/* audiencesync\ninclude: [buyers]\n*/", ""), ("", "/* audiencesync\ninclude: [amateurs]\n*/"),
])
def test_of_two_files_that_do_not_go_together_the_later_is_broken(tmp_path, first, second):
    found = surveyed(tmp_path, amateurs=first + SQL, buyers=second + SQL, sellers=SQL)
    assert [audience.path.stem for audience in found.project.audiences] == ["amateurs", "sellers"]
    assert found.broken == {Path("audiences/buyers.sql")}


def test_a_file_that_cannot_be_read_is_broken(tmp_path):
    (tmp_path / "audiences").mkdir()
    (tmp_path / "audiences/other.sql").symlink_to("other.sql")
    found = surveyed(tmp_path, buyers=SQL)
    assert keys(found) == ["buyers"]
    assert found.broken == {Path("audiences/other.sql")}
    assert places(found.problems)[0].startswith("audiences/other.sql:1:1: the file cannot be read: ")


def test_of_a_folder_that_cannot_be_read_nobody_knows_what_is_in_it(tmp_path):
    (tmp_path / "traits").symlink_to("traits")
    found = surveyed(tmp_path, buyers=SQL)
    assert (found.project, found.broken) == (None, frozenset())
    assert places(found.problems)[0].startswith("traits:1:1: the folder cannot be read: ")


@pytest.mark.parametrize("link", ["nowhere.sql", "../audiencesync.yml/x.sql"])
def test_what_leads_nowhere_is_not_there(tmp_path, link):
    (tmp_path / "audiences").mkdir()
    (tmp_path / "audiences/other.sql").symlink_to(link)
    found = surveyed(tmp_path, buyers=SQL)
    assert (keys(found), found.problems) == (["buyers"], ())


def test_what_is_no_file_is_not_read(tmp_path):
    (tmp_path / "audiences/folder.sql").mkdir(parents=True)
    os.mkfifo(tmp_path / "audiences/pipe.sql")
    found = surveyed(tmp_path, buyers=SQL)
    assert (keys(found), found.problems) == (["buyers"], ())


@pytest.mark.parametrize("gone", ["audiences/other.sql", ".env"])
def test_a_file_that_vanishes_while_it_is_read_is_not_there(tmp_path, monkeypatch, gone):
    write(tmp_path, {".env": "no line of it\n"} if gone == ".env" else {})
    _vanish_when_opened(monkeypatch, tmp_path / gone)
    found = surveyed(tmp_path, buyers=SQL, **({} if gone == ".env" else {"other": BROKEN}))
    assert (keys(found), found.problems, found.broken) == (["buyers"], (), frozenset())
    assert not (tmp_path / gone).exists()


def test_a_project_file_that_vanishes_while_it_is_read_is_missing(tmp_path, monkeypatch):
    _vanish_when_opened(monkeypatch, tmp_path / "audiencesync.yml")
    found = surveyed(tmp_path, buyers=SQL)
    assert found.project is None
    assert places(found.problems) == ["audiencesync.yml:1:1: there is no such file in the project's folder"]


def _vanish_when_opened(monkeypatch, gone):
    read = Path.read_bytes

    def removed_first(path):
        if path == gone:
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", removed_first)


def test_files_and_folders_that_come_and_go_disturb_nobody(tmp_path):
    surveyed(tmp_path, buyers=SQL)
    ended = threading.Event()

    def restless():
        folder = tmp_path / "audiences/a/b"
        while not ended.is_set():
            folder.mkdir(parents=True)
            (tmp_path / "new").write_text(SQL)
            (tmp_path / "new").rename(folder / "other.sql")
            (folder / "other.sql").unlink()
            folder.rmdir()
            folder.parent.rmdir()

    thread = threading.Thread(target=restless)
    thread.start()
    try:
        for _ in range(300):
            found = survey(tmp_path, registry=REGISTRY, environment=ENVIRONMENT)
            assert found.problems == ()
            assert keys(found) in (["buyers"], ["other", "buyers"])
            assert signature(tmp_path)
    finally:
        ended.set()
        thread.join()


def test_the_signature_changes_with_every_file_of_the_project(tmp_path):
    surveyed(tmp_path, buyers=SQL)
    seen = [signature(tmp_path)]
    for name, text in [("audiencesync.yml", MAIN + "# x\n"), (".env", "A=1\n"), ("audiences/buyers.sql", SQL + "\n"),
                       ("audiences/deep/other.sql", SQL), ("traits/worth.sql", SQL)]:
        write(tmp_path, {name: text})
        seen.append(signature(tmp_path))
    (tmp_path / "new").write_text((tmp_path / "audiences/buyers.sql").read_text())
    before = (tmp_path / "audiences/buyers.sql").stat()
    os.utime(tmp_path / "new", ns=(before.st_mtime_ns, before.st_mtime_ns))
    (tmp_path / "new").replace(tmp_path / "audiences/buyers.sql")
    seen.append(signature(tmp_path))
    (tmp_path / "traits/worth.sql").unlink()
    seen.append(signature(tmp_path))
    assert len(set(seen)) == len(seen)


def test_the_signature_stays_while_nothing_of_the_project_changes(tmp_path):
    surveyed(tmp_path, buyers=SQL)
    before = signature(tmp_path)
    write(tmp_path, {"audiences/notes.md": "x", "audiences/.buyers.sql.swp": "x", "audiences/.new.sql": SQL,
                     "x.sql": SQL})
    assert signature(tmp_path) == signature(Path(os.path.relpath(tmp_path))) == before


def test_the_signature_of_nothing_is_one_too(tmp_path):
    assert signature(tmp_path / "nowhere") == ()
    (tmp_path / "audiences").symlink_to("audiences")
    (tmp_path / "traits").mkdir()
    (tmp_path / "traits/x.sql").symlink_to("x.sql")
    assert signature(tmp_path) == ()

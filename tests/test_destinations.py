"""The door through which all destinations come, and the rule on their addresses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiencesync.addresses import check_url
from audiencesync.destinations import registry
from audiencesync.errors import UsageError


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what is put there is found by a fresh registry."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    yield tmp_path
    registry.cache_clear()


def install(folder: Path, package: str, *, code: str, points: str) -> None:
    (folder / f"{package}.py").write_text(code)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[audiencesync.destinations]\n{points}\n")


OURS = '''
from typing import ClassVar
from audiencesync.destinations.file import File

class Ours(File):
    """A third party's."""
    type: ClassVar[str] = "ours"
'''


def test_the_built_in_destinations_are_there_by_name() -> None:
    assert {"segment", "file"} <= set(registry())
    assert "segment" in registry()
    assert "nobody" not in registry()
    with pytest.raises(KeyError):
        registry()["nobody"]


def test_names_cost_no_import_and_settings_no_httpx() -> None:
    code = ("import sys; from audiencesync.destinations import registry; r = registry(); list(r); 'segment' in r;"
            "assert 'audiencesync.destinations.segment' not in sys.modules;"
            "r['segment'].model_validate(r['segment'].example); assert 'httpx' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_package_adds_a_destination_by_being_installed(plugins: Path) -> None:
    install(plugins, "as_ours", code=OURS, points="ours = as_ours:Ours")
    assert registry()["ours"].type == "ours"
    assert "segment" in registry()


@pytest.mark.parametrize(("code", "points", "said"), [
    ("import nothing_like_it", "ours = as_bad:Ours", "ModuleNotFoundError.*mend or reinstall"),
    ("raise RuntimeError('boom')", "ours = as_bad:Ours", "RuntimeError: boom"),
    (OURS, "ours = as_bad:Other", "AttributeError"),
    ("Ours = 3", "ours = as_bad:Ours", "no subclass"),
    (OURS, "theirs = as_bad:Ours", "type = 'ours'"),
], ids=["missing", "raises", "attribute", "class", "name"])
def test_a_broken_package_is_named_when_it_is_used_and_not_before(
        plugins: Path, code: str, points: str, said: str) -> None:
    install(plugins, "as_bad", code=code, points=points)
    sys.modules.pop("as_bad", None)
    assert registry()["file"]
    with pytest.raises(UsageError, match=rf"as_bad.*{said}"):
        registry()[points.partition(" ")[0]]


def test_two_packages_with_one_name_are_both_named(plugins: Path) -> None:
    install(plugins, "as_rival", code=OURS, points="segment = as_rival:Ours")
    with pytest.raises(UsageError, match=r"as_rival.*audiencesync.*uninstall all but one"):
        registry()["segment"]


@pytest.mark.parametrize("url", ["https://a.example/v1", "https://a.example:8443/v1?x=1", "http://localhost:80/v1",
                                 "http://127.0.0.1:1", "http://127.9.9.9/", "http://[::1]:8/x", "HTTPS://A.example"])
def test_safe_addresses_stay_as_written(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(("url", "said"), [
    ("http://a.example/v1", "in the clear"), ("http://10.0.0.1/v1", "in the clear"),
    ("http://0.0.0.0/", "in the clear"),
    ("http://localhost.example/", "in the clear"), ("http://127.0.0.1.example/", "in the clear"),
    ("ftp://a.example/", "that can be sent to"), ("a.example/v1", "that can be sent to"),
    ("https:///v1", "that can be sent to"),
    ("", "that can be sent to"), ("https://user:pw@a.example/", "user or password"),
    ("https://k@a.example/", "user or password"),
    ("https://a.example:port/", "not a URL"), ("https://[::1/", "not a URL"), ("https://a..b/", "not a URL"),
    ("https://\u2100.example/", "not a URL"), ("https://a.example:99999/", "not a URL"),
    ("https://a.example/ b", "blanks"),
    ("https://a.example/\n", "blanks")])
def test_unsafe_addresses_are_refused_with_a_reason(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        check_url(url)
    assert "pw" not in str(raised.value)


def test_http_elsewhere_needs_consent() -> None:
    assert check_url("http://a.example/v1", allow_http=True) == "http://a.example/v1"
    with pytest.raises(ValueError, match="user or password"):
        check_url("http://u:p@a.example/v1", allow_http=True)

"""The contract suite itself: whoever writes a destination inherits it, and it finds what is wrong with one."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from audiencesync.destinations import registry
from audiencesync.errors import UsageError
from audiencesync.model import Destination
from audiencesync.testing.network import HTML
from tests.contract import DestinationContract, HttpDestinationContract
from tests.documents import blocks, part
from tests.loopback import Loopback, Script
from tests.test_file_destination import TestFile as FileSuite
from tests.test_segment import TestSegment as SegmentSuite
from tests.test_webhook import TestWebhook as WebhookSuite

OWN = part("A destination of your own")
[CODE], [POINTS] = blocks("python", OWN), blocks("toml", OWN)


def crm(*changes: tuple[str, str]) -> type[Destination]:
    """The destination of the README, with something changed in it."""
    code = CODE
    for old, new in changes:
        assert old in code, f"the README's example has no {old!r} any more"
        code = code.replace(old, new)
    module = ModuleType("their_crm")
    sys.modules["their_crm"] = module  # where pydantic looks names up
    exec(compile(code, "their_crm.py", "exec"), vars(module))
    made: type[Destination] = module.Crm
    return made


def suite(destination: type[Destination]) -> HttpDestinationContract:
    made = HttpDestinationContract()
    made.__class__ = type("Suite", (HttpDestinationContract,), {"destination": destination})
    return made


def test_the_readmes_destination_is_one_short_file_that_passes_the_suite_by_being_installed(tmp_path: Path) -> None:
    assert len(CODE.splitlines()) < 60
    info = tmp_path / "their_crm-1.0.dist-info"
    info.mkdir()
    (tmp_path / "their_crm.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-crm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS.replace("[project.entry-points.", "[").replace('"', ""))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--pyargs",
                           "audiencesync.testing", "-k", "TestCrm"], cwd=tmp_path, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 90


SEND = "        self.client.post(self.url, batch.body, self.headers, seconds=seconds)\n"
SWALLOWED = """\
        from audiencesync.errors import Unanswered
        try:
            self.client.post(self.url, batch.body, self.headers, seconds=seconds)
        except Unanswered:
            pass
"""
REFUSED = """\
        from audiencesync.errors import AccountRefused
        try:
            self.client.post(self.url, batch.body, self.headers, seconds=seconds)
        except AccountRefused as error:
            return {0: Refusal(str(error))}
"""
QUOTED = """\
        from audiencesync.errors import CallsRefused
        try:
            self.client.post(self.url, batch.body, self.headers, seconds=seconds)
        except CallsRefused as error:
            return {0: Refusal(error.body.decode())}
"""
FORGETFUL = """\
        calls = [call for call in calls if call not in self.keys]
        self.keys += calls
        bodies = """
CHECK = """\
    def check(self):
        channel = CrmChannel(self)
        channel.send(Batch((), b"{}"), seconds=5)
        channel.close()
        return iter(("fine",))

    def channel(self)"""


VALUES = "call.traits(self.keys[call.span])"
ROUNDED = f"""{{name: value if isinstance(value, bool | str | list | None) else float(value)
    for name, value in {VALUES}.items()}}"""


def every_value(found: HttpDestinationContract, tmp_path: Path) -> None:
    found.test_every_value_is_told_once(tmp_path, 11)


def every_call(found: HttpDestinationContract, tmp_path: Path) -> None:
    found.test_every_call_is_told_once(tmp_path, 1)


@pytest.mark.parametrize(("change", "caught"), [
    ((VALUES, "{self.keys[call.span]: str(call.value)}"), every_call),
    ((VALUES, "{self.keys[call.span]: int(call.value)}"), every_call),
    ((VALUES, "{self.keys[call.span]: True}"), every_call),
    ((VALUES, "{self.keys[call.span]: call.value}"), every_value),
    ((VALUES, "{self.keys[call.span]: bool(call.value)}"), every_value),
    ((VALUES, f"{{name: value for name, value in {VALUES}.items() if value or value is False}}"), every_value),
    ((VALUES, f"{{name: value for name, value in {VALUES}.items() if value is not None}}"), every_value),
    ((VALUES, f"{{name: str(value) for name, value in {VALUES}.items()}}"), every_value),
    ((VALUES, ROUNDED), every_value),
    (('"id": call.user_id', '"id": call.user_id.lower()'), every_call),
    (('"id": call.user_id', '"id": call.user_id.strip()'), every_call),
    (("for call in calls]\n", "for call in calls if call.value]\n"), every_call),
    (("        bodies = ", "        calls = [call for call in calls if call.value]\n        bodies = "), every_call),
    (("        bodies = ", FORGETFUL), lambda made, _: made.test_packing_is_a_pure_function(1)),
    (('Field(description="The token of the API.")', "Field()"),
     lambda made, _: made.test_every_setting_says_what_it_is_for()),
    ((SEND, SWALLOWED), lambda made, _: made.test_a_fault_means_the_same_everywhere("drop", Exception)),
    ((SEND, SWALLOWED), lambda made, _: made.test_a_fault_means_the_same_everywhere(503, Exception)),
    ((SEND, REFUSED), lambda made, path: made.test_a_key_that_is_refused_rejects_nobody(path)),
    ((SEND, QUOTED), lambda made, _: made.test_an_error_repeats_no_secret_and_nobody(400)),
    (("    def channel(self)", CHECK), lambda made, path: made.test_a_check_writes_nothing(path)),
    (("    page: ClassVar", '    example_answer: ClassVar[bytes] = b\'{"ok": true}\'\n    page: ClassVar'),
     lambda made, path: made.test_a_fault_at_any_request_changes_nothing_in_the_end(path, HTML)),
], ids=lambda value: value[1].strip()[:40] if isinstance(value, tuple) else "")
def test_it_finds_what_is_wrong(change: tuple[str, str], tmp_path: Path,
                                caught: Callable[[HttpDestinationContract, Path], None]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        caught(suite(crm(change)), tmp_path)


@pytest.mark.parametrize("caught", [every_call, every_value, lambda made, _: made.test_packing_is_a_pure_function(1),
                                    lambda made, path: made.test_a_key_that_is_refused_rejects_nobody(path)])
def test_it_finds_nothing_wrong_with_what_is_right(caught: Callable, tmp_path: Path) -> None:
    caught(suite(crm()), tmp_path)


def test_a_destination_that_cannot_be_brought_to_loopback_is_sent_nothing(tmp_path: Path) -> None:
    made = type("Suite", (DestinationContract,), {"destination": crm(("url", "where"))})()
    with pytest.raises(pytest.skip.Exception, match="no setting `url`"):
        made.test_every_call_is_told_once(tmp_path, 1)


def fake_of(name: str) -> type[Loopback] | None:
    """The server that knows this type's API, if there is one among the tests."""
    try:
        module = importlib.import_module(f"tests.fakes.{name}")
    except ModuleNotFoundError:
        return None
    return next((made for made in vars(module).values() if isinstance(made, type) and issubclass(made, Loopback)
                 and made.__module__ == module.__name__), None)


def native(name: str) -> type[HttpDestinationContract] | None:
    """The suite of a type that has a fake server."""
    server = fake_of(name)
    try:
        found = registry()[name]
    except UsageError:
        return None
    if server is None:
        return None

    class Native(HttpDestinationContract):
        destination = found
        answers_json = True

        def server(self, script: Script = ()) -> Loopback:
            return server(script)

    Native.__name__ = Native.__qualname__ = f"Test{name.capitalize()}"
    return Native


NATIVE = {name: made for name in registry() if (made := native(name)) is not None}
SUITES = {"segment": SegmentSuite, "file": FileSuite, "webhook": WebhookSuite} | NATIVE
globals().update({made.__name__: made for made in NATIVE.values()})
del SegmentSuite, FileSuite, WebhookSuite  # they are run where they stand


def test_every_destination_is_under_the_suite_with_a_server_that_knows_its_api() -> None:
    missing = sorted(set(registry()) - set(SUITES))
    assert not missing, f"give tests/fakes/ a server for {', '.join(missing)}"

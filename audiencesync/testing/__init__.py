"""The contract suite: what every destination promises, run over each that is installed.

    pytest --pyargs audiencesync.testing              # all of them, ours and others'
    pytest --pyargs audiencesync.testing -k Crm       # the one of `type: crm`

It needs pytest, and of a destination nothing but its class: its `example` settings, with `url` (or `path`) put where
it harms nobody. A class may have an attribute `example_answer`, the bytes of a 2xx of its API, which is what a server
on loopback then says to every request; without it that is `{}`, and HTML is as good. Whoever knows more inherits:

    class TestCrm(HttpDestinationContract):
        destination = Crm
        limits = Limits(calls=100, body=1_000_000)
        def server(self, script=()): return OurFakeCrm(script)     # with holds() -> {(user, name): value}
        def read(self, batch): return [(user, name, value), ...]
"""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in (
    "checked", "contract", "drive", "network", "place", "suite", "values")))

from audiencesync.testing.contract import DestinationContract, Place  # noqa: E402 - after asserts learn to explain
from audiencesync.testing.loopback import Answer, Fault, Loopback, Request, Script  # noqa: E402
from audiencesync.testing.network import HttpDestinationContract  # noqa: E402
from audiencesync.testing.pages import SECRET, Limits, content, envelope  # noqa: E402

__all__ = ["SECRET", "Answer", "DestinationContract", "Fault", "HttpDestinationContract", "Limits", "Loopback", "Place",
           "Request", "Script", "content", "envelope"]

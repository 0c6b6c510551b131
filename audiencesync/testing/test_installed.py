"""The contract suite over every destination that is installed, by its class alone."""

from __future__ import annotations

import pytest

from audiencesync.destinations import registry
from audiencesync.errors import UsageError
from audiencesync.testing.contract import DestinationContract
from audiencesync.testing.network import HttpDestinationContract


class _Broken:
    """Stands for a destination that cannot be loaded."""

    why: UsageError

    def test_it_can_be_loaded(self) -> None:
        """Whoever installed it wants to know."""
        pytest.fail(str(self.why))


def suite_of(name: str) -> type:
    """The suite for a type of destination: with a server on loopback where a setting `url` can bring it there."""
    label = f"Test{name.capitalize()}"
    try:
        found = registry()[name]
    except UsageError as error:
        return type(label, (_Broken,), {"why": error, "__module__": __name__})
    base = HttpDestinationContract if "url" in found.model_fields else DestinationContract
    return type(label, (base,), {"destination": found, "__module__": __name__})


globals().update({suite.__name__: suite for suite in map(suite_of, registry())})

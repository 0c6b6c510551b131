"""Named steps at which a test stops the world, so that recovery is proven at each of them and not hoped for."""

import os
import signal
from collections.abc import Callable

VARIABLE = "AUDIENCESYNC_FAILPOINT"

NAMES = (
    "run.staged",
    "run.written",
    "sync.opened",
    "page.read",
    "page.claimed",
    "request.sending",
    "request.answered",
    "page.acknowledging",
    "page.acknowledged",
    "sync.closing",
    "sync.closed",
)

_hits: dict[str, int] = {}


def _from_environment(name: str) -> None:
    """Kill this process, as kill -9 does, at the n-th passing of the point that AUDIENCESYNC_FAILPOINT=name:n names."""
    wanted, _, count = os.environ.get(VARIABLE, "").partition(":")
    if wanted != name:
        return
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


_hook: Callable[[str], None] | None = _from_environment if os.environ.get(VARIABLE) else None


def install(hook: Callable[[str], None] | None) -> None:
    """Call `hook` with the name of every point passed; None puts the silence back."""
    global _hook  # noqa: PLW0603 - one hook a process is the point of it
    _hook = hook


def reach(name: str) -> None:
    """Say that the step `name` (one of NAMES) is about to be left behind."""
    if _hook is not None:
        _hook(name)

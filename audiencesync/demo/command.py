"""The real command, run as people run it: in a process of its own, which can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from audiencesync import failpoints
from audiencesync.errors import AudiencesyncError

KILLED = -signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs commands in the project's folder and prints them with what they say.

    `environment` is the whole of theirs. Progress and errors go to this process's own stderr.
    """

    directory: Path
    environment: Mapping[str, str]
    echo: Callable[[str], None]

    def run(self, *arguments: str) -> None:
        """Run `audiencesync` with these arguments; AudiencesyncError when it fails."""
        code = self._run(arguments, self.environment)
        if code != 0:
            raise AudiencesyncError(f"`audiencesync {' '.join(arguments)}` ended with {code} in {self.directory}, "
                                    "where the demo expects 0")

    def run_killed(self, failpoint: str, *arguments: str) -> None:
        """Run it with a kill -9 at a failpoint (`name:n`, its n-th passing); AudiencesyncError when it survives."""
        code = self._run(arguments, {**self.environment, failpoints.VARIABLE: failpoint})
        if code != KILLED:
            raise AudiencesyncError(f"the sync that was to be killed ended with {code}")

    def _run(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> int:
        self.echo(f"   $ audiencesync {' '.join(arguments)}")
        ended: int | None = None
        try:
            done = subprocess.run([sys.executable, "-m", "audiencesync", *arguments],  # noqa: S603 - our own
                                  cwd=self.directory,
                                  env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                                  check=False)
            ended = done.returncode
        finally:
            if ended in (None, KILLED) and sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h\n")  # whoever is killed leaves progress half drawn and the cursor hidden
                sys.stderr.flush()
        for line in done.stdout.splitlines():
            self.echo(f"     {line}".rstrip())
        return ended


def environment_for(directory: Path, url: str, write_key: str) -> dict[str, str]:
    """The environment of this process, but in which nothing leads to another project, or out of this machine."""
    ours = {"AUDIENCESYNC_PROJECT": str(directory), "SEGMENT_URL": url, "SEGMENT_WRITE_KEY": write_key,
            failpoints.VARIABLE: ""}
    return {**os.environ, **ours}

"""The whole product in half a minute, in an empty folder, offline: a shop, a server on loopback, a crash, a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from audiencesync.errors import UsageError

if TYPE_CHECKING:
    from audiencesync.demo.command import Shell
    from audiencesync.demo.server import Receiver
    from audiencesync.demo.truth import Truth
    from audiencesync.model import Project

DIRECTORY = "audiencesync-demo"
BEGIN, STEP, STEPS = timedelta(hours=24), timedelta(hours=2), 11
"""The clock begins a day ago and ends two hours ago, so that something is left for the first own `plan`."""

CRASH = "request.answered:3"
"""Where the initial sync dies: the server has taken the third request, and nobody has written that down."""

NOT_EXACT = 70
Echo = Callable[[str], None]


def run(directory: Path | None, *, echo: Echo, now: datetime | None = None) -> int:
    """Play the demo in an empty or new folder and leave its project there; 0, or 70 when the server is told wrongly.

    Without `directory` it is the current folder if that is empty, else audiencesync-demo in it; UsageError for a
    folder with something in it. `now` (with a zone) stands in for the time at which the orders end.
    """
    directory = _empty_folder(directory)
    end = (now or datetime.now(UTC)).astimezone(UTC).replace(second=0, microsecond=0)
    with _stage(directory, end, echo) as stage:
        stage.crash()
        stage.resume()
        stage.move_clock()
        stage.show_user()
        wrong = stage.verdict()
    if wrong:
        return NOT_EXACT
    _say_what_next(directory, stage.person, echo)
    return 0


def _empty_folder(directory: Path | None) -> Path:
    if directory is None:
        directory = Path.cwd()
        if any(directory.iterdir()):
            directory /= DIRECTORY
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; the demo wants an empty or a new folder")
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty; the demo wants an empty or a new folder: audiencesync demo NAME")
    directory.mkdir(parents=True, exist_ok=True)
    return directory.resolve()


@contextmanager
def _stage(directory: Path, end: datetime, echo: Echo) -> Iterator[_Stage]:
    """Everything set up: the shop, the project, the server that lives as long as this."""
    from audiencesync.demo import files
    from audiencesync.demo.clock import open_project
    from audiencesync.demo.command import Shell, environment_for
    from audiencesync.demo.server import Receiver
    from audiencesync.demo.shop import DAYS, SEED, build_shop
    from audiencesync.demo.truth import Truth

    echo(f"1. A shop and three audiences, in {directory}\n")
    users, orders = build_shop(directory / "shop.db", end)
    echo(f"   shop.db           {users:,} users and {orders:,} orders of the last {DAYS} days, made from seed {SEED}")
    files.write_project(directory)
    echo("   audiencesync.yml  where audiences are asked, and who is told about them")
    for key in files.AUDIENCES:
        echo(f"   audiences/{key}.sql")
    _quote(files.AUDIENCES["order_completed_last_30days"], echo)
    with Receiver(files.WRITE_KEY) as receiver:
        echo(f"   A server on this machine plays Segment: {receiver.url}\n")
        environment = environment_for(directory, receiver.url, files.WRITE_KEY)
        project = open_project(directory, environment)
        truth = Truth(directory / "shop.db", project.audiences)
        yield _Stage(directory, end - BEGIN, echo, receiver, Shell(directory, environment, echo), project, truth)
    files.settle_in(directory)


@dataclass(slots=True)
class _Stage:
    """The story's scenes, in the order in which `run` plays them."""

    directory: Path
    begin: datetime
    echo: Echo
    receiver: Receiver
    shell: Shell
    project: Project
    truth: Truth
    person: str = ""
    initial: int = 0
    """How many calls the initial sync had."""

    def crash(self) -> None:
        """The initial sync dies half-way."""
        self.echo("2. The initial sync tells Segment every member. It is killed in the middle (kill -9)\n")
        self.truth.look(self.begin)
        self.shell.run_killed(CRASH, *self._sync())
        self.echo(f"     Killed\n   The server has {self.receiver.arrived:,} of {len(self.truth.members):,} calls.\n")

    def resume(self) -> None:
        """The same command brings it to its end."""
        self.echo("3. The same command again goes on where that one stopped\n")
        self.shell.run(*self._sync())
        history = self.receiver.history
        self.initial = len(history)
        lost = self.truth.members - {(call.key, call.user_id) for call in history if call.value}
        twice = self.receiver.arrived - len(history)
        self.echo(f"   The server has {len(history):,} calls: {len(lost)} lost. Nobody knew whether the last {twice:,} "
                  "before the crash had arrived,\n   so they came twice, with the same messageId, by which Segment "
                  f"drops them: {len(self.receiver.changed)} with another body.\n")

    def move_clock(self) -> None:
        """People enter and leave as time goes by."""
        from audiencesync.demo.clock import move

        self.echo("4. From now on only who enters (+) or leaves (-) is told. The clock moves two hours at a time\n")
        move(self.project, [self.begin + STEP * number for number in range(1, STEPS + 1)], self.truth, self.echo)
        self.echo("")

    def show_user(self) -> None:
        """Somebody who entered and left, and all that is known of this user."""
        from audiencesync.demo.truth import came_and_went, orders_of

        calls = came_and_went(self.receiver.history[self.initial:])
        self.person = calls[0].user_id
        self.echo(f"5. One who came and went: {self.person}\n\n   Orders of {self.person} in shop.db")
        for line in orders_of(self.directory / "shop.db", self.person):
            self.echo(f"     {line}")
        self.echo("\n   What the server was told")
        for call in calls:
            self.echo(f'     {call.timestamp}  identify {call.user_id}  {{"{call.key}": {str(call.value).lower()}}}')
        self.echo("")
        self.shell.run("user", self.person)
        self.echo("")

    def verdict(self) -> bool:
        """Compare with plain queries and say so; whether anything is wrong."""
        wrong = list(self.truth.disagreements(self.receiver))
        self.echo("6. Was the server told exactly what plain queries on shop.db give?\n")
        for what in wrong:
            self.echo(f"   NOT exact: {what}")
        if not wrong:
            self.echo(f"   exact: {len(self.project.audiences)} audiences, {len(self.truth.members):,} memberships "
                      "true at the server, 0 missing, 0 too many;\n"
                      f"          {len(self.receiver.history):,} calls for {self.truth.changes:,} memberships that "
                      "began or ended, 0 messageIds with two bodies\n")
        return bool(wrong)

    def _sync(self) -> tuple[str, ...]:
        return "sync", "--as-of", f"{self.begin:%Y-%m-%dT%H:%MZ}"


def _quote(text: str, echo: Echo) -> None:
    echo("")
    for line in text.splitlines():
        echo(f"     {line}")
    echo("")


def _say_what_next(directory: Path, person: str, echo: Echo) -> None:
    echo("The project is yours to try. The server is gone; audiencesync.yml now names a file as second destination.\n")
    commands = {} if directory == Path.cwd() else {f"cd {_short(directory)}": ""}
    commands |= {
        "audiencesync test": "holds high_value.sql against the cases in high_value.test.yml",
        "audiencesync plan": "what sync would send now: two hours of changes, and everybody to the file",
        "audiencesync sync --destination file": "sends it to calls.jsonl, so that you can look at the calls",
        "audiencesync status": "who was told up to when, and what waits for what",
        "audiencesync show high_value": "one audience and its runs",
        f"audiencesync user {person}": "one user",
    }
    for command, words in commands.items():
        echo(f"   {command:38}{words}".rstrip())
    echo("\nA plain `audiencesync sync` ends with 75, try again later, as long as nobody listens at SEGMENT_URL.")
    echo("For the real Segment put your write key into .env and delete SEGMENT_URL there, then:\n")
    echo(f"   {'audiencesync resume segment --new-account':44}tell this account everything anew")
    echo("   audiencesync sync")


def _short(directory: Path) -> str:
    here = Path.cwd()
    return str(directory.relative_to(here)) if directory.is_relative_to(here) else str(directory)

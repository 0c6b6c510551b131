"""What can go wrong, named by what the caller must do, each with the exit code of the contract.

AudiencesyncError               70  a bug, when nothing below fits
├── UsageError                   2  say it differently
│   ├── ProjectError             2  mend the files; carries every problem of every file
│   ├── OlderRun                 2  the instant asked for lies before the last run
│   └── QueryError               2  mend an audience's SQL or its data
│       └── RowsDiffer           2  one row a user; what they hold is for people, not for logs
├── LeaseHeld                   99  another process is at work; wait for it
├── Unavailable                 75  try again later
│   ├── SourceUnavailable       75
│   ├── StateUnavailable        75
│   │   └── StateMissing        75  it must exist, and there is none
│   ├── LeaseLost               75  another process took over while this one slept
│   └── Interrupted             75  asked to end; what was done is kept
└── DeliveryError                -  what one attempt to deliver came to; never leaves `sync`
    ├── Unanswered                  may or may not have arrived: the same again, settle afterwards
    ├── NotTaken                    did not arrive: the same again
    │   └── Throttled               it was too fast, or a quota is spent: the same again, more slowly
    ├── CallsRefused                the destination refuses something in this body for good: find the guilty
    │   ├── NotThere                it does not know whom this was about
    │   └── TakenAlready            what names this person names another one there
    └── AccountRefused              the destination refuses us: pause it and keep everything
        └── KeyRefused              it does not know the key, or the key may not do this
"""

from dataclasses import dataclass


class AudiencesyncError(Exception):
    """Anything this program says about itself; `exit_code` is the contract's number for it."""

    exit_code = 70


class UsageError(AudiencesyncError):
    """The command, the project or the SQL must be written differently."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one file: where it is (line and column count from 1), what it is, what would help."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    snippet: str = ""
    width: int = 1
    severity: str = "error"

    def __str__(self) -> str:
        """The mistake as compilers print it: place, words, the line, a caret, a hint."""
        parts = [f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message}"]
        if self.snippet:
            number = f"{self.line:>6}"
            parts.append(f"{number} | {self.snippet}")
            parts.append(f"{' ' * len(number)} | {' ' * (self.column - 1)}{'^' * max(1, self.width)}")
        if self.hint:
            parts.append(f"       = {self.hint}")
        return "\n".join(parts)


class ProjectError(UsageError):
    """The project's files have mistakes; `problems` holds all of them."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class OlderRun(UsageError):
    """A run as of an instant before the last one would take back what was told."""


class QueryError(UsageError):
    """An audience's SQL failed, or its result breaks a rule; nothing of it was kept."""


class RowsDiffer(QueryError):
    """Two rows of one user hold different values; both are shown, and logs are told no more than that."""

    def __init__(self, path: object, user_id: str, first: str, second: str) -> None:
        super().__init__(f"{path}: a user has several rows with different values: {user_id!r} has {first[:200]} and "
                         f"{second[:200]}; group by the id, or choose one row a user")


class LeaseHeld(AudiencesyncError):
    """Another process works this; `--wait` waits for it."""

    exit_code = 99


class Unavailable(AudiencesyncError):
    """Something outside is away; the same command later goes on where this one stopped."""

    exit_code = 75


class SourceUnavailable(Unavailable):
    """The source database cannot be reached or refuses the account."""


class StateUnavailable(Unavailable):
    """The state database cannot be reached or is locked."""


class StateMissing(StateUnavailable):
    """There is no state, and the project forbids to begin a new one."""


class LeaseLost(Unavailable):
    """Another process took this one's work over; nothing more may be sent or written."""


class Interrupted(Unavailable):
    """A signal asked this process to end; it ended between two pages."""


class DeliveryError(AudiencesyncError):
    """What one attempt to deliver a body came to; `status` is the HTTP status or None, `wait` seconds asked for.

    `body` is the whole answer, for destinations that name single calls in it; it may hold anything, so never show it.
    """

    def __init__(self, message: str, *, status: int | None = None, wait: float | None = None,
                 body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait
        self.body = body


class Unanswered(DeliveryError):
    """It may or may not have arrived: timeout, cut connection, 5xx, a reply that makes no sense."""


class NotTaken(DeliveryError):
    """It certainly did not arrive: connection refused."""


class Throttled(NotTaken):
    """The destination wants fewer requests, or has had enough for today: 429, 420."""


class CallsRefused(DeliveryError):
    """Something in this body is refused for good: 400, 413, 422."""


class NotThere(CallsRefused):
    """Nobody is there of this name: 404 to a request about one person."""


class TakenAlready(CallsRefused):
    """The name is another person's: 409."""


class AccountRefused(DeliveryError):
    """The destination refuses the account or the address: 404, 410, a redirect."""


class KeyRefused(AccountRefused):
    """The destination refuses the key, or this host: 401, 402, 403, 407."""

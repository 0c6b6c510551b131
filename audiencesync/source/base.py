"""What every kind of source does alike: check the SQL, ask, and hand the rows on in chunks of constant size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, NamedTuple, Self

from sqlalchemy.engine import URL

from audiencesync.errors import AudiencesyncError
from audiencesync.model import Audience, Chunk, Shipped, SourceSettings
from audiencesync.source.parameters import Parameter, find_parameters
from audiencesync.source.rows import Layout, Row
from audiencesync.source.statement import check_beginning
from audiencesync.source.watch import Watch

CHUNK = 5000
"""Rows of a chunk: enough for speed at C level, few enough for memory."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Result:
    """An audience as the source has it: the kind of its ids, and its rows, which can be read once.

    `traits` are a computed trait's kinds of values by name, whole when the rows are read; empty for one of NULL alone.
    """

    id_kind: str
    chunks: Iterator[Chunk]
    traits: Mapping[str, str] = field(default_factory=dict)


class Question(NamedTuple):
    """One audience at one instant: where its parameters stand, the values of those that it uses, and its tables.

    Tables that are `given` exist for this question alone, and hide those of the source that are called alike.
    """

    audience: Audience
    parameters: list[Parameter]
    values: Mapping[str, object]
    given: Sequence[Shipped] = ()


class Answer(NamedTuple):
    """What an engine gives back: the names of the columns, and lists of at most CHUNK rows."""

    columns: list[str]
    batches: Iterator[list[Row]]


class Source(ABC):
    """A database that audiences are asked of; `url` and `settings` say which. One read at a time."""

    failures: ClassVar[tuple[type[BaseException], ...]] = ()
    """What the engine raises, turned into our own errors by `explain`."""

    def __init__(self, url: URL, settings: SourceSettings) -> None:
        self.url = url
        self.settings = settings
        self._unfinished = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is still being read and let go of the connection."""
        self._unfinished.close()

    def read(self, audience: Audience, as_of: datetime, *, interrupted: Callable[[], bool] = _never,
             given: Sequence[Shipped] = ()) -> Result:
        """Ask for an audience as of an instant; the rows are read as `chunks` is, the `given` tables before that.

        Raises QueryError when the SQL or the data are at fault, SourceUnavailable when the database is or the time is
        spent, and Interrupted soon after `interrupted()` (called from another thread, too) is true.
        """
        with ExitStack() as stack:
            watch, answer = self._asked(audience, as_of, interrupted, stack, given)
            layout = Layout(audience, answer.columns)
            self._unfinished = stack.pop_all()
        return Result(layout.id_kind, self._chunks(answer, layout, watch, self._unfinished),
                      layout.traits.kinds if layout.traits else {})

    def value(self, question: Audience, as_of: datetime, *, interrupted: Callable[[], bool] = _never) -> object:
        """The first column of the first row of a query, None where there is none; raises as `read` does."""
        with ExitStack() as stack:
            watch, answer = self._asked(question, as_of, interrupted, stack)
            with self._explained(question, watch):
                rows = next(answer.batches, None)
        return rows[0][0] if rows and rows[0] else None

    def _asked(self, audience: Audience, as_of: datetime, interrupted: Callable[[], bool],
               stack: ExitStack, given: Sequence[Shipped] = ()) -> tuple[Watch, Answer]:
        """Run the query; what it holds open is given back with `stack`."""
        self._unfinished.close()
        watch = Watch(str(audience.path), self.settings.statement_timeout, interrupted)
        watch.check()
        check_beginning(audience)
        values = audience.bindings(as_of)
        parameters = find_parameters(audience, values, self.url.get_backend_name())
        used = {parameter.name: values[parameter.name] for parameter in parameters}
        with self._explained(audience, watch):
            return watch, stack.enter_context(self.ask(Question(audience, parameters, used, given), watch))

    def _chunks(self, answer: Answer, layout: Layout, watch: Watch, unfinished: ExitStack) -> Iterator[Chunk]:
        number = 0
        with unfinished:
            while True:
                watch.check()
                with self._explained(layout.audience, watch):
                    rows = next(answer.batches, None)
                if not rows:
                    return
                yield layout.chunk(rows, number)
                number += len(rows)

    @contextmanager
    def _explained(self, audience: Audience, watch: Watch) -> Iterator[None]:
        """Turn what the engine raises into what we say; a read that had to end says only that."""
        try:
            yield
        except self.failures as error:
            watch.check()
            raise self.explain(audience, error, watch) from None

    @abstractmethod
    def ask(self, question: Question, watch: Watch) -> AbstractContextManager[Answer]:
        """Run the query read-only; leaving the block closes its result."""

    @abstractmethod
    def explain(self, audience: Audience, error: BaseException, watch: Watch) -> AudiencesyncError:
        """One of `failures` while an audience was read, as a person can use it: without values and secrets."""

    @abstractmethod
    def check(self) -> Iterator[str]:
        """What `doctor` can say of the database; raises SourceUnavailable where it cannot be reached.

        A line that begins with `warning:` is one.
        """

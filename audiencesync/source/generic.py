"""Any other database that SQLAlchemy reaches: rows are streamed and the transaction is always rolled back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote_plus

from sqlalchemy import Connection, CursorResult, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, ProgrammingError, SQLAlchemyError

from audiencesync.errors import AudiencesyncError, SourceUnavailable, UsageError
from audiencesync.model import Audience, SourceSettings
from audiencesync.source.base import CHUNK, Answer, Question, Source
from audiencesync.source.parameters import DIALECTS, escape_colons
from audiencesync.source.problems import refused, wrong
from audiencesync.source.rows import Row
from audiencesync.source.statement import ONE
from audiencesync.source.watch import Watch


class GenericSource(Source):
    """A database behind SQLAlchemy. What keeps it from being written is the account, and that nothing is committed."""

    failures = (SQLAlchemyError,)

    def __init__(self, url: URL, settings: SourceSettings) -> None:
        super().__init__(url, settings)
        self._engine = create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=self.connect_args())

    def close(self) -> None:
        """End what is still being read and close the connections."""
        super().close()
        self._engine.dispose()

    @contextmanager
    def ask(self, question: Question, watch: Watch) -> Iterator[Answer]:
        """Stream the rows; the driver's own cursor is never touched, for it has given its first rows away."""
        self.guard(question.audience)
        statement = text(escape_colons(question.audience.sql, question.parameters))
        with self._connect() as connection, watch.cancelling(partial(self.cancel, connection)):
            if question.given:
                self.receive(connection, question, watch)
            self.prepare(connection)
            streaming = connection.execution_options(stream_results=True, yield_per=CHUNK)
            with streaming.execute(statement, dict(question.values)) as result:
                if not result.returns_rows:
                    raise wrong(question.audience, f"this returns no rows; {ONE}")
                yield Answer(list(result.keys()), iter(partial(_fetch, result), []))

    def explain(self, audience: Audience, error: BaseException, watch: Watch) -> AudiencesyncError:
        """Tell a database that is away from SQL that is wrong."""
        del watch
        said = self.said(error)
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return SourceUnavailable(f"{audience.path}: the source ({self.place}) says: {said}")
        return refused(audience, said)

    def check(self) -> Iterator[str]:
        """The database lets us in."""
        with self._connect():
            yield f"{self._engine.dialect.name}, {self.place}; nothing is ever committed"
        yield "warning: no read-only transactions are known for this database; use an account that may only read"

    def connect_args(self) -> Mapping[str, object]:
        """What the driver is told when it connects."""
        return {}

    def receive(self, connection: Connection, question: Question, watch: Watch) -> None:
        """Fill temporary tables that end with the transaction; raises QueryError where that is not known to be safe."""
        del connection, watch
        raise wrong(question.audience, f"uses: needs a table {question.given[0].name}, and no way is known to give "
                                       f"one to {self._engine.dialect.name} for the time of a query alone",
                    hint="write what that computation's SQL says into this one, as a WITH; SQLite, DuckDB and "
                         "PostgreSQL take such tables")

    def prepare(self, connection: Connection) -> None:
        """Make the transaction read-only and set its limits."""

    def cancel(self, connection: Connection) -> None:
        """Stop the running query from another thread."""

    def guard(self, audience: Audience) -> None:
        """Count the statements and refuse words that write: such a database may commit whatever it is given."""
        from sqlglot import TokenType, tokenize
        from sqlglot.dialects.dialect import Dialect
        from sqlglot.errors import SqlglotError

        name = DIALECTS.get(self.url.get_backend_name(), self.url.get_backend_name())
        try:
            tokens = tokenize(audience.sql, read=name if Dialect.get(name) else None)
        except SqlglotError:
            raise wrong(audience, "this SQL cannot be taken apart into words", hint="is a quote left open?") from None
        writing = (TokenType.INSERT, TokenType.UPDATE, TokenType.DELETE, TokenType.MERGE, TokenType.INTO)
        for token in tokens:
            if token.token_type in writing:
                raise wrong(audience, f"{token.text} writes; {ONE}", at=(token.start, len(token.text)),
                            hint="the source is only ever read; a column of that name must be quoted")
        kinds = [token.token_type for token in tokens]
        first = kinds.index(TokenType.SEMICOLON) if TokenType.SEMICOLON in kinds else len(kinds)
        if any(kind != TokenType.SEMICOLON for kind in kinds[first:]):
            raise wrong(audience, f"there is more than one statement; {ONE}")

    @property
    def place(self) -> str:
        """Where the database is, without who asks."""
        port = f":{self.url.port}" if self.url.port else ""
        return f"{self.url.drivername}://{self.url.host or ''}{port}/{self.url.database or ''}"

    def said(self, error: BaseException) -> str:
        """The driver's own words, without the password and without SQLAlchemy's."""
        words = str(error.orig if isinstance(error, DBAPIError) and error.orig else error)
        secret = str(self.url.password or "")
        for form in {secret, quote_plus(secret)} - {""}:
            words = words.replace(form, "***")
        return words

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        try:
            connection = self._engine.connect()
        except ProgrammingError as error:
            raise UsageError(f"source.url: {self.said(error)}") from None
        except (SQLAlchemyError, UnicodeError) as error:
            first = self.said(error).strip().split("\n", 1)[0]
            raise SourceUnavailable(f"the source ({self.place}) cannot be reached: {first}") from None
        with connection:
            yield connection


def _fetch(result: CursorResult[*tuple[object, ...]]) -> list[Row]:
    return list(result.fetchmany(CHUNK))

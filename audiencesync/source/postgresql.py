"""PostgreSQL as a source: a read-only transaction with limits, a cursor of the server, no functions with effects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from audiencesync.errors import AudiencesyncError, SourceUnavailable
from audiencesync.model import Audience, Shipped
from audiencesync.source.base import Question
from audiencesync.source.generic import GenericSource
from audiencesync.source.problems import refused, wrong
from audiencesync.source.shipped import USER, columns, quoted, watched
from audiencesync.source.statement import ONE
from audiencesync.source.watch import Watch

_LIMITS = """SELECT set_config('transaction_read_only', :reading, true), set_config('timezone', 'UTC', true),
 set_config('statement_timeout', :statement, true), set_config('lock_timeout', :lock, true),
 set_config('idle_in_transaction_session_timeout', :statement, true)"""

_ROLE = """SELECT current_setting('server_version'), current_user, EXISTS (
 SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper UNION ALL
 SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
 WHERE relkind IN ('r', 'p') AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
 AND has_table_privilege(pg_class.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'))"""

_DENIED = re.compile(
    r"\b(pg_(?:try_)?advisory_\w+|lo_\w+|dblink\w*|pg_notify|set_config|nextval|setval|(?:query|table|cursor|schema|"
    r"database)_to_xml\w*|pg_read_\w+|pg_ls_\w+|pg_stat_file|pg_terminate_backend|pg_cancel_backend|pg_reload_conf|"
    r"pg_rotate_logfile|pg_switch_wal|pg_create_\w+|pg_promote|pg_export_snapshot|pg_logical_\w+)\"?\s*\(",
    re.IGNORECASE)
"""Functions that act outside the transaction, wait for others, read the server's files or run other SQL."""

_LETTER = r"\w$\x80-\U0010ffff"
_HIDDEN = re.compile(rf"""
 (?P<name> "(?:[^"]|"")*+" )
 | (?<![{_LETTER}])[eE] '(?:[^'\\]|\\.|'')*+' (?: (?:\s|--[^\n\r]*+)*+ '(?:[^'\\]|\\.|'')*+' )*+
 | '(?:[^']|'')*+'
 | (?<![{_LETTER}])\$ (?P<tag> (?:[^\W\d][\w\x80-\U0010ffff]*+)? ) \$ .*? \$(?P=tag)\$
 | --[^\n\r]*+
 | /\*(?: /\*(?:(?!/\*|\*/).)*+\*/ | (?!/\*|\*/). )*+\*/""", re.DOTALL | re.VERBOSE)
"""Literals and comments, and the quoted names among which they stand: PostgreSQL's manual, 4.1 Lexical Structure.

In an E'' literal, also where it goes on behind a line break, a backslash takes the quote after it along.
"""

_UNREADABLE = re.compile(r"/\*|\bu&\"", re.IGNORECASE)
"""What may hide a call from the list: comments three deep, names spelt with escapes."""

_AWAY = ("08", "28", "3D", "40", "53", "57", "58", "XX", "25P")
"""Classes of SQLSTATE that say nothing of the SQL: PostgreSQL's manual, appendix A."""


class PostgresqlSource(GenericSource):
    """PostgreSQL through psycopg, or any other driver of it that SQLAlchemy has."""

    def connect_args(self) -> Mapping[str, object]:
        """A server that is silent is given up; prepared statements would break behind a pooler."""
        if self.url.get_driver_name() not in ("psycopg", "psycopg2"):
            return {}
        options: dict[str, object] = {"connect_timeout": 10, "application_name": "audiencesync", "keepalives_idle": 30,
                                      "keepalives_interval": 10, "keepalives_count": 3}
        if self.url.get_driver_name() == "psycopg":
            options["prepare_threshold"] = None
        return {name: value for name, value in options.items() if name not in self.url.query}

    def prepare(self, connection: Connection) -> None:
        """Begin the read-only transaction and set its limits, in one round trip."""
        self._limit(connection, reading="on")

    def receive(self, connection: Connection, question: Question, watch: Watch) -> None:
        """Fill temporary tables in the very transaction that is made read-only afterwards, and that takes them along.

        So no session keeps one, and a pooler that parts transactions does no harm.
        """
        try:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            self._limit(connection, reading="off")
            for table in question.given:
                connection.execute(text(_creation(table)))
        except DBAPIError as error:
            why = _refusal(connection, sqlstate(error))
            if not why:
                raise
            raise wrong(question.audience, f"uses: needs the temporary table {question.given[0].name}, and {why[0]}",
                        hint=why[1]) from None
        for table in question.given:
            filling = text(_filling(table))
            for chunk in watched(table, watch):
                connection.execute(filling, {"ids": chunk.ids, "texts": chunk.values} if table.traits
                                   else {"ids": chunk.ids})
            connection.execute(text(f"ANALYZE pg_temp.{quoted(table.name)}"))

    def _limit(self, connection: Connection, *, reading: str) -> None:
        connection.execute(text(_LIMITS), {
            "reading": reading, "statement": f"{max(1, round(self.settings.statement_timeout * 1000))}ms",
            "lock": f"{max(1, round(self.settings.lock_timeout * 1000))}ms"})

    def cancel(self, connection: Connection) -> None:
        """Ask the server to stop."""
        driver: Any = connection.connection.driver_connection
        if hasattr(driver, "cancel_safe"):
            driver.cancel_safe(timeout=5)
        elif hasattr(driver, "cancel"):
            driver.cancel()

    def guard(self, audience: Audience) -> None:
        """Refuse functions with effects; that there is one statement, and that it reads, the server's cursor sees."""
        plain = _HIDDEN.sub(lambda hidden: hidden["name"] or " " * len(hidden[0]), audience.sql)
        found = _UNREADABLE.search(plain)
        if found:
            raise wrong(audience, "which functions this calls cannot be seen", at=(found.start(), len(found[0])),
                        hint='write names without U&"...", and comments at most one within another')
        found = _DENIED.search(plain)
        if found:
            raise wrong(audience, f"the function {found[1]} acts on more than this query's result",
                        at=(found.start(1), len(found[1])), hint="the source is only ever read")

    def explain(self, audience: Audience, error: BaseException, watch: Watch) -> AudiencesyncError:
        """Go by SQLSTATE: what is away, what took too long, what is wrong."""
        said = self.said(error)
        state = sqlstate(error)
        if state == "57014" and "timeout" in said:
            return watch.expired()
        if state == "55P03":
            return SourceUnavailable(f"{audience.path}: another session of the source holds a lock this query needs "
                                     f"(source.lock_timeout)")
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if lost or state.startswith(_AWAY):
            first = said.strip().split("\n", 1)[0]
            return SourceUnavailable(f"{audience.path}: the source ({self.place}) says: {first}")
        if "multiple commands" in said:
            return wrong(audience, f"there is more than one statement; {ONE}")
        if state == "25006" or "data-modifying" in said:
            return refused(audience, said, hint="the source is only ever read")
        advice = re.search(r"^HINT:\s*(.+)", said, re.MULTILINE)
        return refused(audience, said, hint=advice[1] if advice else "", private=state.startswith("22"))

    def check(self) -> Iterator[str]:
        """The server lets us in, and whether the role could do more than read."""
        with self._connect() as connection:
            self.prepare(connection)
            version, role, writer = connection.execute(text(_ROLE)).one()
        yield f"PostgreSQL {version}, {self.place}, as {role}, in read-only transactions"
        if writer:
            yield f"warning: the role {role} may write to tables; a role that may only SELECT is safer"


def sqlstate(error: BaseException) -> str:
    """The server's code for what went wrong, as either of its drivers gives it."""
    said = getattr(error, "orig", None)
    return str(getattr(said, "sqlstate", None) or getattr(said, "pgcode", None) or "")


_TYPES = {"number": "numeric", "boolean": "boolean", "timestamp": "timestamptz", "string": "text", "list": "text[]"}


def _creation(table: Shipped) -> str:
    kinds = "".join(f", {column.name} {_TYPES[column.kind]}" for column in columns(table))
    return _plain(f"CREATE TEMPORARY TABLE {quoted(table.name)} ({USER} text{kinds}) ON COMMIT DROP")


def _filling(table: Shipped) -> str:
    """The server itself takes the JSON apart, into exact numbers and true arrays."""
    into = f"INSERT INTO pg_temp.{quoted(table.name)} SELECT"
    beside = columns(table)
    if not beside:
        return f"{_plain(into)} unnest(CAST(:ids AS text[]))"
    kinds = ", ".join(dict.fromkeys(f"{quoted(column.trait)} {_TYPES[column.kind]}" for column in beside))
    chosen = ", ".join(f"t.{quoted(column.trait)}" for column in beside)
    return (f"{_plain(f'{into} u.id, {chosen}')} "
            "FROM unnest(CAST(:ids AS text[]), CAST(:texts AS text[])) AS u(id, x), "
            f"LATERAL json_to_record(CAST(u.x AS json)) AS t({_plain(kinds)})")


def _plain(sql: str) -> str:
    """For sqlalchemy.text: a colon in a name is no parameter."""
    return sql.replace(":", "\\:")


def _refusal(connection: Connection, state: str) -> tuple[str, str] | None:
    """Why no temporary table can be made, and what to do about it."""
    connection.rollback()
    if state in ("25006", "0A000"):
        return ("the source is a standby, which takes none",
                "let source.url name the primary server, or a copy that can be written to")
    if state != "42501":
        return None
    quote = connection.dialect.identifier_preparer.quote
    role, database = connection.execute(text("SELECT current_user, current_database()")).one()
    return (f"the role {role} may make none in the database {database}; its tables stay as they are, read-only",
            f"GRANT TEMPORARY ON DATABASE {quote(database)} TO {quote(role)};")

"""What can be said of an audience's SQL without asking the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from audiencesync.errors import Problem
from audiencesync.model import ID_COLUMNS, Audience
from audiencesync.project.page import Page, Place, did_you_mean

if TYPE_CHECKING:
    from sqlglot import Token, exp

_DIALECTS = {
    "sqlite": "sqlite", "postgresql": "postgres", "cockroachdb": "postgres", "duckdb": "duckdb", "mysql": "mysql",
    "mariadb": "mysql", "snowflake": "snowflake", "bigquery": "bigquery", "redshift": "redshift",
    "databricks": "databricks", "mssql": "tsql", "oracle": "oracle", "trino": "trino", "presto": "presto",
    "awsathena": "athena", "clickhousedb": "clickhouse", "clickhouse": "clickhouse",
}
_SURE = {"sqlite", "postgres", "duckdb"}
"""Dialects in which a text that cannot be parsed is taken for wrong; in others the parser may be."""

_CLOCKS = {"CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME", "LOCALTIMESTAMP", "LOCALTIME", "SYSDATE",
           "SYSTIMESTAMP"}
_CLOCK_FUNCTIONS = {"NOW", "GETDATE", "GETUTCDATE", "SYSDATETIME", "CLOCK_TIMESTAMP", "STATEMENT_TIMESTAMP",
                    "TRANSACTION_TIMESTAMP", "TODAY"}


def dialect_of(url: str) -> str | None:
    """The SQL dialect of a source, by its URL's scheme; None for one that is not known."""
    return _DIALECTS.get(url.partition("://")[0].partition("+")[0].lower())


def check_sql(audience: Audience, dialect: str | None) -> Iterator[Problem]:
    """Every mistake in an audience's SQL that its text shows; what only the database knows for sure is a warning.

    SQL that nobody wrote has none.
    """
    if audience.declared:
        return
    import logging

    import sqlglot
    from sqlglot.errors import SqlglotError

    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    page = Page(audience.path.as_posix(), "\n" * (audience.line - 1) + audience.sql)
    severity = "error" if dialect in _SURE else "warning"
    try:
        dialect = dialect if dialect in _DIALECTS.values() else None
        tokens = sqlglot.tokenize(audience.sql, dialect=dialect)
        _check_words(page, audience, tokens)
        statements = [statement for statement in sqlglot.parse(audience.sql, dialect=dialect) if statement]
    except SqlglotError as error:
        place, message = _syntax(error, audience)
        page.mistake(place, message, severity=severity,
                     hint="" if severity == "error" else "the database may well understand it; this was not checked")
    else:
        _check_statements(page, audience, statements, dialect=dialect)
    yield from page.problems()


def _syntax(error: Exception, audience: Audience) -> tuple[Place, str]:
    details = (getattr(error, "errors", None) or [{}])[0]
    if "line" in details:
        marked = details.get("highlight") or " "
        description = re.sub(r"<Token .*?text: (.*?), line:.*?>", r"\1", details["description"], flags=re.DOTALL)
        message = "it ends too early" if "SENTINEL" in description else description[:1].lower() + description[1:]
        column = max(1, details["col"] - len(marked) + 1)
        return Place(details["line"] + audience.line - 1, column, len(marked)), f"this is not SQL: {message}"
    missing = re.search(r"Missing (\S+) from (\d+):(\d+)", f"{error} {error.__cause__}")
    if missing:
        offset = int(missing[3])
        return _place(audience, offset, offset), f"this is not SQL: the closing {missing[1]} is missing"
    return Place(audience.line), "this is not SQL: a quote or a comment is left open"


def _check_words(page: Page, audience: Audience, tokens: Sequence[Token]) -> None:
    """Unknown parameters, and clocks that make a run impossible to repeat for another instant."""
    known = ["now", *audience.variables]
    told: set[str] = set()
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        name = _parameter(audience.sql, token, after)
        if name and after and name not in known and name not in told:
            told.add(name)
            page.mistake(_place(audience, token.start, after.end), f"unknown parameter :{name}",
                         hint=did_you_mean(name, known) + "; others are written under vars: in the header")
        elif _is_clock(before, token, after):
            page.mistake(_place(audience, token.start, token.end), severity="warning", hint="write :now",
                         message=f"{token.text!r} is the database's clock, so no other instant can be computed")


def _parameter(sql: str, token: Token, after: Token | None) -> str | None:
    """The name of the parameter that begins with this token: a colon before a word, but not after a value."""
    from sqlglot import TokenType

    if token.token_type != TokenType.COLON or after is None or after.start != token.end + 1:
        return None
    left = sql[token.start - 1:token.start] if token.start else ""
    if left.isalnum() or (left and left in "_'\"`)]"):
        return None
    word = re.compile(r"[^\W\d]\w*").match(sql, after.start)
    return word[0] if word else None


def _is_clock(before: Token | None, token: Token, after: Token | None) -> bool:
    from sqlglot import TokenType

    if token.token_type == TokenType.STRING:
        return token.text.lower() == "now" and before is not None and before.text in {"(", ","}
    if before is not None and before.text in {".", ":", '"'}:
        return False
    word, call = token.text.upper(), after is not None and after.text == "("
    quoted = token.token_type == TokenType.IDENTIFIER
    return not quoted and (word in _CLOCKS or (call and word in _CLOCK_FUNCTIONS))


def _place(audience: Audience, start: int, end: int) -> Place:
    line = audience.sql.count("\n", 0, start)
    return Place(audience.line + line, start - audience.sql.rfind("\n", 0, start), end - start + 1)


def _check_statements(page: Page, audience: Audience, statements: Sequence[exp.Expr], *,
                      dialect: str | None) -> None:
    from sqlglot import exp

    start = Place(audience.line, len(audience.sql) - len(audience.sql.lstrip()) + 1)
    if len(statements) != 1:
        page.mistake(start, f"an audience is one statement; here are {len(statements)}")
        return
    [tree] = statements
    if not isinstance(tree, exp.Query):
        unsure = isinstance(tree, exp.Command) and dialect not in _SURE
        page.mistake(start, f"an audience is a SELECT; {(tree.name or tree.key).upper()!r} is none",
                     severity="warning" if unsure else "error")
        return
    write = tree.find(exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Into)
    if write:
        page.mistake(start, f"an audience only reads; {write.key.upper()!r} writes")
        return
    columns = _columns(tree)
    if columns is not None:
        _check_columns(page, audience, columns, start)


def _columns(tree: exp.Expr) -> list[str] | None:
    """The names of the result's columns in lower case, or None when the text alone does not tell them."""
    from sqlglot import exp

    if not isinstance(tree, exp.Query) or tree.is_star or not tree.selects:
        return None
    if any(not isinstance(item, exp.Alias | exp.Column | exp.Func | exp.Literal | exp.Binary | exp.Paren)
           or isinstance(item, exp.Columns | exp.Dot) for item in tree.selects):
        return None
    return [item.output_name.lower() for item in tree.selects]


def _check_columns(page: Page, audience: Audience, columns: Sequence[str], start: Place) -> None:
    ids = [column for column in ID_COLUMNS if column in columns]
    if not ids:
        page.mistake(start, "the result has no column that names a user",
                     hint="select a column AS user_id, anonymous_id or email")
    for other in ids[1:]:
        if other not in audience.include:
            also = ", or write  include: [email]  to send it along" if other == "email" else ""
            page.mistake(start, f"{ids[0]} names the user, so {other} is not used", hint=f"leave it out{also}",
                         severity="warning")
    for column in audience.include:
        if column.lower() not in columns:
            page.mistake(start, f"the included column {column!r} is not in the result",
                         hint=did_you_mean(column, [name for name in columns if name]))

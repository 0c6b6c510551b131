"""What one value in a project's files may be, as the types that read it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticKnownError

from audiencesync.addresses import check_url
from audiencesync.model import ALERTS, ID_COLUMNS, Ago, Variable
from audiencesync.naming import check_key
from audiencesync.project.page import nearest
from audiencesync.schedule import Duration, check_schedule, parse_duration

DESTINATION_NAME = r"[A-Za-z0-9_-]+"
VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_HUGE = re.compile(r"[-+]?(\.nan|\.inf|\d{18,}(\.\d*)?|\d[\d.]*[eE][-+]?\d{3,})", re.IGNORECASE)
"""A number that is not finite, or larger than YAML's numbers are read here."""
_SCHEME = re.compile(r"([A-Za-z][\w.-]*)(\+[\w.-]+)?://")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty")
    if len(value) > 255:
        raise ValueError("it is longer than 255 characters")
    if not value.isprintable():
        raise ValueError("it has characters that cannot be seen")
    return value.strip()


def _table(name: str) -> str:
    parts = _text(name).split(".")
    if not all(parts) or len(parts) > 2:
        raise ValueError(f"{name!r} is no table; write events or analytics.events")
    return name.strip()


def _query(sql: str) -> str:
    if not sql.strip():
        raise ValueError("it is empty")
    return sql.strip()


def _age(span: timedelta) -> timedelta:
    if not span:
        raise ValueError("no data is that new; write how old it may be, such as 6h")
    return span


def _retention(span: timedelta) -> timedelta:
    if span < timedelta(days=1):
        raise ValueError("it is shorter than a day; write at least 1d")
    return span


def _alert(kind: str) -> str:
    if kind not in ALERTS:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, ALERTS))})
    return kind


def _some(kinds: tuple[str, ...]) -> tuple[str, ...]:
    if not kinds:
        raise ValueError("it is empty, so nobody would ever be told; leave it out to tell everything")
    return _distinct(kinds)


def _receiver(url: str) -> str:
    try:
        return check_url(url)
    except ValueError as error:
        raise ValueError(str(error).replace(", or set allow_http: true", "")) from None


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is named twice")
    return values


def _include(columns: tuple[str, ...]) -> tuple[str, ...]:
    for column in columns:
        if column.lower() in ID_COLUMNS and column != "email":
            raise ValueError(f"{column!r} names the user and travels with every call; leave it out")
    return _distinct(columns)


def _name(pattern: str, what: str) -> AfterValidator:
    def check(name: str) -> str:
        if not re.fullmatch(pattern, name):
            raise ValueError(f"{name!r} is not the name of a {what}; write letters, digits and _")
        if what == "variable" and name == "now":
            raise ValueError("'now' is the instant of a run; call the variable something else")
        return name

    return AfterValidator(check)


def _timezone(name: str) -> str:
    if name == "UTC":
        return name
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        near = nearest(name, zoneinfo.available_timezones())
        also = f"; did you mean {near!r}?" if near else "; write one such as Europe/Berlin"
        raise ValueError(f"{name!r} is no time zone{also}") from None
    return name


def _url(url: str) -> str:
    match = _SCHEME.match(url)
    if match is None:
        raise ValueError("it is no URL of a database; write postgresql+psycopg://user:${PASSWORD}@host/db "
                         "or sqlite:///shop.db")
    if match[1] == "postgres":
        raise ValueError("SQLAlchemy calls this kind of database postgresql://, not postgres://")
    return url


def _state(url: str) -> str:
    scheme = _url(url).partition("://")[0].partition("+")[0]
    if scheme not in {"sqlite", "postgresql"}:
        raise ValueError(f"the state is kept in SQLite or PostgreSQL, not in {scheme}")
    if scheme == "sqlite" and (not url.partition("://")[2] or ":memory:" in url):
        raise ValueError("a state in memory forgets who was told what; write sqlite:///audiencesync.db")
    return url


def parse_variable(value: object) -> Variable:
    """Read a bound parameter: a text, a number, true, false, null, or `now - 30d` as a moment; else ValueError."""
    moment = re.fullmatch(r"\s*now\s*(?:([-+])(.*))?", value) if isinstance(value, str) else None
    if moment and moment[1] == "+":
        raise ValueError(f"{value!r} lies after the run; write a moment such as now - 30d")
    if moment:
        return Ago(parse_duration(moment[2].strip()) if moment[1] else timedelta())
    if value is None or isinstance(value, str | int | float | bool | Ago):
        return value
    raise ValueError("a variable is a text, a number, true, false, null or a moment such as now - 30d")


def parse_share(value: object) -> float | int:
    """Read `30%` as 0.3, a part of the audience, and 500 as 500, a number of users; else ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value) if isinstance(value, str) else None
    if match and float(match[1]) <= 100:
        return float(match[1]) / 100
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{value!r} is no limit; write 30% (of the audience) or 500 (users)")


def _share(value: object) -> float | int | None:
    return None if value is None else parse_share(value)


def _missing(value: object) -> object:
    if isinstance(value, str) and value not in MISSING and nearest(value, MISSING):
        raise ValueError(f"did you mean {nearest(value, MISSING)!r}? else write a value that is not so near it")
    if isinstance(value, str) and not (value.isprintable() and _HUGE.fullmatch(value) is None):
        raise ValueError(f"{value!r} is nothing that JSON can say")
    if value is None or isinstance(value, str | int | float | bool):
        return "clear" if value is None else value
    raise ValueError("write clear (null is told), keep (nothing is told), or a value such as 0")


MISSING = ("clear", "keep")
"""What becomes of the traits of a user who drops out of a computed trait's result, besides a value for them all."""

Text = Annotated[str, AfterValidator(_text)]
Missing = Annotated[object, BeforeValidator(_missing), WithJsonSchema(
    {"type": ["string", "number", "boolean"], "examples": ["clear", "keep", 0], "default": "clear"})]
Kind = Literal["boolean", "number", "string", "timestamp", "list"]
Sending = Literal["identify", "track", "both"]
TableName = Annotated[str, AfterValidator(_table)]
Names = Annotated[tuple[Text, ...], AfterValidator(_distinct)]
Columns = Annotated[tuple[Text, ...], AfterValidator(_include)]
Key = Annotated[str, AfterValidator(check_key)]
Timezone = Annotated[str, AfterValidator(_timezone)]
SourceUrl = Annotated[str, AfterValidator(_url)]
StateUrl = Annotated[str, AfterValidator(_state)]
ReceiverUrl = Annotated[str, AfterValidator(_receiver)]
Query = Annotated[str, AfterValidator(_query)]
Age = Annotated[Duration, AfterValidator(_age)]
Retention = Annotated[Duration, AfterValidator(_retention)]
Schedule = Annotated[str, BeforeValidator(check_schedule), WithJsonSchema(
    {"type": "string", "examples": ["every 2h", "every 2h to 3h", 'cron "0 */3 * * *"', "manual"]})]
Share = Annotated[float | int | str | None, BeforeValidator(_share), WithJsonSchema(
    {"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?%$"}, {"type": "integer", "minimum": 0}, {"type": "null"}]})]
"""A float or an int as parse_share reads it; a str only where a default is shown as people write it."""
Value = Annotated[object, BeforeValidator(parse_variable), WithJsonSchema(
    {"type": ["string", "number", "boolean", "null"], "examples": [500, "now - 30d"]})]
VariableName = Annotated[str, _name(VARIABLE_NAME, "variable")]
DestinationName = Annotated[str, _name(DESTINATION_NAME, "destination")]
ChannelName = Annotated[str, _name(DESTINATION_NAME, "channel")]
AlertKind = Annotated[str, AfterValidator(_alert), WithJsonSchema({"type": "string", "enum": list(ALERTS)})]
AlertKinds = Annotated[tuple[AlertKind, ...], AfterValidator(_some)]

"""What may stand in audiencesync.yml and in the header of an audience: the models that check both."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from audiencesync.model import ID_COLUMNS, Ago, Variable
from audiencesync.naming import check_key
from audiencesync.project.page import nearest
from audiencesync.schedule import Duration, check_schedule, parse_duration

DESTINATION_NAME = r"[A-Za-z0-9_-]+"
VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_SCHEME = re.compile(r"([A-Za-z][\w.-]*)(\+[\w.-]+)?://")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty")
    if len(value) > 255:
        raise ValueError("it is longer than 255 characters")
    if not value.isprintable():
        raise ValueError("it has characters that cannot be seen")
    return value.strip()


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
        if name == "now":
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


Text = Annotated[str, AfterValidator(_text)]
Names = Annotated[tuple[Text, ...], AfterValidator(_distinct)]
Columns = Annotated[tuple[Text, ...], AfterValidator(_include)]
Schedule = Annotated[str, BeforeValidator(check_schedule), WithJsonSchema(
    {"type": "string", "examples": ["every 2h", "every 2h to 3h", 'cron "0 */3 * * *"', "manual"]})]
Share = Annotated[float | int | None, BeforeValidator(lambda value: None if value is None else parse_share(value)),
                  WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?%$"},
                                            {"type": "integer", "minimum": 0}]})]
Value = Annotated[object, BeforeValidator(parse_variable), WithJsonSchema(
    {"type": ["string", "number", "boolean", "null"], "examples": [500, "now - 30d"]})]
VariableName = Annotated[str, _name(VARIABLE_NAME, "variable")]
DestinationName = Annotated[str, _name(DESTINATION_NAME, "destination")]


class _Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Guard(_Strict):
    """Limits above which changes wait for a person."""

    max_exit: Share = Field(None, description="Most users a sync may report as exited: 30% of the audience, or 500.")
    min_exits: int | None = Field(None, ge=0, description="Exits below which max_exit does not hold a sync.")
    max_enter: Share = Field(None, description="Most users a sync may report as entered.")
    max_initial: Share = Field(None, description="Most users an initial sync may tell.")


class SourceTable(_Strict):
    """Where audiences are asked; a read-only account is enough."""

    url: Annotated[str, AfterValidator(_url)] = Field(description="Any SQLAlchemy URL.")
    statement_timeout: Duration = Field(timedelta(minutes=10), description="The longest an audience's query may take.")
    lock_timeout: Duration = Field(timedelta(seconds=30), description="The longest a query may wait for a lock.")
    allow_files: bool = Field(default=False, description="Whether DuckDB may read files that the SQL names.")


class Defaults(_Strict):
    """What holds for every audience whose header does not say otherwise."""

    schedule: Schedule = Field("every 2h to 3h", description="When a running service computes an audience.")
    destinations: Names | None = Field(None, description="Who is told; all destinations when this is missing.")
    guard: Guard = Guard()


class ProjectFile(_Strict):
    """audiencesync.yml; the settings of a destination are checked by its own class."""

    name: Text = Field(description="The project's name; also context.personas.namespace.")
    timezone: Annotated[str, AfterValidator(_timezone)] = Field("UTC", description="Of cron schedules and times shown.")
    source: SourceTable
    state: Annotated[str, AfterValidator(_state)] = Field(
        "sqlite:///audiencesync.db", description="SQLite or PostgreSQL; a SQLite path is relative to this file.")
    defaults: Defaults = Defaults()
    destinations: dict[DestinationName, dict[str, object]] = Field(default={}, description="Who can be told.")
    vars: dict[VariableName, Value] = Field(default={}, description="Bound parameters of every query.")


class Header(_Strict):
    """The YAML in the first comment of an audience's file."""

    kind: Literal["audience", "trait"] = "audience"
    name: Text | None = None
    key: Annotated[str, AfterValidator(check_key)] | None = None
    description: str = ""
    owner: str = ""
    tags: Names = ()
    include: Columns = ()
    types: dict[str, object] = Field(default={})
    destinations: Names | None = None
    integrations: Names = ()
    schedule: Schedule | None = None
    guard: Guard = Guard()
    vars: dict[VariableName, Value] = Field(default={})


def merged_guard(guards: Iterable[Guard]) -> dict[str, object]:
    """The limits in force, later ones winning: a share of the audience is a float, a number of users an int."""
    limits: dict[str, object] = {}
    for guard in guards:
        limits |= guard.model_dump(exclude_none=True)
    return limits

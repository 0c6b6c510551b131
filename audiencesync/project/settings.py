"""What may stand in audiencesync.yml and in the header of an audience: the models that check both."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from audiencesync.model import ALERTS
from audiencesync.project.values import (
    Age,
    AlertKinds,
    ChannelName,
    Columns,
    DestinationName,
    Key,
    Kind,
    Missing,
    Names,
    Query,
    ReceiverUrl,
    Retention,
    Schedule,
    Sending,
    Share,
    SourceUrl,
    StateUrl,
    TableName,
    Text,
    Timezone,
    Value,
    VariableName,
)
from audiencesync.schedule import Duration


class _Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Guard(_Strict):
    """Limits above which changes wait for a person; one that is written as null is as if it were built in."""

    max_exit: Share = Field("30%", validate_default=True,
                            description="Most users a sync may report as exited: 30% of the audience, or 500.")
    min_exits: int | None = Field(50, ge=0, description="Exits below which max_exit does not hold a sync.")
    max_enter: Share = Field(None, description="Most users a sync may report as entered.")
    max_initial: Share = Field(None, description="Most users an initial sync may tell.")


class FreshTable(_Strict):
    """How old the source's data may be; a late load would look as if people had exited."""

    sql: Query = Field(
        description="Gives one instant, when the newest data was loaded: SELECT max(loaded_at) FROM orders.")
    max_age: Age = Field(description="The oldest that instant may be for audiences to be computed.")


class SourceTable(_Strict):
    """Where audiences are asked; a read-only account is enough."""

    url: SourceUrl = Field(description="Any SQLAlchemy URL.")
    statement_timeout: Duration = Field(timedelta(minutes=10), description="The longest an audience's query may take.")
    lock_timeout: Duration = Field(timedelta(seconds=30), description="The longest a query may wait for a lock.")
    allow_files: bool = Field(default=False, description="Whether DuckDB may read files that the SQL names.")
    fresh: FreshTable | None = Field(None, description="How old the data may be; any age when this is missing.")


class Defaults(_Strict):
    """What holds for every audience whose header does not say otherwise."""

    schedule: Schedule = Field("every 2h to 3h", description="When a running service computes an audience.")
    destinations: Names | None = Field(None, description="Who is told; all destinations when this is missing.")
    guard: Guard = Field(default_factory=Guard)


class AlertTable(_Strict):
    """One receiver of alerts."""

    type: Literal["slack", "webhook"] = Field(description="What is sent: a Slack message, or JSON for any program.")
    url: ReceiverUrl = Field(repr=False, description="Where to; a secret, so write ${SLACK_URL}.")
    on: AlertKinds = Field(
        tuple(ALERTS), description="The kinds of trouble that are told; all of them when this is missing.")
    name: ChannelName | None = Field(None, description="What it is called in logs; its type when this is missing.")


class EventsTable(_Strict):
    """Where events lie that traits without SQL are computed from; the others are columns of the table."""

    table: TableName = Field(description="The table or view, with its schema if need be: analytics.events.")
    user: Text = Field("user_id", description="Whose event it is; events of nobody are left out.")
    event: Text | None = Field("event", description="The event's name; null where every row is the same event.")
    at: Text = Field("at", description="When it happened, in UTC where the column knows no zone.")
    properties: Text | None = Field(
        "properties", description="The event's properties as JSON; null where properties are columns of the table.")


class ProjectFile(_Strict):
    """audiencesync.yml; the settings of a destination are checked by its own class."""

    name: Text = Field(description="The project's name; also context.personas.namespace.")
    timezone: Timezone = Field("UTC", description="Of cron schedules and times shown.")
    source: SourceTable
    state: StateUrl = Field(
        "sqlite:///audiencesync.db", description="SQLite or PostgreSQL; a SQLite path is relative to this file.")
    state_must_exist: bool = Field(
        default=False, description="Whether a missing state is a mistake, such as a disk not mounted, not a beginning.")
    retention: Retention = Field(timedelta(days=90), description="How long what is over and told is kept.")
    defaults: Defaults = Field(default_factory=Defaults)
    alerts: tuple[AlertTable, ...] = Field((), description="Who is told of trouble.")
    destinations: dict[DestinationName, dict[str, object]] = Field(default={}, description="Who can be told.")
    vars: dict[VariableName, Value] = Field(default={}, description="Bound parameters of every query.")
    events: EventsTable | None = Field(None, description="Where traits without SQL find events.")


class Events(_Strict):
    """Names of track events other than Segment's own."""

    entered: Text | None = None
    exited: Text | None = None
    computed: Text | None = None


class Header(_Strict):
    """The YAML in the first comment of an audience's file."""

    kind: Literal["audience", "trait"] | None = None
    name: Text | None = None
    key: Key | None = None
    description: str = ""
    owner: str = ""
    tags: Names = ()
    include: Columns = ()
    types: dict[str, Kind] = Field(default={})
    full_row: bool = False
    when_missing: Missing = "clear"
    uses: Names = ()
    send: Sending | dict[str, Sending] = Field(default={})
    events: Events = Field(default_factory=Events)
    destinations: Names | None = None
    integrations: Names = ()
    schedule: Schedule | None = None
    guard: Guard = Field(default_factory=Guard)
    vars: dict[VariableName, Value] = Field(default={})


def merged_guard(guards: Iterable[Guard]) -> dict[str, object]:
    """The limits in force: the built-in ones, and over them what each guard says, the later ones winning.

    A share of the audience is a float, a number of users an int; null is what is built in, and no limit where none is.
    """
    built_in = Guard().model_dump()
    limits = dict(built_in)
    for guard in guards:
        written = guard.model_dump(exclude_unset=True)
        limits |= {name: built_in[name] if limit is None else limit for name, limit in written.items()}
    return {name: limit for name, limit in limits.items() if limit is not None}

"""The tables of the state: what is known of every user, every run and every destination."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData(naming_convention={
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
})


class Instant(TypeDecorator[datetime]):
    """A moment in UTC that knows its zone, also on SQLite, which knows none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; without the zone where the database has none."""
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Byte order of UTF-8 everywhere, which is also Python's order of text: cursors compare alike in all three.
UserId = Text().with_variant(Text(collation="C"), "postgresql")
Serial = BigInteger().with_variant(Integer(), "sqlite")


def _computation(**options: Any) -> Column[int]:
    return Column("computation_id", Integer, ForeignKey("computations.id"), nullable=False, **options)


# key: unique for ever, also after retirement, since a destination never forgets a trait's name
computations = Table(
    "computations", metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("id_kind", Text),
    Column("definition_hash", Text),
    Column("paused_at", Instant),
    Column("pause_reason", Text),
    Column("retired_at", Instant),
)

# traits: the kind of value by the name of each column of a computed trait, in the order of its values (JSON)
runs = Table(
    "runs", metadata,
    _computation(primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("as_of", Instant, nullable=False),
    Column("status", Text, nullable=False),
    Column("members", BigInteger, nullable=False),
    Column("entered", BigInteger, nullable=False),
    Column("exited", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("error", Text),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=False, index=True),
    Column("traits", Text),
)

# one row is one stretch in which nothing about this user changed: [since_run, until_run); value: his computed traits,
# as the text of a JSON array in one spelling, so that equal values are equal texts;
# no foreign key, since a check a row would cost a tenth of a run
memberships = Table(
    "memberships", metadata,
    Column("computation_id", Integer, primary_key=True, autoincrement=False),
    Column("user_id", UserId, primary_key=True),
    Column("since_run", Integer, primary_key=True),
    Column("until_run", Integer),
    Column("included", Text),
    Column("value", Text),
    sqlite_with_rowid=False,
)

# run 0 lies before everything: a destination that was told nothing stands there, one that is cleared goes back there
positions = Table(
    "positions", metadata,
    Column("destination", Text, primary_key=True),
    _computation(primary_key=True),
    Column("run", Integer, nullable=False),
    Column("settled_at", Instant),
    Column("retired_at", Instant),
    Column("clear_as_of", Instant),
)

# one row for each instant at which a schedule was due: whoever writes it first says as of when all hosts compute
slots = Table(
    "slots", metadata,
    Column("schedule", Text, primary_key=True),
    Column("at", Instant, primary_key=True),
    Column("as_of", Instant, nullable=False),
)

# what a person said last of a held change, bound to the counts he was shown and to the run they were counted for
decisions = Table(
    "decisions", metadata,
    Column("destination", Text, primary_key=True),
    _computation(primary_key=True),
    Column("to_run", Integer, nullable=False),
    Column("entered", BigInteger, nullable=False),
    Column("exited", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
)

# the troubles that a channel was told of and that last
alerts = Table(
    "alerts", metadata,
    Column("channel", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("told_at", Instant, nullable=False),
)

syncs = Table(
    "syncs", metadata,
    Column("id", Serial, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("retries_due", Instant, nullable=False),
    Column("claimed", UserId),
    Column("acknowledged", UserId),
    Column("total", BigInteger, nullable=False),
    Column("sent", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Index("ix_syncs_destination", "destination", "status"),
)

# envelope: what the bodies are made of besides the memberships, frozen, so that a retry repeats them
spans = Table(
    "spans", metadata,
    Column("sync_id", Serial, ForeignKey("syncs.id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    _computation(index=True),
    Column("from_run", Integer, nullable=False),
    Column("to_run", Integer, nullable=False),
    Column("envelope", Text, nullable=False),
)

rejections = Table(
    "rejections", metadata,
    Column("destination", Text, primary_key=True),
    Column("computation_id", Integer, primary_key=True, autoincrement=False),
    Column("user_id", UserId, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("status", Integer),
    Column("tries", Integer, nullable=False),
    Column("since", Instant, nullable=False),
    Column("next_try", Instant, nullable=False),
    Column("sync_id", Serial, nullable=False),
    sqlite_with_rowid=False,
)

# what a destination's answers taught of its people, under names that only its own class understands
identities = Table(
    "identities", metadata,
    Column("destination", Text, primary_key=True),
    Column("name", UserId, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

# day, used: how many requests of a day of UTC left; paced: what still counts against its speed limits, and since when
destinations = Table(
    "destinations", metadata,
    Column("name", Text, primary_key=True),
    Column("fingerprint", Text),
    Column("paused_at", Instant),
    Column("pause_reason", Text),
    Column("paused_by", Text),
    Column("retry_at", Instant),
    Column("retry_reason", Text),
    Column("day", Text),
    Column("used", Integer),
    Column("paced", Text),
)

leases = Table(
    "leases", metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text),
    Column("fence", BigInteger, nullable=False),
    Column("expires", Instant, nullable=False),
)

acts = Table(
    "acts", metadata,
    Column("id", Serial, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("who", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text),
)

"""Which engine a URL names, so that each kind of database is read with every guard it has."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from audiencesync.errors import UsageError
from audiencesync.model import SourceSettings
from audiencesync.source.base import Source


def open_source(settings: SourceSettings) -> Source:
    """A source that connects when it is first read; raises UsageError when the URL or a driver is at fault."""
    url = _parse(settings.url)
    try:
        return _choose(url, settings)
    except NoSuchModuleError:
        raise UsageError(f"source.url: no driver for {url.drivername!r} is installed; is the name spelled right, "
                         f"and its SQLAlchemy package installed?") from None
    except ModuleNotFoundError as error:
        raise UsageError(_missing(url.get_backend_name(), error.name or "")) from None
    except (ArgumentError, TypeError):
        raise UsageError(f"source.url: {url.drivername!r} does not understand this URL's parts") from None


def _parse(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):  # their words can hold the password
        raise UsageError("source.url is not a database URL; write dialect://user:password@host:port/database, and "
                         "%40, %2F, %3A for @ / : in a password") from None


def _choose(url: URL, settings: SourceSettings) -> Source:
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        from audiencesync.source.sqlite import SqliteSource

        return SqliteSource(url, settings)
    if url.get_backend_name() == "duckdb":
        from audiencesync.source.duckdb import DuckdbSource

        return DuckdbSource(url, settings)
    if url.get_backend_name() == "postgresql":
        from audiencesync.source.postgresql import PostgresqlSource

        return PostgresqlSource(url, settings)
    from audiencesync.source.generic import GenericSource

    return GenericSource(url, settings)


def _missing(backend: str, module: str) -> str:
    extra = {"postgresql": "postgres", "duckdb": "duckdb"}.get(backend)
    cure = f"pip install 'audiencesync[{extra}]'" if extra else f"install the driver of {backend} that has it"
    return f"source.url: the Python module {module} is missing; {cure}"

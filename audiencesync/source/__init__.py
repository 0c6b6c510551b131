"""Asks the source database, which is only ever read, who belongs to an audience."""

from audiencesync.source.base import Result, Source
from audiencesync.source.engines import open_source
from audiencesync.source.freshness import why_stale
from audiencesync.source.statement import check_sql

__all__ = ["Result", "Source", "check_sql", "open_source", "why_stale"]

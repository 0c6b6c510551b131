"""Project files: audiencesync.yml and the audiences' .sql files, read and checked."""

from audiencesync.project.check import check_sql, dialect_of
from audiencesync.project.loading import load
from audiencesync.project.schema import json_schema
from audiencesync.project.select import select

__all__ = ["check_sql", "dialect_of", "json_schema", "load", "select"]

"""Project files: audiencesync.yml and the audiences' .sql files, read and checked."""

from audiencesync.project.check import check_sql, dialect_of
from audiencesync.project.files import signature
from audiencesync.project.loading import Survey, load, survey
from audiencesync.project.schema import json_schema
from audiencesync.project.select import select

__all__ = ["Survey", "check_sql", "dialect_of", "json_schema", "load", "select", "signature", "survey"]

"""The files of a project to start from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from audiencesync.errors import UsageError

SCHEMA = ".audiencesync/schema.json"
MODELINE = f"# yaml-language-server: $schema=./{SCHEMA}"

MAIN = """\
name: shop                     # also context.personas.namespace in calls
timezone: UTC                  # for cron schedules and times shown; SQL always gets UTC
source:
  url: ${WAREHOUSE_URL:-sqlite:///shop.db}      # any SQLAlchemy URL; a read-only account is enough
  statement_timeout: 10m
state: ${AUDIENCESYNC_STATE:-sqlite:///audiencesync.db}   # or postgresql+psycopg://user@host/database
defaults:
  schedule: every 2h to 3h
  destinations: [trial]
destinations:
  trial: {type: file, path: calls.jsonl}        # what Segment would be told, a line for each call
  # segment: {type: segment, write_key: "${SEGMENT_WRITE_KEY}", region: us}
"""

AUDIENCE = """\
/* audiencesync
name: Order completed last 30days
description: Completed at least one order in the last 30 days.
vars: {since: now - 30d}
*/
SELECT user_id
FROM orders
WHERE completed_at > :since AND completed_at <= :now
GROUP BY user_id
"""

ENVIRONMENT = """\
# Copy this to .env, which stays out of git; variables of the environment win over it.
# WAREHOUSE_URL=postgresql+psycopg://reader:password@host/shop
# AUDIENCESYNC_STATE=postgresql+psycopg://audiencesync:password@host/audiencesync
# SEGMENT_WRITE_KEY=
"""

IGNORED = """\
.env
audiencesync.db*
calls.jsonl
"""


def scaffold(root: Path) -> Iterator[str]:
    """Write the files and say so; raises UsageError, before anything is written, if one is there.

    A .gitignore that is there already is left alone.
    """
    files = {
        "audiencesync.yml": f"{MODELINE}\n{MAIN}",
        "audiences/order_completed_last_30days.sql": AUDIENCE,
        ".env.example": ENVIRONMENT,
        ".gitignore": IGNORED,
        SCHEMA: schema_text(),
    }
    there = [name for name in files if (root / name).exists() and name != ".gitignore"]
    if there:
        raise UsageError(f"{', '.join(there)} in {root.absolute()}: already there, and nothing is overwritten; "
                         "name another folder: audiencesync init DIR")
    return _written(root, files)


def _written(root: Path, files: dict[str, str]) -> Iterator[str]:
    for name, text in files.items():
        path = root / name
        if path.exists():
            yield f"left {path} as it is; these belong into it: {', '.join(text.split())}"
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        yield f"wrote {path}"


def schema_text() -> str:
    """The JSON Schema of audiencesync.yml with every destination that is installed."""
    from audiencesync.destinations import registry
    from audiencesync.project import json_schema

    return json.dumps(json_schema(registry()), indent=2) + "\n"

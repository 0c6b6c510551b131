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
  # guard: {max_exit: 30%, min_exits: 50}       # built in: more exits than that wait for a person to approve them
# alerts:
#   - {type: slack, url: "${SLACK_URL}"}        # whom a running service calls, or type: webhook
destinations:
  trial: {type: file, path: calls.jsonl}        # what Segment would be told, a line for each call
  # segment: {type: segment, write_key: "${SEGMENT_WRITE_KEY}", region: us}
"""

MUST_EXIST = """\
state_must_exist: true         # a lost volume is no beginning; the first state is made by: audiencesync db upgrade
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

TEST = """\
# What the definition beside it must do, for: audiencesync test. The source is never asked.
tests:
  - name: an order counts for 30 days
    now: 2026-11-22T00:00:00Z
    given:
      orders:
        - {user_id: u1, completed_at: 2026-11-22 00:00:00}
        - {user_id: u2, completed_at: 2026-10-23 00:00:01}
        - {user_id: u3, completed_at: 2026-10-23 00:00:00}
    expect: [u1, u2]
"""

ENVIRONMENT = """\
# Copy this to .env, which stays out of git; variables of the environment win over it.
# WAREHOUSE_URL=postgresql+psycopg://reader:password@host/shop
# AUDIENCESYNC_STATE=postgresql+psycopg://audiencesync:password@host/audiencesync
# SEGMENT_WRITE_KEY=
# SLACK_URL=
"""

IGNORED = """\
.env
audiencesync.db*
audiencesync.stop
calls.jsonl
"""

DOCKERFILE = """\
# An image of this project. The program comes from its wheel in wheels/, made in a checkout of audiencesync by
#   pip wheel --no-deps --wheel-dir PROJECT/wheels .
FROM python:3.13-slim

COPY wheels/ /wheels/
RUN pip install --no-cache-dir "$(echo /wheels/audiencesync-*.whl)[postgres,duckdb]"

# It runs as a user of its own. On the volume at /state lies a SQLite state; beside the definitions a stop file may lie.
RUN useradd --uid 10001 --no-create-home --home-dir /shop --shell /usr/sbin/nologin audiencesync \\
 && install -d -o audiencesync -g audiencesync /shop /state
WORKDIR /shop
COPY --chown=audiencesync:audiencesync audiencesync.yml ./
COPY --chown=audiencesync:audiencesync audiences/ audiences/
USER 10001

# Whether the process lives, and nothing else: a restart helps neither a destination that is down nor a change that is
# held. For these there are alerts, and `audiencesync status --check`.
EXPOSE 9464
HEALTHCHECK --interval=30s --timeout=5s --start-period=5m --retries=3 \\
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["audiencesync"]
CMD ["serve", "--listen", "0.0.0.0:9464"]
"""

COMPOSE = """\
# The first time, with the wheel in wheels/ and .env filled in:
#   docker compose build
#   docker compose run --rm audiencesync db upgrade     # makes the state on its volume, once
#   docker compose up --detach
services:
  audiencesync:
    build: .
    env_file: .env
    environment:
      AUDIENCESYNC_STATE: ${AUDIENCESYNC_STATE:-sqlite:////state/audiencesync.db}   # .env may name a PostgreSQL
    volumes: ["state:/state"]
    ports: ["127.0.0.1:9464:9464"]   # /healthz, /readyz, /metrics, for this machine alone
    restart: unless-stopped
    stop_grace_period: 60s           # longer than the longest timeout of a destination
volumes:
  state:
"""


def scaffold(root: Path, *, docker: bool = False) -> Iterator[str]:
    """Write the files and say so; raises UsageError, before anything is written, if one is there.

    With `docker` there are also those of a container, whose state may not begin anew by itself. A .gitignore that is
    there already is left alone.
    """
    main = MAIN.replace("defaults:\n", f"{MUST_EXIST}defaults:\n", 1) if docker else MAIN
    files = {
        "audiencesync.yml": f"{MODELINE}\n{main}",
        "audiences/order_completed_last_30days.sql": AUDIENCE,
        "audiences/order_completed_last_30days.test.yml": TEST,
        ".env.example": ENVIRONMENT,
        ".gitignore": f"{IGNORED}wheels/\n" if docker else IGNORED,
        SCHEMA: schema_text(),
        **({"Dockerfile": DOCKERFILE, "compose.yml": COMPOSE} if docker else {}),
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

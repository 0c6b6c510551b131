"""The project that the demo writes and leaves behind; its comments are read by people who see such files first."""

from __future__ import annotations

from pathlib import Path

WRITE_KEY = "demo"

_MAIN = """\
# What this job reads, what it remembers, and whom it tells. Paths are relative to this file.
name: shop                          # travels with every call, as context.personas.namespace

source:
  url: sqlite:///shop.db            # where audiences are asked: any database SQLAlchemy reaches; it is only ever read

state: sqlite:///audiencesync.db    # who is in which audience since when, and what each destination was told

defaults:
  schedule: every 2h to 3h
  destinations: [{names}]

destinations:
  segment:
    type: segment
    write_key: ${{SEGMENT_WRITE_KEY}}   # from the environment, or from .env beside this file
    url: ${{SEGMENT_URL:-https://api.segment.io/v1/batch}}
{segment}
  file:                             # for trying out: what Segment would be sent, one line a call
    type: file
    path: calls.jsonl

vars:
  high_value: 250                   # :high_value in every audience's SQL
"""

_REHEARSAL = """\
    rate: 1000                      # calls a second, as many as Segment itself takes
    settle: 1s                      # on one machine no request is late for long; the default, 15m, is for networks
"""

_ENVIRONMENT = f"""\
# Secrets and addresses; the environment wins over this file. Keep it out of git.
SEGMENT_WRITE_KEY={WRITE_KEY}
# Nobody listens here. For the real Segment: delete the next line and put your write key into the one above.
SEGMENT_URL=http://127.0.0.1:9/v1/batch
"""

_IGNORED = """\
.env
*.db
*.db-wal
*.db-shm
calls.jsonl
"""

AUDIENCES = {
    "order_completed_last_30days": """\
/* audiencesync
name: Order completed last 30days
description: Completed at least one order in the last 30 days.
include: [email]
vars: {since: now - 30d}
*/
-- Whoever is in the result is a member. :now is the instant of the run, :since the variable above.
SELECT user_id, max(email) AS email
FROM orders JOIN users USING (user_id)
WHERE completed_at > :since AND completed_at <= :now
GROUP BY user_id
""",
    "high_value": """\
/* audiencesync
name: High value
description: Spent at least 250 in the last 60 days, refunds taken off.
tags: [marketing]
vars: {since: now - 60d}
*/
-- A refund counts from its own moment on, so that this query is right for any :now. :high_value is in audiencesync.yml.
SELECT user_id
FROM orders
WHERE completed_at > :since AND completed_at <= :now
  AND (refunded_at IS NULL OR refunded_at > :now)
GROUP BY user_id
HAVING sum(total) >= :high_value
""",
    "at_risk": """\
/* audiencesync
name: At risk
description: Ordered at least twice, but not in the last 30 days.
tags: [marketing]
vars: {quiet_since: now - 30d}
*/
SELECT user_id
FROM orders
WHERE completed_at <= :now
GROUP BY user_id
HAVING count(*) >= 2 AND max(completed_at) <= :quiet_since
""",
}
"""The SQL files by their key."""

TESTS = {
    "high_value": """\
# What high_value.sql must do, for: audiencesync test. Each test has tables of its own; shop.db is never asked.
now: 2026-11-22T00:00:00Z
tests:
  - name: a refund counts from its own moment on
    given:
      orders:
        - {user_id: kept, total: 250, completed_at: 2026-11-01 10:00:00, refunded_at: null}
        - {user_id: later, total: 250, completed_at: 2026-11-01 10:00:00, refunded_at: 2026-11-22 00:00:01}
        - {user_id: refunded, total: 900, completed_at: 2026-11-01 10:00:00, refunded_at: 2026-11-10 09:00:00}
    expect: [kept, later]

  - name: orders add up, but for those that are 60 days old
    vars: {high_value: 100}           # in place of the one in audiencesync.yml
    given:
      orders:
        - {user_id: twice, total: 60, completed_at: 2026-11-01 10:00:00, refunded_at: null}
        - {user_id: twice, total: 40, completed_at: 2026-11-02 10:00:00, refunded_at: null}
        - {user_id: old, total: 900, completed_at: 2026-09-23 00:00:00, refunded_at: null}
    expect: [twice]
""",
}
"""The tests that lie beside some of them."""


def write_project(directory: Path) -> None:
    """Write all files, in the words that suit a server on this machine."""
    (directory / "audiences").mkdir()
    for key, text in AUDIENCES.items():
        (directory / "audiences" / f"{key}.sql").write_text(text, encoding="utf-8")
    for key, text in TESTS.items():
        (directory / "audiences" / f"{key}.test.yml").write_text(text, encoding="utf-8")
    (directory / ".env").write_text(_ENVIRONMENT, encoding="utf-8")
    (directory / ".gitignore").write_text(_IGNORED, encoding="utf-8")
    _write_main(directory, names="segment", segment=_REHEARSAL)


def settle_in(directory: Path) -> None:
    """Rewrite audiencesync.yml for the time after the demo: careful defaults for Segment, and the file is told too."""
    _write_main(directory, names="segment, file", segment="")


def _write_main(directory: Path, *, names: str, segment: str) -> None:
    (directory / "audiencesync.yml").write_text(_MAIN.format(names=names, segment=segment), encoding="utf-8")

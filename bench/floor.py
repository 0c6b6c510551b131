"""The least that anybody would write: reads the users, builds the same calls in batches of 100, sends nothing."""

from __future__ import annotations

import json
import sqlite3
import sys
import uuid


def main(path: str) -> None:
    """Print how many bytes the bodies of all members of the SQLite file at `path` have."""
    size = 0
    batch = []
    for (user,) in sqlite3.connect(path).execute("SELECT user_id FROM users"):
        batch.append({
            "type": "identify", "messageId": uuid.uuid4().hex, "userId": user,
            "timestamp": "2026-11-22T00:00:00.000Z", "traits": {"everybody": True},
            "context": {
                "personas": {"computation_class": "audience", "computation_id": "aud_0123456789abcdef0123456789a",
                             "computation_key": "everybody", "namespace": "bench", "space_id": "bench"},
                "integrations": {"personas": False}, "library": {"name": "audiencesync", "version": "0.1.0"}},
            "integrations": {}})
        if len(batch) == 100:
            size += len(json.dumps({"batch": batch}).encode())
            batch = []
    if batch:
        size += len(json.dumps({"batch": batch}).encode())
    print(size)


if __name__ == "__main__":
    main(sys.argv[1])

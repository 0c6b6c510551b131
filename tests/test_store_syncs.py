"""The rows of a sync: opened with its content fixed, moved in one commit or not at all, closed with its positions."""

from __future__ import annotations

from audiencesync.model import Span, Sync
from tests.histories import at


def draft(mode: str, *spans: Span, **other: object) -> Sync:
    """A sync that is in no table."""
    values = {"id": 2**62, "destination": "segment", "mode": mode, "secret": bytes(16), "retries_due": at(999),
              "claimed": None, "acknowledged": None, "total": 0, "sent": 0, "rejected": 0, "requests": 0,
              "opened_at": at(0), "spans": spans}
    return Sync(**{**values, **other})  # type: ignore[arg-type]

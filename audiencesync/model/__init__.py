"""The data that travels between the rooms, all of it frozen, and the base class of every destination."""

from audiencesync.model.calls import Batch, Call, Channel, Content, Envelope, Packed, Packer, Refusal
from audiencesync.model.definitions import (
    ID_COLUMNS,
    Ago,
    AlertChannel,
    Audience,
    Chunk,
    Freshness,
    Project,
    SourceSettings,
    Variable,
)
from audiencesync.model.destination import Destination
from audiencesync.model.syncs import (
    Outcome,
    Page,
    Plan,
    PlannedAudience,
    PlannedDelivery,
    PlannedSync,
    Progress,
    Report,
    Run,
    Span,
    Sync,
)
from audiencesync.model.troubles import ALERTS, Trouble

__all__ = [
    "ALERTS",
    "ID_COLUMNS",
    "Ago",
    "AlertChannel",
    "Audience",
    "Batch",
    "Call",
    "Channel",
    "Chunk",
    "Content",
    "Destination",
    "Envelope",
    "Freshness",
    "Outcome",
    "Packed",
    "Packer",
    "Page",
    "Plan",
    "PlannedAudience",
    "PlannedDelivery",
    "PlannedSync",
    "Progress",
    "Project",
    "Refusal",
    "Report",
    "Run",
    "SourceSettings",
    "Span",
    "Sync",
    "Trouble",
    "Variable",
]

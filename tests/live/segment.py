"""What Segment's reference leaves open: what a wrong write key is answered with."""

from __future__ import annotations

from pydantic import SecretStr

from audiencesync.destinations.segment import Segment
from audiencesync.errors import AccountRefused, CallsRefused
from tests.live.question import Account, Question
from tests.live.talk import Talk


def a_wrong_write_key(talk: Talk) -> str:
    """What it is answered with; the call reaches no source."""
    name = talk.name()
    try:
        talk.tell(name, by=talk.destination.model_copy(update={"write_key": SecretStr(name)}))
    except AccountRefused:
        return "refused"
    except CallsRefused:
        return "calls_refused"
    return "accepted"


ACCOUNT = Account("SEGMENT", Segment, (
    Question(a_wrong_write_key, "write_key", "accepted", wrong={
        "calls_refused": "whoever mistypes it has all users rejected; the destination has to learn it"}, hints={
        "refused": "a wrong one pauses the destination, and doctor could find it out"}),
), required={"KEY": "write_key"}, optional={"REGION": "region"})
"""Segment, or a receiver of its batches at URL."""

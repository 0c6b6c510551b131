"""What to claim, what an answer means, what to do next: a state machine without I/O."""

from audiencesync.delivery.machine import Delivery
from audiencesync.delivery.pace import Crowd, Load, Pace, page_size
from audiencesync.delivery.rehearse import Cost, rehearse
from audiencesync.delivery.steps import Commit, Flight, Read, Send, Step, Stop, Wait

__all__ = ["Commit", "Cost", "Crowd", "Delivery", "Flight", "Load", "Pace", "Read", "Send", "Step", "Stop", "Wait",
           "page_size", "rehearse"]

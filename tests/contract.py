"""The contract suite that ships with the package, by the name that the tests know it by."""

from audiencesync.testing import SECRET, DestinationContract, HttpDestinationContract, Limits, Place, content, envelope

__all__ = ["SECRET", "DestinationContract", "HttpDestinationContract", "Limits", "Place", "content", "envelope"]

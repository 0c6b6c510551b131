"""The server on loopback that ships with the contract suite, by the name that the tests know it by."""

from audiencesync.testing.loopback import Answer, Fault, Loopback, Request, Script, fault_of

__all__ = ["Answer", "Fault", "Loopback", "Request", "Script", "fault_of"]

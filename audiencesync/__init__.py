"""Keeps audiences, written as SQL, in step with the tools that talk to customers."""

__version__ = "0.1.0"

"""Turns a trait that was declared without SQL into the one SELECT that gives its values."""

from audiencesync.declared.query import ENGINES, Compiled, compile_trait
from audiencesync.declared.spec import Condition, EventTable, Trait, Window

__all__ = ["ENGINES", "Compiled", "Condition", "EventTable", "Trait", "Window", "compile_trait"]

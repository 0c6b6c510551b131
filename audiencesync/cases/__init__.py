"""Runs the tests of definitions: each in a database of its own, through the code that reads every source."""

from audiencesync.cases.bench import DIALECTS, open_bench
from audiencesync.cases.run import run_case

__all__ = ["DIALECTS", "open_bench", "run_case"]

"""Results as people and programs read them: text, JSON, exit codes."""

from audiencesync.report.outcomes import document, exit_code, run_row, text
from audiencesync.report.words import moment, number, stamp, table

__all__ = ["document", "exit_code", "moment", "number", "run_row", "stamp", "table", "text"]

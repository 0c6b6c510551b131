"""Results as people and programs read them: text, JSON, exit codes."""

from audiencesync.report.outcomes import code_of, document, exit_code, run_row, text
from audiencesync.report.plans import plan_document, plan_exit_code, plan_markdown, plan_text
from audiencesync.report.words import cause, counted, moment, number, plain, stamp, table

__all__ = [
    "cause",
    "code_of",
    "counted",
    "document",
    "exit_code",
    "moment",
    "number",
    "plain",
    "plan_document",
    "plan_exit_code",
    "plan_markdown",
    "plan_text",
    "run_row",
    "stamp",
    "table",
    "text",
]

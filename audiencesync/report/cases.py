"""What came of the tests of definitions: lines that show what is different, a JSON document, an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby

from audiencesync.errors import Problem
from audiencesync.model.cases import Difference, Verdict
from audiencesync.report.words import counted, plain

MOST = 10
"""Lines of each kind of difference that people are shown; programs are given all."""

_CODES = {"passed": 0, "failed": 2, "error": 2, "unavailable": 75}
_ONE = {"missing": "expected, but not in the result", "unexpected": "in the result, but not expected"}


def verdicts_text(verdicts: Sequence[Verdict], problems: Sequence[Problem]) -> str:
    """A line for each case, below it what is different, and how many there are of each kind."""
    lines = [line for verdict in verdicts for line in _verdict(verdict)]
    counts = {status: sum(verdict.status == status for verdict in verdicts) for status in _CODES}
    wrong = sum(problem.severity == "error" for problem in problems)
    parts = [f"{count} {'with an error' if status == 'error' else status}" for status, count in counts.items() if count]
    parts += [f"{counted(wrong, 'mistake')} in test files"] if wrong else []
    total = f"{counted(len(verdicts), 'test')}: {', '.join(parts)}"
    return "\n".join([*lines, *map(str, problems), total])


def verdicts_document(verdicts: Sequence[Verdict], problems: Sequence[Problem]) -> dict[str, object]:
    """The same for programs."""
    return {"tests": [_row(verdict) for verdict in verdicts],
            "problems": [{"file": problem.file, "line": problem.line, "column": problem.column,
                          "severity": problem.severity, "message": problem.message, "hint": problem.hint}
                         for problem in problems],
            "passed": sum(verdict.status == "passed" for verdict in verdicts),
            "failed": sum(verdict.status != "passed" for verdict in verdicts),
            "exit_code": verdicts_code(verdicts, problems)}


def verdicts_code(verdicts: Sequence[Verdict], problems: Sequence[Problem]) -> int:
    """2 where a test fails or cannot be read, 75 where only the database is away, else 0."""
    codes = {_CODES[verdict.status] for verdict in verdicts}
    codes |= {2 for problem in problems if problem.severity == "error"}
    return next((code for code in (2, 75) if code in codes), 0)


def _verdict(verdict: Verdict) -> Iterator[str]:
    case = verdict.case
    place = "" if verdict.status == "passed" else f"  ({case.path.as_posix()}:{case.line})"
    yield f"{verdict.status:<11} {verdict.key}: {plain(case.name)}{place}"
    yield from (f"    {line}" for line in verdict.message.split("\n") if line)
    for kind, group in groupby(verdict.differences, key=lambda difference: difference.kind):
        found = list(group)
        yield from (f"    {kind:<10}  {_words(difference)}" for difference in found[:MOST])
        if len(found) > MOST:
            yield f"    {kind:<10}  and {len(found) - MOST:,} more"


def _words(difference: Difference) -> str:
    user = plain(difference.user_id)
    if difference.kind in _ONE:
        row = difference.expected if difference.kind == "missing" else difference.found
        values = f" {_shown(row)}" if row else ""
        return f"{user}{values}: {_ONE[difference.kind]}"
    return (f"{user} {plain(difference.column)}: expected {_shown(difference.expected)}, "
            f"found {_shown(difference.found)}")


def _row(verdict: Verdict) -> dict[str, object]:
    return {"key": verdict.key, "name": verdict.case.name, "file": verdict.case.path.as_posix(),
            "line": verdict.case.line, "status": verdict.status, "message": verdict.message,
            "differences": [_difference(difference) for difference in verdict.differences]}


def _difference(difference: Difference) -> Mapping[str, object]:
    return {"kind": difference.kind, "user_id": difference.user_id, "column": difference.column,
            "expected": _jsonable(difference.expected), "found": _jsonable(difference.found)}


def _shown(value: object) -> str:
    text = plain(json.dumps(_jsonable(value), ensure_ascii=False))
    return text if len(text) <= 200 else f"{text[:197]}..."


def _jsonable(value: object) -> object:
    """Numbers as JSON has them, which may round what only a Decimal can hold."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 1e18 else float(value)
    if isinstance(value, Mapping):
        return {name: _jsonable(inner) for name, inner in value.items()}
    return [_jsonable(inner) for inner in value] if isinstance(value, list | tuple) else value

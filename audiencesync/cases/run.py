"""One case: its tables are made, the definition is asked as of its moment, and the result is held against it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from audiencesync.cases.bench import Bench
from audiencesync.cases.compare import Found, differences
from audiencesync.cases.tables import Unmade
from audiencesync.errors import QueryError, SourceUnavailable
from audiencesync.model import Audience
from audiencesync.model.cases import Case, Verdict
from audiencesync.report import counted

_FOREIGN = ("a trait without SQL can be tested in the dialect of source.url alone, for which its SQL is made; name "
            "such a database, or none, by --url")


def run_case(audience: Audience, case: Case, bench: Bench, interrupted: Callable[[], bool]) -> Verdict:
    """The verdict on one case; raises Interrupted soon after `interrupted()` is true."""
    if audience.declared and bench.foreign:
        return Verdict(audience.key, case, "error", _FOREIGN)
    asked = replace(audience, variables={**audience.variables, **case.variables})
    try:
        with bench.open(case) as source:
            result = source.read(asked, case.now, interrupted=interrupted)
            found = Found.of(asked, result.id_kind, list(result.traits), result.chunks)
    except SourceUnavailable as error:
        return Verdict(audience.key, case, "unavailable", str(error))
    except QueryError as error:
        return _fallen(audience, case, str(error))
    except (Unmade, OverflowError) as error:  # a moment some time before `now` may lie before the calendar
        return Verdict(audience.key, case, "error", str(error))
    return _held_against(audience, case, found, {*audience.include, *result.traits})


def _held_against(audience: Audience, case: Case, found: Found, known: Collection[str]) -> Verdict:
    """What a result means; `known` are the columns that it has besides the ids."""
    expected = case.expected
    if expected is None:
        return Verdict(audience.key, case, "failed", f"it should fail with {case.error!r}, but its result has "
                                                     f"{counted(len(found.ids), 'user')}")
    if expected.id_kind not in ("", found.id_kind):
        return Verdict(audience.key, case, "failed", f"the result names users by {found.id_kind}, and the test "
                                                     f"by {expected.id_kind}")
    unknown = [column for column in expected.columns if column not in known]
    if unknown and found.ids:
        return Verdict(audience.key, case, "failed", f"the result has no {unknown[0]}; "
                                                     f"it has {', '.join(sorted(known)) or 'ids alone'}")
    different = tuple(differences(expected, found))
    return Verdict(audience.key, case, "failed" if different else "passed", differences=different)


def _fallen(audience: Audience, case: Case, said: str) -> Verdict:
    """What a failing run means: just what is expected, something else, or that the case says too little."""
    if case.error and case.error.casefold() in said.casefold():
        return Verdict(audience.key, case, "passed")
    if case.error:
        return Verdict(audience.key, case, "failed", f"it should fail with {case.error!r}, but says:\n{said}")
    given = ", ".join(fixture.name for fixture in case.given) or "none"
    return Verdict(audience.key, case, "error", f"{said}\n       = tables given: {given}")

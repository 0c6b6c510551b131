"""Exit codes, and results as text and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from audiencesync import report
from audiencesync.model import Outcome, Report, Run

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


def _of(*statuses: str, errors: tuple[int, ...] = (), rejected: int = 0) -> Report:
    return Report((), tuple(Outcome("segment", "incremental", status, keys=(str(at),))
                            for at, status in enumerate(statuses)),
                  tuple((code, "words") for code in errors), rejected)


@pytest.mark.parametrize(("made", "code"), [
    (_of(), 0), (_of("done", "done"), 0), (_of("waiting"), 75), (_of("paused"), 75), (_of("interrupted"), 75),
    (_of("held"), 4), (_of("leased"), 99), (_of("done", rejected=1), 3),
    (_of("held", rejected=1), 4), (_of("held", "waiting", rejected=1), 75), (_of("waiting", "leased"), 99),
    (_of("leased", errors=(2,)), 2), (_of("done", errors=(2, 70, 75)), 70), (_of("done", errors=(75,)), 75),
    (_of("unheard of"), 70),
])
def test_the_first_exit_code_of_the_contract_that_applies_is_the_commands(made: Report, code: int) -> None:
    assert report.exit_code(made) == code


@pytest.mark.parametrize(("allow", "code"), [((), 4), (("held",), 3), (("rejected",), 4), (("held", "rejected"), 0)])
def test_what_is_allowed_counts_as_done(allow: tuple[str, ...], code: int) -> None:
    assert report.exit_code(_of("held", rejected=2), allow) == code


def test_a_paused_run_is_shown_and_is_no_error() -> None:
    made = Report((Run("buyers", 3, NOW, "paused"),))
    assert report.exit_code(made) == 0
    assert "paused" in report.text(made)


def test_a_sync_that_made_way_and_went_on_is_one_outcome() -> None:
    first = Outcome("segment", "initial", "yielded", 100, 1, 400, 500, 2, ("a",))
    between = Outcome("segment", "incremental", "done", 5, 0, 0, 5, 1, ("b",))
    second = Outcome("segment", "initial", "done", 399, 0, 0, 500, 8, ("a",))
    rows = report.document(Report((), (first, between, second)))["syncs"]
    assert isinstance(rows, list)
    assert [(row["mode"], row["status"], row["sent"], row["rejected"], row["requests"]) for row in rows] == [
        ("incremental", "done", 5, 0, 1), ("initial", "done", 499, 1, 10)]


def test_a_sync_that_made_way_and_never_went_on_waits() -> None:
    made = Report((), (Outcome("segment", "initial", "yielded", 100, 0, 400, 500, 2, ("a",)),))
    assert report.exit_code(made) == 75


def test_times_are_utc_for_programs_and_local_for_people() -> None:
    east = timezone(timedelta(hours=2), "EET")
    assert report.stamp(NOW.astimezone(east)) == "2026-11-22T06:00:00Z"
    assert report.stamp(NOW.replace(microsecond=5000)) == "2026-11-22T06:00:00.005Z"
    assert report.stamp(None) is None
    assert report.moment(NOW, east) == "2026-11-22 08:00:00 EET"


def test_text_says_why_something_is_not_done_and_what_helps() -> None:
    waiting = Outcome("segment", "", "waiting", keys=("buyers",), reason="settle", until=NOW, help="run it again")
    text = report.text(Report((), (waiting,), (), 2))
    assert "segment (buyers) is waiting: settle, until 2026-11-22 06:00:00 UTC\n  -> run it again" in text
    assert "2 users refused" in text


def test_a_table_lines_up_and_prints_nothing_that_a_terminal_obeys() -> None:
    drawn = report.table(["name", "count"], [["a\x1b[31m", "1"], ["longer", "1,000"]], right=["count"])
    assert "\x1b" not in drawn
    assert [line.rstrip()[-1] for line in drawn.splitlines()] == ["t", "1", "0"]
    assert len({len(line) for line in drawn.splitlines()}) == 1

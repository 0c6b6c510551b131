"""The log: one line for each event, alike whoever says it, which no value can forge and which tells nobody's data."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_SUBMITTED
from apscheduler.schedulers.background import BackgroundScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from audiencesync.errors import QueryError
from audiencesync.naming import check_key
from audiencesync.service.logs import LONGEST_LINE, bound, set_up

AT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
SECRET = "ada@example.com"

LOGGER = logging.getLogger("audiencesync.test")


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


Opened = Callable[..., io.StringIO]


@pytest.fixture
def opened() -> Iterator[Opened]:
    undone = []

    def begin(stream: io.StringIO | None = None, **options: object) -> io.StringIO:
        stream = io.StringIO() if stream is None else stream
        undone.append(set_up(stream, **options))
        return stream

    yield begin
    for undo in reversed(undone):
        undo()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_what_was_bound_and_what_was_added(opened: Opened) -> None:
    stream = opened()
    before = datetime.now(UTC)
    with bound(destination="segment", run=7):
        LOGGER.info("sync %s", "ended", extra={"computation": "vip", "seconds": 1.5, "again": False, "until": None})
    LOGGER.warning("afterwards")
    first, second = lines(stream)
    assert list(first) == ["at", "level", "event", "destination", "run", "computation", "seconds", "again", "until"]
    assert re.fullmatch(AT, first["at"])
    assert abs(datetime.fromisoformat(first.pop("at")) - before) < timedelta(seconds=5)
    assert first == {"level": "info", "event": "sync ended", "destination": "segment", "run": 7, "computation": "vip",
                     "seconds": 1.5, "again": False, "until": None}
    assert (second["level"], second["event"], len(second)) == ("warning", "afterwards", 3)


def test_the_closer_word_wins_over_the_bound_one_and_both_end_with_their_block(opened: Opened) -> None:
    stream = opened()
    with bound(run=1, destination="a"), bound(run=2):
        LOGGER.info("inner")
        LOGGER.info("closest", extra={"run": 3})
    with bound(run=1):
        LOGGER.info("outer")
    assert [(line["run"], line.get("destination")) for line in lines(stream)] == [(2, "a"), (3, "a"), (1, None)]


def test_what_is_bound_in_one_thread_is_not_said_of_another(opened: Opened) -> None:
    stream = opened()

    def work(number: int) -> None:
        with bound(run=number):
            for _ in range(50):
                LOGGER.info("at work", extra={"number": number})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(stream)
    assert len(found) == 200
    assert all(line["run"] == line["number"] for line in found)


def test_the_schedulers_lines_look_like_ours_and_its_jobs_errors_tell_nothing(opened: Opened) -> None:
    stream, seen = opened(), threading.Semaphore(0)

    def job() -> None:
        raise ValueError(SECRET)

    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.add_listener(lambda _: seen.release(), EVENT_JOB_SUBMITTED | EVENT_JOB_ERROR)
    scheduler.start()
    scheduler.add_job(job, misfire_grace_time=None)
    for _ in range(2):
        assert seen.acquire(timeout=10)
    scheduler.shutdown()
    [line] = lines(stream)
    assert re.fullmatch(AT, line.pop("at"))
    assert re.fullmatch(r'Job ".*" raised an exception', line.pop("event"))
    assert line == {"level": "error", "logger": "apscheduler.executors.default", "raised": "ValueError"}


def test_alembic_tells_of_a_migration_and_not_that_it_looked(opened: Opened) -> None:
    stream = opened()
    alembic = logging.getLogger("alembic.runtime.migration")
    alembic.info("Context impl %s.", "SQLiteImpl")
    alembic.info("Will assume %s DDL.", "transactional")
    alembic.info("Running %s %s -> %s", "upgrade", "0001", "0002")
    assert [line["event"] for line in lines(stream)] == ["Running upgrade 0001 -> 0002"]


@pytest.mark.parametrize("level", ["info", "debug"])
def test_libraries_do_not_tell_their_urls_parameters_and_wake_ups(opened: Opened, level: str) -> None:
    stream = opened(level=level)
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        connection.execute(text("SELECT :who"), {"who": SECRET})
    engine.dispose()
    for name in ("httpx", "httpcore.http11", "apscheduler.scheduler", "sqlalchemy.engine.Engine"):
        logging.getLogger(name).info("at %s", SECRET)
    logging.getLogger("psycopg").debug("connecting to %s", SECRET)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("level", "told"), [
    ("debug", "debug info warning error"), ("info", "info warning error"), ("warning", "warning error"),
    ("error", "error"), ("critical", ""),
])
def test_only_what_is_grave_enough_is_told(opened: Opened, level: str, told: str) -> None:
    stream = opened(level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(LOGGER, name)(name)
    assert " ".join(str(line["level"]) for line in lines(stream)) == told


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud' is not a level; write one of debug, info"):
        set_up(io.StringIO(), level="loud")


EVIL = 'x\n{"level":"info","event":"forged"}\r\x1b[2J\x1b]0;title\x07\x00\x7f\x85\u2028\u202e'


@pytest.mark.parametrize("as_json", [True, False])
def test_no_value_can_forge_a_line_or_move_a_terminal(opened: Opened, as_json: bool) -> None:
    stream = opened(json=as_json)
    with bound(bound=EVIL):
        LOGGER.info(EVIL, extra={"value": EVIL, EVIL: 1, "exception": EVIL, "stack": EVIL, "other": [EVIL]})
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().removesuffix("\n").isprintable()


def test_text_that_is_no_unicode_is_still_a_line(opened: Opened) -> None:
    stream = opened()
    record = LOGGER.makeRecord("audiencesync", 20, "", 0, "broken \ud800", (), None, extra={"a": "\udfff"})
    logging.getLogger().handlers[-1].handle(record)
    assert stream.getvalue().isascii()
    assert lines(stream)[0]["event"] == "broken \\ud800"


@given(st.text(), st.dictionaries(st.text(min_size=1), st.none() | st.booleans() | st.integers() | st.floats()
                                  | st.text() | st.binary() | st.lists(st.text()) | st.datetimes(), max_size=5),
       st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_is_said_is_one_short_line(event: str, fields: dict[str, object], as_json: bool) -> None:
    stream = io.StringIO()
    undo = set_up(stream, json=as_json)
    try:
        record = LOGGER.makeRecord(LOGGER.name, logging.INFO, "", 0, event, (), None)
        record.__dict__.update({f"x{name}": value for name, value in fields.items()})
        LOGGER.handle(record)
    finally:
        undo()
    [line] = stream.getvalue().splitlines()
    assert line.isprintable()
    assert len(line) <= LONGEST_LINE
    if as_json:
        assert len(json.loads(line)) <= 3 + len(fields)


def test_a_field_cannot_pass_itself_off_as_the_time_the_level_or_the_event(opened: Opened) -> None:
    stream = opened()
    LOGGER.info("true", extra={"at": "1999", "level": "debug", "event": "forged", "_record": 1})
    [line] = lines(stream)
    assert line.keys() == {"at", "level", "event"}
    assert (line["level"], line["event"]) == ("info", "true")
    assert line["at"] > "2"


def test_long_values_and_long_lines_are_cut(opened: Opened) -> None:
    stream = opened()
    LOGGER.info("event", extra={"long": "a" * 5000, "lines": "\n" * 5000})
    LOGGER.info("b" * 9000, extra={f"field_{number}": "é" * 3000 for number in range(20)})
    LOGGER.info("c", extra={f"field_{number}": '"' * 3000 for number in range(200)})
    first, second, third = lines(stream)
    assert first["long"] == "a" * 999 + "…"
    assert len(first["lines"]) <= 1000
    assert len(second) == 23
    assert third["cut"] is True
    assert max(map(len, stream.getvalue().splitlines())) <= LONGEST_LINE


def test_a_message_that_does_not_fit_its_values_is_still_a_line(
        opened: Opened, capfd: pytest.CaptureFixture[str]) -> None:
    stream = opened()
    for words, values in [("%d users", ("many",)), ("%s and %s", ("one",)), ("%(a)s", ({"b": 1},))]:
        logging.getLogger().handlers[-1].handle(LOGGER.makeRecord("audiencesync", 20, "", 0, words, values, None))
    assert [line["event"] for line in lines(stream)] == ["%d users", "%s and %s", "%(a)s"]
    assert "".join(capfd.readouterr()) == ""


def raise_ours() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        raise QueryError("vip: the query failed") from error


def test_an_error_of_ours_is_told_with_its_words_and_its_causes_by_their_kind(opened: Opened) -> None:
    stream = opened()
    try:
        raise_ours()
    except QueryError:
        LOGGER.exception("a run failed")
    [line] = lines(stream)
    assert line["raised"] == "QueryError: vip: the query failed < ValueError"


@pytest.mark.parametrize("as_json", [True, False])
def test_another_ones_error_is_told_without_its_words_wherever_it_stands(opened: Opened, as_json: bool) -> None:
    stream = opened(json=as_json)
    try:
        check_key(f" {SECRET}")
    except ValueError as error:
        LOGGER.exception("failed: %s", error, extra={"error": error})
        LOGGER.error("failed: %(why)s", {"why": error}, exc_info=True, stack_info=True)  # noqa: G201
        LOGGER.error(error)
        LOGGER.warning("failed", exc_info=error)
    said = stream.getvalue()
    assert len(said.splitlines()) == 4
    assert said.count("ValueError") >= 7
    assert SECRET not in said
    assert "Traceback" not in said
    assert len(re.findall(r"audiencesync/naming\.py:\d+", said)) == 3


def test_a_circle_of_errors_ends(opened: Opened) -> None:
    stream = opened()
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    LOGGER.error("failed", exc_info=one)
    assert lines(stream)[0]["raised"] == "ValueError < KeyError"


def test_a_thread_that_dies_is_a_line_without_its_errors_words(
        opened: Opened, capfd: pytest.CaptureFixture[str]) -> None:
    stream = opened()

    def die() -> None:
        raise ValueError(SECRET)

    thread = threading.Thread(target=die, name="worker")
    thread.start()
    thread.join()
    [line] = lines(stream)
    assert (line["level"], line["event"], line["thread_name"], line["raised"]) == (
        "critical", "a thread died", "worker", "ValueError")
    assert "".join(capfd.readouterr()) == ""


def test_a_warning_of_python_is_a_line_too(opened: Opened) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = opened()
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    [line] = lines(stream)
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "DeprecationWarning: old ways" in line["event"]


def test_on_a_terminal_it_is_for_people_with_colours(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = opened(Terminal())
    LOGGER.info("sync ended", extra={"destination": "segment"})
    assert "\x1b[" in stream.getvalue()
    plain = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert re.fullmatch(AT + r" \[info +\] sync ended +destination=segment\n", plain)


def test_no_color_takes_the_colours_away(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = opened(Terminal())
    LOGGER.info("sync ended", extra={"destination": "segment", "why": "it is done"})
    assert re.fullmatch(AT + r" \[info +\] sync ended +destination=segment why='it is done'\n", stream.getvalue())


def test_json_can_be_asked_for_on_a_terminal(opened: Opened) -> None:
    stream = opened(Terminal(), json=True)
    LOGGER.info("sync ended")
    assert lines(stream)[0]["event"] == "sync ended"


def test_undone_it_leaves_logging_as_it_was() -> None:
    names = ("", "audiencesync", "httpx", "apscheduler", "sqlalchemy")

    def now() -> list[object]:
        return [threading.excepthook, warnings.showwarning, list(logging.getLogger().handlers),
                *(logging.getLogger(name).level for name in names)]

    before, stream = now(), io.StringIO()
    undo = set_up(stream, level="debug")
    assert now() != before
    undo()
    assert now() == before
    LOGGER.error("unheard")
    assert stream.getvalue() == ""


def test_set_up_again_a_line_is_not_said_twice(opened: Opened) -> None:
    first, second = opened(), opened()
    LOGGER.info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_a_stream_that_takes_nothing_does_not_stop_the_work(
        opened: Opened, capfd: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    opened(Full())
    LOGGER.info("sync ended")
    assert "".join(capfd.readouterr()) == ""


def test_a_process_writes_json_into_a_pipe_and_plain_lines_to_a_terminal() -> None:
    program = ("import logging, sys; from audiencesync.service.logs import set_up; set_up(sys.stderr);"
               "logging.getLogger('audiencesync').info('here')")
    piped = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, timeout=60, check=True)
    assert json.loads(piped.stderr)["event"] == "here"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", program], stderr=theirs, env=environment, timeout=60, check=True)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert re.fullmatch(AT + r" \[info +\] here\s*", said)

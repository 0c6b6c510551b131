"""One line for each thing that happened, alike whoever says it; the only module that imports structlog, lazily."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, TextIO

from audiencesync.errors import AudiencesyncError

if TYPE_CHECKING:
    from structlog.typing import EventDict

LONGEST_LINE = 4000
LONGEST_VALUE = 1000
"""Characters; what is longer is cut, and a line that is still too long loses its last fields."""

LEVELS = ("debug", "info", "warning", "error", "critical")

_QUIET = ("apscheduler", "httpx", "httpcore", "sqlalchemy", "alembic.runtime.plugins")
"""Libraries that are heard from a warning on: below it they tell of every wake-up, every URL, every parameter."""

_CHATTER = ("Context impl", "Will assume")
_PACKAGE = Path(__file__).parents[1]
_CAUSES, _FRAMES = 5, 10
_WHOLE = 2**63


def set_up(stream: TextIO, *, json: bool | None = None, level: str = "info") -> Callable[[], None]:
    """Write everything that is logged to `stream` from now on; what is returned undoes it.

    JSON unless the stream is a terminal, where it is colours, or plain text when NO_COLOR is set.
    """
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a level; write one of {', '.join(LEVELS)}")
    handler = _Handler(stream)
    handler.setFormatter(_formatter(stream, as_json=not stream.isatty() if json is None else json))
    handler.addFilter(_is_news)
    root, ours = logging.getLogger(), logging.getLogger(_PACKAGE.name)
    before = {logger: logger.level for logger in (root, ours, *map(logging.getLogger, _QUIET))}
    replaced = [other for other in root.handlers if isinstance(other, _Handler)]
    excepthook = threading.excepthook
    for other in replaced:
        root.removeHandler(other)
    root.addHandler(handler)
    for logger in before:
        logger.setLevel(logging.WARNING)
    ours.setLevel(level.upper())
    root.setLevel(max(ours.level, logging.INFO))  # what drivers say for their own authors may hold anything
    logging.captureWarnings(True)
    threading.excepthook = _thread_died

    def undo() -> None:
        threading.excepthook = excepthook
        logging.captureWarnings(False)
        root.removeHandler(handler)
        for other in replaced:
            root.addHandler(other)
        for logger, old in before.items():
            logger.setLevel(old)

    return undo


def bound(**fields: object) -> AbstractContextManager[None]:
    """Put `fields` on every line that this thread logs within; other threads, also those it starts, have their own."""
    import structlog.contextvars

    return structlog.contextvars.bound_contextvars(**fields)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records without anything that could be somebody's data or break a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The one line."""
        # with a _ structlog's own marks begin, and with these two what another handler's formatter left behind
        tame = logging.makeLogRecord({name: value for name, value in record.__dict__.items()
                                      if not name.startswith("_") and name not in {"message", "asctime"}})
        tame.msg, tame.args, tame.exc_info, tame.exc_text, tame.stack_info = _words(record), (), None, None, None
        if record.exc_info and record.exc_info[1] is not None:
            tame.__dict__.update(_raised(record.exc_info[1]))
        return super().format(tame)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base's name
        """A full disk or a closed pipe must not end the work; there is nobody left to be told."""


def _is_news(record: logging.LogRecord) -> bool:
    """Whether it is none of the things that alembic says each time it only looks."""
    return record.name != "alembic.runtime.migration" or not str(record.msg).startswith(_CHATTER)


def _thread_died(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None and not isinstance(hook.exc_value, SystemExit):
        logging.getLogger(__name__).critical("a thread died", extra={"thread_name": hook.thread and hook.thread.name},
                                             exc_info=hook.exc_value)


def _words(record: logging.LogRecord) -> str:
    """What is said, with errors among its arguments reduced to what may be told of them."""
    args = record.args
    if isinstance(args, Mapping):
        args = {name: _told(value) for name, value in args.items()}
    elif args:
        args = tuple(map(_told, args))
    try:
        message = str(_told(record.msg))
        return message % args if args else message
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


def _told(value: Any) -> Any:
    """An error of ours with its words, another one's kind alone: its words may hold somebody's data."""
    if not isinstance(value, BaseException):
        return value
    return f"{type(value).__name__}: {value}" if isinstance(value, AudiencesyncError) else type(value).__name__


def _raised(error: BaseException) -> dict[str, str]:
    """The kinds of an error and its causes, and the places in this package which it passed."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < _CAUSES and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    places = [_place(frame.f_code.co_filename, line) for one in chain for frame, line in walk_tb(one.__traceback__)]
    ours = [place for place in dict.fromkeys(places) if place][-_FRAMES:]
    return {"raised": " < ".join(map(_told, chain))} | ({"raised_at": " > ".join(ours)} if ours else {})


def _place(file: str, line: int) -> str:
    path = Path(file)
    return f"{path.relative_to(_PACKAGE.parent).as_posix()}:{line}" if path.is_relative_to(_PACKAGE) else ""


def _formatter(stream: TextIO, *, as_json: bool) -> logging.Formatter:
    from structlog.stdlib import ExtraAdder, ProcessorFormatter

    render = _json if as_json else _console(colors=stream.isatty() and not os.environ.get("NO_COLOR"))
    return ProcessorFormatter(foreign_pre_chain=[_with_bound, ExtraAdder()],
                              processors=[_entry, lambda _logger, _name, entry: _fit(entry, render)])


def _with_bound(_logger: object, _name: str, event: EventDict) -> EventDict:
    """The bound fields, which have no order of their own, before all others."""
    from structlog.contextvars import get_contextvars

    return dict(sorted(get_contextvars().items())) | dict(event)


def _entry(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Who said what when, then the fields; a field cannot pass itself off as one of the first."""
    record: logging.LogRecord = event["_record"]
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    first: dict[str, object] = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
    if record.name.partition(".")[0] != _PACKAGE.name:
        first["logger"] = record.name
    return first | {name: value for name, value in event.items() if name not in first and not name.startswith("_")}


def _fit(entry: Mapping[str, object], render: Callable[[dict[str, object]], str]) -> str:
    """The line, short enough: at first with shorter values, then with fewer."""
    plain = {_visible(str(name), 100): _value(value) for name, value in entry.items()}
    for most in (LONGEST_VALUE, 200, 50):
        line = render({name: _visible(value, most) if isinstance(value, str) else value
                       for name, value in plain.items()})
        if len(line) <= LONGEST_LINE:
            return line
    fewer = {name: _visible(value, 50) if isinstance(value, str) else value for name, value in list(plain.items())[:10]}
    return render(fewer | {"cut": True})


def _value(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and -_WHOLE <= value < _WHOLE:
        return int(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return _value(value.value)
    return str(_told(value))


def _visible(text: str, most: int) -> str:
    """The text with what cannot be seen, such as a line's end, written as an escape; then cut, but within no escape."""
    shown: list[str] = []
    left = most
    for char in text[:most + 1]:
        piece = char if char.isprintable() else char.encode("unicode_escape").decode()
        left -= len(piece)
        if left < 0:
            return "".join([*shown[:-1], "…"])
        shown.append(piece)
    return "".join(shown)


def _json(entry: dict[str, object]) -> str:
    import orjson

    return orjson.dumps(entry).decode()


def _console(*, colors: bool) -> Callable[[dict[str, object]], str]:
    from structlog.dev import ConsoleRenderer

    renderer = ConsoleRenderer(colors=colors, sort_keys=False)
    special = {"at": "timestamp", "exception": "exception_", "stack": "stack_", "exc_info": "exc_info_"}

    def render(entry: dict[str, object]) -> str:
        return str(renderer(None, "", {special.get(name, name): value for name, value in entry.items()}))

    return render

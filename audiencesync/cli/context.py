"""What commands share: the project, the state, and the one way to answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo
    from pathlib import Path

    from audiencesync.model import Audience, Project
    from audiencesync.store.connect import Store


class Session:
    """One command's run: where the project is, how to answer, and everything else when it is asked for."""

    def __init__(self, directory: str, *, lenient: bool = False) -> None:
        self._directory, self._lenient = directory, lenient
        self.output = "text"
        self.empty: Mapping[str, object] = {}
        """What the JSON document holds when the command could not begin."""
        self.answered = False

    @property
    def directory(self) -> Path:
        """The project's folder."""
        from pathlib import Path

        return Path(self._directory)

    @cached_property
    def project(self) -> Project:
        """The project, read now; raises ProjectError.

        A lenient command, which looks or decides, goes on without the files that have a mistake, and says so: it must
        work at the very moment when somebody broke one.
        """
        from audiencesync.destinations import registry
        from audiencesync.project import load, survey

        if not self._lenient:
            return load(self.directory, registry=registry())
        found = survey(self.directory, registry=registry())
        if found.project is None:
            from audiencesync.errors import ProjectError

            raise ProjectError(found.problems)
        for problem in found.problems:
            if problem.severity == "error":
                click.echo(f"{problem}\n       = this file is left out here", err=True)
        return found.project

    @property
    def zone(self) -> tzinfo:
        """The zone in which people read times."""
        if self.project.timezone == "UTC":
            from datetime import UTC

            return UTC
        from zoneinfo import ZoneInfo

        return ZoneInfo(self.project.timezone)

    def audiences(self, patterns: Sequence[str]) -> tuple[Audience, ...]:
        """The audiences that the patterns mean; raises UsageError for one that means none."""
        from audiencesync.project import select

        return select(self.project, patterns)

    def destinations(self, names: Sequence[str]) -> tuple[str, ...]:
        """The destinations named, or all of them; raises UsageError for one that is not there."""
        from audiencesync.errors import UsageError

        known = self.project.destinations
        for name in names:
            if name not in known:
                raise UsageError(f"there is no destination {name!r}{meant(name, known)}")
        return tuple(name for name in known if not names or name in names)

    @contextmanager
    def writing(self) -> Iterator[Store]:
        """The state, made or migrated when it needs to be."""
        store = opened(self.project.state, must_exist=self.project.state_must_exist)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """The state as it is, never made nor migrated; an empty one in its place where there is none yet."""
        from audiencesync.errors import StateMissing, UsageError
        from audiencesync.store.connect import Store
        from audiencesync.store.migrate import check

        there = state_exists(self.project.state)
        store = Store.open(self.project.state if there else "sqlite://", create=False)
        try:
            state = check(store)
            if state == "empty" and self.project.state_must_exist:
                raise StateMissing(_MISSING)
            if state == "behind":
                raise UsageError("the state was written by an older version; run: audiencesync db upgrade")
            if state == "empty":
                from audiencesync.store.tables import metadata

                store.close()
                store = Store.open("sqlite://")
                metadata.create_all(store.engine)
            yield store
        finally:
            store.close()

    def say(self, document: Mapping[str, object], text: str = "") -> None:
        """Print the result; a reader that has gone away is no error."""
        self.answered = True
        if self.output == "json":
            import json

            text = json.dumps(document, indent=2)
        try:
            if text:
                click.echo(text)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def end(self, code: int) -> NoReturn:
        """End the command with this exit code."""
        raise click.exceptions.Exit(code)


def opened(url: str, *, must_exist: bool) -> Store:
    """The state, made or migrated when it needs to be; raises StateMissing for one that must exist and does not."""
    from audiencesync.errors import StateMissing
    from audiencesync.store.connect import Store
    from audiencesync.store.migrate import check, upgrade

    if must_exist and not state_exists(url):
        raise StateMissing(_MISSING)
    store = Store.open(url, create=not must_exist)
    try:
        empty = must_exist and check(store) == "empty"
        if not empty:
            upgrade(store)
    except BaseException:  # whatever it was, the connections are given back before it goes on
        store.close()
        raise
    store.close()
    if empty:
        raise StateMissing(_MISSING)
    return Store.open(url, create=False)  # one that vanishes later is missed, and never begun anew


_MISSING = ("there is no state here, and state_must_exist forbids to begin a new one, which would tell everybody anew: "
            "is its disk mounted? The very first one is made by: audiencesync db upgrade")


def state_exists(url: str) -> bool:
    """Whether a state that is a file is there; one on a server is taken to be."""
    from pathlib import Path

    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return True  # opening it says what is wrong
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()


def meant(word: str, options: Mapping[str, object] | Sequence[str]) -> str:
    """What was probably meant, or what there is, as the end of a message."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(options), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(list(options)[:12])}" if options else "; there are none yet"

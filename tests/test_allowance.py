"""A destination's limits are kept by all processes together, and its fields are there before anything is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import update

from audiencesync.errors import AccountRefused, CallsRefused, KeyRefused, NotTaken, Unanswered
from audiencesync.model import Trait
from audiencesync.model.destination import NO_KINDS
from audiencesync.report import exit_code
from audiencesync.schedule import RateLimit
from audiencesync.store.tables import destinations, identities
from tests.projects import Paged, Premises, Stopped, by_status, outcomes, stopping_at
from tests.servers import Recorder

IN_USE = '{"at":"2026-01-01T00:00:00+00:00","limits":[[2,2.5,"requests"]],"spent":null}'
CROWD = [f"u{number:03}" for number in range(100)]
Make = Callable[..., Premises]


class Counted(Paged):
    """Twelve requests a day, so three calls to a page."""

    def quota(self) -> int | None:
        return 12


class Declaring(Paged):
    """Wants a field for each key; `script` says how they stand, or raises."""

    script: ClassVar[Callable[[Sequence[str], bool], Iterable[Trait]]]
    asked: ClassVar[list[tuple[tuple[str, ...], bool]]] = []

    def prepare(self, keys: Sequence[str], *, create: bool, kinds: Mapping[str, str] = NO_KINDS) -> Iterator[Trait]:
        del kinds
        self.asked.append((tuple(keys), create))
        yield from type(self).script(keys, create)


@pytest.fixture
def make(tmp_path: Path, state_url: str) -> Iterator[Make]:
    open_ = []

    def build(*keys: str, **settings: Any) -> Premises:
        house = Premises(tmp_path, state_url, {"a": server}, *keys, **settings)
        open_.append(house)
        return house

    Declaring.asked.clear()
    with Recorder() as server:
        yield build
        for house in open_:
            house.store.close()


def day(house: Premises, **values: Any) -> None:
    with house.store.write() as connection:
        connection.execute(update(destinations).values(**values))


def test_a_days_requests_are_counted_over_processes_and_renewed_by_the_day(make: Make) -> None:
    house = make("x", kind=Counted)
    server = house.servers["a"]
    house.members("x", CROWD)
    first = house.sync()
    assert outcomes(first) == [("a", "initial", "waiting", 36)]
    assert "day" in first.syncs[0].reason
    assert first.syncs[0].until is not None
    assert exit_code(first) == 75
    again = house.sync()
    assert by_status(again, "waiting")
    assert server.requests == 12, "nothing more leaves today"
    for _ in range(3):
        day(house, day="2026-01-01", retry_at=None)
        house.sync()
    assert server.requests == 34
    assert {user for (key, user), value in server.told().items() if value} == set(CROWD)
    assert server.changed_message_ids() == []


def test_a_share_of_a_limit_is_what_is_used(make: Make) -> None:
    house = make("x", rate=RateLimit(20, 1.0, "items"), share=0.5)
    assert house.project.destinations["a"].limits() == (RateLimit(10, 1.0, "items"),)
    house.members("x", CROWD[:30])
    began = time.monotonic()
    assert exit_code(house.sync()) == 0
    assert time.monotonic() - began >= 2.0


def test_two_commands_in_a_row_keep_one_limit_together(make: Make) -> None:
    house = make("x", rate=RateLimit(2, 3.0, "requests"))
    house.members("x", CROWD[:20])
    began = time.monotonic()
    assert exit_code(house.sync()) == 0
    house.members("x", CROWD[:30])
    assert exit_code(house.sync()) == 0
    assert time.monotonic() - began >= 3.0, "the third request is one too many for the first window"


def test_after_a_crash_a_window_passes_since_nobody_knows_what_was_sent(make: Make) -> None:
    house = make("x", rate=RateLimit(2, 2.5, "requests"))
    house.members("x", CROWD[:10])
    assert exit_code(house.sync()) == 0
    time.sleep(2.6)
    with house.store.write() as connection:  # as it stands there while a process is at work
        connection.execute(update(destinations).values(
            paced=IN_USE))
    house.members("x", CROWD[:20])
    began = time.monotonic()
    assert exit_code(house.sync()) == 0
    assert time.monotonic() - began >= 2.5


def test_a_field_that_was_deleted_is_declared_again_within_a_day(make: Make) -> None:
    house = make("x", kind=Declaring)
    Declaring.script = staticmethod(lambda keys, create: [Trait(key, "made", "made") for key in keys])
    house.members("x", CROWD[:5])
    house.sync()
    with house.store.write() as connection:
        connection.execute(update(identities).values(value='"2020-01-01T00:00:00+00:00"'))
    house.members("x", CROWD[:6])
    house.sync()
    assert len(Declaring.asked) == 2


@pytest.mark.parametrize("error", [Unanswered("503", status=503), KeyRefused("403", status=403), KeyError("bug")])
def test_one_field_that_cannot_be_declared_stops_its_own_audience_alone(make: Make, error: Exception) -> None:
    house = make("x", "y", kind=Declaring)

    def script(keys: Sequence[str], create: bool) -> Iterator[Trait]:
        for key in keys:
            if key == "y":
                raise error
            yield Trait(key, "ready", "there")

    Declaring.script = staticmethod(script)
    house.members("x", CROWD[:5])
    house.members("y", CROWD[:5])
    report = house.sync()
    assert {key for key, _ in house.servers["a"].told()} == {"x"}
    [late] = [one for one in report.syncs if one.keys == ("y",)]
    assert late.status == ("held" if isinstance(error, KeyRefused) else "waiting")
    assert exit_code(report) == (4 if isinstance(error, KeyRefused) else 75)
    asked = len(Declaring.asked)
    house.sync(typed=False)
    assert len(Declaring.asked) == asked, "it is left alone for a while"
    Declaring.script = staticmethod(lambda keys, create: [Trait(key, "ready", "there") for key in keys])
    assert exit_code(house.sync()) == 0
    assert len(house.servers["a"].told()) == 10


def test_a_field_is_declared_once_before_anything_is_sent(make: Make) -> None:
    house = make("x", "y", kind=Declaring)
    server = house.servers["a"]

    def script(keys: Sequence[str], create: bool) -> list[Trait]:
        assert server.requests == 0 or set(keys) == {"y"}
        return [Trait(key, "made", f"{key} was declared") for key in keys]

    Declaring.script = staticmethod(script)
    house.members("x", CROWD[:5])
    house.sync("x")
    house.members("x", CROWD[:9])
    house.sync("x")
    house.members("y", CROWD[:2])
    house.sync()
    house.sync()
    assert Declaring.asked == [(("x",), True), (("y",), True)]
    assert sum(server.told().values()) == 11


def test_a_field_of_another_type_holds_its_audience_and_nobody_else(make: Make) -> None:
    house = make("x", "y", kind=Declaring)
    server = house.servers["a"]
    wrong = ["x"]
    Declaring.script = staticmethod(lambda keys, create: [
        Trait(key, "wrong" if key in wrong else "ready", f"the attribute {key} is of type string") for key in keys])
    house.members("x", CROWD[:5])
    house.members("y", CROWD[:2])
    report = house.sync()
    [held] = by_status(report, "held")
    assert held.keys == ("x",)
    assert "type string" in held.reason
    assert "audiencesync sync" in held.help
    assert exit_code(report) == 4
    assert {key for key, _ in server.told()} == {"y"}
    scheduled = house.sync(typed=False)
    assert by_status(scheduled, "held")
    assert Declaring.asked == [(("x", "y"), True)]
    wrong.clear()
    assert exit_code(house.sync()) == 0, "who types a command has mended it"
    assert sum(server.told().values()) == 7


def test_a_scheduled_sync_looks_again_after_an_hour(make: Make) -> None:
    house = make("x", kind=Declaring)
    Declaring.script = staticmethod(lambda keys, create: [Trait(key, "missing", f"{key} is missing") for key in keys])
    house.members("x", CROWD[:5])
    house.sync(typed=False)
    house.sync(typed=False)
    assert len(Declaring.asked) == 1
    with house.store.write() as connection:
        connection.execute(update(identities).values(
            value='{"at":"2020-01-01T00:00:00+00:00","why":"x is missing","status":"held"}'))
    Declaring.script = staticmethod(lambda keys, create: [Trait(key, "ready", "x is there") for key in keys])
    assert exit_code(house.sync(typed=False)) == 0
    assert len(house.servers["a"].told()) == 5


@pytest.mark.parametrize(("error", "status", "code"), [
    (AccountRefused("it answered 401; check the key", status=401), "paused", 75),
    (NotTaken("nobody there", wait=7.0), "waiting", 75),
    (CallsRefused("it answered 400: no such name", status=400), "held", 4)])
def test_a_destination_that_cannot_be_prepared_is_told_nothing(make: Make, error: Exception, status: str,
                                                               code: int) -> None:
    house = make("x", kind=Declaring)

    def refuse(keys: Sequence[str], create: bool) -> list[Trait]:
        raise error

    Declaring.script = staticmethod(refuse)
    house.members("x", CROWD[:5])
    report = house.sync()
    assert [(one.status, one.reason) for one in report.syncs] == [(status, str(error))]
    assert exit_code(report) == code
    assert house.servers["a"].requests == 0
    Declaring.script = staticmethod(lambda keys, create: [Trait(key, "ready", "there") for key in keys])
    day(house, paused_at=None, retry_at=None)
    assert exit_code(house.sync()) == 0
    assert len(house.servers["a"].told()) == 5


def test_a_sync_under_way_goes_on_without_an_audience_whose_field_went_wrong(make: Make) -> None:
    house = make("x", "y", kind=Declaring)
    Declaring.script = staticmethod(lambda keys, create: [Trait(key, "ready", "there") for key in keys])
    house.members("x", CROWD)
    house.members("y", CROWD)
    with pytest.raises(Stopped), stopping_at("page.acknowledged", 2):
        house.sync()
    with house.store.write() as connection:
        connection.execute(identities.delete())
    Declaring.script = staticmethod(lambda keys, create: [
        Trait(key, "wrong" if key == "x" else "ready", "of another type") for key in keys])
    house.settle_on("a", settle=timedelta(0))
    with house.other_process() as other:
        report = house.sync(store=other)
    told = house.servers["a"].told()
    assert {user for (key, user), value in told.items() if key == "y" and value} == set(CROWD)
    assert len([key for key, _ in told if key == "x"]) < 100
    assert [one.keys for one in by_status(report, "held")] == [("x",)]
    assert house.servers["a"].changed_message_ids() == []

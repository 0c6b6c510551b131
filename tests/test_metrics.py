"""Metrics: what a scrape says, that its labels are bounded, and that scrapes cannot tire the state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from audiencesync import __version__, meter
from audiencesync.errors import StateUnavailable
from audiencesync.model.troubles import ALERTS
from audiencesync.service import metrics as module
from audiencesync.service.metrics import MOST, AudienceFacts, DestinationFacts, Facts, Metrics, StandingFacts

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

FACTS = Facts(
    audiences=(AudienceFacts("vip", 925, 60.0), AudienceFacts("new", None, None, paused=True)),
    destinations=(DestinationFacts("segment"), DestinationFacts("file", paused=True)),
    standings=(StandingFacts("vip", "segment", 11, 7200.0, 3600.0, 2, held=True),
               StandingFacts("vip", "file", paused=True)),
    troubles={"held": 1, "paused": 2, "retry": 1},
)


class Clock:
    """Stands still unless it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class State:
    """Gives facts, or fails as it is told; counts how often it is asked."""

    def __init__(self, facts: Facts = FACTS) -> None:
        self.facts, self.asked = facts, 0
        self.error: Exception | None = None

    def __call__(self) -> Facts:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.facts


def scrape(metrics: Metrics) -> Samples:
    """Every sample of a page, as a scraper reads it."""
    body, content_type = metrics.page()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    found: Samples = {}
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation
        for sample in family.samples:
            name = sample.name, tuple(sorted(sample.labels.items()))
            assert name not in found
            found[name] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((f"audiencesync_{name}", tuple(sorted(labels.items()))))


@pytest.fixture
def installed() -> Iterator[Callable[[Metrics], None]]:
    yield meter.install
    meter.install(None)


def test_a_scrape_says_where_everything_stands() -> None:
    found = scrape(Metrics(State(), clock=Clock()))
    stand = {"audience": "vip", "destination": "segment"}
    assert value(found, "state_up") == 1
    assert value(found, "members", audience="vip") == 925
    assert value(found, "members", audience="new") is None
    assert value(found, "seconds_since_run", audience="vip") == 60
    assert value(found, "seconds_since_success", **stand) == 7200
    assert value(found, "oldest_unsent_seconds", **stand) == 3600
    assert value(found, "pending", **stand) == 11
    assert value(found, "rejected", **stand) == 2
    assert value(found, "held", **stand) == 1
    assert value(found, "seconds_since_success", audience="vip", destination="file") is None
    assert value(found, "oldest_unsent_seconds", audience="vip", destination="file") == 0


def test_what_is_paused_is_told_for_audiences_destinations_and_both() -> None:
    found = scrape(Metrics(State()))
    paused = {(audience, destination): value(found, "paused", audience=audience, destination=destination)
              for audience, destination in [("vip", ""), ("new", ""), ("", "segment"), ("", "file"),
                                            ("vip", "segment"), ("vip", "file")]}
    assert paused == {("vip", ""): 0, ("new", ""): 1, ("", "segment"): 0, ("", "file"): 1,
                      ("vip", "segment"): 0, ("vip", "file"): 1}


def test_every_kind_of_trouble_is_counted_also_when_there_is_none() -> None:
    found = scrape(Metrics(State()))
    counts = {kind: value(found, "troubles", kind=kind) for kind in [*ALERTS, "other"]}
    assert counts == {**dict.fromkeys(ALERTS, 0), "held": 1, "other": 3}


def test_what_the_process_did_is_counted_through_the_meter(installed: Callable[[Metrics], None]) -> None:
    metrics = Metrics(State(Facts()))
    installed(metrics)
    meter.calls("segment", "vip", "accepted", 40)
    meter.calls("segment", "vip", "accepted", 2)
    meter.calls("segment", "vip", "rejected", 1)
    meter.request("segment", "answered", 0.3)
    meter.request("segment", "Unanswered", 30.0)
    meter.run("vip", "done", 2.5, entered=6, exited=5)
    meter.run("vip", "failed", 0.5)
    found = scrape(metrics)
    assert value(found, "calls_total", destination="segment", audience="vip", outcome="accepted") == 42
    assert value(found, "calls_total", destination="segment", audience="vip", outcome="rejected") == 1
    assert value(found, "changes_total", audience="vip", direction="entered") == 6
    assert value(found, "changes_total", audience="vip", direction="exited") == 5
    assert value(found, "run_seconds_sum", audience="vip", status="done") == 2.5
    assert value(found, "run_seconds_count", audience="vip", status="failed") == 1
    assert value(found, "request_seconds_bucket", destination="segment", outcome="answered", le="0.25") == 0
    assert value(found, "request_seconds_bucket", destination="segment", outcome="answered", le="0.5") == 1
    assert value(found, "request_seconds_count", destination="segment", outcome="Unanswered") == 1


def test_nothing_listens_once_it_is_taken_away() -> None:
    metrics = Metrics(State(Facts()))
    meter.install(metrics)
    meter.install(None)
    meter.calls("segment", "vip", "accepted", 40)
    meter.run("vip", "done", 1.0)
    assert value(scrape(metrics), "calls_total", destination="segment", audience="vip", outcome="accepted") is None


def test_the_version_and_the_process_are_told() -> None:
    found = scrape(Metrics(State()))
    assert value(found, "build_info", version=__version__) == 1
    assert found["process_resident_memory_bytes", ()] > 1e6
    assert not [name for name, _ in found if name.endswith("_created")]


def test_two_meters_of_one_process_do_not_share_their_counts() -> None:
    one, other = Metrics(State()), Metrics(State())
    one.run("vip", "done", 1.0, entered=1)
    assert value(scrape(other), "changes_total", audience="vip", direction="entered") is None


@given(st.text(), st.text(), st.text())
@settings(max_examples=30, deadline=None)
def test_outcomes_come_from_a_fixed_set(outcome: str, status: str, kind: str) -> None:
    metrics = Metrics(State(Facts(troubles={kind: 1})))
    metrics.calls("segment", "vip", f"x{outcome}", 1)
    metrics.request("segment", f"x{outcome}", 0.1)
    metrics.run("vip", f"x{status}", 0.1)
    found = scrape(metrics)
    assert value(found, "calls_total", destination="segment", audience="vip", outcome="other") == 1
    assert value(found, "request_seconds_count", destination="segment", outcome="other") == 1
    assert value(found, "run_seconds_count", audience="vip", status="other") == 1
    assert value(found, "troubles", kind=kind if kind in ALERTS else "other") == 1


def test_however_many_names_come_the_labels_stay_bounded() -> None:
    metrics = Metrics(State(Facts()))
    for number in range(MOST + 50):
        metrics.calls("segment", f"key_{number}", "accepted", 1)
        metrics.request(f"destination_{number}", "answered", 0.1)
    found = scrape(metrics)
    assert sum(name == "audiencesync_calls_total" for name, _ in found) == MOST + 1
    assert value(found, "calls_total", destination="segment", audience="other", outcome="accepted") == 50
    assert value(found, "request_seconds_count", destination="other", outcome="answered") == 51


def test_names_with_quotes_and_letters_of_any_script_are_read_back_as_they_are() -> None:
    key = 'a "quoted" \\ key, größe 大'
    metrics = Metrics(State(Facts(audiences=(AudienceFacts(key, 3),))))
    metrics.run(key, "done", 1.0, entered=3)
    found = scrape(metrics)
    assert value(found, "members", audience=key) == 3
    assert value(found, "changes_total", audience=key, direction="entered") == 3


def test_counts_that_make_no_sense_do_not_stop_a_sync() -> None:
    metrics = Metrics(State(Facts()))
    metrics.calls("segment", "vip", "accepted", -1)
    metrics.run("vip", "done", -0.5, entered=-3)
    assert value(scrape(metrics), "changes_total", audience="vip", direction="entered") == 0


def test_the_state_is_asked_once_in_fifteen_seconds_and_ages_grow_meanwhile() -> None:
    state, clock = State(), Clock()
    metrics = Metrics(state, clock=clock)
    for _ in range(3):
        scrape(metrics)
    clock.now += 14.5
    found = scrape(metrics)
    assert state.asked == 1
    assert value(found, "seconds_since_run", audience="vip") == 74.5
    assert value(found, "oldest_unsent_seconds", audience="vip", destination="segment") == 3614.5
    assert value(found, "oldest_unsent_seconds", audience="vip", destination="file") == 0
    clock.now += 0.5
    assert value(scrape(metrics), "seconds_since_run", audience="vip") == 60
    assert state.asked == 2


def test_an_age_is_never_negative_however_clocks_differ() -> None:
    found = scrape(Metrics(State(Facts(audiences=(AudienceFacts("vip", 1, -30.0),))), clock=Clock()))
    assert value(found, "seconds_since_run", audience="vip") == 0


def test_while_the_state_is_away_the_process_still_tells_of_itself() -> None:
    state, clock = State(), Clock()
    metrics = Metrics(state, clock=clock)
    metrics.calls("segment", "vip", "accepted", 7)
    scrape(metrics)
    state.error = StateUnavailable("the state cannot be reached")
    clock.now += 15
    for _ in range(3):
        found = scrape(metrics)
        assert value(found, "state_up") == 0
        assert value(found, "members", audience="vip") is None
        assert value(found, "calls_total", destination="segment", audience="vip", outcome="accepted") == 7
    assert state.asked == 2
    state.error = None
    clock.now += 15
    found = scrape(metrics)
    assert value(found, "state_up") == 1
    assert value(found, "members", audience="vip") == 925


def test_a_bug_in_reading_is_raised_once_and_then_the_process_tells_of_itself() -> None:
    state = State()
    state.error = RuntimeError("a bug")
    metrics = Metrics(state, clock=Clock())
    with pytest.raises(RuntimeError):
        metrics.page()
    assert value(scrape(metrics), "state_up") == 0
    assert state.asked == 1


def test_parallel_scrapes_read_the_state_once() -> None:
    class Slow(State):
        def __call__(self) -> Facts:
            time.sleep(0.3)
            return super().__call__()

    state = Slow()
    metrics = Metrics(state)
    found: list[Samples] = []
    threads = [threading.Thread(target=lambda: found.append(scrape(metrics))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [value(one, "members", audience="vip") for one in found] == [925] * 8
    assert state.asked == 1


def test_a_state_that_hangs_holds_no_other_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    hanging, over = threading.Event(), threading.Event()

    def read() -> Facts:
        hanging.set()
        over.wait(10)
        return FACTS

    metrics = Metrics(read)
    first = threading.Thread(target=metrics.page)
    first.start()
    assert hanging.wait(5)
    assert value(scrape(metrics), "state_up") == 0
    over.set()
    first.join()
    assert value(scrape(metrics), "state_up") == 1


def test_the_meter_may_be_told_from_many_threads_while_scrapes_go_on() -> None:
    metrics = Metrics(State())

    def work() -> None:
        for number in range(500):
            metrics.calls("segment", f"key_{number % 10}", "accepted", 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        scrape(metrics)
    for thread in threads:
        thread.join()
    found = scrape(metrics)
    assert sum(count for (name, _), count in found.items() if name == "audiencesync_calls_total") == 2000

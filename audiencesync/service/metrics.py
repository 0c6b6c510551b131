"""What a scrape reads: the process's own counters, and where everything stands in the state, with bounded labels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from audiencesync import __version__
from audiencesync.clock import monotonic
from audiencesync.errors import StateUnavailable
from audiencesync.model.troubles import ALERTS

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

FRESH = 15.0
"""Seconds for which what was read of the state is good enough: the state is asked no more often, whoever scrapes."""

PATIENCE = 5.0
"""Seconds that a scrape waits for another one's reading; then it answers without."""

MOST = 1000
"""Names of one kind that get a label of their own; what comes after them is counted together as `other`."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_CALLS = frozenset({"accepted", "rejected"})
_REQUESTS = frozenset({"answered", "Unanswered", "NotTaken", "CallsRefused", "AccountRefused"})
_RUNS = frozenset({"done", "failed", "stale", "unavailable"})
_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class AudienceFacts:
    """An audience as its last run left it; `run_age` is how many seconds ago the last good one was, if ever."""

    key: str
    members: int | None = None
    run_age: float | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class DestinationFacts:
    """A destination as a whole."""

    name: str
    paused: bool = False


@dataclass(frozen=True, slots=True)
class StandingFacts:
    """An audience at a destination: `success_age` and `unsent_age` in seconds, None where there is no such thing."""

    key: str
    destination: str
    pending: int = 0
    success_age: float | None = None
    unsent_age: float | None = None
    rejected: int = 0
    held: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a scrape says of the state; `troubles` counts by kind. What is retired is not in it."""

    audiences: tuple[AudienceFacts, ...] = ()
    destinations: tuple[DestinationFacts, ...] = ()
    standings: tuple[StandingFacts, ...] = ()
    troubles: Mapping[str, int] = field(default_factory=dict)


class Metrics:
    """The meter of a service, and its page for Prometheus; `read` gives the facts, or raises StateUnavailable."""

    def __init__(self, read: Callable[[], Facts], *, clock: Callable[[], float] = monotonic) -> None:
        import prometheus_client as prometheus

        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, of which nobody asks anything
        self._read, self._clock = read, clock
        self._reading = threading.Lock()
        self._facts: Facts | None = None
        self._read_at: float | None = None
        self._names: dict[str, set[str]] = {"audience": set(), "destination": set()}
        self._registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        self._changes = prometheus.Counter("audiencesync_changes", "Users who entered or exited an audience in runs.",
                                           ["audience", "direction"], registry=registry)
        self._calls = prometheus.Counter("audiencesync_calls", "Identify calls that were accepted or rejected.",
                                         ["destination", "audience", "outcome"], registry=registry)
        self._requests = prometheus.Histogram("audiencesync_request_seconds", "How long requests to destinations took.",
                                              ["destination", "outcome"], registry=registry, buckets=_BUCKETS)
        self._runs = prometheus.Summary("audiencesync_run_seconds", "How long runs took.", ["audience", "status"],
                                        registry=registry)
        prometheus.Gauge("audiencesync_build_info", "The version at work.", ["version"],
                         registry=registry).labels(__version__).set(1)

    def calls(self, destination: str, key: str, outcome: str, count: int) -> None:
        """So many calls of an audience were `accepted` or `rejected`."""
        self._calls.labels(self._name("destination", destination), self._name("audience", key),
                           _one_of(_CALLS, outcome)).inc(max(0, count))

    def request(self, destination: str, outcome: str, seconds: float) -> None:
        """One request took so long; `answered`, or the name of the error it ended with."""
        self._requests.labels(self._name("destination", destination), _one_of(_REQUESTS, outcome)).observe(seconds)

    def run(self, key: str, status: str, seconds: float, *, entered: int = 0, exited: int = 0) -> None:
        """One run ended, in which so many users entered and exited."""
        audience = self._name("audience", key)
        self._runs.labels(audience, _one_of(_RUNS, status)).observe(seconds)
        for direction, count in (("entered", entered), ("exited", exited)):
            self._changes.labels(audience, direction).inc(max(0, count))

    def page(self) -> tuple[bytes, str]:
        """The text of all metrics and its content type; the state's part is missing while the state is away."""
        from prometheus_client import CollectorRegistry, generate_latest

        facts, age = self._current()
        standing = CollectorRegistry()
        standing.register(_Snapshot(_families(facts, age)))
        return generate_latest(self._registry) + generate_latest(standing), CONTENT_TYPE

    def _current(self) -> tuple[Facts | None, float]:
        """What was last read and how many seconds ago; parallel scrapes read once, and wait a moment for it."""
        if not self._reading.acquire(timeout=PATIENCE):
            return None, 0.0
        try:
            if self._read_at is None or self._clock() - self._read_at >= FRESH:
                self._facts = None
                try:
                    self._facts = self._read()
                except StateUnavailable:
                    pass  # which is what the page says
                finally:
                    self._read_at = self._clock()
            return self._facts, self._clock() - self._read_at
        finally:
            self._reading.release()

    def _name(self, label: str, name: str) -> str:
        known = self._names[label]
        if name not in known:
            if len(known) >= MOST:
                return "other"
            known.add(name)
        return name


class _Snapshot:
    """Metrics made for one scrape."""

    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _one_of(words: frozenset[str], word: str) -> str:
    return word if word in words else "other"


def _families(facts: Facts | None, age: float) -> Iterator[GaugeMetricFamily]:
    """The gauges of `facts`, which are `age` seconds old."""
    yield _gauge("state_up", "Whether the state answered when it was last asked.", [], [((), int(facts is not None))])
    if facts is None:
        return
    one, pair = ["audience"], ["audience", "destination"]
    stand = [((at.key, at.destination), at) for at in facts.standings]
    yield _gauge("members", "Users in an audience as of its last run.", one,
                 [((at.key,), at.members) for at in facts.audiences])
    yield _gauge("seconds_since_run", "Seconds since an audience's last good run.", one,
                 [((at.key,), _later(at.run_age, age)) for at in facts.audiences])
    yield _gauge("seconds_since_success", "Seconds since a destination was last in step with an audience.", pair,
                 [(names, _later(at.success_age, age)) for names, at in stand])
    yield _gauge("oldest_unsent_seconds", "Age of the oldest change a destination was not told of; 0 without any.",
                 pair, [(names, _later(at.unsent_age, age) or 0.0) for names, at in stand])
    yield _gauge("pending", "Changes a destination was not told of yet.", pair,
                 [(names, at.pending) for names, at in stand])
    yield _gauge("rejected", "Users of an audience whom a destination refuses.", pair,
                 [(names, at.rejected) for names, at in stand])
    yield _gauge("held", "Whether changes wait for a person because they are too large.", pair,
                 [(names, int(at.held)) for names, at in stand])
    paused = [*(((at.key, ""), at.paused) for at in facts.audiences),
              *((("", at.name), at.paused) for at in facts.destinations), *((names, at.paused) for names, at in stand)]
    yield _gauge("paused", "Whether it is paused: an audience (no destination), a destination (no audience), or both.",
                 pair, [(names, int(value)) for names, value in paused])
    counts = dict.fromkeys([*ALERTS, "other"], 0)
    for kind, count in facts.troubles.items():
        counts[_one_of(frozenset(ALERTS), kind)] += count
    yield _gauge("troubles", "Things that wait or went wrong, by kind; `other` calls nobody.", ["kind"],
                 [((kind,), count) for kind, count in counts.items()])


def _later(age: float | None, seconds: float) -> float | None:
    """An age that many seconds after it was read; never negative, however clocks differ."""
    return None if age is None else max(0.0, age + seconds)


def _gauge(name: str, words: str, labels: list[str],
           values: Iterable[tuple[tuple[str, ...], Any]]) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"audiencesync_{name}", words, labels=labels)
    for at, value in values:
        if value is not None:
            family.add_metric(list(at), float(value))
    return family

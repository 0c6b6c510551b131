"""The service as people run it: rhythm, brakes, files that change while it runs, and its end."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.commands import NOWHERE, Shop
from tests.databases import PostgresServer
from tests.loopback import Answer, Fault, Loopback, Request
from tests.servers import Recorder
from tests.serving import Serving, serving, wait_for

MAIN = """\
name: shop
source: {{url: "sqlite:///shop.db"}}
state: ${{STATE}}
defaults: {{schedule: {schedule}}}
destinations:
  segment: {{type: segment, write_key: "${{WRITE_KEY}}", url: "${{SEGMENT}}", settle: 0s, timeout: 2s{more}}}
{rest}
"""
BUYERS = "SELECT user_id FROM orders GROUP BY user_id\n"


class Inbox(Loopback):
    """A webhook that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.alerts: list[dict[str, Any]] = []

    def answer(self, request: Request, *, taken: bool) -> Answer:
        if taken:
            self.alerts.append(json.loads(request.body))
        return Answer()

    def told(self, kind: str) -> list[str]:
        """The states it was told of a kind of trouble: open, recovered, ..."""
        return [alert["state"] for alert in list(self.alerts) if alert["kind"] == kind]


@contextmanager
def a_shop(root: Path, state: str, server: Recorder | None = None, *, schedule: str = "every 1s", more: str = "",
           inbox: Inbox | None = None, users: int = 100, **audiences: str) -> Iterator[Shop]:
    rest = f"alerts: [{{type: webhook, url: '{inbox.url}'}}]" if inbox else ""
    shop = Shop(root / "shop", state, url=server.url if server else NOWHERE,
                main=MAIN.format(schedule=schedule, more=more, rest=rest), **(audiences or {"buyers": BUYERS}))
    shop.orders(*(f"u{number:03}" for number in range(users)))
    yield shop


def ask(service: Serving, path: str) -> tuple[int, str]:
    """A page of its listener."""
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_query_that_returns_nobody_is_held_and_told_once_and_freed_when_it_is_mended(tmp_path: Path,
                                                                                     state_url: str) -> None:
    with Recorder() as server, Inbox() as inbox, \
            a_shop(tmp_path, state_url, server, inbox=inbox) as shop, serving(shop) as service:
        wait_for(lambda: len(server.told()) == 100)
        requests = server.requests
        shop.write("audiences/buyers.sql", BUYERS.replace("GROUP", "WHERE user_id = 'nobody' GROUP"))
        wait_for(lambda: inbox.told("held"))
        service.until("run done", members=0, count=3)
        assert inbox.told("held") == ["open"]
        assert server.requests == requests
        said = shop.run("status", "--check", "-o", "json")
        assert said.code == 4
        [held] = [wait for wait in said.document["waits"] if wait["kind"] == "held"]
        assert "all 100 members would exit" in held["why"]
        assert held["help"].startswith("audiencesync approve buyers --destination segment --run ")
        shop.write("audiences/buyers.sql", BUYERS)
        wait_for(lambda: len(inbox.told("held")) == 2)
        assert inbox.told("held") == ["open", "recovered"]
        assert server.requests == requests, "nothing had changed in the end"
        assert shop.run("status", "--check").code == 0
        assert service.end() == 0


def test_asked_to_end_in_an_initial_sync_it_ends_in_time_and_the_next_goes_on_from_the_page(tmp_path: Path,
                                                                                           state_url: str) -> None:
    with Recorder(latency=0.3) as server, \
            a_shop(tmp_path, state_url, server, more=", rate: 200, concurrency: 1", users=3000) as shop:
        with serving(shop) as service:
            wait_for(lambda: server.requests >= 3)
            began = time.monotonic()
            assert service.end() == 0
            assert time.monotonic() - began < 2 + 5, "longer than one request may take"
        told, calls = len(server.told()), len(server.calls)
        assert 0 < told < 3000
        with serving(shop) as service:
            service.until("sync done", mode="initial", seconds=60)
            assert service.end() == 0
        assert len(server.told()) == 3000
        assert len(server.calls) - 3000 <= 200, "more was told again than the page at hand"
        assert calls == told
        assert server.changed_message_ids() == []


def test_fresh_changes_keep_their_rhythm_while_a_slow_initial_sync_runs(tmp_path: Path, state_url: str) -> None:
    with Recorder() as server, a_shop(tmp_path, state_url, server, more=", rate: 150", users=50,
                                      schedule="every 2s") as shop, serving(shop) as service:
        wait_for(lambda: len(server.told()) == 50)
        shop.write("audiences/many.sql", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                                         "WHERE i < 4000) SELECT 'm' || i AS user_id FROM n\n")
        service.until("run done", computation="many")
        for number in range(4):
            shop.orders(f"new{number}")
            wait_for(lambda number=number: ("buyers", f"new{number}") in server.told(), 15)
            assert ("buyers", f"new{number}") in server.told(), "a fresh change waited for the initial sync"
        many = sum(key == "many" for key, _ in server.told())
        assert 0 < many < 4000, "the initial sync was over before anything could overtake it"
        assert service.end() == 0


def test_files_are_read_again_and_a_broken_one_keeps_its_last_good_version(tmp_path: Path) -> None:
    with Recorder() as server, Inbox() as inbox, \
            a_shop(tmp_path, "sqlite:///audiencesync.db", server, inbox=inbox, schedule="every 1h") as shop, \
            serving(shop) as service:
        service.until("run done", computation="buyers")
        shop.write("audiences/fresh.sql", BUYERS)
        service.until("run done", computation="fresh")
        wait_for(lambda: ("fresh", "u000") in server.told())
        assert ("fresh", "u000") in server.told(), "a new audience is told at once"

        shop.write("audiences/buyers.sql", "/* audiencesync\nnmae: Buyers\n*/\n" + BUYERS)
        wait_for(lambda: inbox.told("definitions"))
        assert "audiences/buyers.sql:2:1" in inbox.alerts[-1]["why"]
        shop.write("audiences/more.sql", BUYERS)
        service.until("run done", computation="more")
        shop.write("audiences/buyers.sql", "SELEC user_id FRO orders\n")
        service.until("a definition file has a mistake; its last good version stays in force", count=2)
        shop.write("audiences/buyers.sql", BUYERS + "LIMIT 60\n")
        service.until("run done", computation="buyers", count=2)
        wait_for(lambda: len(inbox.told("definitions")) == 2)
        assert inbox.told("definitions") == ["open", "recovered"]
        assert service.said("run failed") == []

        (shop.root / "audiences/more.sql").unlink()
        service.until("definitions changed", removed="more")
        wait_for(lambda: any("audiencesync retire more --clear" in line["event"] for line in list(service.lines)))
        assert any("audiencesync retire more --clear" in line["event"] for line in service.lines)
        main = (shop.root / "audiencesync.yml").read_text()
        shop.write("audiencesync.yml", main.replace("segment:", "segment"))
        wait_for(lambda: len(inbox.told("definitions")) == 3)
        (shop.root / "audiences/last.sql").write_text(BUYERS)
        shop.write("audiencesync.yml", main)
        service.process.send_signal(signal.SIGHUP)
        service.until("run done", computation="last")
        assert service.end() == 0


def test_a_state_that_is_away_is_waited_for_and_nothing_is_lost(tmp_path: Path,
                                                              postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url, Recorder() as server, a_shop(tmp_path, url, server) as shop:
        name = url.rpartition("/")[2]
        with serving(shop) as service:
            wait_for(lambda: len(server.told()) == 100)
            assert ask(service, "/readyz") == (200, "ready\n")
            postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            service.until("the state is away; it is asked again")
            shop.orders("late")
            time.sleep(4)
            status, words = ask(service, "/readyz")
            assert status == 503
            assert "the state is away" in words
            assert ask(service, "/healthz") == (200, "alive\n")
            assert "audiencesync_state_up 0" in ask(service, "/metrics")[1]
            assert len(service.said("the state is away; it is asked again")) == 1, "it is said once"
            postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            wait_for(lambda: ("buyers", "late") in server.told(), 60)
            assert ("buyers", "late") in server.told()
            wait_for(lambda: ask(service, "/readyz")[0] == 200)
            assert ask(service, "/readyz")[0] == 200
            assert service.end() == 0


def test_a_disk_that_is_full_stops_nothing_for_good_and_loses_nothing(tmp_path: Path) -> None:
    with Recorder() as server, a_shop(tmp_path, f"sqlite:///{tmp_path / 'state.db'}", server) as shop, \
            serving(shop) as service:
        wait_for(lambda: len(server.told()) == 100)
        full = max(path.stat().st_size for path in tmp_path.glob("state.db*"))
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        shop.orders(*(f"late{number:05}" for number in range(5000)))
        service.until("the state is away; it is asked again", seconds=60)
        assert ask(service, "/readyz")[0] == 503
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_for(lambda: len(server.told()) == 5100, 60)
        assert len(server.told()) == 5100
        assert server.changed_message_ids() == []
        assert len(service.said("the state is away; it is asked again")) == 1
        assert service.end() == 0


def test_a_second_service_without_a_broken_file_takes_nothing_for_over(tmp_path: Path) -> None:
    with Recorder() as server, Inbox() as inbox, \
            a_shop(tmp_path, "sqlite:///audiencesync.db", server, inbox=inbox,
                   buyers="SELECT user_id FROM nowhere\n", others=BUYERS) as shop, serving(shop):
        wait_for(lambda: inbox.told("failed"))
        shop.write("audiences/buyers.sql", "/* audiencesync\nnmae: Buyers\n*/\n" + BUYERS)
        wait_for(lambda: inbox.told("definitions"))
        with serving(shop) as second:
            second.until("serving")
            time.sleep(12)
            assert second.end() == 0
        assert inbox.told("failed") == ["open"]
        said = shop.run("status")
        assert said.code == 0
        assert "this file is left out here" in said.err
        assert "its file is gone" not in said.out


def test_a_service_may_start_before_its_state_and_ends_when_asked(tmp_path: Path) -> None:
    with a_shop(tmp_path, "postgresql+psycopg://nobody@127.0.0.1:9/none") as shop, serving(shop) as service:
        service.until("the state is waited for")
        assert service.end() == 75


@pytest.mark.parametrize("status", [401, 403])
def test_a_destination_that_refuses_the_key_is_paused_and_told_once(tmp_path: Path, status: int) -> None:
    with Recorder(lambda _number, _request: Fault(status=status)) as server, Inbox() as inbox, \
            a_shop(tmp_path, "sqlite:///audiencesync.db", server, inbox=inbox) as shop, serving(shop) as service:
        wait_for(lambda: inbox.told("refused"))
        requests = server.requests
        service.until("run done", count=4)
        assert inbox.told("refused") == ["open"]
        assert inbox.alerts[0]["help"].endswith("audiencesync resume segment")
        assert server.requests == requests
        server.script = ()
        assert shop.run("resume", "segment").code == 0
        wait_for(lambda: len(server.told()) == 100 and len(inbox.told("refused")) == 2)
        assert inbox.told("refused") == ["open", "recovered"]
        assert service.end() == 0

"""Deadlines of requests: nothing is sent after them, even by a process that was frozen and wakes too late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from audiencesync.clock import monotonic
from audiencesync.errors import NotTaken, Unanswered
from audiencesync.http import Client
from tests.loopback import Answer, Loopback, Request

FROZEN = """
import os, signal, socket, sys
from audiencesync.errors import NotTaken
from audiencesync.http import Client
look_up = socket.getaddrinfo
def freeze(*args, **more):
    found = look_up(*args, **more)
    os.kill(os.getpid(), signal.SIGSTOP)
    return found
socket.getaddrinfo = freeze
try:
    Client().post(sys.argv[1], b"{}", {}, seconds=0.2)
except NotTaken as error:
    print(error)
"""


class Taker(Loopback):
    """Counts the requests that came whole."""

    whole = 0

    def answer(self, request: Request, *, taken: bool) -> Answer:
        self.whole += 1
        return Answer()


@pytest.fixture
def client() -> Iterator[Client]:
    with closing(Client()) as made:
        yield made


@pytest.fixture
def freeze(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let an hour go by, for this thread only, once it has looked at the clock so many times."""
    def after(looks: int) -> None:
        left, mine = [looks], threading.get_ident()

        def clock() -> float:
            if threading.get_ident() != mine:
                return monotonic()
            left[0] -= 1
            return monotonic() + (3600 if left[0] < 0 else 0)

        monkeypatch.setattr("audiencesync.http.deadline.monotonic", clock)

    return after


@pytest.mark.parametrize("kept", [False, True])
def test_nothing_leaves_when_the_time_is_over_before_the_headers(
        client: Client, freeze: Callable[[int], None], *, kept: bool) -> None:
    with Taker() as server:
        if kept:
            client.post(server.url, b"{}", {}, seconds=30)
        freeze(1)
        with pytest.raises(NotTaken, match=r"too late|before anything was sent"):
            client.post(server.url, b"{}", {}, seconds=30)
    assert server.requests == kept


def test_nothing_leaves_on_a_new_connection_when_the_time_ends_behind_it(
        client: Client, freeze: Callable[[int], None]) -> None:
    with Taker() as server:
        freeze(2)
        with pytest.raises(NotTaken, match="before anything was sent"):
            client.post(server.url, b"{}", {}, seconds=30)
    assert server.requests == 0


def test_a_time_that_ends_between_headers_and_body_leaves_the_request_in_doubt(
        client: Client, freeze: Callable[[int], None]) -> None:
    with Taker() as server:
        freeze(3)
        with pytest.raises(Unanswered, match="no whole answer within 30 s"):
            client.post(server.url, b"{}", {}, seconds=30)
    assert server.whole == 0


def test_a_client_works_on_after_a_time_that_was_over(
        client: Client, freeze: Callable[[int], None]) -> None:
    with Taker() as server:
        for looks in (1, 2):  # before the headers, and between headers and body
            freeze(looks)
            with pytest.raises((NotTaken, Unanswered)):
                client.post(server.url, b"{}", {}, seconds=30)
            freeze(1000)
            assert client.post(server.url, b"{}", {}, seconds=30).status == 200


def test_a_process_frozen_while_it_looks_up_a_name_sends_nothing_when_it_wakes() -> None:
    with Taker() as server, subprocess.Popen([sys.executable, "-c", FROZEN, server.url], text=True,
                                             stdout=subprocess.PIPE) as run:
        try:
            assert os.WIFSTOPPED(os.waitpid(run.pid, os.WUNTRACED)[1])
            time.sleep(0.3)
            run.send_signal(signal.SIGCONT)
            said, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    assert "cannot be reached" in said
    assert server.requests == 0

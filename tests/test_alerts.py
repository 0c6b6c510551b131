"""Alerts: what they say, in which form, and that a receiver which misbehaves is told apart from one that took it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiencesync.alerts import message, page_of, send
from audiencesync.errors import AccountRefused, CallsRefused, DeliveryError, KeyRefused, NotTaken, Throttled, Unanswered
from audiencesync.model.definitions import AlertChannel
from audiencesync.model.troubles import ALERTS, Trouble
from tests.loopback import Answer, Fault, Loopback, Request

NOW = datetime(2026, 11, 22, 6, 30, tzinfo=UTC)
HELD = Trouble("held", "audience at_risk at segment", "4,000 of 9,000 would exit, more than 30%",
               "audiencesync approve at_risk --destination segment", since=NOW - timedelta(hours=3, minutes=12),
               key="at_risk", destination="segment", oldest_unsent=NOW - timedelta(days=2, hours=5))
SECRET = "T0DEADBEEF/B0DEADBEEF/xyzzy0123456789"


class Receiver(Loopback):
    """Remembers what it was sent."""

    path = f"/services/{SECRET}"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.taken: list[tuple[str, str, dict[str, object]]] = []

    def answer(self, request: Request, *, taken: bool) -> Answer:
        self.taken.append((request.path, request.headers["content-type"], json.loads(request.body)))
        return Answer(body=b"ok")


def channel(url: str, form: str = "slack") -> AlertChannel:
    return AlertChannel("night", form, url, tuple(ALERTS))


def slack(trouble: Trouble, *, recovered: bool = False, project: str = "shop") -> str:
    text = message("slack", trouble, recovered=recovered, project=project, now=NOW)["text"]
    assert isinstance(text, str)
    return text


def webhook(trouble: Trouble, *, recovered: bool = False, project: str = "shop") -> dict[str, object]:
    return message("webhook", trouble, recovered=recovered, project=project, now=NOW)


def failure(*script: Fault | int | str, seconds: float = 5.0, form: str = "slack") -> DeliveryError:
    with Receiver(list(script)) as server, pytest.raises(DeliveryError) as raised:
        send(channel(server.url, form), HELD, recovered=False, project="shop", seconds=seconds)
    return raised.value


def test_slack_is_told_all_that_somebody_woken_at_night_needs() -> None:
    assert slack(HELD).splitlines() == [
        ":red_circle: *shop*: audience at_risk at segment (held)",
        "*Cause*: 4,000 of 9,000 would exit, more than 30%",
        "*Since*: 2026-11-22 03:18 UTC (3 h 12 min ago)",
        "*Bytes are leaving*: no",
        "*Oldest unsent change*: 2 d 5 h old",
        "*Next*: `audiencesync approve at_risk --destination segment`",
        "*Runbook*: docs/runbook.md#held",
    ]


def test_what_is_over_asks_for_nothing() -> None:
    lines = slack(replace(HELD, leaving=True, oldest_unsent=None), recovered=True).splitlines()
    assert lines[0] == ":large_green_circle: *shop*: audience at_risk at segment (recovered)"
    assert lines[1] == "*Now*: 4,000 of 9,000 would exit, more than 30%"
    assert "*Bytes are leaving*: yes" in lines
    assert "*Oldest unsent change*: none" in lines
    assert not [line for line in lines if "Next" in line]


@pytest.mark.parametrize(("ago", "said"), [
    (timedelta(seconds=-5), "in 5 s"), (timedelta(0), "0 s ago"), (timedelta(seconds=59), "59 s ago"),
    (timedelta(minutes=59, seconds=59), "59 min ago"), (timedelta(hours=23, minutes=59), "23 h 59 min ago"),
    (timedelta(days=400), "400 d 0 h ago"),
])
def test_ages_are_said_in_two_units_also_when_a_clock_was_put_back(ago: timedelta, said: str) -> None:
    assert f"({said})" in slack(replace(HELD, since=NOW - ago))


def test_times_that_nobody_knows_are_not_invented() -> None:
    bare = Trouble("state", "the state", "cannot be reached", "audiencesync doctor")
    assert "*Since*: not known" in slack(bare)
    assert "Until" not in slack(bare)
    told = webhook(bare)
    assert [told[name] for name in ("since", "until", "oldest_unsent", "oldest_unsent_seconds")] == [None] * 4


def test_no_value_becomes_a_link_a_call_to_a_channel_or_another_line_at_slack() -> None:
    bad = replace(HELD, what="<!channel> & <https://evil.example|here>", why="one\n*Next*: `rm`\u2028\x1b[31m",
                  help="a`b")
    text = slack(bad, project="<@U1>")
    assert "&lt;!channel&gt; &amp; &lt;https://evil.example|here&gt;" in text
    assert "&lt;@U1&gt;" in text
    assert "<" not in text
    assert ">" not in text
    assert len(text.splitlines()) == 7
    assert "*Next*: `a'b`" in text.splitlines()


@given(st.text(max_size=4000), st.text(max_size=4000), st.sampled_from('&<>\n"\\é\ud800😀'))
def test_however_long_the_values_are_slack_shows_them_in_one_piece(what: str, why: str, char: str) -> None:
    long = replace(HELD, what=what + char * 5000, why=why + char * 5000, help=char * 5000, kind=char * 500,
                   until=NOW)
    text = slack(long, project=char * 500)
    assert len(text) < 3000
    assert "&" not in text.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
    told = webhook(long, project=char * 500)
    assert sum(len(value) for value in told.values() if isinstance(value, str)) < 3000


def test_a_webhook_gets_every_field() -> None:
    assert webhook(HELD) == {
        "project": "shop", "kind": "held", "state": "open", "at": "2026-11-22T06:30:00.000Z",
        "what": "audience at_risk at segment", "why": "4,000 of 9,000 would exit, more than 30%",
        "since": "2026-11-22T03:18:00.000Z", "until": None, "key": "at_risk", "destination": "segment",
        "leaving": False, "oldest_unsent": "2026-11-20T01:30:00.000Z", "oldest_unsent_seconds": 190800,
        "help": "audiencesync approve at_risk --destination segment", "runbook": "docs/runbook.md#held",
    }
    assert webhook(HELD, recovered=True)["state"] == "recovered"


def test_every_kind_has_its_page_in_the_runbook() -> None:
    assert [page_of(kind) for kind in ALERTS] == [f"docs/runbook.md#{kind}" for kind in ALERTS]


def test_a_channel_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="not to 'pager'"):
        message("pager", HELD, recovered=False, project="shop", now=NOW)


@pytest.mark.parametrize("form", ["slack", "webhook"])
def test_both_forms_arrive_as_one_json_document(form: str) -> None:
    with Receiver() as server:
        send(channel(server.url, form), HELD, recovered=False, project="shop")
    [(path, content_type, document)] = server.taken
    assert (path, content_type) == (f"/services/{SECRET}", "application/json")
    assert document.keys() == message(form, HELD, recovered=False, project="shop", now=NOW).keys()


def test_text_that_is_no_unicode_is_still_sent() -> None:
    with Receiver() as server:
        send(channel(server.url), replace(HELD, why="broken \ud800 name"), recovered=False, project="shop")
    assert "broken   name" in str(server.taken)


@pytest.mark.parametrize(("fault", "kind"), [
    (500, Unanswered), (404, AccountRefused), (403, KeyRefused), (400, CallsRefused), (429, Throttled),
    (302, AccountRefused), ("accept_then_drop", Unanswered), ("garbage", Unanswered),
])
@pytest.mark.parametrize("form", ["slack", "webhook"])
def test_whatever_else_is_answered_it_was_not_taken(fault: int | str, kind: type[DeliveryError], form: str) -> None:
    assert type(failure(fault, form=form)) is kind


@pytest.mark.parametrize("fault", ["hang", "drip", "drip_headers"])
def test_a_receiver_that_never_ends_its_answer_is_left_in_time(fault: str) -> None:
    began = time.monotonic()
    assert isinstance(failure(fault, seconds=0.3), Unanswered)
    assert time.monotonic() - began < 3


def test_where_nobody_listens_it_was_not_taken() -> None:
    with Receiver() as server:
        url = server.url
    with pytest.raises(NotTaken):
        send(channel(url), HELD, recovered=False, project="shop")


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_no_error_shows_the_address_even_where_the_receiver_repeats_it(status: int) -> None:
    said = f"no_service /services/{SECRET} or https://hooks.example/services/{SECRET}, team {SECRET[:10]}".encode()
    error = failure(Fault(status=status, body=said))
    assert "no_service" in str(error)
    assert not [piece for piece in SECRET.split("/") if piece in str(error)]
    assert "audiencesync approve" not in str(error)


def test_a_secret_in_the_query_is_none_the_less_one() -> None:
    with Receiver([Fault(status=404, body=b"key s3cr3t-t0ken is unknown")]) as server:
        url = f"{server.url}?key=s3cr3t-t0ken"
        with pytest.raises(AccountRefused) as raised:
            send(channel(url), HELD, recovered=False, project="shop")
    assert str(raised.value) == (f"{urlsplit(url).netloc} answered 404: key *** is unknown; "
                                 "check the url of alert night")


@pytest.mark.parametrize("url", ["hooks.example/x", "https://", "https://[::1/x", "ftp://hooks.example/xyzzy0",
                                 "https://me:xyzzy0@hooks.example", "https://hooks.example/ xyzzy0"])
def test_an_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(AccountRefused, match="the url of alert night cannot be sent to") as raised:
        send(channel(url), HELD, recovered=False, project="shop")
    assert "xyzzy0" not in str(raised.value)
    assert raised.value.__suppress_context__

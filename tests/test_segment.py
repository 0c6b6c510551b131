"""Segment: the contract of destinations, its body to the letter, its limits, and receivers that are like it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import pytest
from pydantic import ValidationError

from audiencesync import __version__
from audiencesync.destinations.segment import Segment
from audiencesync.errors import AccountRefused, Unanswered
from audiencesync.model import Batch, Call, Destination, Envelope
from audiencesync.schedule import RateLimit
from tests.contract import SECRET, HttpDestinationContract, Limits, content, envelope
from tests.loopback import Fault, Script
from tests.projects import Premises, Stopped, stopping_at
from tests.servers import Recorder, keys_of, said_in, user_of

KEY = str(Segment.example["write_key"])


def at(url: str, **settings: object) -> Segment:
    return Segment.model_validate({"write_key": KEY, "url": url, **settings})


def body_of(*calls: Call, **fields: object) -> bytes:
    made = Segment.model_validate(Segment.example).packer(content(envelope(**fields)))
    return made.pack(calls).batches[0].body


def calls_of(*calls: Call, **fields: object) -> list[dict]:
    return orjson.loads(body_of(*calls, **fields))["batch"]


class TestSegment(HttpDestinationContract):
    destination = Segment
    limits = Limits(calls=2500, body=500_000, call=32_000)

    def server(self, script: Script = ()) -> Recorder:
        return Recorder(script, write_key=KEY)

    def read(self, batch: Batch) -> Sequence[tuple[str, str, object]]:
        return said_in(orjson.loads(batch.body)["batch"])

    def test_calls_leave_in_their_order(self) -> None:
        calls = self.page(1)
        assert [call for batch in self.packed(calls).batches for call in batch.calls] == calls

    def test_segments_own_rules_are_kept_with_awkward_pages(self) -> None:
        with self.server() as server, closing(self.at(server.url).channel()) as channel:
            for seed in range(4):
                packer = self.at(server.url).packer(content(secret=bytes([seed])))
                for batch in packer.pack(self.page(seed)).batches:
                    channel.send(batch, seconds=10)
            assert server.violations == []
            assert server.changed_message_ids() == []


class TestCoalesced(TestSegment):
    def made(self, **settings: object) -> Destination:
        return super().made(**{"coalesce": True, **settings})

    def test_a_user_travels_once(self) -> None:
        calls = self.page(2)
        [batch] = self.packed(calls).batches
        sent = [user_of(call) for call in orjson.loads(batch.body)["batch"]]
        assert sent == list(dict.fromkeys(call.user_id for call in calls))


def merged(calls: Sequence[Call], *envelopes: Envelope) -> list[dict]:
    packer = Segment.model_validate({**Segment.example, "coalesce": True}).packer(content(*envelopes))
    return [call for batch in packer.pack(calls).batches for call in orjson.loads(batch.body)["batch"]]


ROW = [Call("u123", 0, True, '{"email":"a@b.co"}'), Call("u123", 1, False, None)]


def test_several_traits_of_a_user_are_one_call_to_the_letter() -> None:
    packer = Segment.model_validate({**Segment.example, "coalesce": True}).packer(content())
    [batch] = packer.pack(ROW).batches
    assert batch.calls == tuple(ROW)
    message_id = orjson.loads(batch.body)["batch"][0]["messageId"]
    assert batch.body.decode() == (
        '{"batch":[{"type":"identify","messageId":"' + message_id + '","userId":"u123",'
        '"timestamp":"2026-11-22T00:00:00.000Z",'
        '"traits":{"order_completed_last_30days":true,"vip":false,"email":"a@b.co"},'
        '"context":{"personas":{"computation_class":"audience",'
        '"computation_keys":["order_completed_last_30days","vip"],'
        '"namespace":"shop","space_id":"shop"},"integrations":{"personas":false},'
        f'"library":{{"name":"audiencesync","version":"{__version__}"}}}},"integrations":{{}}}}]}}')


@pytest.mark.parametrize("calls", [ROW[:1], ROW[1:]])
def test_one_trait_alone_is_the_same_call_as_without(calls: list[Call]) -> None:
    plain = Segment.model_validate(Segment.example).packer(content()).pack(calls)
    assert Segment.model_validate({**Segment.example, "coalesce": True}).packer(content()).pack(calls) == plain


def test_a_message_id_is_of_all_the_keys_in_the_body_and_of_nothing_else() -> None:
    three = [envelope(key) for key in ("a", "b", "c")]
    all_of = [Call("u", span, True, None) for span in (0, 1, 2)]
    seen = {merged([all_of[span] for span in spans], *three)[0]["messageId"]
            for spans in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))}
    assert len(seen) == 7
    other = [call._replace(value=False, included='{"x":1}') for call in all_of]
    assert merged(other, *three)[0]["messageId"] in seen
    assert merged(ROW)[0]["messageId"] == "as_84cd0efc57945126a46636799b44a6ba"


def test_included_columns_of_several_audiences_travel_together_and_replace_none_of_them() -> None:
    [call] = merged([Call("u", 0, True, '{"city":"Bern","vip":"yes"}'), Call("u", 1, True, '{"plan":"pro"}')])
    assert call["traits"] == {"order_completed_last_30days": True, "vip": True, "city": "Bern", "plan": "pro"}


def test_an_email_is_a_trait_of_the_merged_call_too() -> None:
    kinds = [envelope(key, id_kind="email") for key in ("a", "b")]
    [call] = merged([Call("a@b.co", 0, True, '{"email":"other"}'), Call("a@b.co", 1, True, None)], *kinds)
    assert (call["userId"], call["traits"]) == ("a@b.co", {"a": True, "b": True, "email": "a@b.co"})


@pytest.mark.parametrize("other", [{"integrations": ("Crisp",)}, {"timestamp": "2026-11-23T00:00:00.000Z"}])
def test_traits_that_go_elsewhere_or_speak_of_another_instant_travel_alone(other: dict) -> None:
    calls = [Call("u", span, True, None) for span in (0, 1, 2)]
    found = merged(calls, envelope("a"), envelope("b", **other), envelope("c"))
    assert [keys_of(call) for call in found] == [["a", "c"], ["b"]]


def test_what_is_too_large_together_is_tried_one_by_one() -> None:
    packer = Segment.model_validate({**Segment.example, "coalesce": True}).packer(content())
    calls = [Call("u", span, True, f'{{"note{span}":"{"x" * size}"}}') for span, size in ((0, 20_000), (1, 32_000))]
    packed = packer.pack([*calls, Call("v", 0, True, None)])
    assert [batch.calls for batch in packed.batches] == [(calls[0], Call("v", 0, True, None))]
    assert [call for call, _ in packed.refused] == [calls[1]]


def test_a_refused_call_refuses_all_the_traits_it_carries() -> None:
    calls = [*ROW, Call("v", 0, True, None)]
    destination = at("https://jitsu.example/v1/batch", coalesce=True)
    [batch] = destination.packer(content()).pack(calls).batches
    first, last = (call["messageId"] for call in orjson.loads(batch.body)["batch"])
    for name, indexes in ((first, [0, 1]), (last, [2])):
        answer = orjson.dumps({"ok": False, "errors": [f"Message ID: {name}: traits too long"]})
        with Recorder([Fault(body=answer)]) as server, closing(at(server.url).channel()) as channel:
            refused = channel.send(batch, seconds=5)
        assert {at_: refusal.reason for at_, refusal in refused.items()} == dict.fromkeys(indexes, "traits too long")


def test_coalesced_pages_are_as_long_as_a_body_of_them_and_the_shape_is_a_row() -> None:
    plain, made = (Segment.model_validate({**Segment.example, "coalesce": value}) for value in (False, True))
    assert (plain.shape, made.shape, Segment.shape) == ("call", "row", "call")
    assert made.page > plain.page == Segment.page
    assert made.model_copy() == made != plain
    assert (made.model_copy().page, set(made.model_dump())) == (made.page, set(Segment.model_fields))


def test_a_sync_of_three_audiences_tells_each_user_once_whoever_is_refused_and_whenever_it_ends(
        tmp_path: Path, state_url: str) -> None:
    users = [f"u{number:03}" for number in range(60)]
    with Recorder(refuse=["u007"]) as server, ExitStack() as stack:
        premises = Premises(tmp_path, state_url, {"segment": server}, "a", "b", "c", coalesce=True)
        stack.callback(premises.store.close)
        for step, key in enumerate("abc", 1):
            premises.members(key, users[::step])
        with stopping_at("page.acknowledged"), pytest.raises(Stopped):
            premises.sync()
        premises.sync()
        premises.sync()
        held = {(key, user): True for step, key in enumerate("abc", 1) for user in users[::step] if user != "u007"}
        assert server.told() == held
        assert len(server.unique_calls) == len(users) - 1
        server.refuse.clear()
        premises.members("a", users[1:])
        premises.members("b", [])
        premises.sync()
        assert server.told() == held | {("a", "u007"): True, ("a", "u000"): False} | {
            ("b", user): False for user in users[::2]}
        assert server.violations == []
        assert server.changed_message_ids() == []


def test_the_body_is_the_documented_one_to_the_letter() -> None:
    body = body_of(Call("u123", 0, True, '{"email":"a@b.co"}'))
    message_id = orjson.loads(body)["batch"][0]["messageId"]
    assert body.decode() == (
        '{"batch":[{"type":"identify","messageId":"' + message_id + '","userId":"u123",'
        '"timestamp":"2026-11-22T00:00:00.000Z",'
        '"traits":{"order_completed_last_30days":true,"email":"a@b.co"},'
        '"context":{"personas":{"computation_class":"audience",'
        '"computation_id":"aud_order_completed_last_30days","computation_key":"order_completed_last_30days",'
        '"namespace":"shop","space_id":"shop"},"integrations":{"personas":false},'
        f'"library":{{"name":"audiencesync","version":"{__version__}"}}}},"integrations":{{}}}}]}}')


def test_a_message_id_stays_the_same_in_every_later_version() -> None:
    [call] = calls_of(Call("u123", 0, False, None))
    assert call["messageId"] == "as_22dafd837706ad7b6b3b4141088ec787"


def test_a_message_id_does_not_depend_on_the_columns_that_travel_along() -> None:
    [bare], [dressed] = calls_of(Call("u", 0, True, None)), calls_of(Call("u", 0, True, '{"a":1}'))
    assert bare["messageId"] == dressed["messageId"]


def test_named_integrations_shut_out_all_others() -> None:
    [call] = calls_of(Call("u", 0, True, None), integrations=("Richpanel", "Crisp"))
    assert list(call["integrations"].items()) == [("All", False), ("Richpanel", True), ("Crisp", True)]


def test_an_anonymous_id_is_sent_as_one() -> None:
    [call] = calls_of(Call("a1", 0, True, None), id_kind="anonymous_id")
    assert call["anonymousId"] == "a1"
    assert "userId" not in call


def test_an_email_is_both_the_user_and_a_trait() -> None:
    calls = calls_of(Call("a@b.co", 0, True, None), Call("c@d.co", 0, True, '{"email":"other","city":"Bern"}'),
                     id_kind="email")
    assert [(call["userId"], call["traits"]["email"]) for call in calls] == [("a@b.co",) * 2, ("c@d.co",) * 2]
    assert calls[1]["traits"]["city"] == "Bern"


@pytest.mark.parametrize("included", ['{"vip":"yes"}', '{"vip":1,"city":"Bern"}', '{ "city": "Bern", "vip": false }',
                                      '{"\\u0076ip":"yes","city":"Bern"}', "{}", " { } "])
def test_an_included_column_never_replaces_the_audience(included: str) -> None:
    [call] = calls_of(Call("u", 0, True, included), key="vip")
    assert call["traits"] == {"vip": True} | ({"city": "Bern"} if "Bern" in included else {})


def test_a_key_that_json_must_escape_is_one_name() -> None:
    [call] = calls_of(Call("u", 0, True, '{"a\\"b":1}'), key='a"b')
    assert call["traits"] == {'a"b': True}


def test_a_call_over_32_kb_is_refused_and_the_others_travel() -> None:
    calls = [Call("a", 0, True, None), Call("b", 0, True, '{"note":"' + "x" * 32_000 + '"}'), Call("c", 0, True, None)]
    packed = Segment.model_validate(Segment.example).packer(content()).pack(calls)
    assert [[call.user_id for call in batch.calls] for batch in packed.batches] == [["a", "c"]]
    [(call, refusal)] = packed.refused
    assert call.user_id == "b"
    assert refusal.reason.startswith("too large: 32,")
    assert refusal.reason.endswith("Segment takes 32 KB")


@pytest.mark.parametrize("over", [0, 1])
def test_bodies_are_filled_to_the_last_byte_and_not_further(over: int) -> None:
    packer = Segment.model_validate(Segment.example).packer(content())
    bare = len(packer.pack([Call("00", 0, True, '{"n":""}')]).batches[0].body) - len('{"batch":[]}')
    sizes = [25_000 - bare - 1] * 19
    sizes.append(500_000 - len('{"batch":[]}') - 19 * 25_000 - bare + over)
    calls = [Call(f"{number:02}", 0, True, '{"n":"' + "x" * size + '"}') for number, size in enumerate(sizes)]
    assert len(packer.pack(calls).batches[0].body) == (475_011 if over else 500_000)


def test_gzip_changes_what_leaves_and_not_what_is_said() -> None:
    calls = [Call(f"u{number}", 0, True, None) for number in range(500)]
    with Recorder() as server:
        destination = at(server.url, gzip=True)
        [batch] = destination.packer(content()).pack(calls).batches
        with closing(destination.channel()) as channel:
            channel.send(batch, seconds=10)
        assert server.bodies == [batch.body]


def test_the_write_key_travels_as_basic_auth_with_its_colon() -> None:
    with Recorder(write_key="another") as server, closing(at(server.url).channel()) as channel:
        [batch] = at(server.url).packer(content()).pack([Call("u", 0, True, None)]).batches
        with pytest.raises(AccountRefused, match=r"401.*check write_key"):
            channel.send(batch, seconds=5)
    with Recorder(write_key=KEY) as server, closing(at(server.url).channel()) as channel:
        assert channel.send(batch, seconds=5) == {}
        assert server.told() == {("order_completed_last_30days", "u"): True}


@pytest.mark.parametrize(("status", "body"), [
    (200, b""), (200, b"OK"), (200, b'{"success": true}'), (201, b"null"),
    (202, b"[false]"), (200, b'{"ok": true, "errors": [], "retry": false}'), (204, b"")])
def test_a_2xx_is_a_yes_whatever_its_words(status: int, body: bytes) -> None:
    with Recorder([Fault(status=status, body=body)]) as server, closing(at(server.url).channel()) as channel:
        [batch] = at(server.url).packer(content()).pack([Call("u", 0, True, None)]).batches
        assert channel.send(batch, seconds=5) == {}


def test_a_page_of_html_is_nobodys_yes() -> None:
    """A proxy's, who wants somebody to log in."""
    with Recorder([Fault(status=200, body=b"\n <html>log in</html>")]) as server, \
            closing(at(server.url).channel()) as channel:
        [batch] = at(server.url).packer(content()).pack([Call("u", 0, True, None)]).batches
        with pytest.raises(Unanswered, match="none of Segment's answers"):
            channel.send(batch, seconds=5)


def partly_refused(errors: object) -> dict[int, str]:
    calls = [Call(name, 0, True, '{"email":"ann@b.co"}') for name in ("anna", "berta", "carla")]
    [batch] = at("https://jitsu.example/v1/batch").packer(content()).pack(calls).batches
    names = [call["messageId"] for call in orjson.loads(batch.body)["batch"]]
    said = [error.replace("$1", names[1]).replace("$2", names[2]) if isinstance(error, str) else error
            for error in errors] if isinstance(errors, list) else errors
    answer = orjson.dumps({"ok": False, "receivedEvents": 3, "okEvents": 2, "errors": said})
    with Recorder([Fault(body=answer)]) as server, closing(at(server.url).channel()) as channel:
        refusals = channel.send(batch, seconds=5)
    assert all(refusal.status == 200 for refusal in refusals.values())
    return {index: refusal.reason for index, refusal in refusals.items()}


def test_a_200_that_names_refused_calls_refuses_those_alone() -> None:
    assert partly_refused(["Message ID: $1: traits too long", "Message ID: $2: no such user carla"]) == {
        1: "traits too long", 2: "no such user ***"}


@pytest.mark.parametrize("errors", [[], None, "all", [1], ["something went wrong"], ["Message ID: nobody: x"],
                                    ["Message ID: $1: x", "and more"], ["Message ID: $1: x", "Message ID: $1: y"]])
def test_a_200_that_refuses_calls_without_naming_them_answers_nothing(errors: object) -> None:
    with pytest.raises(Unanswered):
        partly_refused(errors)


@pytest.mark.parametrize(("settings", "pace"), [
    ({}, 1000), ({"region": "eu"}, 1000), ({"rate": 50}, 50), ({"url": "https://api.segment.io/v1/batch"}, 1000),
    ({"url": "https://events.eu1.segmentapis.com/v1/batch"}, 1000), ({"url": "https://API.Segment.io/v1/batch"}, 1000),
    ({"url": "https://notsegment.io/v1/batch"}, None), ({"url": "http://localhost:1/v1/batch"}, None),
    ({"url": "https://api.segment.io.example.com/b", "rate": "5/30s"}, 5)])
def test_the_pace_is_the_setting_or_what_segment_publishes_for_itself(settings: dict, pace: int | None) -> None:
    limit = Segment.model_validate({"write_key": KEY, **settings}).pace()
    assert (limit and limit.limit) == pace
    assert limit is None or limit.unit == ("requests" if "/" in str(settings.get("rate")) else "items")
    assert limit is None or isinstance(limit, RateLimit)


def test_regions_have_their_hosts() -> None:
    addresses = [Segment.model_validate({"write_key": KEY, **settings}).address
                 for settings in ({}, {"region": "us"}, {"region": "eu"})]
    assert addresses == ["https://api.segment.io/v1/batch"] * 2 + ["https://events.eu1.segmentapis.com/v1/batch"]


def test_the_account_is_known_by_its_write_key_and_by_nothing_else() -> None:
    one = Segment.model_validate({"write_key": KEY})
    assert one.fingerprint() == at("https://elsewhere.example/v1/batch").fingerprint()
    assert one.fingerprint() != Segment.model_validate({"write_key": KEY + "x"}).fingerprint()


@pytest.mark.parametrize(("settings", "said"), [
    ({"region": "us", "url": "https://a.example/b"}, "region or url, not both"),
    ({"url": "http://a.example/b"}, "allow_http: true"),
    ({"url": "https://me:pw@a.example/b"}, "user or password"),
    ({"region": "asia"}, "'us' or 'eu'"),
    ({"write_key": ""}, "is the variable set"),
    ({"write_key": "k\nk"}, "one word"),
    ({"write_key": "k:k"}, "one word"),
    ({"settle": "soon"}, "not a duration"),
    ({"concurrency": 0}, "greater than or equal to 1")])
def test_settings_that_cannot_be_are_refused_with_a_reason(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as raised:
        Segment.model_validate({"write_key": KEY, **settings})
    assert KEY not in str(raised.value)


def test_plain_http_can_be_allowed() -> None:
    assert at("http://gateway.internal/v1/batch", allow_http=True).address == "http://gateway.internal/v1/batch"


def test_a_check_says_what_it_cannot_know() -> None:
    with Recorder() as server:
        lines = list(at(server.url).check())
    assert lines[0].endswith("answers")
    assert "cannot confirm a write key" in lines[1]


def test_the_secret_of_a_sync_may_be_any_length_a_hash_takes() -> None:
    packer = Segment.model_validate(Segment.example).packer(content(secret=SECRET * 2))
    assert packer.pack([Call("u", 0, True, None)]).batches

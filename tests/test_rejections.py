"""Users whom a destination always refuses, among many: exactly they are left out, and told once it is healed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import warm
from tests.commands import Shop
from tests.servers import Recorder, key_of, user_of

USERS = [f"u{number * 7919 % 1_000_003:07}" for number in range(50_000)]


@pytest.mark.parametrize("choose", [lambda users: sorted(users)[::250], lambda users: sorted(users)[:200]],
                         ids=["spread", "the first"])
def test_of_50000_exactly_the_200_refused_are_undelivered_until_the_server_is_healed(
        tmp_path: Path, state_url: str, choose: Callable[[list[str]], list[str]]) -> None:
    refused = set(choose(USERS))
    assert len(refused) == 200
    with Recorder(refuse=refused) as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url)
        shop.orders(*USERS)
        first = warm.run(shop, "sync", "-o", "json")
        assert (first.code, first.document["rejected"]) == (3, 200), first.err
        assert "Traceback" not in first.err
        assert told(server) == dict.fromkeys(set(USERS) - refused, 1)

        again = warm.run(shop, "sync", "--allow", "rejected", "-o", "json")
        assert (again.code, again.document["rejected"]) == (0, 200)
        listed = warm.run(shop, "rejected", "--limit", "300", "-o", "json").document["rejected"]
        assert {(row["user_id"], row["tries"]) for row in listed} == {(user, 2) for user in refused}
        assert len(server.calls) == len(USERS) - 200  # nobody else was told again

        server.refuse.clear()
        healed = warm.run(shop, "sync", "-o", "json")
        assert (healed.code, healed.document["rejected"]) == (0, 0), healed.err
        assert [one["sent"] for one in healed.document["syncs"]] == [200]
        assert told(server) == dict.fromkeys(USERS, 1)
        assert warm.run(shop, "rejected", "-o", "json").document["rejected"] == []

        requests = server.requests
        assert warm.run(shop, "sync").code == 0
        assert server.requests == requests
        assert server.violations == []
        assert server.changed_message_ids() == []


def told(server: Recorder) -> Counter[str]:
    """How many calls each user had; every one of them said true."""
    assert all(call["traits"][key_of(call)] is True for call in server.calls)
    return Counter(user_of(call) for call in server.calls)


def test_one_who_was_refused_and_left_is_told_false_and_no_more(tmp_path: Path, state_url: str) -> None:
    with Recorder(refuse=["u2"]) as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url)
        shop.orders("u1", "u2", "u3")
        assert warm.run(shop, "sync").code == 3
        shop.forget("u2")
        server.refuse.clear()
        assert warm.run(shop, "sync").code == 0
        assert [(user_of(call), call["traits"]["buyers"]) for call in server.calls] == [
            ("u1", True), ("u3", True), ("u2", False)]


def test_true_false_true_within_a_day_are_three_calls_with_three_message_ids(tmp_path: Path, state_url: str) -> None:
    with Recorder() as server:
        shop = Shop(tmp_path / "shop", state_url, url=server.url)
        shop.orders("u0")
        for hour in (3, 6, 9, 12):
            (shop.forget if hour == 9 else shop.orders)("u1") if hour > 3 else None
            assert warm.run(shop, "sync", "--as-of", f"2026-11-22T{hour:02}:00Z").code == 0
        mine = [call for call in server.calls if user_of(call) == "u1"]
        assert [call["traits"]["buyers"] for call in mine] == [True, False, True]
        assert [call["timestamp"] for call in mine] == [f"2026-11-22T{hour:02}:00:00.000Z" for hour in (6, 9, 12)]
        assert len({call["messageId"] for call in mine}) == 3
        assert len(server.calls) == 4
        assert server.told() == {("buyers", "u0"): True, ("buyers", "u1"): True}

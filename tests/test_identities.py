"""What destinations taught is kept with the commit that acknowledges it; whom people are found by is followed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest

from audiencesync.model import Progress
from audiencesync.store import accounts, content, identities, leases, syncs
from audiencesync.store.connect import Store
from audiencesync.store.migrate import upgrade
from tests.histories import AWKWARD, record, span


@pytest.fixture
def store(state_url: str) -> Iterator[Store]:
    made = Store.open(state_url)
    upgrade(made)
    yield made
    made.close()


def columns(email: str | None, note: str = "n") -> str:
    found = {"note": note} if email is None else {"email": email, "note": note}
    return orjson.dumps(found).decode()


def test_what_was_learned_is_kept_under_any_name_and_forgotten_when_it_is_empty(store: Store) -> None:
    lease = leases.acquire(store, "destination:segment", holder="h")
    record(store, "x", ["ann", "bob"], 1)
    sync = syncs.open_sync(store, lease, destination="segment", mode="initial", parts=[span(store, "x", 0, 1)],
                           retries_due=syncs.EVERYONE)
    assert sync is not None
    learned = {f"u:{name}": f"id of {name}" for name in AWKWARD}
    syncs.advance(store, lease, sync, Progress("ann", "ann", learned=learned), settle=timedelta(), finished=False)
    assert identities.known(store, "segment", learned) == learned
    assert identities.known(store, "another", learned) == {}
    assert identities.known(store, "segment", ()) == {}
    changed = {"u:a": "", "u:A": "other"}
    syncs.advance(store, lease, sync, Progress("bob", "bob", learned=changed), settle=timedelta(), finished=True)
    rest = {**learned, "u:A": "other"}
    del rest["u:a"]
    assert identities.known(store, "segment", learned) == rest
    accounts.new_account(store, lease, "segment", fingerprint="new", who="ann")
    assert identities.known(store, "segment", learned) == {}


@pytest.mark.parametrize(("before", "after", "told"), [
    (columns("a@x"), columns("b@x"), True), (columns("a@x"), columns("a@x", "other"), False),
    (columns("a@x"), columns(None), False), (columns(None), columns("a@x"), True),
    (columns('q"@x'), columns("日@x"), True)])
def test_a_changed_email_is_a_change_where_people_are_found_by_it(store: Store, before: str, after: str,
                                                                  told: bool) -> None:
    record(store, "x", [("ann", before), ("bob", columns("bob@x"))], 1)
    record(store, "x", [("ann", after), ("bob", columns("bob@x"))], 2)
    part = span(store, "x", 1, 2)
    followed = replace(part, envelope=replace(part.envelope, follows="email"))
    for one, expected in ((part, []), (followed, [("ann", True, after)] if told else [])):
        query = content.changes("incremental", one)
        with store.read() as connection:
            assert [(row.user_id, bool(row.value), row.included) for row in connection.execute(query)] == expected
    assert content.differ(store, followed) == told
    assert not content.differ(store, part)


def test_who_entered_or_left_meanwhile_is_told_once_whatever_his_email(store: Store) -> None:
    record(store, "x", [("ann", columns("a@x")), ("cid", columns("c@x"))], 1)
    record(store, "x", [("bob", columns("b@x")), ("cid", columns("d@x"))], 2)
    record(store, "x", [("bob", columns("e@x")), ("cid", columns("c@x"))], 3)
    part = span(store, "x", 1, 3)
    followed = replace(part, envelope=replace(part.envelope, follows="email"))
    with store.read() as connection:
        found = connection.execute(content.changes("incremental", followed).order_by("user_id")).all()
    assert [tuple(row) for row in found] == [("ann", 0, None), ("bob", 1, columns("e@x"))]

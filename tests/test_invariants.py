"""The twelve promises, the tests that hold each of them, and a canary that no log and no error may sing of."""

from __future__ import annotations

import ast
import base64
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.commands import MAIN, Shop
from tests.databases import WALLED
from tests.servers import Fault, Recorder, Request

PROMISES: dict[str, tuple[str, tuple[str, ...]]] = {
    "I1": ("told is exactly what was confirmed, at every instant, also right after kill -9", (
        "test_kill::test_a_command_killed_at_any_step_and_again_while_it_recovers_tells_everyone_once",
        "test_simulator::test_no_world_breaks_a_promise",
        "test_delivery::test_whatever_is_answered_it_keeps_its_promises_and_ends",
        "test_store_syncs::test_a_commit_that_is_cut_off_leaves_nothing_of_itself",
        "test_store_syncs::test_positions_move_with_the_commit_that_closes_the_sync_and_not_before",
    )),
    "I2": ("when faults stop, one clean sync makes destination and audience equal", (
        "test_simulator::test_no_world_breaks_a_promise",
        "test_replay::test_forty_days_of_real_orders_are_told_exactly",
        "test_store_content::test_content_is_the_difference_that_sets_give_in_pages_that_end_between_users",
        "test_store_runs::test_every_run_of_any_history_is_what_sets_and_dicts_say",
    )),
    "I3": ("of one user's trait, an older decision never lands after a newer one", (
        "test_simulator::test_no_world_breaks_a_promise",
        "test_sync::test_after_an_unanswered_request_the_next_sync_of_these_audiences_waits",
        "test_store_syncs::test_what_may_still_arrive_settles_from_the_last_attempt_and_never_sooner",
        "test_store_runs::test_an_older_run_is_refused_and_changes_nothing",
    )),
    "I4": ("one decision, one messageId, one body", (
        "test_kill::test_a_command_killed_at_any_step_and_again_while_it_recovers_tells_everyone_once",
        "test_simulator::test_no_world_breaks_a_promise",
        "test_store_content::test_from_any_acknowledged_point_the_same_rest_is_read_while_newer_runs_come",
        "test_sync::test_what_was_begun_is_finished_in_the_same_bytes_whatever_is_edited_meanwhile",
        "test_sync::test_true_false_true_in_a_day_are_three_calls_with_three_message_ids",
    )),
    "I5": ("nothing changed, nothing sent", (
        "test_sync::test_members_are_told_first_and_then_only_who_entered_or_left",
        "test_sync::test_included_columns_ride_along_and_send_nothing_by_themselves",
        "test_store_syncs::test_where_nothing_differs_only_the_positions_move",
        "test_store_content::test_who_enters_and_exits_between_two_runs_is_no_difference",
        "test_simulator::test_no_world_breaks_a_promise",
    )),
    "I6": ("a partial, failed or older run changes nothing", (
        "test_store_runs::test_a_read_that_fails_in_the_middle_changes_nothing_and_leaves_nothing_behind",
        "test_store_runs::test_a_run_that_ends_at_any_step_changes_nothing_and_leaves_nothing_behind",
        "test_store_runs::test_an_older_run_is_refused_and_changes_nothing",
        "test_store_runs::test_a_failed_run_has_a_number_and_changes_no_membership",
        "test_sync::test_an_audience_that_fails_never_stops_another_and_is_not_told_as_empty",
    )),
    "I7": ("nothing is dropped without a recorded act of a person", (
        "test_sync::test_a_refused_user_never_stops_another_and_is_told_when_he_is_taken_again",
        "test_store_syncs::test_a_refused_user_is_tried_at_growing_intervals_and_at_last_daily_for_ever",
        "test_sync::test_an_open_sync_of_an_audience_that_is_defined_no_more_waits_for_its_return",
        "test_sync::test_another_account_is_held_also_when_the_first_sync_never_ended",
        "test_delivery::test_a_refused_account_ends_everything_at_once_and_keeps_everything",
        "test_brakes::test_a_discarded_change_is_not_sent_and_nobody_is_asked_until_a_newer_run_is_harmless",
        "test_brakes::test_what_is_approved_is_sent_and_no_more_when_the_next_run_is_larger_still",
        "test_brakes::test_an_approval_names_what_it_is_of_and_why_and_another_run_is_refused",
        "test_brakes::test_whoever_looks_is_told_of_the_hold_with_its_counts_and_the_very_command",
        "test_retire::test_with_clear_every_member_is_told_false_exactly_once_wherever_he_was_told",
        "test_retire::test_half_an_initial_sync_to_a_destination_that_is_down_is_cleared_when_it_is_back",
        "test_retire::test_to_retire_it_again_takes_no_farewell_back",
        "test_retire::test_the_command_ends_an_audience_and_everything_that_shows_it_says_so",
        "test_pause_all::test_everything_is_paused_by_one_command_and_goes_on_by_one",
        "test_fresh::test_what_a_destination_is_owed_it_is_told_though_the_source_is_stale",
    )),
    "I8": ("a held, paused or dry run sends no request", (
        "test_sync::test_a_paused_destination_is_sent_nothing_and_misses_nothing",
        "test_sync::test_a_paused_audience_is_not_told_by_an_open_sync_either_whoever_goes_on_with_it",
        "test_sync::test_another_account_is_held_until_somebody_says_what_it_is",
        "test_plan::test_a_plan_is_exactly_what_sync_then_sends_after_any_past",
        "test_brakes::test_a_plan_is_exactly_what_sync_then_sends_with_holds_approvals_and_farewells_in_the_mix",
        "test_brakes::test_what_is_held_is_held_there_and_for_this_audience_while_all_the_rest_goes_on",
        "test_brakes::test_where_nothing_but_what_is_held_is_to_be_told_no_request_is_made",
        "test_brakes::test_a_backfill_is_no_way_around_a_held_initial_sync",
        "test_brakes::test_a_backfill_tells_again_what_was_told_and_nothing_of_what_is_held",
        "test_brakes::test_refused_users_of_what_is_held_are_left_alone_and_tried_when_it_goes_on",
        "test_brakes::test_a_broken_query_that_returns_nobody_sends_nothing_and_mending_it_is_all_there_is_to_do",
        "test_pause_all::test_everything_is_paused_by_one_command_and_goes_on_by_one",
        "test_pause_all::test_while_the_state_cannot_be_used_a_file_stops_everything",
        "test_pause_all::test_a_sync_under_way_stops_before_its_next_page_and_goes_on_there",
        "test_pause_all::test_a_changed_account_is_held_until_a_person_says_that_it_is_the_same",
        "test_retire::test_a_retired_audience_is_computed_and_told_no_more_and_the_others_go_on",
        "test_retire::test_a_sync_under_way_stops_before_its_next_page_when_its_audience_is_retired",
        "test_fresh::test_a_stale_source_is_not_asked_and_nobody_is_told_until_it_is_fresh_again",
    )),
    "I9": ("one effective worker for each destination; a holder that slept sends and changes nothing", (
        "test_store_leases::test_a_holder_that_slept_changes_nothing",
        "test_store_leases::test_of_many_processes_that_ask_at_once_one_gets_it",
        "test_sync::test_a_worker_whose_lease_was_taken_sends_and_writes_no_more",
        "test_concurrency::test_a_holder_that_slept_past_its_lease_sends_and_changes_nothing_when_it_wakes",
    )),
    "I10": ("one bad user, destination or audience never stops the others", (
        "test_sync::test_a_refused_user_never_stops_another_and_is_told_when_he_is_taken_again",
        "test_sync::test_a_destination_that_fails_never_stops_another",
        "test_sync::test_an_audience_that_fails_never_stops_another_and_is_not_told_as_empty",
        "test_sync::test_the_key_of_a_retired_audience_is_refused_and_stops_nobody",
        "test_delivery::test_bisection_finds_exactly_the_guilty_with_few_requests",
        "test_rejections::test_of_50000_exactly_the_200_refused_are_undelivered_until_the_server_is_healed",
    )),
    "I11": ("bounded time, memory and retries, whatever a server answers", (
        "test_delivery::test_whatever_is_answered_it_keeps_its_promises_and_ends",
        "test_delivery::test_it_gives_up_after_so_many_failures_in_a_row",
        "test_delivery::test_where_everybody_is_refused_the_fault_is_not_the_users",
        "test_faults::test_a_destination_that_never_answers_well_is_given_up_after_few_requests_and_loses_nothing",
        "test_http::test_a_server_that_does_not_read_is_given_up",
        "test_http::test_whatever_a_server_says_can_be_shown_on_one_line",
    )),
    "I12": ("no secret and no personal value in logs, errors or metrics", (
        "test_invariants::test_what_a_server_repeats_of_a_request_is_in_no_output",
        "test_invariants::test_no_output_of_a_command_that_goes_well_names_a_secret_or_a_person",
        "test_invariants::test_a_password_is_in_no_error",
        "test_invariants::test_a_mistake_beside_a_secret_does_not_show_it",
    )),
}


@cache
def functions(module: str) -> frozenset[str]:
    """The tests that a module defines."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_is_held_by_tests_that_exist(promise: str) -> None:
    _, tests = PROMISES[promise]
    assert tests
    assert [name for name in tests if name.partition("::")[2] not in functions(name.partition("::")[0])] == []


def test_the_table_has_every_promise() -> None:
    assert list(PROMISES) == [f"I{number}" for number in range(1, 13)]


KEY, PASSWORD = "wkCanary8f3b9d", "pwCanary77aa01"
BASIC = base64.b64encode(f"{KEY}:".encode()).decode()
USERS = tuple(f"idCanary{number:04}" for number in range(40))
BUYERS = """/* audiencesync
include: [email]
*/
SELECT user_id, 'mailCanary-' || user_id || '@people.example' AS email FROM orders WHERE at <= :now GROUP BY user_id
"""
QUIET = (("validate",), ("doctor",), ("doctor", "-o", "json"), ("plan",), ("plan", "-o", "json"),
         ("plan", "-o", "markdown"), ("sync",), ("sync", "-o", "json"), ("status",), ("status", "-o", "json"),
         ("runs",), ("runs", "-o", "json"), ("backfill", "*"), ("pause", "buyers"), ("resume", "buyers"),
         ("db", "check"))
NAMING = (("show", "buyers"), ("user", USERS[1]), ("rejected",), ("rejected", "-o", "json"))
"""Commands whose purpose is to name users, and who may therefore."""


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def shop(tmp_path: Path, postgres_url: str, server: Recorder) -> Shop:
    """Its state asks for a password, and its members are canaries."""
    state = postgres_url.replace("://postgres@", f"://postgres:{PASSWORD}@")
    assert PASSWORD in state
    made = Shop(tmp_path / "shop", state, url=server.url, write_key=KEY, buyers=BUYERS)
    made.orders(*USERS)
    return made


def _sings(text: str, *, names: bool = False) -> bool:
    """Whether it holds a secret, or (unless it may name people) anything of a person."""
    secret = KEY in text or BASIC in text or PASSWORD in text
    return secret or (not names and "canary" in text.lower())


def test_no_output_of_a_command_that_goes_well_names_a_secret_or_a_person(shop: Shop) -> None:
    for words in (*QUIET, *QUIET):
        said = shop.run(*words)
        assert said.code == 0, (words, said.err)
        assert not _sings(said.out + said.err), words
    for words in NAMING:
        said = shop.run(*words)
        assert not _sings(said.out + said.err, names=True), words
        assert not _sings(said.err), words


@pytest.mark.parametrize("status", [302, 400, 401, 404, 418, 422, 429, 500])
def test_what_a_server_repeats_of_a_request_is_in_no_output(shop: Shop, server: Recorder, status: int) -> None:
    def repeat(_number: int, request: Request) -> Fault:
        asked = f"{request.headers.get('authorization', '')} {KEY} refuses ".encode()
        body = asked + request.body[:900]
        return Fault(status=status, body=body, headers={"Retry-After": "600", "Location": f"/{KEY}"}, taken=False)

    server.script = repeat
    for words in (("sync",), ("sync", "-o", "json"), ("status",), ("status", "-o", "json"), ("doctor",), ("plan",),
                  ("runs",), ("resume", "segment"), ("sync",), ("rejected",), ("rejected", "-o", "json"),
                  ("user", USERS[1])):
        said = shop.run(*words)
        names = words in NAMING
        assert not _sings(said.out, names=names), (words, said.out)
        assert not _sings(said.err), (words, said.err)


@pytest.mark.parametrize("where", ["state", "source"])
@pytest.mark.parametrize("how", ["away", "wrong password", "no such database", "nonsense"])
def test_a_password_is_in_no_error(tmp_path: Path, postgres_url: str, where: str, how: str) -> None:
    at = postgres_url.partition("@")[2]
    url = {"away": f"postgresql+psycopg://someone:{PASSWORD}@127.0.0.1:9/none",
           "wrong password": f"postgresql+psycopg://{WALLED}:{PASSWORD}@{at}",
           "no such database": f"postgresql+psycopg://postgres:{PASSWORD}@{at}x",
           "nonsense": f"postgresql+psycopg://someone:{PASSWORD}@[::1/x"}[how]
    main = MAIN if where == "state" else MAIN.replace('"sqlite:///shop.db"', '"${SOURCE}"')
    shop = Shop(tmp_path / "shop", url if where == "state" else "sqlite:///state.db", write_key=KEY, main=main,
                buyers=BUYERS)
    shop.environment["SOURCE"] = url
    for words in (("sync",), ("sync", "-o", "json"), ("plan",), ("doctor",), ("validate",), ("status",), ("runs",)):
        said = shop.run(*words)
        assert not _sings(said.out + said.err), (words, said.out, said.err)
        assert said.code in ((2, 75, 0) if words[0] in ("validate", "status", "runs") else (2, 75)), (words, said.err)


@pytest.mark.parametrize("main", [
    MAIN.replace("${WRITE_KEY}", KEY).replace("settle: 0s", "settel: 0s"),
    MAIN.replace('write_key: "${WRITE_KEY}"', f"write_key: {KEY}, write_key: {KEY}"),
    MAIN.replace('write_key: "${WRITE_KEY}"', f'write_key: "{KEY} with a blank"'),
    MAIN.replace('write_key: "${WRITE_KEY}"', f"write_kye: {KEY}"),
    MAIN.replace('write_key: "${WRITE_KEY}"', f"write_key: [{KEY}]"),
    MAIN.replace("sqlite:///shop.db", f"postgresql://me:{PASSWORD}@host/db").replace("state:", "stat:"),
    MAIN.replace("sqlite:///shop.db", f"postgresql://me:{PASSWORD}@host/db, timeout: x"),
    MAIN.replace("${STATE}", f"mysql://me:{PASSWORD}@host/db"),
])
def test_a_mistake_beside_a_secret_does_not_show_it(tmp_path: Path, main: str) -> None:
    shop = Shop(tmp_path / "shop", "sqlite:///state.db", main=main)
    for words in (("validate",), ("sync", "-o", "json"), ("doctor",)):
        said = shop.run(*words)
        assert said.code != 70
        assert not _sings(said.out + said.err), (words, said.out, said.err)

"""The limits fit each other, and the page for operators says the same numbers."""

import re

from app import limits
from app.alipay.call import SECONDS_MAX
from app.alipay.delivery import BODY_BYTES_MAX
from app.alipay.json_text import NESTING_MAX
from app.authorizations import OTHER_CODES_MAX
from app.calls import EXCHANGE_TIME
from app.cli import options
from app.leases import TAKEOVER_SECONDS
from app.limits import (
    ANSWER_SECONDS_MAX,
    ATTEMPTS_MAX,
    BATCH_SECONDS_MIN,
    BATCH_SIZE_MAX,
    BODY_SECONDS_MAX,
    BUSY_TIMEOUT_MS,
    CALL_ABANDONED_SECONDS,
    CALLS_AT_ONCE_MAX,
    CALLS_POLL_SECONDS,
    CALLS_RECORD_SECONDS,
    CLIENT_CALLS_AT_ONCE_MAX,
    CONNECT_TIMEOUT_SECONDS,
    CONNECTIONS_MAX,
    HEAD_SECONDS_MAX,
    HELD_MAX,
    HELD_ROW_SECONDS_MAX,
    HELD_ROW_THREADS_DIVISOR,
    IDLE_TIMEOUT_MS,
    INSIDE_MAX,
    LAST_TRY_SECONDS,
    LEADERS_MAX,
    LOCK_TIMEOUT_MS,
    LONG_POLL_SECONDS_MAX,
    LONG_POLLS_MAX,
    LOOK_PAUSE_SECONDS,
    LOOK_UP_SECONDS_MAX,
    POOL_SIZE,
    POOL_TIMEOUT_SECONDS,
    REFRESHES_AT_ONCE_MAX,
    REPLAYS_AT_ONCE_MAX,
    RESOLVE_SECONDS_MAX,
    RESUMED_AT_ONCE_MAX,
    RETRIES_AT_ONCE_MAX,
    RETRY_PAUSE_SECONDS_MAX,
    SILENT_ADDRESS_SECONDS,
    SINGLES_AT_ONCE_MAX,
    SLOW_FAILURE_SECONDS,
    SLOW_FAILURES_MAX,
    STATEMENT_TIMEOUT_MS,
    STOP_SECONDS_MAX,
    THREAD_WAIT_SECONDS_MAX,
    THREADS_DEFAULT,
    THREADS_MAX,
    TRY_SECONDS_MIN,
    WAITING_PER_THREAD_MAX,
    WORK_SECONDS_MIN,
    WRITE_SECONDS_MAX,
)
from app.logs import PENDING_BYTES_MAX
from app.server.rsgi_to_wsgi import HEAD_BYTES_MAX
from app.web import request_models
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")

#: What the page says a request may wait for, and how long a connection may do what.
WAITS = {
    "a thread (calls of the API)": f"{THREAD_WAIT_SECONDS_MAX} s",
    "the transaction that runs before its own (deliveries)": f"until {BATCH_SECONDS_MIN} s is left",
    "a row that another transaction holds: each try": f"{LOCK_TIMEOUT_MS / 1000} s",
    "the same, all tries: a call": f"{HELD_ROW_SECONDS_MAX} s",
    "the same, all tries: a delivery": f"until {TRY_SECONDS_MIN} s is left",
    "a connection of the pool": f"{POOL_TIMEOUT_SECONDS} s",
    "the resolver of the database's host name": f"{RESOLVE_SECONDS_MAX:g} s",
    "a new connection": f"{CONNECT_TIMEOUT_SECONDS} s for each address",
    "each statement of a delivery or a report": f"{STATEMENT_TIMEOUT_MS / 1000:g} s",
    "the lock of an SQLite file": f"{BUSY_TIMEOUT_MS / 1000:g} s",
    "a head, from its first byte": f"{HEAD_SECONDS_MAX} s",
    "a body": f"{BODY_SECONDS_MAX} s",
    "a response that nobody reads": f"{WRITE_SECONDS_MAX} s",
    "a worker that is told to stop": f"{STOP_SECONDS_MAX} s",
}

#: What the page says there may be how many of, in the order of its rows.
NUMBERS = [
    CONNECTIONS_MAX,
    THREADS_DEFAULT,
    THREADS_MAX,
    WAITING_PER_THREAD_MAX,
    LONG_POLLS_MAX,
    POOL_SIZE,
    INSIDE_MAX,
    BATCH_SIZE_MAX,
    SINGLES_AT_ONCE_MAX,
    RETRIES_AT_ONCE_MAX,
    HELD_MAX,
    REPLAYS_AT_ONCE_MAX,
    {4: "a quarter"}[HELD_ROW_THREADS_DIVISOR],
    RESUMED_AT_ONCE_MAX,
    f"{BODY_BYTES_MAX // 1024} KiB",
    NESTING_MAX,
    OTHER_CODES_MAX,
    f"{PENDING_BYTES_MAX // 1024**2} MiB",
    options.LIMIT_MAX,
]

#: What it says of calls to Alipay, in the order of its rows.
CALLS = [
    str(CALLS_AT_ONCE_MAX),
    str(CLIENT_CALLS_AT_ONCE_MAX),
    str(REFRESHES_AT_ONCE_MAX),
    f"{CALLS_POLL_SECONDS} s",
    f"{CALLS_RECORD_SECONDS} s",
    f"{SECONDS_MAX:g} s",
    f"{CALL_ABANDONED_SECONDS} s",
]

#: What it says in sentences.
SENTENCES = [
    f"One deadline bounds all of it: {ANSWER_SECONDS_MAX} s from",
    f"every {RETRY_PAUSE_SECONDS_MAX} s at the latest",
    f"outlasts what is left of the {ANSWER_SECONDS_MAX} s",
    f"less than {WORK_SECONDS_MIN} s left",
    f"{POOL_TIMEOUT_SECONDS} s for one of the pool, {CONNECT_TIMEOUT_SECONDS} s for a new one",
    f"is tried {ATTEMPTS_MAX} times in all, unless {LAST_TRY_SECONDS} s have passed",
    f"A failure that took {SLOW_FAILURE_SECONDS:g} s or longer counts as slow. After {SLOW_FAILURES_MAX} of those",
    f"(`wait`, {LONG_POLL_SECONDS_MAX} s at most)",
    f"looks every {LOOK_PAUSE_SECONDS} s",
    f"has been idle for {IDLE_TIMEOUT_MS / 1000:g} s",
    f"A command of the shell may read for {LOOK_UP_SECONDS_MAX} s.",
    f"the lease after {TAKEOVER_SECONDS:g} s, and repeats the exchange {CALL_ABANDONED_SECONDS} s after that",
]

#: How the service goes about its work, which no operator meets.
INNER = {"UNAWAITED_SECONDS_MAX", "LEADERS_MAX", "SILENT_ADDRESS_SECONDS"}


def rows_of(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)
    ]
    return [row for row in rows if not row[0].startswith("---") and row[0] not in {"for", "what", "number"}]


def test_the_page_says_how_long_each_wait_may_be() -> None:
    assert {row[0]: row[1] for row in rows_of("What a request waits for")} == WAITS


def test_the_page_says_how_many_of_each_there_may_be() -> None:
    assert [row[0] for row in rows_of("What is bounded")] == [str(each) for each in NUMBERS]
    assert BODY_BYTES_MAX == HEAD_BYTES_MAX
    assert options.LIMIT_MAX == request_models.LIMIT_MAX


def test_the_page_says_how_calls_to_alipay_are_bounded() -> None:
    assert [row[0] for row in rows_of("Calling Alipay")] == CALLS


def test_the_page_says_the_other_limits_in_sentences() -> None:
    assert [each for each in SENTENCES if each not in PAGE] == []


def test_each_limit_is_on_the_page_or_none_that_an_operator_meets() -> None:
    """What this file imports for the page is what it compares."""
    source = (ROOT / "tests" / "unit" / "test_limits.py").read_text(encoding="utf-8")
    compared = source.partition("WAITS = {")[2].partition("INNER = {")[0]
    named = {name for name in vars(limits) if name.isupper()}
    assert {name for name in named if not re.search(rf"\b{name}\b", compared)} == INNER


def test_what_waits_for_a_thread_has_time_left_to_be_worked_on() -> None:
    assert THREAD_WAIT_SECONDS_MAX + BATCH_SECONDS_MIN <= ANSWER_SECONDS_MAX
    assert WORK_SECONDS_MIN < BATCH_SECONDS_MIN


def test_those_who_wait_are_answered_before_their_worker_is_killed_and_leave_connections_to_others() -> None:
    assert LONG_POLL_SECONDS_MAX + ANSWER_SECONDS_MAX < STOP_SECONDS_MAX
    assert LONG_POLLS_MAX <= CONNECTIONS_MAX / 2


def test_the_last_try_ends_in_time_even_where_it_has_to_connect() -> None:
    assert LAST_TRY_SECONDS + max(CONNECT_TIMEOUT_SECONDS, POOL_TIMEOUT_SECONDS) <= ANSWER_SECONDS_MAX
    assert HELD_ROW_SECONDS_MAX < ANSWER_SECONDS_MAX
    assert RESOLVE_SECONDS_MAX <= CONNECT_TIMEOUT_SECONDS


def test_a_statement_ends_before_its_request_and_a_wait_for_a_lock_before_its_statement() -> None:
    assert LOCK_TIMEOUT_MS < STATEMENT_TIMEOUT_MS < 1000 * ANSWER_SECONDS_MAX < IDLE_TIMEOUT_MS
    assert BUSY_TIMEOUT_MS < 1000 * ANSWER_SECONDS_MAX
    assert LOOK_UP_SECONDS_MAX > ANSWER_SECONDS_MAX


def test_a_try_for_a_held_row_fits_into_the_time_that_it_is_begun_with() -> None:
    assert LOCK_TIMEOUT_MS / 1000 < TRY_SECONDS_MIN < WORK_SECONDS_MIN
    assert RETRY_PAUSE_SECONDS_MAX + TRY_SECONDS_MIN < HELD_ROW_SECONDS_MAX


def test_all_that_wait_for_held_rows_are_tried_again_within_two_seconds() -> None:
    assert HELD_MAX / RETRIES_AT_ONCE_MAX * LOCK_TIMEOUT_MS / 1000 <= HELD_ROW_SECONDS_MAX
    assert HELD_MAX * HELD_ROW_THREADS_DIVISOR <= CONNECTIONS_MAX


def test_the_group_commit_leaves_connections_to_other_work() -> None:
    assert LEADERS_MAX + SINGLES_AT_ONCE_MAX + RETRIES_AT_ONCE_MAX < POOL_SIZE


def test_the_database_lets_in_all_that_a_worker_can_do_at_once() -> None:
    deliveries = LEADERS_MAX + SINGLES_AT_ONCE_MAX + RETRIES_AT_ONCE_MAX + REPLAYS_AT_ONCE_MAX
    assert THREADS_MAX + deliveries <= INSIDE_MAX
    assert THREADS_DEFAULT <= THREADS_MAX
    assert THREADS_DEFAULT <= POOL_SIZE


def test_threads_that_wait_for_rows_leave_connections_and_threads_to_others() -> None:
    assert THREADS_MAX // HELD_ROW_THREADS_DIVISOR < POOL_SIZE


def test_as_many_calls_may_queue_as_there_may_be_connections() -> None:
    assert THREADS_DEFAULT * WAITING_PER_THREAD_MAX >= CONNECTIONS_MAX
    assert BATCH_SIZE_MAX <= CONNECTIONS_MAX


def test_a_wait_in_vain_for_a_connection_counts_as_a_slow_failure() -> None:
    assert min(POOL_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS) >= SLOW_FAILURE_SECONDS
    assert min(POOL_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS) >= SILENT_ADDRESS_SECONDS
    # And what only met a held row does not.
    assert LOCK_TIMEOUT_MS / 1000 < SLOW_FAILURE_SECONDS


def test_a_client_whose_gateway_hangs_and_thousands_of_refreshes_leave_room_for_other_calls() -> None:
    assert REFRESHES_AT_ONCE_MAX < CLIENT_CALLS_AT_ONCE_MAX < CALLS_AT_ONCE_MAX
    # What hangs for its whole time leaves each other client more than one call a second.
    assert CALLS_AT_ONCE_MAX - CLIENT_CALLS_AT_ONCE_MAX > SECONDS_MAX


def test_what_another_worker_had_in_flight_is_repeated_once_it_is_over_and_while_the_code_lives() -> None:
    assert SECONDS_MAX + 1 < CALL_ABANDONED_SECONDS
    # Also where that other request was the last that a worker began before it lost the lease, and is answered slowly.
    assert EXCHANGE_TIME.total_seconds() > TAKEOVER_SECONDS + CALL_ABANDONED_SECONDS + SECONDS_MAX


def test_a_request_goes_out_and_its_answer_is_recorded_within_what_a_user_notices() -> None:
    assert CALLS_POLL_SECONDS + CALLS_RECORD_SECONDS < 0.15


def test_no_request_takes_half_the_time_that_a_worker_has_to_stop() -> None:
    assert 2 * (BODY_SECONDS_MAX + ANSWER_SECONDS_MAX) <= STOP_SECONDS_MAX
    assert WRITE_SECONDS_MAX <= STOP_SECONDS_MAX

"""When a call is repeated: a code within its minute, a consult for ten seconds, a refresh and a revoke for days."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from app.calls import EXCHANGE_TIME
from app.gateway.requests import CONSULT_TIME
from app.gateway.schedule import next_attempt
from app.vocabulary import CallKind

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KINDS = list(CallKind)


def seconds_tried(
    kind: CallKind, deadline: timedelta | None, *, each_takes: float = 0, limit: int = 40, is_slow: bool = False
) -> list[float]:
    """At which seconds a call is tried that never has a final answer."""
    deadline_at = None if deadline is None else NOON + deadline
    tried, now = [0.0], NOON
    while len(tried) < limit:
        now += timedelta(seconds=each_takes)
        due = next_attempt(kind, len(tried), now=now, deadline_at=deadline_at, is_slow=is_slow)
        if due is None:
            break
        now = due
        tried.append((due - NOON).total_seconds())
    return tried


def pauses(tried: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(tried)]


def test_an_exchange_is_repeated_after_one_two_four_eight_seconds_and_once_shortly_before_the_end() -> None:
    assert seconds_tried(CallKind.EXCHANGE, EXCHANGE_TIME) == [0, 1, 3, 7, 15, 23, 31, 39, 47, 53]


def test_an_exchange_whose_every_attempt_takes_ten_seconds_is_over_within_the_minute() -> None:
    tried = seconds_tried(CallKind.EXCHANGE, EXCHANGE_TIME, each_takes=10)
    assert tried == [0, 11, 23, 37, 53]


def test_a_consult_is_repeated_for_ten_seconds() -> None:
    assert seconds_tried(CallKind.CONSULT, CONSULT_TIME) == [0, 1, 3, 7]


@pytest.mark.parametrize("kind", [CallKind.REFRESH, CallKind.REVOKE])
def test_what_has_days_is_repeated_up_to_every_hour(kind: CallKind) -> None:
    found = pauses(seconds_tried(kind, None))
    assert found[:12] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    assert set(found[12:]) == {3600}


def test_a_revoke_is_repeated_until_it_is_gone() -> None:
    assert next_attempt(CallKind.REVOKE, 1_000_000, now=NOON, deadline_at=None) == NOON + timedelta(hours=1)


def test_a_refresh_is_over_at_its_deadline() -> None:
    tried = seconds_tried(CallKind.REFRESH, timedelta(days=5), limit=1000)
    assert 100 < len(tried) < 150
    assert tried[-1] < timedelta(days=5).total_seconds()
    assert seconds_tried(CallKind.REFRESH, timedelta(minutes=1)) == [0, 1, 3, 7, 15, 31]


@pytest.mark.parametrize("kind", KINDS)
def test_where_alipay_asks_for_fewer_requests_a_pause_is_four_times_as_long(kind: CallKind) -> None:
    usual = pauses(seconds_tried(kind, None, limit=12))
    assert pauses(seconds_tried(kind, None, limit=12, is_slow=True)) == [4 * each for each in usual]


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_late_is_not_repeated(kind: CallKind) -> None:
    assert next_attempt(kind, 1, now=NOON, deadline_at=NOON) is None
    assert next_attempt(kind, 1, now=NOON + timedelta(hours=1), deadline_at=NOON) is None


@pytest.mark.parametrize("kind", [CallKind.REFRESH, CallKind.REVOKE])
def test_long_pauses_are_spread_and_short_ones_are_not(kind: CallKind) -> None:
    short = {next_attempt(kind, 3, now=NOON, deadline_at=None, spread=each) for each in (0, 0.5, 1)}
    assert short == {NOON + timedelta(seconds=4)}
    long = [next_attempt(kind, 20, now=NOON, deadline_at=None, spread=each) for each in (0, 0.5, 1)]
    assert long == [NOON + timedelta(minutes=each) for each in (60, 54, 48)]


@given(
    kind=st.sampled_from(KINDS),
    attempts=st.integers(1, 500),
    left=st.none() | st.floats(-100, 1e6),
    is_slow=st.booleans(),
    spread=st.floats(0, 1),
)
def test_a_repetition_is_never_at_once_and_never_after_the_deadline(
    *, kind: CallKind, attempts: int, left: float | None, is_slow: bool, spread: float
) -> None:
    deadline_at = None if left is None else NOON + timedelta(seconds=left)
    due = next_attempt(kind, attempts, now=NOON, deadline_at=deadline_at, is_slow=is_slow, spread=spread)
    if due is not None:
        assert due - NOON >= timedelta(seconds=0.8)
        assert deadline_at is None or due < deadline_at

"""When an event is sent again: a code within its minute, all else for about three days."""

from datetime import UTC, datetime, timedelta

import pytest

from app.events.schedule import AGE_MAX, CODE_ATTEMPTS_AT, PAUSES, RETRY_AFTER_MAX, next_attempt

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def seconds_until_next(attempts: int, **said: float) -> float | None:
    due = next_attempt(attempts, created_at=NOON, expires_at=None, now=NOON, **said)  # type: ignore[arg-type]
    return None if due is None else (due - NOON).total_seconds()


def test_a_code_is_tried_at_fixed_times_of_its_minute() -> None:
    tried, now = [0.0], NOON
    while True:
        due = next_attempt(len(tried), created_at=NOON, expires_at=NOON + timedelta(minutes=1), now=now)
        if due is None:
            break
        now = due
        tried.append((due - NOON).total_seconds())
    assert tried == [0, 1, 3, 8, 20, 40]
    assert len(tried) == len(CODE_ATTEMPTS_AT)


def test_a_code_is_not_tried_after_its_minute() -> None:
    late = NOON + timedelta(seconds=25)
    assert next_attempt(5, created_at=late, expires_at=NOON + timedelta(minutes=1), now=late) is None


def test_all_else_is_tried_for_about_three_days() -> None:
    pauses = [seconds_until_next(attempts) for attempts in range(1, len(PAUSES))]
    assert pauses == [5, 30, 120, 600, 3600, 10800, 21600, 43200, 86400, 86400]
    assert seconds_until_next(len(PAUSES)) is None
    assert sum(PAUSES, timedelta()) < AGE_MAX


@pytest.mark.parametrize(("spread", "seconds"), [(-1, 24), (0, 30), (1, 36)])
def test_pauses_are_spread_by_a_fifth(spread: float, seconds: float) -> None:
    assert seconds_until_next(2, spread=spread) == seconds


def test_an_endpoint_may_ask_for_a_longer_pause_up_to_an_hour() -> None:
    def due(seconds: float) -> datetime | None:
        wanted = timedelta(seconds=seconds)
        return next_attempt(1, created_at=NOON, expires_at=None, now=NOON, retry_after=wanted)

    assert due(90) == NOON + timedelta(seconds=90)
    assert due(1) == NOON + PAUSES[1]
    assert due(86400) == NOON + RETRY_AFTER_MAX

"""Who could only wait for the database is turned away, and only then."""

from contextlib import ExitStack, suppress

import pytest

from app.database.database import CircuitBreaker
from app.database.errors import DatabaseUnavailableError

INSIDE_MAX = 3


class Clock:
    """Stands still until somebody waits."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(inside_max=INSIDE_MAX, clock=clock)


def fail_after_waiting(
    breaker: CircuitBreaker, clock: Clock, *, seconds: float = 2, cause: str = "ConnectionTimeout"
) -> None:
    with suppress(DatabaseUnavailableError), breaker.admit():
        clock.now += seconds
        raise DatabaseUnavailableError(cause)


def lets_in(breaker: CircuitBreaker) -> bool:
    try:
        with breaker.admit():
            return True
    except DatabaseUnavailableError:
        return False


def lets_several_in(breaker: CircuitBreaker) -> bool:
    with breaker.admit():
        return lets_in(breaker)


def test_as_many_as_there_are_places_are_let_in(breaker: CircuitBreaker) -> None:
    with ExitStack() as inside:
        for _ in range(INSIDE_MAX):
            inside.enter_context(breaker.admit())
        with pytest.raises(DatabaseUnavailableError, match="QueueFull"), breaker.admit():
            pass
    assert lets_in(breaker)


def test_one_failure_does_not_open_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    fail_after_waiting(breaker, clock)
    assert lets_several_in(breaker)
    fail_after_waiting(breaker, clock)
    assert lets_several_in(breaker)


def test_after_two_failures_in_a_row_one_probe_at_a_time_is_admitted(breaker: CircuitBreaker, clock: Clock) -> None:
    fail_after_waiting(breaker, clock)
    fail_after_waiting(breaker, clock)
    with breaker.admit():
        with pytest.raises(DatabaseUnavailableError, match="CircuitOpen"), breaker.admit():
            pass
        assert not lets_in(breaker)
    assert lets_several_in(breaker)


def test_a_probe_that_fails_keeps_the_circuit_open(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        fail_after_waiting(breaker, clock)
    with breaker.admit():
        assert not lets_in(breaker)


def test_a_quick_failure_does_not_open_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    """As of a port where nothing listens: it delays nothing, and the first work that succeeds again is done."""
    for _ in range(5):
        fail_after_waiting(breaker, clock, seconds=0.01)
    assert lets_several_in(breaker)


def test_an_error_of_the_work_is_no_trouble_of_the_database(breaker: CircuitBreaker, clock: Clock) -> None:
    fail_after_waiting(breaker, clock)
    with suppress(ValueError), breaker.admit():
        clock.now += 2
        raise ValueError
    fail_after_waiting(breaker, clock)
    assert lets_several_in(breaker)


def test_a_held_row_does_not_open_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(5):
        fail_after_waiting(breaker, clock, cause="LockNotAvailable")
    with breaker.admit():
        assert lets_in(breaker)

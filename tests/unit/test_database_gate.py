"""Who could only wait for the database is turned away, and only then."""

from contextlib import ExitStack, suppress

import pytest

from app.database.errors import DatabaseUnavailableError
from app.database.gate import Gate

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
def gate(clock: Clock) -> Gate:
    return Gate(inside_max=INSIDE_MAX, clock=clock)


def wait_in_vain(gate: Gate, clock: Clock, *, seconds: float = 2, cause: str = "ConnectionTimeout") -> None:
    with suppress(DatabaseUnavailableError), gate.passage():
        clock.now += seconds
        raise DatabaseUnavailableError(cause)


def lets_in(gate: Gate) -> bool:
    try:
        with gate.passage():
            return True
    except DatabaseUnavailableError:
        return False


def lets_several_in(gate: Gate) -> bool:
    with gate.passage():
        return lets_in(gate)


def test_as_many_as_there_are_places_are_let_in(gate: Gate) -> None:
    with ExitStack() as inside:
        for _ in range(INSIDE_MAX):
            inside.enter_context(gate.passage())
        with pytest.raises(DatabaseUnavailableError, match="QueueFull"), gate.passage():
            pass
    assert lets_in(gate)


def test_one_that_waited_in_vain_closes_nothing(gate: Gate, clock: Clock) -> None:
    wait_in_vain(gate, clock)
    assert lets_several_in(gate)
    wait_in_vain(gate, clock)
    assert lets_several_in(gate)


def test_after_two_in_a_row_that_waited_in_vain_one_at_a_time_finds_out(gate: Gate, clock: Clock) -> None:
    wait_in_vain(gate, clock)
    wait_in_vain(gate, clock)
    with gate.passage():
        with pytest.raises(DatabaseUnavailableError, match="OthersWaitInVain"), gate.passage():
            pass
        assert not lets_in(gate)
    assert lets_several_in(gate)


def test_who_finds_out_that_nothing_has_changed_keeps_the_others_out(gate: Gate, clock: Clock) -> None:
    for _ in range(3):
        wait_in_vain(gate, clock)
    with gate.passage():
        assert not lets_in(gate)


def test_trouble_that_is_told_at_once_closes_nothing(gate: Gate, clock: Clock) -> None:
    """As of a port that nobody listens at: it holds nobody up, and the first that gets through again is served."""
    for _ in range(5):
        wait_in_vain(gate, clock, seconds=0.01)
    assert lets_several_in(gate)


def test_an_error_of_the_work_is_no_trouble_of_the_database(gate: Gate, clock: Clock) -> None:
    wait_in_vain(gate, clock)
    with suppress(ValueError), gate.passage():
        clock.now += 2
        raise ValueError
    wait_in_vain(gate, clock)
    assert lets_several_in(gate)


def test_a_row_that_somebody_locked_keeps_nobody_out_who_does_not_need_it(gate: Gate, clock: Clock) -> None:
    for _ in range(5):
        wait_in_vain(gate, clock, cause="LockNotAvailable")
    with gate.passage():
        assert lets_in(gate)

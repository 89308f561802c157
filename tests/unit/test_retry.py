"""Retrying while another transaction holds a row: with pauses, within a limit, and until the deadline."""

import time
from threading import Semaphore

import pytest

from app.database import DatabaseUnavailableError, within
from app.database.database import retry_while_held

HELD = DatabaseUnavailableError("LockNotAvailable")


class World:
    """Time that passes only while somebody tries, a tenth of a second, or sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, held_for: float, error: Exception = HELD) -> None:
        self.now = 0.0
        self.tries: list[float] = []
        self._held_for = held_for
        self._error = error
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._pass)

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def work(self) -> str:
        self.tries.append(self.now)
        if self.now >= self._held_for:
            return "done"
        self._pass(0.1)
        raise self._error


def test_work_on_a_free_row_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, held_for=0)
    assert retry_while_held(world.work, waiting=Semaphore(1)) == "done"
    assert world.tries == [0]


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0, 1.5])
def test_work_is_done_soon_after_its_row_is_free(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    world = World(monkeypatch, held_for=seconds)
    assert retry_while_held(world.work, waiting=Semaphore(1)) == "done"
    assert seconds <= world.now < 2 * seconds + 0.2


def test_a_retry_pauses_for_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, held_for=1.9)
    retry_while_held(world.work, waiting=Semaphore(1))
    assert 3 < len(world.tries) < 9


def test_work_on_a_row_that_stays_held_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, held_for=60)
    with pytest.raises(DatabaseUnavailableError) as given_up:
        retry_while_held(world.work, waiting=Semaphore(1))
    assert given_up.value is HELD
    assert 2 <= world.now < 4


@pytest.mark.parametrize("error", [DatabaseUnavailableError("ConnectionTimeout"), ValueError()])
def test_whatever_else_goes_wrong_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    world = World(monkeypatch, held_for=60, error=error)
    with pytest.raises(type(error)) as raised:
        retry_while_held(world.work, waiting=Semaphore(1))
    assert raised.value is error
    assert world.tries == [0]


def test_work_beyond_the_limit_of_retries_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, held_for=60)
    with pytest.raises(DatabaseUnavailableError):
        retry_while_held(world.work, waiting=Semaphore(0))
    assert world.tries == [0]


def test_a_place_to_wait_is_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Semaphore(1)
    retry_while_held(World(monkeypatch, held_for=1).work, waiting=places)
    assert places.acquire(blocking=False)


def test_a_retry_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, held_for=60)
    with pytest.raises(DatabaseUnavailableError), within(0.5):
        retry_while_held(world.work, waiting=Semaphore(1))
    assert world.now < 1

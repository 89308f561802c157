"""Serving those who wait together: who leads, who follows, and what one costs the others."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from app.database import DatabaseUnavailableError
from app.receiver.gathering import ALONE_AT_ONCE_MAX, TOGETHER_MAX, Gathering

CROWD = TOGETHER_MAX + 10


class Panic(BaseException):
    """What a library written in another language raises when it breaks."""


@dataclass
class Counter:
    """Serves numbers, but only while its door is open, and remembers who came with whom."""

    error: BaseException | None = None
    is_in_vain: bool = False
    together: list[list[int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    door: threading.Event = field(default_factory=threading.Event)

    def serve_together(self, numbers: Sequence[int]) -> list[str]:
        self.together.append(list(numbers))
        self.door.wait()
        if self.error is not None and 0 in numbers:
            raise self.error
        return [f"{number} together" for number in numbers]

    def serve_alone(self, number: int) -> str:
        self.alone.append(number)
        return f"{number} alone"


def a_gathering(counter: Counter) -> Gathering[int, str]:
    return Gathering(counter.serve_together, counter.serve_alone, is_in_vain=lambda: counter.is_in_vain)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CROWD) as pool:
        yield pool


@pytest.fixture
def counter() -> Iterator[Counter]:
    counter = Counter()
    yield counter
    counter.door.set()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def come(
    pool: ThreadPoolExecutor, counter: Counter, numbers: Sequence[int], *, gathering: Gathering[int, str] | None = None
) -> list["Future[str]"]:
    """Let the first be served, and the others gather behind it while it is."""
    gathering = gathering or a_gathering(counter)
    first = pool.submit(gathering.serve, numbers[0])
    until(lambda: bool(counter.together))
    others = []
    for number in numbers[1:]:
        others.append(pool.submit(gathering.serve, number))
        until(lambda: gathering.waiting() == len(others))
    counter.door.set()
    return [first, *others]


def test_nobody_waits_for_company(counter: Counter) -> None:
    counter.door.set()
    gathering = a_gathering(counter)
    assert [gathering.serve(number) for number in (1, 2)] == ["1 together", "2 together"]
    assert counter.together == [[1], [2]]


def test_those_who_come_meanwhile_are_next_together(pool: ThreadPoolExecutor, counter: Counter) -> None:
    served = come(pool, counter, range(5))
    assert [each.result(timeout=10) for each in served] == [f"{number} together" for number in range(5)]
    assert counter.together == [[0], [1, 2, 3, 4]]
    assert counter.alone == []


def test_no_more_than_a_bounded_number_goes_together(pool: ThreadPoolExecutor, counter: Counter) -> None:
    served = come(pool, counter, range(CROWD))
    assert {each.result(timeout=10) for each in served} == {f"{number} together" for number in range(CROWD)}
    assert [len(each) for each in counter.together] == [1, TOGETHER_MAX, CROWD - TOGETHER_MAX - 1]


def test_what_breaks_together_is_served_alone(pool: ThreadPoolExecutor, counter: Counter) -> None:
    counter.error = ValueError("broken")
    served = come(pool, counter, [7, 1, 0, 2, 3])
    assert [each.result(timeout=10) for each in served] == ["7 together", "1 alone", "0 alone", "2 alone", "3 alone"]
    assert sorted(counter.alone) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [Panic(), KeyboardInterrupt()])
def test_whoever_leads_and_is_ended_leaves_nobody_waiting(
    pool: ThreadPoolExecutor, counter: Counter, error: BaseException
) -> None:
    counter.error = error
    ended, *others = come(pool, counter, [0, 1, 2])
    assert ended.exception(timeout=10) is error
    assert [each.result(timeout=10) for each in others] == ["1 together", "2 together"]


def test_too_few_results_are_none(pool: ThreadPoolExecutor) -> None:
    gathering: Gathering[int, str] = Gathering(
        lambda numbers: ["…"] * (len(numbers) - 1), lambda number: f"{number} alone", is_in_vain=bool
    )
    assert gathering.serve(1) == "1 alone"
    assert pool.submit(gathering.serve, 2).result(timeout=10) == "2 alone"


def test_no_more_than_a_few_are_served_alone_at_once(pool: ThreadPoolExecutor) -> None:
    lock, inside, most = threading.Lock(), [0], [0]

    def fall_apart(_: Sequence[int]) -> list[int]:
        raise ValueError

    def serve_slowly(number: int) -> int:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.005)
        with lock:
            inside[0] -= 1
        return number

    gathering = Gathering(fall_apart, serve_slowly, is_in_vain=bool)
    assert list(pool.map(gathering.serve, range(CROWD))) == list(range(CROWD))
    assert most[0] <= ALONE_AT_ONCE_MAX


def test_nobody_joins_those_who_wait_in_vain(pool: ThreadPoolExecutor, counter: Counter) -> None:
    gathering = a_gathering(counter)
    counter.is_in_vain = True
    # Somebody has to find out whether that is still so.
    first = pool.submit(gathering.serve, 1)
    until(lambda: bool(counter.together))
    with pytest.raises(DatabaseUnavailableError):
        gathering.serve(2)
    counter.door.set()
    assert first.result(timeout=10) == "1 together"


def test_whoever_waits_behind_one_that_waited_in_vain_is_told_with_it(
    pool: ThreadPoolExecutor, counter: Counter
) -> None:
    counter.error = DatabaseUnavailableError("ConnectionTimeout")
    for each in come(pool, counter, range(CROWD)):
        with pytest.raises(DatabaseUnavailableError) as told:
            each.result(timeout=10)
        assert told.value.cause == "ConnectionTimeout"
    assert (counter.together, counter.alone) == ([[0]], [])


@pytest.mark.parametrize("error", [ValueError("broken"), DatabaseUnavailableError("ConnectionTimeout")])
def test_after_trouble_others_are_served_as_before(
    pool: ThreadPoolExecutor, counter: Counter, error: Exception
) -> None:
    counter.error = error
    gathering = a_gathering(counter)
    for each in come(pool, counter, [0, 1], gathering=gathering):
        each.exception(timeout=10)
    assert gathering.serve(5) == "5 together"
    assert gathering.waiting() == 0


def test_what_serving_alone_raises_is_raised() -> None:
    def break_down(*_: object) -> list[str]:
        raise ValueError

    def refuse(_: int) -> str:
        raise LookupError

    with pytest.raises(LookupError):
        Gathering(break_down, refuse, is_in_vain=bool).serve(1)

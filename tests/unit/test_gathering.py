"""Serving those who wait together: who leads, who follows, and what one costs the others."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from app.database import DatabaseUnavailableError
from app.group_commit.batches import TOGETHER_MAX, Gathering
from app.group_commit.singles import ALONE_AT_ONCE_MAX

CROWD = TOGETHER_MAX + 10


class Panic(BaseException):
    """What a library written in another language raises when it breaks."""


@dataclass
class Counter:
    """Serves numbers, but only while its http is open, and remembers who came with whom."""

    error: BaseException | None = None
    is_unavailable: bool = False
    together: list[list[int]] = field(default_factory=list)
    alone: list[int] = field(default_factory=list)
    #: Who has served them, in that order.
    threads: list[str] = field(default_factory=list)
    http: threading.Event = field(default_factory=threading.Event)
    time: float = 0

    def serve_together(self, numbers: Sequence[int]) -> list[str]:
        self.together.append(list(numbers))
        self.threads.append(threading.current_thread().name)
        self.http.wait()
        if self.error is not None and 0 in numbers:
            raise self.error
        return [f"{number} together" for number in numbers]

    def serve_alone(self, number: int) -> str:
        self.alone.append(number)
        self.threads.append(threading.current_thread().name)
        return f"{number} alone"


def a_gathering(counter: Counter) -> Gathering[int, str]:
    return Gathering(
        counter.serve_together,
        counter.serve_alone,
        key=str,
        is_unavailable=lambda: counter.is_unavailable,
        clock=lambda: counter.time,
    )


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CROWD) as pool:
        yield pool


@pytest.fixture
def counter() -> Iterator[Counter]:
    counter = Counter()
    yield counter
    counter.http.set()


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
    counter.http.set()
    return [first, *others]


def test_nobody_waits_for_company(counter: Counter) -> None:
    counter.http.set()
    gathering = a_gathering(counter)
    assert [gathering.serve(number) for number in (1, 2)] == ["1 together", "2 together"]
    assert counter.together == [[1], [2]]


def test_those_who_come_meanwhile_are_next_together(pool: ThreadPoolExecutor, counter: Counter) -> None:
    served = come(pool, counter, range(5))
    assert [each.result(timeout=10) for each in served] == [f"{number} together" for number in range(5)]
    assert counter.together == [[0], [1, 2, 3, 4]]
    assert counter.alone == []


def test_whoever_waits_keeps_no_thread(pool: ThreadPoolExecutor, counter: Counter) -> None:
    gathering = a_gathering(counter)
    first = pool.submit(gathering.serve, 0)
    until(lambda: bool(counter.together))
    waiting = [gathering.serve_later(number) for number in range(1, CROWD)]
    assert not any(each.done() or each.cancel() for each in waiting)
    counter.http.set()
    assert {each.result(timeout=10) for each in [first, *waiting]} == {f"{number} together" for number in range(CROWD)}


def test_one_that_comes_alone_is_served_by_its_own_thread(counter: Counter) -> None:
    counter.http.set()
    assert a_gathering(counter).serve_later(1).done()
    assert counter.threads == [threading.current_thread().name]


def test_whoever_leads_is_held_for_no_more_than_one_batch(pool: ThreadPoolExecutor) -> None:
    entered, first_door, second_door = threading.Semaphore(0), threading.Event(), threading.Event()

    def serve_slowly(numbers: Sequence[int]) -> Sequence[int]:
        entered.release()
        (first_door if 0 in numbers else second_door).wait(timeout=10)
        return numbers

    gathering: Gathering[int, int] = Gathering(serve_slowly, int, key=str, is_unavailable=bool)
    leader = pool.submit(gathering.serve, 0)
    entered.acquire()
    others = [gathering.serve_later(number) for number in (1, 2)]
    first_door.set()
    entered.acquire()
    assert leader.result(timeout=10) == 0
    assert not any(each.done() for each in others)
    second_door.set()
    assert [each.result(timeout=10) for each in others] == [1, 2]


def test_no_more_than_a_bounded_number_goes_together(pool: ThreadPoolExecutor, counter: Counter) -> None:
    served = come(pool, counter, range(CROWD))
    assert {each.result(timeout=10) for each in served} == {f"{number} together" for number in range(CROWD)}
    assert [len(each) for each in counter.together] == [1, TOGETHER_MAX, CROWD - TOGETHER_MAX - 1]


def test_what_breaks_together_is_served_alone(pool: ThreadPoolExecutor, counter: Counter) -> None:
    counter.error = ValueError("broken")
    served = come(pool, counter, [7, 1, 0, 2, 3])
    assert [each.result(timeout=10) for each in served] == ["7 together", "1 alone", "0 alone", "2 alone", "3 alone"]
    assert sorted(counter.alone) == [0, 1, 2, 3]


def test_what_breaks_is_served_alone_elsewhere_than_in_its_callers_thread(counter: Counter) -> None:
    counter.http.set()
    counter.error = ValueError("broken")
    assert a_gathering(counter).serve(0) == "0 alone"
    assert counter.threads == [threading.current_thread().name, "single"]


@pytest.mark.parametrize("error", [Panic(), KeyboardInterrupt()])
def test_whoever_leads_and_is_ended_leaves_nobody_waiting(
    pool: ThreadPoolExecutor, counter: Counter, error: BaseException
) -> None:
    counter.error = error
    ended, *others = come(pool, counter, [0, 1, 2])
    assert ended.exception(timeout=10) is error
    assert [each.result(timeout=10) for each in others] == ["1 together", "2 together"]
    assert counter.alone == []


@pytest.mark.parametrize("error", [Panic(), KeyboardInterrupt()])
def test_whoever_went_with_one_that_ended_the_leader_is_served_alone(
    pool: ThreadPoolExecutor, counter: Counter, error: BaseException
) -> None:
    counter.error = error
    gathering = a_gathering(counter)
    served = come(pool, counter, [7, 1, 0, 2], gathering=gathering)
    assert [each.result(timeout=10) for each in served] == ["7 together", "1 alone", "0 alone", "2 alone"]
    assert gathering.serve(5) == "5 together"


def test_whoever_has_waited_too_long_is_told_instead_of_served(pool: ThreadPoolExecutor, counter: Counter) -> None:
    gathering = a_gathering(counter)
    first = pool.submit(gathering.serve, 0)
    until(lambda: bool(counter.together))
    late = gathering.serve_later(1)
    counter.time += 5
    in_time = gathering.serve_later(2)
    counter.http.set()
    with pytest.raises(DatabaseUnavailableError) as told:
        late.result(timeout=10)
    assert told.value.cause == "QueueFull"
    assert [each.result(timeout=10) for each in (first, in_time)] == ["0 together", "2 together"]
    assert counter.together == [[0], [2]]


@pytest.mark.parametrize("error", [ValueError("broken"), Panic()])
def test_a_failure_of_one_that_is_called_back_harms_nobody(
    pool: ThreadPoolExecutor, counter: Counter, error: BaseException
) -> None:
    def fail(_: object) -> None:
        raise error

    gathering = a_gathering(counter)
    first = pool.submit(gathering.serve, 0)
    until(lambda: bool(counter.together))
    served = [gathering.serve_later(number) for number in (1, 2, 3)]
    served[0].add_done_callback(fail)
    counter.http.set()
    assert [each.result(timeout=10) for each in [first, *served]] == [f"{number} together" for number in range(4)]
    assert gathering.serve(5) == "5 together"


def test_whoever_is_called_back_may_come_again(pool: ThreadPoolExecutor, counter: Counter) -> None:
    again: list[Future[str]] = []
    gathering = a_gathering(counter)
    first = pool.submit(gathering.serve, 0)
    until(lambda: bool(counter.together))
    gathering.serve_later(1).add_done_callback(lambda _: again.append(gathering.serve_later(2)))
    counter.http.set()
    assert first.result(timeout=10) == "0 together"
    until(lambda: bool(again))
    assert again[0].result(timeout=10) == "2 together"


def test_too_few_results_are_none(pool: ThreadPoolExecutor) -> None:
    gathering: Gathering[int, str] = Gathering(
        lambda numbers: ["…"] * (len(numbers) - 1), lambda number: f"{number} alone", key=str, is_unavailable=bool
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

    gathering = Gathering(fall_apart, serve_slowly, key=str, is_unavailable=bool)
    assert list(pool.map(gathering.serve, range(CROWD))) == list(range(CROWD))
    assert most[0] <= ALONE_AT_ONCE_MAX


def test_nobody_joins_those_who_wait_in_vain(pool: ThreadPoolExecutor, counter: Counter) -> None:
    gathering = a_gathering(counter)
    counter.is_unavailable = True
    # Somebody has to find out whether that is still so.
    first = pool.submit(gathering.serve, 1)
    until(lambda: bool(counter.together))
    with pytest.raises(DatabaseUnavailableError):
        gathering.serve(2)
    counter.http.set()
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
        Gathering(break_down, refuse, key=str, is_unavailable=bool).serve(1)


def test_what_needs_the_same_as_one_that_waits_alone_does_not_go_with_others(pool: ThreadPoolExecutor) -> None:
    """It would only hold up all that go with it."""
    together: list[list[int]] = []
    free = threading.Event()

    def fall_apart_over_a_held_row(numbers: Sequence[int]) -> Sequence[str]:
        together.append(list(numbers))
        if any(number % 10 == 0 for number in numbers):
            raise ValueError
        return [f"{number} together" for number in numbers]

    def wait_for_the_row(number: int) -> str:
        free.wait(timeout=10)
        return f"{number} alone"

    gathering = Gathering(
        fall_apart_over_a_held_row, wait_for_the_row, key=lambda number: str(number % 10), is_unavailable=bool
    )
    stuck = [pool.submit(gathering.serve, 10)]
    until(lambda: together == [[10]])
    until(lambda: "0" in gathering._singles)  # noqa: SLF001 -- nothing else tells when it is there
    stuck += [pool.submit(gathering.serve, number) for number in (20, 30)]
    assert [gathering.serve(number) for number in (1, 2, 3)] == ["1 together", "2 together", "3 together"]
    assert not any(each.done() for each in stuck)
    free.set()
    assert [each.result(timeout=10) for each in stuck] == ["10 alone", "20 alone", "30 alone"]
    assert together == [[10], [1], [2], [3]]

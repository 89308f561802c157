"""Processing one by one: what needs the same row waits for one that tries, and never takes all places."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from app.database import DatabaseUnavailableError
from app.group_commit.calls import Place
from app.group_commit.singles import AGAIN_AT_ONCE_MAX, HELD_MAX, Singles

Item = tuple[str, int]


@dataclass
class Rows:
    """Serves what needs a row, unless somebody holds that, and remembers how often each row was tried."""

    held: set[str] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    most_inside: int = 0

    def work(self, item: Item) -> str:
        row, number = item
        with self.lock:
            self.tries[row] += 1
            self.inside += row in self.held
            self.most_inside = max(self.most_inside, self.inside)
        if row not in self.held:
            return f"{row} {number}"
        time.sleep(0.01)
        with self.lock:
            self.inside -= 1
        raise DatabaseUnavailableError("LockNotAvailable")


@pytest.fixture
def rows() -> Iterator[Rows]:
    rows = Rows()
    yield rows
    # Threads that try again end once nobody holds anything.
    rows.held.clear()


def a_place(row: str, number: int = 0, *, seconds: float = 60) -> Place[Item, str]:
    return Place((row, number), row, time.monotonic() + seconds)


def add(singles: Singles[Item, str], *places: Place[Item, str]) -> list["Future[str]"]:
    for place in places:
        singles.add(place)
    return [place.served for place in places]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_of_many_that_need_a_held_row_only_the_first_tries(rows: Rows) -> None:
    rows.held.add("a")
    singles = Singles(rows.work, clock=time.monotonic)
    waiting = add(singles, *(a_place("a", number) for number in range(20)))
    until(lambda: rows.tries["a"] > 3)
    assert rows.most_inside == 1
    assert "a" in singles
    rows.held.clear()
    assert [each.result(timeout=10) for each in waiting] == [f"a {number}" for number in range(20)]
    until(lambda: "a" not in singles)


def test_what_needs_another_row_does_not_wait(rows: Rows) -> None:
    rows.held |= {f"held {number}" for number in range(2 * HELD_MAX)}
    singles = Singles(rows.work, clock=time.monotonic)
    waiting = dict(zip(rows.held, add(singles, *(a_place(row) for row in rows.held)), strict=True))
    until(lambda: len(rows.tries) == 2 * HELD_MAX and rows.inside <= AGAIN_AT_ONCE_MAX)
    until(lambda: sum(each.done() for each in waiting.values()) == HELD_MAX)
    assert all(isinstance(each.exception(), DatabaseUnavailableError) for each in waiting.values() if each.done())
    rows.most_inside = 0
    (served,) = add(singles, a_place("free"))
    assert served.result(timeout=10) == "free 0"
    # Each has its turn.
    until(lambda: all(rows.tries[row] > 2 for row, each in waiting.items() if not each.done()))
    assert rows.most_inside <= AGAIN_AT_ONCE_MAX


def test_no_more_wait_for_held_rows_than_there_are_places(rows: Rows) -> None:
    rows.held.add("a")
    singles = Singles(rows.work, clock=time.monotonic)
    waiting = add(singles, *(a_place("a", number) for number in range(HELD_MAX + 20)))
    until(lambda: sum(each.done() for each in waiting) == 20)
    (refused,) = add(singles, a_place("a"))
    assert isinstance(refused.exception(timeout=0), DatabaseUnavailableError)
    # The first who came are those who wait.
    assert not any(each.done() for each in waiting[:HELD_MAX])


def test_who_has_no_time_left_is_told(rows: Rows) -> None:
    rows.held.add("a")
    singles = Singles(rows.work, clock=time.monotonic)
    short, long = add(singles, a_place("a", 1, seconds=0.5), a_place("a", 2))
    assert isinstance(short.exception(timeout=10), DatabaseUnavailableError)
    assert not long.done()
    rows.held.clear()
    assert long.result(timeout=10) == "a 2"


def test_one_that_breaks_takes_nobody_with_it() -> None:
    def work(item: Item) -> str:
        if item[1] == 0:
            raise ValueError
        return "done"

    singles: Singles[Item, str] = Singles(work, clock=time.monotonic)
    broken, other = add(singles, a_place("a", 0), a_place("a", 1))
    assert isinstance(broken.exception(timeout=10), ValueError)
    assert other.result(timeout=10) == "done"

"""Calls that run by themselves: what needs the same row waits behind one that tries, and never takes all workers."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest

from app.group_commit import GroupCommit, NotRunError
from app.limits import HELD_MAX, RETRIES_AT_ONCE_MAX
from tests.unit.committing import UnavailableError, a_group_commit, until

Item = tuple[str, int]


def break_down(_: object) -> list[str]:
    """Every batch is to run one by one."""
    raise ValueError


@dataclass
class Rows:
    """Runs what needs a row, unless somebody holds that, and remembers how often each row was tried."""

    held: set[str] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    most_inside: int = 0

    def run(self, item: Item) -> str:
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
        raise UnavailableError(is_held_row=True)

    def group_commit(self) -> GroupCommit[Item, str]:
        return a_group_commit(break_down, self.run, key=lambda item: item[0])


@pytest.fixture
def rows() -> Iterator[Rows]:
    rows = Rows()
    yield rows
    # Retries end once nobody holds anything.
    rows.held.clear()


def submit_behind_the_first(
    rows: Rows, group_commit: GroupCommit[Item, str], items: Sequence[Item]
) -> list["Future[str]"]:
    """Submit calls of one key, all but the first while that runs by itself."""
    first = group_commit.submit(items[0])
    until(lambda: rows.tries[items[0][0]] > 0)
    return [first, *(group_commit.submit(each) for each in items[1:])]


def test_of_many_that_need_a_held_row_only_the_first_tries(rows: Rows) -> None:
    rows.held.add("a")
    group_commit = rows.group_commit()
    futures = submit_behind_the_first(rows, group_commit, [("a", number) for number in range(20)])
    until(lambda: rows.tries["a"] > 3)
    assert rows.most_inside == 1
    rows.held.clear()
    assert [each.result(timeout=10) for each in futures] == [f"a {number}" for number in range(20)]


def test_a_call_that_needs_another_row_does_not_wait(rows: Rows) -> None:
    rows.held |= {f"held {number}" for number in range(2 * HELD_MAX)}
    group_commit = rows.group_commit()
    futures = {row: group_commit.submit((row, 0)) for row in rows.held}
    until(lambda: len(rows.tries) == 2 * HELD_MAX and rows.inside <= RETRIES_AT_ONCE_MAX)
    until(lambda: sum(each.done() for each in futures.values()) == HELD_MAX)
    assert all(isinstance(each.exception(), UnavailableError) for each in futures.values() if each.done())
    rows.most_inside = 0
    assert group_commit.submit(("free", 0)).result(timeout=10) == "free 0"
    # Each has its turn.
    until(lambda: all(rows.tries[row] > 2 for row, each in futures.items() if not each.done()))
    assert 1 <= rows.most_inside <= RETRIES_AT_ONCE_MAX


def test_a_bounded_number_waits_for_held_rows(rows: Rows) -> None:
    rows.held.add("a")
    group_commit = rows.group_commit()
    futures = submit_behind_the_first(rows, group_commit, [("a", number) for number in range(HELD_MAX + 20)])
    until(lambda: sum(each.done() for each in futures) == 20)
    with pytest.raises(NotRunError) as refused:
        group_commit.submit(("a", 0)).result(timeout=0)
    assert refused.value.cause == "LockNotAvailable"
    # The first that came are those that wait.
    assert not any(each.done() for each in futures[:HELD_MAX])


def test_a_call_without_time_left_is_failed_while_its_row_is_held(rows: Rows) -> None:
    rows.held.add("a")
    group_commit = rows.group_commit()
    short = group_commit.submit(("a", 1), seconds=1.2)
    until(lambda: rows.tries["a"] > 0)
    long = group_commit.submit(("a", 2))
    error = short.exception(timeout=10)
    assert isinstance(error, NotRunError)
    assert error.cause == "LockNotAvailable"
    assert not long.done()
    rows.held.clear()
    assert long.result(timeout=10) == "a 2"


def test_one_that_breaks_takes_no_other_with_it() -> None:
    def run(item: Item) -> str:
        if item[1] == 0:
            raise ValueError
        return "done"

    group_commit = a_group_commit(break_down, run, key=lambda item: item[0])
    with group_commit.held():
        broken, other = group_commit.submit(("a", 0)), group_commit.submit(("a", 1))
    assert isinstance(broken.exception(timeout=10), ValueError)
    assert other.result(timeout=10) == "done"

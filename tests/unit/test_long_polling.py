"""Long polling: one thread looks for all who wait, tells each once, and ends with the last."""

import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, wait as wait_for_futures

import pytest

from app.long_polling import Found, LongPolling, NoPlaceError, NotYet

#: So long nobody has to wait here.
LONG = 60


class Board:
    """Something to look at: what was put up stays."""

    def __init__(self) -> None:
        self.up: dict[str, Found[str] | NotYet[str]] = {}
        self.asked: list[set[str]] = []
        self.error: Exception | None = None

    def look(self, keys: Collection[str]) -> Mapping[str, Found[str] | NotYet[str]]:
        self.asked.append(set(keys))
        if self.error is not None:
            raise self.error
        return {key: self.up[key] for key in keys if key in self.up}


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def polling() -> LongPolling:
    return LongPolling(places=3, seconds_between_looks=0.01)


def test_each_who_waits_is_told_what_it_waits_for(polling: LongPolling, board: Board) -> None:
    first, second = (polling.wait(board.look, key, seconds=LONG) for key in "ab")
    board.up["a"] = Found("A")
    assert first.future.result(timeout=10) == "A"
    assert not second.future.done()
    board.up["b"] = Found("B")
    assert second.future.result(timeout=10) == "B"
    assert polling.waiting == 0


def test_those_who_wait_for_the_same_are_one_question(polling: LongPolling, board: Board) -> None:
    waits = [polling.wait(board.look, "a", seconds=LONG) for _ in range(3)]
    board.up["a"] = Found("A")
    assert [each.future.result(timeout=10) for each in waits] == ["A"] * 3
    assert {frozenset(asked) for asked in board.asked} == {frozenset("a")}


def test_where_there_is_nothing_up_to_here_it_is_looked_for_from_there(polling: LongPolling, board: Board) -> None:
    board.up = {"a": NotYet("b")}
    wait = polling.wait(board.look, "a", seconds=LONG)
    board.up["b"] = Found("B")
    assert wait.future.result(timeout=10) == "B"
    assert wait.key == "b"


def test_when_the_time_is_up_there_is_nothing(polling: LongPolling, board: Board) -> None:
    assert polling.wait(board.look, "a", seconds=0.02).future.result(timeout=10) is None


def test_no_more_wait_than_there_are_places_and_who_leaves_makes_room(polling: LongPolling, board: Board) -> None:
    waits = [polling.wait(board.look, "a", seconds=LONG) for _ in range(3)]
    with pytest.raises(NoPlaceError):
        polling.wait(board.look, "a", seconds=LONG)
    polling.leave(waits[0])
    polling.leave(waits[0])
    polling.wait(board.look, "a", seconds=LONG)
    board.up["a"] = Found("A")
    wait_for_futures([each.future for each in waits[1:]], timeout=10)
    assert not waits[0].future.done()
    polling.close()


def test_what_goes_wrong_is_told_to_those_who_wait_for_it_and_to_nobody_else(
    polling: LongPolling, board: Board
) -> None:
    other = Board()
    broken, sound = polling.wait(board.look, "a", seconds=LONG), polling.wait(other.look, "a", seconds=LONG)
    board.error = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):
        broken.future.result(timeout=10)
    other.up["a"] = Found("A")
    assert sound.future.result(timeout=10) == "A"


def test_once_it_is_closed_nobody_waits(polling: LongPolling, board: Board) -> None:
    before = polling.wait(board.look, "a", seconds=LONG)
    polling.close()
    after = polling.wait(board.look, "a", seconds=LONG)
    assert [each.future.result(timeout=10) for each in (before, after)] == [None, None]


def test_what_is_there_when_it_closes_is_still_told(board: Board) -> None:
    polling = LongPolling(seconds_between_looks=0.05)
    wait = polling.wait(board.look, "a", seconds=LONG)
    board.up["a"] = Found("A")
    polling.close()
    assert wait.future.result(timeout=10) == "A"


def test_nobody_looks_while_nobody_waits(polling: LongPolling, board: Board) -> None:
    before = set(threading.enumerate())
    assert polling.wait(board.look, "a", seconds=0).future.result(timeout=10) is None
    for each in set(threading.enumerate()) - before:
        each.join(timeout=10)
    asked = len(board.asked)
    time.sleep(0.05)
    assert len(board.asked) == asked
    board.up["a"] = Found("A")
    assert polling.wait(board.look, "a", seconds=LONG).future.result(timeout=10) == "A"


def test_everybody_is_told_once_whatever_comes_together(board: Board) -> None:
    polling = LongPolling(places=400, seconds_between_looks=0.001)
    told: list[Future[str | None]] = []
    waits = []
    board.up["a"] = Found("A")
    for number in range(400):
        wait = polling.wait(board.look, "a" if number % 2 else "b", seconds=0.001 * (number % 10))
        wait.future.add_done_callback(told.append)
        waits.append(wait)
    wait_for_futures([each.future for each in waits], timeout=10)
    assert len(told) == 400
    assert {each.result() for each in told} <= {"A", None}

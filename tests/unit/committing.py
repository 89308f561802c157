"""What the tests of the group commit share: an error of a database, and a group commit with defaults."""

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from app.group_commit import GroupCommit

T = TypeVar("T")
R = TypeVar("R")


class UnavailableError(Exception):
    """The database does not answer, or somebody holds the one row that is needed."""

    def __init__(self, *, is_held_row: bool = False) -> None:
        self.is_held_row = is_held_row


class Panic(BaseException):
    """What a library written in another language raises when it breaks."""


def no_deadline(_seconds: float) -> AbstractContextManager[None]:
    return nullcontext()


def a_group_commit(
    run_batch: Callable[[Sequence[T]], Sequence[R]],
    run_single: Callable[[T], R],
    *,
    key: Callable[[T], Hashable] = str,
    is_circuit_open: Callable[[], bool] = bool,
    within: Callable[[float], AbstractContextManager[None]] = no_deadline,
    clock: Callable[[], float] = time.monotonic,
) -> GroupCommit[T, R]:
    return GroupCommit(
        run_batch,
        run_single,
        key=key,
        unavailable=UnavailableError,
        is_held_row=lambda error: error.is_held_row,
        is_circuit_open=is_circuit_open,
        within=within,
        clock=clock,
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)

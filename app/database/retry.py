"""Wait for what somebody holds, without keeping a connection from those who need something else."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from typing import TypeVar

from app.database.driver import deadline
from app.database.errors import DatabaseUnavailableError

T = TypeVar("T")

#: A row's lock is held for milliseconds. Whoever has waited longer than this waits for something broken.
_SECONDS_MAX = 2
#: How long to stay away, as a share of the time waited so far; differently for two who stand in each other's way.
_PAUSE = (0.3, 0.7)


def retry_while_locked(work: Callable[[], T], *, waiting: threading.Semaphore | None) -> T:
    """Do `work`, again and again while it needs a row that somebody holds and there is a place to wait for it.

    Raises `DatabaseUnavailableError`: at once where it has another cause or all places are taken, and after about two
    seconds, or the time that is left, where neither is so.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        has_place = waiting is None
        while True:
            try:
                return work()
            except DatabaseUnavailableError as error:
                waited = time.monotonic() - started
                if not error.is_of_one_row or waited >= min(_SECONDS_MAX, seconds_left()):
                    raise
                if waiting is not None and not has_place:
                    has_place = waiting.acquire(blocking=False)
                    if not has_place:
                        raise
                    stack.callback(waiting.release)
            time.sleep(min(waited * random.uniform(*_PAUSE), seconds_left()))  # noqa: S311 -- jitter, not a secret


def seconds_left() -> float:
    """Say how long whoever waits for the work of this thread will do so."""
    until = deadline.get()
    return inf if until is None else max(0.0, until - time.monotonic())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let all waits for the database within this block end by then, whatever else was said before."""
    token = deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        deadline.reset(token)

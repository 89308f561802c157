"""Retry work while another transaction holds a row that it needs, and bound it by a deadline.

The work holds no connection between two tries: other work needs it, and a held row may take seconds.
"""

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

#: A row's lock is held for milliseconds. One that is held for longer than this is held by something broken.
_SECONDS_MAX = 2
#: The pause before the next try, as a share of the time waited so far. It is random, so that two transactions that
#: block each other do not try at the same moment again.
_PAUSE = (0.3, 0.7)


def retry_while_locked(work: Callable[[], T], *, waiting: threading.Semaphore | None) -> T:
    """Do `work`, and retry it while another transaction holds a row that it needs.

    `waiting` limits how many pieces of work retry at one time. Raises `DatabaseUnavailableError`: at once where the
    cause is another one or that limit is reached; otherwise after two seconds or at the deadline.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        may_wait = waiting is None
        while True:
            try:
                return work()
            except DatabaseUnavailableError as error:
                waited = time.monotonic() - started
                if not error.is_of_one_row or waited >= min(_SECONDS_MAX, seconds_left()):
                    raise
                if waiting is not None and not may_wait:
                    may_wait = waiting.acquire(blocking=False)
                    if not may_wait:
                        raise
                    stack.callback(waiting.release)
            time.sleep(min(waited * random.uniform(*_PAUSE), seconds_left()))  # noqa: S311 -- jitter, not a secret


def seconds_left() -> float:
    """Return the seconds until the deadline of this thread's work; infinity without one."""
    until = deadline.get()
    return inf if until is None else max(0.0, until - time.monotonic())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Set the deadline of all waits for the database within this block, in place of an earlier one."""
    token = deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        deadline.reset(token)

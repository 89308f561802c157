"""Wait for what somebody holds, without keeping a connection from those who need something else."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from app.database.errors import DatabaseUnavailableError

T = TypeVar("T")

#: A row's lock is held for milliseconds. Whoever has waited longer than this waits for something broken.
_SECONDS_MAX = 2
#: How long to stay away, as a share of the time waited so far; differently for two who stand in each other's way.
_PAUSE = (0.3, 0.7)


def until_free(work: Callable[[], T]) -> T:
    """Do `work`, again and again while it needs a row that somebody holds.

    Raises `DatabaseUnavailableError`: at once where it has another cause, and after about two seconds where it has not.
    """
    started = time.monotonic()
    while True:
        try:
            return work()
        except DatabaseUnavailableError as error:
            waited = time.monotonic() - started
            if not error.is_of_one_row or waited >= _SECONDS_MAX:
                raise
        time.sleep(waited * random.uniform(*_PAUSE))  # noqa: S311 -- jitter, not a secret

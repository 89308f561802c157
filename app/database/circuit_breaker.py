"""Let work in to the database, but let nobody queue behind those who wait for it in vain.

A server has few threads. If each of them waited out its whole time for a database that does not answer, whoever came
behind would wait many times that, and be answered after their senders have given up.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.database.errors import DatabaseUnavailableError

#: Whoever failed after less than this was told at once, and held nobody up.
_LONG_S = 1.0
#: One that waits in vain may have met a lock of its own; two in a row, with nobody getting through, is trouble for all.
_FAILURES_MAX = 2


class CircuitBreaker:
    """Turns away at once whoever could only wait. Safe to share between threads."""

    def __init__(self, *, inside_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        #: More at the same time would only wait for each other.
        self._inside_max = inside_max
        self._clock = clock
        self._lock = threading.Lock()
        self._inside = 0
        self._failures = 0

    def is_open(self) -> bool:
        """Say whether whoever came now would be turned away, since those inside wait in vain."""
        with self._lock:
            return self._inside > 0 and self._failures >= _FAILURES_MAX

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Let one piece of work in, and learn from how it goes.

        Once those inside have waited in vain, one at a time is let in, which finds out whether that is still so: there
        is no moment at which nobody may try. Raises `DatabaseUnavailableError` for all others.
        """
        self._enter()
        started = self._clock()
        has_failed = False
        try:
            yield
        except DatabaseUnavailableError as error:
            has_failed = not error.is_of_one_row and self._clock() - started >= _LONG_S
            raise
        finally:
            self._leave(has_failed=has_failed)

    def _enter(self) -> None:
        with self._lock:
            if self._inside >= self._inside_max:
                raise DatabaseUnavailableError("QueueFull")
            if self._inside and self._failures >= _FAILURES_MAX:
                raise DatabaseUnavailableError("CircuitOpen")
            self._inside += 1

    def _leave(self, *, has_failed: bool) -> None:
        with self._lock:
            self._inside -= 1
            self._failures = self._failures + 1 if has_failed else 0

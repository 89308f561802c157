"""The circuit breaker: turns work away at once while the database does not answer.

A server has few threads. If each waited out its whole time for a database that does not answer, the requests queued
behind them would be answered only after their senders have given up.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.database.errors import DatabaseUnavailableError

#: A failure sooner than this is not a database that does not answer, and does not count.
_LONG_S = 1.0
#: One failure may come from a lock; two in a row, with no success between them, open the circuit.
_FAILURES_MAX = 2


class CircuitBreaker:
    """Lets work in, or turns it away at once while the circuit is open. Safe to share between threads."""

    def __init__(self, *, inside_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        #: The concurrency limit: more pieces of work would only wait for each other.
        self._inside_max = inside_max
        self._clock = clock
        self._lock = threading.Lock()
        self._inside = 0
        self._failures = 0

    def is_open(self) -> bool:
        """Say whether work would be turned away now, because the database does not answer the work inside."""
        with self._lock:
            return self._inside > 0 and self._failures >= _FAILURES_MAX

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Let one piece of work in, and count whether it fails.

        While the circuit is open one piece at a time is let in, as a probe: its success closes the circuit. Raises
        `DatabaseUnavailableError` for all others.
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

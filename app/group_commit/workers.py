"""Do in other threads what a caller cannot stay for."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from typing_extensions import override

from app.logs import failure

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Promise(Future[T]):
    """A future of what is on its way to the database: nobody can call it back."""

    @override
    def cancel(self) -> bool:
        """Say that it cannot be canceled."""
        return False


class Crew:
    """Threads that are made when there is work and end when there is none. Safe to share between threads.

    The interpreter waits for them when it ends: they are no daemons, which it would stop at whatever they are doing.
    """

    def __init__(self, name: str, *, threads_max: int) -> None:
        self._name = name
        self._threads_max = threads_max
        self._lock = threading.Lock()
        self._threads = 0
        self._works: deque[Callable[[], None]] = deque()

    def do(self, work: Callable[[], None]) -> None:
        """Have this done, in the order in which it was asked for; here and now if no thread can be made for it."""
        with self._lock:
            self._works.append(work)
            if self._threads == self._threads_max:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name=self._name).start()
        except RuntimeError:
            # There are too many, or the interpreter ends. Somebody waits for this all the same.
            with self._lock:
                is_left_to_others = self._threads > 1
                self._threads -= is_left_to_others
            if not is_left_to_others:
                self._work()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 -- a panic of a library too: the others are to be done all the same
                _log.error("work failed", extra={"crew": self._name, **failure(error)})

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._works:
                return self._works.popleft()
            self._threads -= 1
            return None

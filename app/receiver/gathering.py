"""Let those who wait be served together: the first who may begin leads, and serves all who have come meanwhile.

Nobody waits for company. While one transaction commits, deliveries gather behind it, and become the next one: the more
come, the more share the price of a commit.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from app.database import DatabaseUnavailableError, until_free
from app.logs import failure

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: Held locks grow with it, and what is saved hardly does any more.
TOGETHER_MAX = 64

#: Fewer than there are connections. Whoever meets a lock there makes room before it comes again.
ALONE_AT_ONCE_MAX = 8
#: Whoever has waited this long for others had better come again.
_SECONDS_MAX = 4


class NotServedError(Exception):
    """Whoever led was ended in the middle of it."""


@dataclass(slots=True, eq=False)
class _Place(Generic[T, R]):
    item: T
    #: Empty until it was served, and for good where that failed.
    results: Sequence[R] = ()
    error: BaseException | None = None
    #: Taken until it was served, or is to lead.
    called: threading.Lock = field(default_factory=threading.Lock)


class Gathering(Generic[T, R]):
    """Serves items together, or each alone where that failed. Safe to share between threads."""

    def __init__(
        self, together: Callable[[Sequence[T]], Sequence[R]], alone: Callable[[T], R], *, is_in_vain: Callable[[], bool]
    ) -> None:
        self._together = together
        self._alone = alone
        self._is_in_vain = is_in_vain
        self._lock = threading.Lock()
        self._is_led = False
        self._waiting: deque[_Place[T, R]] = deque()
        self._alone_at_once = threading.Semaphore(ALONE_AT_ONCE_MAX)

    def serve(self, item: T) -> R:
        """Return what serving this item gives, or raise what serving it alone raises.

        Whatever keeps some from being served together, each is then served in its own thread: one that is broken, or
        waits for a lock that somebody holds, costs the others nothing but a moment. Raises `DatabaseUnavailableError`
        at once in whoever waited behind another that met it, or would.
        """
        until = time.monotonic() + _SECONDS_MAX
        place = _Place[T, R](item)
        if self._may_lead(place):
            self._lead()
        else:
            place.called.acquire()
            if not place.results and place.error is None:
                self._lead()
        if place.error is None:
            return place.results[0]
        if isinstance(place.error, DatabaseUnavailableError):
            raise DatabaseUnavailableError(place.error.cause) from place.error
        return until_free(partial(self._serve_alone, item, until))

    def waiting(self) -> int:
        """Say how many wait for those who are being served."""
        with self._lock:
            return len(self._waiting)

    def _serve_alone(self, item: T, until: float) -> R:
        if not self._alone_at_once.acquire(timeout=max(0.0, until - time.monotonic())):
            raise DatabaseUnavailableError("QueueFull")
        try:
            return self._alone(item)
        finally:
            self._alone_at_once.release()

    def _may_lead(self, place: _Place[T, R]) -> bool:
        """Take a place, and say whether it is to lead now; if not, it will be called."""
        with self._lock:
            if self._is_led and self._is_in_vain():
                raise DatabaseUnavailableError("OthersWaitInVain")
            self._waiting.append(place)
            if self._is_led:
                place.called.acquire()
                return False
            self._is_led = True
            return True

    def _lead(self) -> None:
        """Serve those who wait, the leader first among them, and call whoever is to lead next."""
        places = self._next(TOGETHER_MAX)
        # Unless something better comes of it.
        error: BaseException | None = NotServedError()
        try:
            results = self._together([place.item for place in places])
            for place, result in zip(places, results, strict=True):
                place.results = (result,)
            error = None
        except DatabaseUnavailableError as unavailable:
            error = unavailable
            # Those who came meanwhile have waited for the same in vain.
            places += self._next()
        except Exception as broken:  # noqa: BLE001 -- whatever it is, whoever it belongs to will meet it alone
            error = broken
            _log.info("to be processed one by one", extra={"deliveries": len(places), **failure(broken)})
        finally:
            # Whatever happened: nobody else would call them.
            for place in places:
                place.error = error
            with self._lock:
                following = [*places[1:], *islice(self._waiting, 1)]
                self._is_led = bool(self._waiting)
            for place in following:
                place.called.release()

    def _next(self, number: int | None = None) -> list[_Place[T, R]]:
        with self._lock:
            number = len(self._waiting) if number is None else min(number, len(self._waiting))
            return [self._waiting.popleft() for _ in range(number)]

"""Let those who wait be served together: the first who may begin leads, and serves all who have come meanwhile.

Nobody waits for company. While one transaction commits, deliveries gather behind it, and become the next one: the more
come, the more share the price of a commit. Whoever waits keeps no thread waiting: it is told when it was served.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from app.database import DatabaseUnavailableError, seconds_left, within
from app.group_commit.calls import Place
from app.group_commit.singles import Singles
from app.group_commit.workers import Crew
from app.logs import failure

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: Held locks grow with it, and what is saved hardly does any more.
TOGETHER_MAX = 64

#: Whoever has not been served by then had better come again.
_SECONDS_MAX = 4
#: What has less time left is told at once: the others that go with it need not hurry because of it.
_LEAST_S = 1
#: One that leads, and one that still tells those whom it has served.
_LEADERS_MAX = 2


class Gathering(Generic[T, R]):
    """Serves items together, or each alone where that failed. Safe to share between threads."""

    def __init__(
        self,
        together: Callable[[Sequence[T]], Sequence[R]],
        alone: Callable[[T], R],
        *,
        key: Callable[[T], Hashable],
        is_unavailable: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._together = together
        self._key = key
        self._is_in_vain = is_unavailable
        self._clock = clock
        self._lock = threading.Lock()
        self._is_led = False
        self._waiting: deque[Place[T, R]] = deque()
        # They stay: a new thread for each batch would have to make its own of what a library keeps for each.
        self._leaders = ThreadPoolExecutor(_LEADERS_MAX, thread_name_prefix="leader")
        self._singles = Singles(alone, clock=clock)
        self._more_leaders = Crew("leader", threads_max=_LEADERS_MAX)

    def serve(self, item: T) -> R:
        """Wait until this item is served. Returns, or raises, what `serve_later` says."""
        return self.serve_later(item).result()

    def serve_later(self, item: T) -> "Future[R]":
        """Say what will have come of serving this item: what that gave, or what serving it alone raised.

        Where nobody is being served, that is done here and now, and others who come meanwhile are left to another
        thread. Whatever keeps some from being served together, each is then served alone, in yet other threads: one
        that is broken, or waits for a lock that somebody holds, costs the others nothing but a moment, and whatever has
        the same key then waits behind it. It is `DatabaseUnavailableError` for whoever waited too long, and at once for
        whoever waited behind another that met it, or would. That is within four seconds, or the time that the caller
        has left.

        Whoever is called back is called by the thread that has served it and tells others after it, which holds no
        lock and leads no more: it must not take long, nor wait for another item.
        """
        place: Place[T, R] = Place(item, self._key(item), self._clock() + min(_SECONDS_MAX, seconds_left()))
        if place.key in self._singles:
            self._singles.add(place)
            return place.served
        with self._lock:
            is_led, self._is_led = self._is_led, True
            has_failed = is_led and self._is_in_vain()
            if not has_failed:
                self._waiting.append(place)
        if has_failed:
            place.fail(DatabaseUnavailableError("CircuitOpen"))
        elif not is_led:
            self._lead(place)
        return place.served

    def waiting(self) -> int:
        """Say how many wait for those who are being served."""
        with self._lock:
            return len(self._waiting)

    def _lead(self, mine: Place[T, R] | None = None) -> None:
        """Serve those who wait, leave those who came meanwhile to another thread, and only then tell.

        What ends a leader in the middle of it is raised, and nobody waits for it: who has this place hears it so.
        """
        places = self._next(TOGETHER_MAX)
        told: list[Callable[[], None]] = []
        try:
            results = self._serve_together(places) if places else ()
            told = [partial(place.tell, result) for place, result in zip(places, results, strict=True)]
        except DatabaseUnavailableError as unavailable:
            # Those who came meanwhile have waited for the same in vain.
            told = [partial(place.fail, unavailable) for place in [*places, *self._next()]]
        except Exception as broken:  # noqa: BLE001 -- whatever it is, whoever it belongs to will meet it alone
            _log.info("to be processed one by one", extra={"deliveries": len(places), **failure(broken)})
            told = [partial(self._singles.add, place) for place in places]
        except BaseException as panic:
            if mine is None:
                _log.error("leader ended", extra=failure(panic))
            told = [partial(self._singles.add, place) for place in places if place is not mine]
            raise
        finally:
            # First, so that the database need not wait for what is done with its answers.
            self._pass_on()
            for tell in told:
                tell()

    def _serve_together(self, places: Sequence[Place[T, R]]) -> Sequence[R]:
        with within(min(place.until for place in places) - self._clock()):
            return self._together([place.item for place in places])

    def _next(self, number: int | None = None) -> list[Place[T, R]]:
        """Take those who have waited longest.

        Whoever has waited too long by now is told so, and who would only meet what one before it waits for joins that.
        """
        now = self._clock()
        aside: list[Callable[[], None]] = []
        places: list[Place[T, R]] = []
        with self._lock:
            while self._waiting and len(places) != number:
                place = self._waiting.popleft()
                if place.until - now < _LEAST_S:
                    aside.append(partial(place.fail, DatabaseUnavailableError("QueueFull")))
                elif place.key in self._singles:
                    aside.append(partial(self._singles.add, place))
                else:
                    places.append(place)
        for each in aside:
            each()
        return places

    def _pass_on(self) -> None:
        with self._lock:
            self._is_led = bool(self._waiting)
            if not self._is_led:
                return
        try:
            self._leaders.submit(self._lead)
        except RuntimeError:
            # It can make no thread, or the interpreter ends; somebody waits all the same. If it leads too after all,
            # there are two who lead for a while, which does no harm.
            self._more_leaders.do(self._lead)

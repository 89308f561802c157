"""Process one by one what would not go together. What needs the same row waits for one that tries, not for the row.

Somebody may hold a row for long, and a try costs a connection and a tenth of a second. So of many that need it only the
first tries, and no more than a few rows are tried for again at a time: the other places are for those who get through.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Generic, TypeVar

from app.database import DatabaseUnavailableError, within
from app.group_commit.calls import Place
from app.group_commit.workers import Crew

T = TypeVar("T")
R = TypeVar("R")

#: Fewer than there are connections, with those below.
ALONE_AT_ONCE_MAX = 8
#: What has met a lock may have this many connections at once, whatever there is of it.
AGAIN_AT_ONCE_MAX = 4
#: A quarter of the connections that a worker takes: senders that wait for held rows leave room for all others. Were
#: each before a row of its own, each would be tried again within two seconds.
HELD_MAX = 64

#: How long to stay away, as a share of the time waited so far; differently for two who stand in each other's way.
_PAUSE = (0.3, 0.7)
_PAUSE_S_MAX = 0.25
#: A try that has less time than this would be given up in the middle.
_LEAST_S = 0.2


class Singles(Generic[T, R]):
    """Queues, one for each key, of which only the first place is tried at a time. Safe to share between threads."""

    def __init__(self, work: Callable[[T], R], *, clock: Callable[[], float]) -> None:
        self._work = work
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[Hashable, deque[Place[T, R]]] = {}
        #: The keys of which somebody holds the row, and since when that is known.
        self._held: dict[Hashable, float] = {}
        #: The keys of which the first is being tried.
        self._tried: set[Hashable] = set()
        self._threads = Crew("single", threads_max=ALONE_AT_ONCE_MAX)
        self._threads_again = Crew("single again", threads_max=AGAIN_AT_ONCE_MAX)

    def __contains__(self, key: Hashable) -> bool:
        """Say whether something with this key is on its way, which others had better wait behind."""
        return key in self._queues

    def add(self, place: Place[T, R]) -> None:
        """Have this processed after all others with its key; fail it at once where too many wait for held rows."""
        with self._lock:
            queue = self._queues.get(place.key)
            is_refused = queue is not None and place.key in self._held and self._number_held() >= HELD_MAX
            if queue is None:
                self._queues[place.key] = deque([place])
            elif not is_refused:
                queue.append(place)
        if is_refused:
            place.fail(DatabaseUnavailableError("LockNotAvailable"))
        elif queue is None:
            self._threads.do(partial(self._try, place.key))

    def _number_held(self) -> int:
        return sum(len(self._queues[key]) for key in self._held)

    def _try(self, key: Hashable) -> None:
        """Try the first with a key that has still time, and see to the next."""
        place = self._first(key)
        if place is None:
            return
        try:
            with within(place.until - self._clock()):
                result = self._work(place.item)
        except DatabaseUnavailableError as unavailable:
            if unavailable.is_of_one_row:
                self._hold(key, unavailable)
            else:
                self._next(key)
                place.fail(unavailable)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, whoever waits for it is told
            self._next(key)
            place.fail(error)
        else:
            self._next(key)
            place.tell(result)

    def _first(self, key: Hashable) -> Place[T, R] | None:
        """Find the first with a key, which is tried from now on; forget a key without any.

        On the way tell everybody who has no time left: when it is the turn of each may be too late.
        """
        with self._lock:
            late = list(self._late())
            queue = self._queues[key]
            if queue:
                self._tried.add(key)
            else:
                del self._queues[key]
                self._held.pop(key, None)
            first = queue[0] if queue else None
        for place in late:
            place.fail(DatabaseUnavailableError("LockNotAvailable" if place.key in self._held else "QueueFull"))
        return first

    def _late(self) -> Iterator[Place[T, R]]:
        now = self._clock()
        for key, queue in self._queues.items():
            while queue and key not in self._tried and queue[0].until - now < _LEAST_S:
                yield queue.popleft()

    def _next(self, key: Hashable) -> None:
        """Let the next one with a key be tried, now that the first is done, behind all other keys."""
        with self._lock:
            self._held.pop(key, None)
            self._tried.discard(key)
            queue = self._queues[key]
            queue.popleft()
            if not queue:
                del self._queues[key]
        if queue:
            self._threads.do(partial(self._try, key))

    def _hold(self, key: Hashable, unavailable: DatabaseUnavailableError) -> None:
        """Somebody holds the row: stay away for a moment, or for good where too many wait for held rows already."""
        refused: list[Place[T, R]] = []
        waited = 0.0
        with self._lock:
            self._tried.discard(key)
            waited = self._clock() - self._held.setdefault(key, self._clock())
            while self._queues[key] and self._number_held() > HELD_MAX:
                refused.append(self._queues[key].pop())
            is_given_up = not self._queues[key]
            if is_given_up:
                del self._queues[key], self._held[key]
        if not is_given_up:
            pause = min(_PAUSE_S_MAX, waited * random.uniform(*_PAUSE))  # noqa: S311 -- jitter, not a secret
            self._threads_again.do(partial(self._try_again, key, self._clock() + pause))
        for place in refused:
            place.fail(unavailable)

    def _try_again(self, key: Hashable, at: float) -> None:
        time.sleep(max(0.0, at - self._clock()))
        self._try(key)

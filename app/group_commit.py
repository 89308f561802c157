"""Group commit: calls that arrive while a transaction commits run together in the next one.

A call on an idle queue wakes a leader at once: there is no timer. The leader, a thread of its own, runs what is queued
as one batch, hands over to a second leader, and only then resolves its futures. bbolt's `DB.Batch` is the model.

A batch that fails runs again call by call, in single workers, so that a call that breaks or needs a held row does not
fail the others. Nothing here knows what a call does, or which database it uses: the constructor is told.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from app.limits import (
    ANSWER_SECONDS_MAX,
    BATCH_SECONDS_MIN,
    BATCH_SIZE_MAX,
    HELD_MAX,
    LEADERS_MAX,
    RETRIES_AT_ONCE_MAX,
    RETRY_PAUSE_SECONDS_MAX,
    SINGLES_AT_ONCE_MAX,
    TRY_SECONDS_MIN,
)
from app.logs import failure

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


#: The pause before the next try, as a share of the time waited so far; random, so that two calls that block each other
#: do not try at the same moment again.
_PAUSE = (0.3, 0.7)


class NotRunError(Exception):
    """A call was given up before it ran: `cause` says what it waited for."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(f"The call was not run ({cause}).")


@dataclass(slots=True, eq=False)
class _Call(Generic[T, R]):
    """An item, and the future of its result."""

    item: T
    #: Calls with one key need the same row.
    key: Hashable
    deadline: float
    future: "Future[R]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        # From here on it cannot be canceled: it is on its way to the database.
        self.future.set_running_or_notify_cancel()

    def succeed(self, result: R) -> None:
        self._resolve(partial(self.future.set_result, result))

    def fail(self, error: BaseException) -> None:
        self._resolve(partial(self.future.set_exception, error))

    def _resolve(self, resolve: Callable[[], None]) -> None:
        try:
            resolve()
        except BaseException as error:  # noqa: BLE001 -- a callback's panic, which the future lets pass, must not reach other calls
            _log.error("callback failed", extra=failure(error))


class GroupCommit(Generic[T, R]):
    """Runs items in batches, or each by itself where its batch failed. Safe to share between threads."""

    def __init__(
        self,
        run_batch: Callable[[Sequence[T]], Sequence[R]],
        run_single: Callable[[T], R],
        *,
        key: Callable[[T], Hashable],
        unavailable: type[Exception],
        is_held_row: Callable[..., bool],
        is_circuit_open: Callable[[], bool],
        within: Callable[[float], AbstractContextManager[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what runs the items, and how its database speaks.

        `unavailable` is raised where running the calls again would not help now, and `is_held_row` says of such an
        error that another transaction holds the row that a single call needs. `within` sets a deadline, in seconds,
        around what runs.
        """
        self.run_batch = run_batch
        self.run_single = run_single
        self._key = key
        self._unavailable = unavailable
        self._is_circuit_open = is_circuit_open
        self._within = within
        self._clock = clock
        self._lock = threading.Lock()
        self._is_led = False
        self._queue: deque[_Call[T, R]] = deque()
        self._leaders = ThreadPoolExecutor(LEADERS_MAX, thread_name_prefix="leader")
        self._singles = _SingleWorkers(self._run_call, unavailable, is_held_row, clock)

    def submit(self, item: T, *, seconds: float = ANSWER_SECONDS_MAX) -> "Future[R]":
        """Queue an item, and return the future of its result, or of what running it by itself raised. Never blocks.

        The future fails within `seconds`, at most four, with `NotRunError` or the error that means unavailable: at once
        where the call would only wait behind others for a database that does not answer.

        A callback of the future runs in a thread that resolves other futures after it: it must not take long, nor wait
        for another call.
        """
        call: _Call[T, R] = _Call(item, self._key(item), self._clock() + min(ANSWER_SECONDS_MAX, seconds))
        if call.key in self._singles:
            self._singles.add(call)
            return call.future
        with self._lock:
            is_led, self._is_led = self._is_led, True
            # With no leader at work, one call is let through, and finds out whether the database answers again.
            is_refused = is_led and self._is_circuit_open()
            if not is_refused:
                self._queue.append(call)
        if is_refused:
            call.fail(NotRunError("CircuitOpen"))
        elif not is_led:
            _start(self._leaders, self._run_as_leader)
        return call.future

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep leaders away, so that what is submitted within this block runs as one batch after it.

        For tests, which decide by this which calls share a batch. Raises `RuntimeError` while a batch runs.
        """
        with self._lock:
            if self._is_led:
                raise RuntimeError
            self._is_led = True
        try:
            yield
        finally:
            self._hand_over()

    def close(self) -> None:
        """Run what is queued, and end the threads."""
        self._leaders.shutdown()
        self._singles.close()

    def _run_as_leader(self) -> None:
        """Run one batch, hand over, and only then resolve the futures: the database need not wait for that."""
        calls = self._take(BATCH_SIZE_MAX)
        resolutions: list[Callable[[], None]]
        try:
            results = self._run_calls(calls) if calls else ()
            resolutions = [partial(call.succeed, result) for call, result in zip(calls, results, strict=True)]
        except self._unavailable as unavailable:
            # The calls that are queued behind this batch would only wait for the same database.
            resolutions = [partial(call.fail, unavailable) for call in [*calls, *self._take()]]
        except BaseException as broken:  # noqa: BLE001 -- the call that raised it raises it again, by itself
            _log.info("batch failed, running one by one", extra={"calls": len(calls), **failure(broken)})
            resolutions = [partial(self._singles.add, call) for call in calls]
        self._hand_over()
        for resolve in resolutions:
            resolve()

    def _run_calls(self, calls: Sequence[_Call[T, R]]) -> Sequence[R]:
        with self._within(min(call.deadline for call in calls) - self._clock()):
            return self.run_batch([call.item for call in calls])

    def _run_call(self, call: _Call[T, R]) -> R:
        with self._within(call.deadline - self._clock()):
            return self.run_single(call.item)

    def _take(self, number: int | None = None) -> list[_Call[T, R]]:
        """Take the calls that were queued first, without those that are late or whose key is on the single path."""
        now = self._clock()
        resolutions: list[Callable[[], None]] = []
        calls: list[_Call[T, R]] = []
        with self._lock:
            while self._queue and len(calls) != number:
                call = self._queue.popleft()
                if call.deadline - now < BATCH_SECONDS_MIN:
                    resolutions.append(partial(call.fail, NotRunError("QueueTimeout")))
                elif call.key in self._singles:
                    resolutions.append(partial(self._singles.add, call))
                else:
                    calls.append(call)
        for resolve in resolutions:
            resolve()
        return calls

    def _hand_over(self) -> None:
        """Let another leader run what is queued by now."""
        with self._lock:
            self._is_led = bool(self._queue)
            if not self._is_led:
                return
        _start(self._leaders, self._run_as_leader)


class _SingleWorkers(Generic[T, R]):
    """Runs calls one by one; of those with one key only the first is tried, and the others wait behind it.

    A row may be held for long, and a try costs a connection and a tenth of a second. So only a few held rows are tried
    again at a time: the other workers are for calls that need none.
    """

    def __init__(
        self,
        run: Callable[[_Call[T, R]], R],
        unavailable: type[Exception],
        is_held_row: Callable[..., bool],
        clock: Callable[[], float],
    ) -> None:
        self._run = run
        self._unavailable = unavailable
        self._is_held_row = is_held_row
        self._clock = clock
        self._lock = threading.Lock()
        #: Of each key, its calls: the first is being tried, or soon will be.
        self._queues: dict[Hashable, deque[_Call[T, R]]] = {}
        #: The keys whose row is held by another transaction, and since when that is known.
        self._held: dict[Hashable, float] = {}
        #: The keys whose first call is being tried.
        self._tried: set[Hashable] = set()
        self._workers = ThreadPoolExecutor(SINGLES_AT_ONCE_MAX, thread_name_prefix="single")
        self._retriers = ThreadPoolExecutor(RETRIES_AT_ONCE_MAX, thread_name_prefix="single again")

    def __contains__(self, key: Hashable) -> bool:
        """Say whether a call with this key is queued here, which others with this key are to wait behind."""
        return key in self._queues

    def add(self, call: _Call[T, R]) -> None:
        """Queue a call behind all others with its key; fail it at once where too many wait for held rows."""
        with self._lock:
            queue = self._queues.get(call.key)
            is_refused = queue is not None and call.key in self._held and self._number_held() >= HELD_MAX
            if queue is None:
                self._queues[call.key] = deque([call])
            elif not is_refused:
                queue.append(call)
        if is_refused:
            call.fail(NotRunError("LockNotAvailable"))
        elif queue is None:
            _start(self._workers, partial(self._try_first, call.key))

    def close(self) -> None:
        """Run what is queued, and end the threads."""
        self._workers.shutdown()
        self._retriers.shutdown()

    def _number_held(self) -> int:
        return sum(len(self._queues[key]) for key in self._held)

    def _try_first(self, key: Hashable) -> None:
        """Try the first call of a key that has time left, and let the next one be tried."""
        call = self._first(key)
        if call is None:
            return
        try:
            result = self._run(call)
        except self._unavailable as unavailable:
            if self._is_held_row(unavailable):
                self._retry_later(key, unavailable)
            else:
                self._queue_following(key)
                call.fail(unavailable)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, the future has it
            self._queue_following(key)
            call.fail(error)
        else:
            self._queue_following(key)
            call.succeed(result)

    def _first(self, key: Hashable) -> _Call[T, R] | None:
        """Find the first call of a key, which is being tried from here on; forget a key without any.

        Fail overdue calls of every key now: their own turn may come after their deadline.
        """
        with self._lock:
            late = list(self._take_late())
            queue = self._queues[key]
            if queue:
                self._tried.add(key)
            else:
                del self._queues[key]
                self._held.pop(key, None)
            first = queue[0] if queue else None
        for call in late:
            call.fail(NotRunError("LockNotAvailable" if call.key in self._held else "QueueTimeout"))
        return first

    def _take_late(self) -> Iterator[_Call[T, R]]:
        now = self._clock()
        for key, queue in self._queues.items():
            while queue and key not in self._tried and queue[0].deadline - now < TRY_SECONDS_MIN:
                yield queue.popleft()

    def _queue_following(self, key: Hashable) -> None:
        """Queue the next call of a key behind the other keys, the first one being done."""
        with self._lock:
            self._held.pop(key, None)
            self._tried.discard(key)
            queue = self._queues[key]
            queue.popleft()
            if not queue:
                del self._queues[key]
        if queue:
            _start(self._workers, partial(self._try_first, key))

    def _retry_later(self, key: Hashable, unavailable: Exception) -> None:
        """Try again after a pause, since the row is held; fail the calls of this key that are too many."""
        refused: list[_Call[T, R]] = []
        with self._lock:
            self._tried.discard(key)
            held_for = self._clock() - self._held.setdefault(key, self._clock())
            while self._queues[key] and self._number_held() > HELD_MAX:
                refused.append(self._queues[key].pop())
            is_given_up = not self._queues[key]
            if is_given_up:
                del self._queues[key], self._held[key]
        if not is_given_up:
            pause = min(RETRY_PAUSE_SECONDS_MAX, held_for * random.uniform(*_PAUSE))  # noqa: S311 -- jitter, not a secret
            _start(self._retriers, partial(self._retry_at, key, self._clock() + pause))
        for call in refused:
            call.fail(unavailable)

    def _retry_at(self, key: Hashable, at: float) -> None:
        time.sleep(max(0.0, at - self._clock()))
        self._try_first(key)


def _start(executor: Executor, work: Callable[[], None]) -> None:
    """Run this in the executor, or here where that has no thread: the interpreter ends, or there are too many."""
    # submit() may raise and still run the work later: the lock makes it run once.
    is_begun = threading.Lock()

    def work_once() -> None:
        if is_begun.acquire(blocking=False):
            work()

    try:
        executor.submit(work_once)
    except RuntimeError:
        work_once()

"""Run work in a transaction, with admission, retry and a deadline, whatever the database does.

Every piece of work runs through `Database`. Its circuit breaker refuses at once what could only wait for a database
that does not answer: a server has few threads. What needs a row that somebody holds waits without a connection.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from sqlite3 import Error as SqliteError
from typing import TypeVar

from psycopg import Error as DriverError
from sqlalchemy import Engine
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError, TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.database import condition
from app.database.driver import CommitNotConfirmedError, seconds_left, within
from app.database.engines import (
    allow_seconds,
    is_there,
    make_engine,
    opened_with,
    unsafe_durability_settings,
)
from app.database.errors import DatabaseUnavailableError, is_transient, name_of
from app.limits import (
    ANSWER_SECONDS_MAX,
    ATTEMPTS_MAX,
    HELD_ROW_SECONDS_MAX,
    HELD_ROW_THREADS_DIVISOR,
    INSIDE_MAX,
    LAST_TRY_SECONDS,
    POOL_SIZE,
    SLOW_FAILURE_SECONDS,
    SLOW_FAILURES_MAX,
    UNAWAITED_SECONDS_MAX,
    WORK_SECONDS_MIN,
)

T = TypeVar("T")

#: Milliseconds of pause before the next try; random, so that two that deadlocked do not deadlock again.
_PAUSE_MS = (5, 40)


#: The pause before the next try, as a share of the time waited so far. It is random, so that two transactions that
#: block each other do not try at the same moment again.
_HELD_PAUSE = (0.3, 0.7)


class Database:
    """One engine, and the only way to get a session of it."""

    def __init__(self, url: str, *, is_for_looking: bool = False) -> None:
        self.engine = make_engine(url, is_for_looking=is_for_looking)
        # Reads have a circuit breaker of their own: a held lock or a full disk stops writers alone.
        self._breakers = {read_only: CircuitBreaker(inside_max=INSIDE_MAX) for read_only in (False, True)}
        #: Held by the work that no answer waits for, which is done one piece after another.
        self._unawaited = threading.Lock()
        self._is_closed = False
        self.set_thread_count(POOL_SIZE)

    def set_thread_count(self, threads: int) -> None:
        """Set how many threads use this, so that most of them never wait for held rows."""
        self._waiting = threading.Semaphore(max(min(1, threads - 1), threads // HELD_ROW_THREADS_DIVISOR))

    def run(
        self,
        work: Callable[[Session], T],
        *,
        read_only: bool = False,
        is_hot: bool = False,
        seconds_max: float = ANSWER_SECONDS_MAX,
    ) -> T:
        """Do `work` in one transaction and commit; retry it when the database was in trouble.

        `work` must have no effect outside its session, since it may run several times. A read-only run sees one
        snapshot and never waits for writers. `is_hot` is for units of work: short timeouts, and plans that find each
        row by an index. A command that no request waits for may take more seconds.

        Raises `DatabaseUnavailableError` where every try failed, where time ran out, and where it needs a held row
        while too many others wait for held rows already.
        """
        # A read waits only for a lock on a whole table, which blocks all reads alike: limiting them would help nothing.
        waiting = None if read_only else self._waiting
        return retry_while_held(
            lambda: self.run_unless_held(work, read_only=read_only, is_hot=is_hot, seconds_max=seconds_max),
            waiting=waiting,
        )

    def run_unless_held(
        self,
        work: Callable[[Session], T],
        *,
        read_only: bool = False,
        is_hot: bool = False,
        seconds_max: float = ANSWER_SECONDS_MAX,
    ) -> T:
        """Do `work` as `run` does, but give up where another transaction holds a row that it needs.

        Raises `DatabaseUnavailableError`, whose `is_held_row` says so.
        """
        engine = opened_with(self.engine, read_only=read_only, is_hot=is_hot)
        with self._breakers[read_only].admit(), _limited(seconds_max) as started:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                try:
                    with Session(engine, expire_on_commit=False) as session, session.begin():
                        if seconds_max > ANSWER_SECONDS_MAX:
                            allow_seconds(session.connection(), seconds_max)
                        return work(session)
                except SQLAlchemyError as error:
                    if not is_transient(error):
                        raise
                    unavailable = DatabaseUnavailableError(name_of(error))
                    if unavailable.is_held_row or _is_final(error, started) or attempt == ATTEMPTS_MAX:
                        raise unavailable from error
                time.sleep(random.uniform(*_PAUSE_MS) / 1000)  # noqa: S311 -- jitter, not a secret
        raise AssertionError

    def run_once(self, work: Callable[[Connection], T]) -> T:
        """Do hot `work` in one transaction and commit. Nothing is retried here: the caller does that.

        Raises `DatabaseUnavailableError` where the database did not answer, so that a retry would not help. Every other
        error is raised as it is, a held row or a deadlock too.
        """
        with self._breakers[False].admit(), _limited(ANSWER_SECONDS_MAX) as started:
            try:
                with opened_with(self.engine, read_only=False, is_hot=True).begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                unavailable = DatabaseUnavailableError(name_of(error))
                if is_transient(error) and not unavailable.is_held_row and _is_final(error, started):
                    raise unavailable from error
                raise

    def run_unawaited(self, work: Callable[[Session], T]) -> T:
        """Do `work` that no answer waits for in one transaction, once, and past the circuit breakers.

        So it can neither open a circuit nor be the work inside for which others are turned away. Raises
        `DatabaseUnavailableError`: at once where the circuit for writing is open, and soon where nothing answers.
        """
        with self._unawaited, _limited(UNAWAITED_SECONDS_MAX):
            if self._is_closed:
                raise DatabaseUnavailableError("Closed")
            if self.is_circuit_open():
                raise DatabaseUnavailableError("CircuitOpen")
            try:
                with Session(opened_with(self.engine, read_only=False, is_hot=False)) as session, session.begin():
                    return work(session)
            except SQLAlchemyError as error:
                if not is_transient(error):
                    raise
                raise DatabaseUnavailableError(name_of(error)) from error

    def is_circuit_open(self) -> bool:
        """Say whether the circuit for writing is open: the database does not answer."""
        return self._breakers[False].is_open()

    def is_there(self) -> bool:
        """Say whether there is anything to connect to: an SQLite file is made by `flask db upgrade` alone."""
        return is_there(self.engine.url)

    def unsafe_durability_settings(self) -> dict[str, str]:
        """Name the settings, with their values, under which what was committed may be gone after a power cut.

        Raises `DatabaseUnavailableError`.
        """
        return self.run(lambda session: unsafe_durability_settings(session.connection()), read_only=True)

    def why_not_writable(self) -> str | None:
        """Say why nothing can be written, if so: it is read-only, or a standby. Raises `DatabaseUnavailableError`."""
        return self._ask(condition.why_not_writable)

    def check_pool(self) -> None:
        """Find out whether a pool before the database loses what the service needs.

        Raises `UnfitDatabaseError` and `DatabaseUnavailableError`.
        """
        self._ask(condition.check_pool)

    def _ask(self, question: Callable[[Engine], T]) -> T:
        # By the breaker of reads: a check must be answered while writers wait.
        with self._breakers[True].admit(), _limited(ANSWER_SECONDS_MAX):
            try:
                return question(self.engine)
            except (SQLAlchemyError, DriverError, SqliteError) as error:
                raise DatabaseUnavailableError(name_of(error)) from error

    def close(self) -> None:
        """Close every pooled connection, once the work that no answer waits for is done."""
        with self._unawaited:
            self._is_closed = True
        self.engine.dispose()


def _is_final(error: SQLAlchemyError, started: float) -> bool:
    # A retry after a wait for a connection makes the queue longer. A commit that no standby confirmed is on record
    # here: a retry finds it done, and waits for the same standby.
    is_final = isinstance(error, PoolTimeoutError) or isinstance(getattr(error, "orig", None), CommitNotConfirmedError)
    if is_final or time.monotonic() - started >= LAST_TRY_SECONDS:
        return True
    return seconds_left() < WORK_SECONDS_MIN


@contextmanager
def _limited(seconds_max: float) -> Iterator[float]:
    """Set the deadline of every wait for the database, and give the time at which the work began.

    Raises `DatabaseUnavailableError` where the deadline that is set already is too near to begin.
    """
    left = seconds_left()
    if left < WORK_SECONDS_MIN:
        raise DatabaseUnavailableError("TooLate")
    with within(min(left, seconds_max)):
        yield time.monotonic()


# --- what is let in --------------------------------------------------------------------------------------------------


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
            return self._inside > 0 and self._failures >= SLOW_FAILURES_MAX

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
            has_failed = not error.is_held_row and self._clock() - started >= SLOW_FAILURE_SECONDS
            raise
        finally:
            self._leave(has_failed=has_failed)

    def _enter(self) -> None:
        with self._lock:
            if self._inside >= self._inside_max:
                raise DatabaseUnavailableError("QueueFull")
            if self._inside and self._failures >= SLOW_FAILURES_MAX:
                raise DatabaseUnavailableError("CircuitOpen")
            self._inside += 1

    def _leave(self, *, has_failed: bool) -> None:
        with self._lock:
            self._inside -= 1
            self._failures = self._failures + 1 if has_failed else 0


# --- the retry while a row is held -----------------------------------------------------------------------------------


def retry_while_held(work: Callable[[], T], *, waiting: threading.Semaphore | None) -> T:
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
                if not error.is_held_row or waited >= min(HELD_ROW_SECONDS_MAX, seconds_left()):
                    raise
                if waiting is not None and not may_wait:
                    may_wait = waiting.acquire(blocking=False)
                    if not may_wait:
                        raise
                    stack.callback(waiting.release)
            time.sleep(min(waited * random.uniform(*_HELD_PAUSE), seconds_left()))  # noqa: S311 -- jitter, not a secret

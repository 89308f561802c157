"""Run work in a transaction: let in, tried again, and over within seconds, whatever the database does.

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
    POOL_SIZE,
    allow_seconds,
    is_there,
    make_engine,
    read_only_options,
    unsafe_durability_settings,
)
from app.database.errors import DatabaseUnavailableError, is_transient, name_of

T = TypeVar("T")

#: A transaction that lost a deadlock wins the next try almost surely; past three the sender does better to come back.
ATTEMPTS_MAX = 3
#: Whoever has waited this long for a lock or a connection has waited in vain, and does not begin once more.
_LAST_TRY_S = 2
#: No request works with the database for longer than this, all tries together. Most work takes milliseconds.
REQUEST_SECONDS_MAX = 4
#: Work that has less time than this left is not begun: waiting for a connection alone may take as long.
_LEAST_S = 0.3
#: Of the threads of a worker, the share that may wait for a row that somebody holds. The others are for other work.
_WAITING_SHARE = 4
#: Milliseconds that two losers of one deadlock wait, differently, before they meet again.
_PAUSE_MS = (5, 40)
#: One that works and three that wait, for each connection: more than a worker has threads, whatever they do.
_INSIDE_MAX = 4 * POOL_SIZE

#: Whoever failed after less than this was told at once, and held nobody up.
_LONG_S = 1.0
#: One that waits in vain may have met a lock of its own; two in a row, with nobody getting through, is trouble for all.
_FAILURES_MAX = 2

#: A row's lock is held for milliseconds. Whoever has waited longer than this waits for something broken.
_HELD_SECONDS_MAX = 2
#: How long to stay away, as a share of the time waited so far; differently for two who stand in each other's way.
_HELD_PAUSE = (0.3, 0.7)


class Database:
    """One engine, and the only way to get a session of it."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        # What only reads gets by where writers wait: another's lock, a full disk.
        self._breakers = {read_only: CircuitBreaker(inside_max=_INSIDE_MAX) for read_only in (False, True)}
        self.share_between(POOL_SIZE)

    def share_between(self, threads: int) -> None:
        """Say how many threads work with it: never may all of them wait for rows that somebody holds."""
        self._waiting = threading.Semaphore(max(min(1, threads - 1), threads // _WAITING_SHARE))

    def run(
        self, work: Callable[[Session], T], *, read_only: bool = False, seconds_max: float = REQUEST_SECONDS_MAX
    ) -> T:
        """Do `work` in one transaction and commit; do all of it again when the database was in trouble.

        `work` must have no effect outside its session, since it may run several times. A read-only run sees one
        snapshot and never waits for writers. A command that nobody else waits for may give it more seconds.

        Raises `DatabaseUnavailableError` where the database was in trouble each time, or for too long, and where others
        wait for held rows already and this one would have to.
        """
        # What only reads waits for no row: somebody holds a whole table, for a moment, and nobody could make use of the
        # place of another.
        waiting = None if read_only else self._waiting
        return retry_while_locked(
            lambda: self.run_unless_locked(work, read_only=read_only, seconds_max=seconds_max), waiting=waiting
        )

    def run_unless_locked(
        self, work: Callable[[Session], T], *, read_only: bool = False, seconds_max: float = REQUEST_SECONDS_MAX
    ) -> T:
        """Do `work` as `run` does, but give up where somebody holds a row that it needs.

        Raises `DatabaseUnavailableError`, which says whether that was so.
        """
        engine = self.engine.execution_options(**read_only_options()) if read_only else self.engine
        with self._breakers[read_only].admit(), _limited(seconds_max) as started:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                try:
                    with Session(engine, expire_on_commit=False) as session, session.begin():
                        if seconds_max > REQUEST_SECONDS_MAX:
                            allow_seconds(session.connection(), seconds_max)
                        return work(session)
                except SQLAlchemyError as error:
                    if not is_transient(error):
                        raise
                    unavailable = DatabaseUnavailableError(name_of(error))
                    if unavailable.is_of_one_row or _is_in_vain(error, started) or attempt == ATTEMPTS_MAX:
                        raise unavailable from error
                time.sleep(random.uniform(*_PAUSE_MS) / 1000)  # noqa: S311 -- jitter, not a secret
        raise AssertionError

    def run_once(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in one transaction and commit, if that goes at the first try, and raise what stands in the way.

        No row's lock is waited for longer than transactions of ours hold one. Raises `DatabaseUnavailableError` where
        the database was waited for in vain.
        """
        with self._breakers[False].admit(), _limited(REQUEST_SECONDS_MAX) as started:
            try:
                with self.engine.begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                unavailable = DatabaseUnavailableError(name_of(error))
                if is_transient(error) and not unavailable.is_of_one_row and _is_in_vain(error, started):
                    raise unavailable from error
                raise

    def is_unavailable(self) -> bool:
        """Say whether others wait for the database in vain, so that it is no use to join them."""
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
        # Beside what only reads: no answer may wait for those who write.
        with self._breakers[True].admit(), _limited(REQUEST_SECONDS_MAX):
            try:
                return question(self.engine)
            except (SQLAlchemyError, DriverError, SqliteError) as error:
                raise DatabaseUnavailableError(name_of(error)) from error

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _is_in_vain(error: SQLAlchemyError, started: float) -> bool:
    # Whoever waited in vain for a connection would only make the queue longer. What was committed without the standby
    # is on record here, so that doing it again would find it done, and wait for the same standby.
    is_final = isinstance(error, PoolTimeoutError) or isinstance(getattr(error, "orig", None), CommitNotConfirmedError)
    if is_final or time.monotonic() - started >= _LAST_TRY_S:
        return True
    return seconds_left() < _LEAST_S


@contextmanager
def _limited(seconds_max: float) -> Iterator[float]:
    """Set a time by which every wait for the database ends, and say when it began to run.

    Raises `DatabaseUnavailableError` where whoever waits for this has next to no time left.
    """
    left = seconds_left()
    if left < _LEAST_S:
        raise DatabaseUnavailableError("TooLate")
    with within(min(left, seconds_max)):
        yield time.monotonic()


# --- what is let in --------------------------------------------------------------------------------------------------


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


# --- the retry while a row is held -----------------------------------------------------------------------------------


def retry_while_locked(work: Callable[[], T], *, waiting: threading.Semaphore | None) -> T:
    """Do `work`, again and again while it needs a row that somebody holds and there is a place to wait for it.

    Raises `DatabaseUnavailableError`: at once where it has another cause or all places are taken, and after about two
    seconds, or the time that is left, where neither is so.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        has_place = waiting is None
        while True:
            try:
                return work()
            except DatabaseUnavailableError as error:
                waited = time.monotonic() - started
                if not error.is_of_one_row or waited >= min(_HELD_SECONDS_MAX, seconds_left()):
                    raise
                if waiting is not None and not has_place:
                    has_place = waiting.acquire(blocking=False)
                    if not has_place:
                        raise
                    stack.callback(waiting.release)
            time.sleep(min(waited * random.uniform(*_HELD_PAUSE), seconds_left()))  # noqa: S311 -- jitter, not a secret

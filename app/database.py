"""Connect to the database, and hide how SQLite and PostgreSQL differ.

Every piece of work runs through `Database.run`: one transaction, tried again when the database asks for it.
"""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError as PoolTimeoutError,
)
from sqlalchemy.orm import DeclarativeBase, Session

T = TypeVar("T")

#: A transaction that lost a deadlock wins the next try almost surely; past three the sender does better to come back.
ATTEMPTS_MAX = 3
#: Milliseconds that two losers of one deadlock wait, differently, before they meet again.
_PAUSE_MS = (5, 40)
#: A row lock is held for milliseconds. Whoever waits longer than this waits for something broken.
_LOCK_TIMEOUT_MS = 2_000
#: No statement of a door takes a tenth of this.
_STATEMENT_TIMEOUT_MS = 15_000
#: How long connecting, or waiting for a connection of the pool, may hold a thread.
_CONNECT_TIMEOUT_S = 3
#: One connection for each thread of a worker, and a few for bursts of a server with more threads than these.
_POOL_SIZE = 16

_READ_ONLY = "notifyauth_read_only"


class DatabaseUnavailableError(Exception):
    """The database could not do the work, though trying again later may succeed."""

    def __init__(self, error: SQLAlchemyError) -> None:
        #: The class of the driver's error. Its message stays out: it may quote what a stranger wrote.
        self.cause = type(getattr(error, "orig", None) or error).__name__
        super().__init__(f"The database is unavailable ({self.cause}).")


def is_transient(error: BaseException) -> bool:
    """Tell the database's troubles, worth another try, from errors of ours, which another try repeats.

    Deadlock, serialization failure, lost connection, lock timeout, a full disk and a read-only server are all reported
    as operational, interface or internal errors. What a statement of ours can cause (data, integrity, programming
    errors) is none of them.
    """
    if isinstance(error, PoolTimeoutError):
        return True
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or isinstance(error, OperationalError | InterfaceError | InternalError)
    )


class Database:
    """One engine, and the only way to get a session of it."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)

    def run(self, work: Callable[[Session], T], *, read_only: bool = False) -> T:
        """Do `work` in one transaction and commit; do all of it again when the database was in trouble.

        `work` must have no effect outside its session, since it may run up to three times. A read-only run sees
        one snapshot and never waits for writers.

        Raises `DatabaseUnavailableError` where the database was in trouble each time.
        """
        engine = self.engine.execution_options(**_read_only_options(self.engine)) if read_only else self.engine
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with Session(engine, expire_on_commit=False) as session, session.begin():
                    return work(session)
            except SQLAlchemyError as error:
                if not is_transient(error):
                    raise
                # Whoever waited in vain for a connection would only make the queue longer.
                if attempt == ATTEMPTS_MAX or isinstance(error, PoolTimeoutError):
                    raise DatabaseUnavailableError(error) from error
            time.sleep(random.uniform(*_PAUSE_MS) / 1000)  # noqa: S311 -- jitter, not a secret
        raise AssertionError

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def insert(session: Session, table: type[DeclarativeBase]) -> Any:  # noqa: ANN401 -- the dialects' common ground has no type
    """Start an INSERT in the database's own dialect: only those know ON CONFLICT."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(table)


def make_engine(url: str | URL) -> Engine:
    """Make an engine whose connections keep what they commit and wait for nothing without a bound.

    Errors of this engine never quote parameters: those hold tokens.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    return _postgresql_engine(parsed)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, pool_timeout=_CONNECT_TIMEOUT_S, pool_size=_POOL_SIZE, max_overflow=0
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 -- the driver's own
        # The driver's own transactions begin too late: with None, "begin" below decides.
        connection.isolation_level = None
        # The wait comes first: switching to WAL needs the lock that another starting process may hold.
        connection.execute(f"PRAGMA busy_timeout = {_LOCK_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A plain BEGIN takes the write lock at the first write and fails at once if somebody wrote in between.
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
        pool_timeout=_CONNECT_TIMEOUT_S,
        pool_size=_POOL_SIZE,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 -- the driver's own
        connection.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
        connection.execute(f"SET statement_timeout = {_STATEMENT_TIMEOUT_MS}")
        # In the zone of a server, a token that "never" expires may end in the year 10000, which the driver cannot read.
        connection.execute("SET timezone = 'UTC'")
        connection.commit()

    return engine


def _read_only_options(engine: Engine) -> dict[str, object]:
    if engine.dialect.name == "sqlite":
        return {_READ_ONLY: True}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

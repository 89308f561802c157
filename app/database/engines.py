"""Make SQLAlchemy's engine for SQLite or PostgreSQL.

Each commit survives a power cut, and each wait (connecting, a lock, an answer) has a bound, whatever the default is.
"""

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg
from sqlalchemy import Engine, ExceptionContext, create_engine, event
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import OperationalError

from app.database.driver import Connection as DriverConnection, seconds_left
from app.database.errors import is_of_the_connection
from app.database.pipeline import enable_pipelines
from app.database.reaching import Reach
from app.database.requirements import require_postgresql, require_sqlite
from app.database.transactions import HOT, READING, SESSION, WRITING, Opening
from app.database.urls import driver_arguments
from app.limits import BUSY_TIMEOUT_MS, CONNECT_TIMEOUT_SECONDS, POOL_SIZE, POOL_TIMEOUT_SECONDS, STATEMENT_TIMEOUT_MS

#: The pause between two tries for the lock: about as long as a busy process leaves it free between two transactions.
_LOOK_AGAIN_MS = (0.3, 0.9)

#: What libpq is told about the network. A peer that vanished says nothing: sending to it, and idling, find out so.
_NETWORK = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}

_OPENING = "notifyauth_opening"

#: What may stand in the settings of a database that keeps what it has committed through a power cut, and how to ask.
_LASTING = {
    "sqlite": {"journal_mode": {"wal"}, "synchronous": {"2"}},
    "postgresql": {
        "fsync": {"on"},
        "full_page_writes": {"on"},
        "synchronous_commit": {"local", "remote_write", "on", "remote_apply"},
    },
}


def make_engine(url: str | URL, *, is_for_looking: bool = False) -> Engine:
    """Make an engine whose commits survive a power cut and whose waits are bounded.

    One for looking leaves an SQLite file in the journal mode that it is in.

    Errors of this engine never quote parameters: those hold tokens.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, is_for_looking=is_for_looking)
    return _postgresql_engine(parsed)


def opened_with(engine: Engine, *, read_only: bool, is_hot: bool) -> Engine:
    """Give the engine for transactions that see one snapshot, for units of work, or for other writes."""
    opening = READING if read_only else HOT if is_hot else WRITING
    return engine.execution_options(**{_OPENING: opening})


def _opening_of(connection: Connection) -> Opening:
    opening: Opening = connection.get_execution_options().get(_OPENING, WRITING)
    return opening


def allow_seconds(connection: Connection, seconds_max: float) -> None:
    """Let each statement of this transaction, and each pause between two, take so long: sessions allow less."""
    if connection.dialect.name == "postgresql":
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {setting} = {round(seconds_max * 1000)}")


def unsafe_durability_settings(connection: Connection) -> dict[str, str]:
    """Name the settings, with their values, under which what was committed may be gone after a power cut."""
    name = connection.dialect.name
    if name == "sqlite":
        found = {each: str(connection.exec_driver_sql(f"PRAGMA {each}").scalar()) for each in _LASTING[name]}
    else:
        names = [*_LASTING[name], "synchronous_standby_names"]
        # Engines that only speak the protocol of PostgreSQL list of these what they have.
        rows = connection.exec_driver_sql(
            "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)",
            (names,),
        )
        found = {row.name: row.setting for row in rows}
    forgetful = {each: value for each, value in found.items() if value not in _LASTING[name].get(each, {value})}
    if found.get("synchronous_standby_names") and found.get("synchronous_commit") == "local":
        # Somebody wants every commit on another machine, and those of ours would not wait for it.
        forgetful["synchronous_commit"] = "local"
    return forgetful


def _sqlite_engine(url: URL, *, is_for_looking: bool) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, pool_timeout=POOL_TIMEOUT_SECONDS, pool_size=POOL_SIZE, max_overflow=0
    )

    @event.listens_for(engine, "do_connect")
    def require_file(_dialect: object, _record: object, _arguments: object, _options: object) -> None:
        require_sqlite()
        # SQLite would make an empty file of any name. Only `flask db upgrade` makes one.
        if not is_there(url):
            raise FileMissingError

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: Any) -> None:  # noqa: ANN401 -- SQLAlchemy's own
        # The driver's own transactions begin too late: with None, "begin" below decides.
        connection.isolation_level = None
        with _closed_on_error(connection):
            # The wait comes first: switching to WAL needs the lock that another starting process may hold.
            connection.execute(f"PRAGMA busy_timeout = {_busy_timeout_ms()}")
            if not is_for_looking:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        record.info["file"] = _identity(url)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.info["file"] != _identity(url):
            raise OperationalError("BEGIN", None, FileReplacedError())
        driver_connection = cast("sqlite3.Connection", connection.connection.driver_connection)
        if _opening_of(connection) is READING:
            driver_connection.execute(f"PRAGMA busy_timeout = {_busy_timeout_ms()}")
            connection.exec_driver_sql("BEGIN")
        else:
            _begin_to_write(driver_connection)

    return engine


def _busy_timeout_ms() -> int:
    """Say how long to wait for the file's lock: no longer than there is time for the work that needs it."""
    return round(1000 * min(BUSY_TIMEOUT_MS / 1000, seconds_left()))


def _begin_to_write(connection: sqlite3.Connection) -> None:
    """Take the write lock at once: a plain BEGIN takes it at the first write, and fails after a write in between.

    SQLite itself would look for the lock ever less often, and one busy process would leave another next to no chance:
    two of them under load kept each other out for seconds.
    """
    until = time.monotonic() + _busy_timeout_ms() / 1000
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                # Its lowest byte says what it is; the others why, as when another process recovers the journal.
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= until:
                    raise OperationalError("BEGIN", None, error) from error
            else:
                return
            time.sleep(random.uniform(*_LOOK_AGAIN_MS) / 1000)  # noqa: S311 -- jitter, not a secret
    finally:
        connection.execute(f"PRAGMA busy_timeout = {_busy_timeout_ms()}")


class FileReplacedError(sqlite3.OperationalError):
    """The database's file was moved or replaced while it was open: what is written goes into a file without a name.

    A new connection would be no remedy: the journal beside the file belongs to the old one. Closing the last old
    connection, as the end of the process does, puts that right.
    """

    def __init__(self) -> None:
        super().__init__("the file was moved or replaced while it was in use: restart every process that uses it")


class FileMissingError(sqlite3.OperationalError):
    """There is no database file where the URL says."""

    def __init__(self) -> None:
        super().__init__("there is no such file")


def is_there(url: URL) -> bool:
    """Say whether there is a database to connect to; of one on a server only connecting tells."""
    is_file = url.get_backend_name() == "sqlite" and "uri" not in url.query
    return not is_file or Path(url.database or "").exists()


def _identity(url: URL) -> tuple[int, int] | None:
    try:
        found = Path(url.database or "").stat()
    except FileNotFoundError:
        # It is gone, or the URL names it in the manner of SQLite itself.
        return None
    return found.st_dev, found.st_ino


def _postgresql_engine(url: URL) -> Engine:
    url, arguments = driver_arguments(url)
    engine = create_engine(
        url,
        hide_parameters=True,
        # Transactions begin and end with what is said to begin and end them: the driver adds nothing of its own.
        connect_args=_NETWORK | arguments | {"autocommit": True, "client_encoding": "utf8"},
        # Looking for a type that we do not have would take each new connection three messages.
        use_native_hstore=False,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        pool_size=POOL_SIZE,
        max_overflow=0,
        # Of a few connections that are used all the time, the server has everything at hand.
        pool_use_lifo=True,
    )

    enable_pipelines(engine)
    reach = Reach()

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, _arguments: object, options: Any) -> DriverConnection:  # noqa: ANN401 -- libpq's own
        connection = reach.connect(options)
        with _closed_on_error(connection):
            require_postgresql(connection.info)
        return connection

    @event.listens_for(engine, "connect")
    def prepare(connection: psycopg.Connection, _record: object) -> None:
        with _closed_on_error(connection):
            connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in SESSION.items()).encode())

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver_connection = cast("DriverConnection", connection.connection.driver_connection)
        driver_connection.opening = _opening_of(connection)

    @event.listens_for(engine, "handle_error")
    def forget_connection(context: ExceptionContext) -> None:
        if is_of_the_connection(context.original_exception):
            context.is_disconnect = True

    return engine


@contextmanager
def _closed_on_error(connection: sqlite3.Connection | psycopg.Connection) -> Iterator[None]:
    """Close a connection that cannot be prepared: the pool never gets to know it."""
    try:
        yield
    except BaseException:
        connection.close()
        raise

"""Database errors: tell trouble of the database, which a retry may mend, from our own errors, which it repeats."""

import re
import sqlite3

import psycopg
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    TimeoutError as PoolTimeoutError,
)

#: What PostgreSQL says where a connection, new or not, would have done: it began on a standby, or before the database
#: was frozen, and does not learn to write; it keeps a plan for a column whose type has changed (or is asked, on a
#: standby, what only others support); its prepared statements are another's, behind a pool that lends connections.
_OF_THE_CONNECTION = frozenset({"25006", "0A000", "26000", "42P05"})

#: PostgreSQL's name for a lock that was not granted within lock_timeout.
_LOCK_NOT_AVAILABLE = "LockNotAvailable"

#: How psycopg names, privately, that the time in which an answer had to come is over.
_NO_ANSWER = "_WaitTimeout"

#: A statement or a value that exceeds what PostgreSQL can hold (class 54): another try exceeds it too.
_PROGRAM_LIMIT_EXCEEDED = "54"

#: SQLite has one code for statements that it does not understand, and for these: what ended the transaction before
#: them, a full disk for example, is the database's trouble.
_TRANSACTION_IS_GONE = re.compile(r"no such savepoint|cannot (start|commit|rollback|release)")

#: What SQLite says of a file that is damaged, or that something else was copied over.
_BROKEN_FILE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: As much as a line of a log, or of a terminal, has room for.
_SAID_MAX = 300


class DatabaseUnavailableError(Exception):
    """The database could not do the work, though trying again later may succeed."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(f"The database is unavailable ({cause}).")

    @property
    def is_held_row(self) -> bool:
        """Whether another transaction held a row that this work needed: other work may not need that row."""
        return self.cause == _LOCK_NOT_AVAILABLE


class UnfitDatabaseError(DatabaseUnavailableError):
    """The database answers, and is none that this service can work on: an operator has to change something."""


def name_of(error: Exception) -> str:
    """Say what the driver's error is: in the database's own words where they can quote nothing, or else by its class.

    The message of an error that a statement caused stays out: it may quote what a stranger wrote.
    """
    original = getattr(error, "orig", None) or error
    name = type(original).__name__
    if name == _NO_ANSWER:
        return "no answer in time"
    return said_by(original) or name


def said_by(original: BaseException) -> str | None:
    """Quote what a driver's error says where no value can be in it; `None` where one could be.

    That is so of a connection that could not be made, or was lost, of a privilege that is missing, of a database that
    is read-only, and of the fixed texts of SQLite about its file. None of them ever has a password in it.
    """
    if isinstance(original, psycopg.errors.InsufficientPrivilege | psycopg.errors.ReadOnlySqlTransaction):
        return _one_line(original.diag.message_primary or str(original))
    # Whatever the server says of a statement has a code. What has none is the word of libpq, or of the server as it
    # refuses a connection.
    if isinstance(original, psycopg.OperationalError) and original.sqlstate is None:
        return _one_line(str(original))
    if isinstance(original, sqlite3.OperationalError) and _sqlite_code(original) is None:
        # Ours, of a file that was replaced or is not there.
        return _one_line(str(original)) or None
    if isinstance(original, sqlite3.DatabaseError) and _sqlite_code(original) not in {None, sqlite3.SQLITE_ERROR}:
        is_fixed = not isinstance(original, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError)
        return _one_line(str(original)) if is_fixed else None
    return None


def is_transient(error: BaseException) -> bool:
    """Say whether an error is trouble of the database, worth another try.

    Deadlock, serialization failure, lost connection, lock timeout, a full disk and a read-only server are all reported
    as operational, interface or internal errors. What a statement of ours can cause (data, integrity, programming
    errors, a limit exceeded, an SQL that SQLite does not understand) is not transient.
    """
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or is_of_the_connection(error.orig):
        return True
    if isinstance(error, OperationalError | InterfaceError | InternalError):
        return not _is_refused_statement(error.orig)
    return isinstance(error.orig, sqlite3.DatabaseError) and _sqlite_code(error.orig) in _BROKEN_FILE


def is_of_the_connection(error: BaseException | None) -> bool:
    """Say whether an error is of this connection alone: another connection may not have it, so this one is closed.

    What breaks the protocol has no class of its own: a server that dies may send anything.
    """
    return type(error) is psycopg.DatabaseError or getattr(error, "sqlstate", None) in _OF_THE_CONNECTION


def _is_refused_statement(original: BaseException | None) -> bool:
    """Say whether the database understood us and refused just this statement, though its driver calls it trouble."""
    if isinstance(original, sqlite3.OperationalError):
        is_refused = _sqlite_code(original) == sqlite3.SQLITE_ERROR
        return is_refused and not _TRANSACTION_IS_GONE.match(str(original))
    sqlstate = original.sqlstate if isinstance(original, psycopg.Error) else None
    return sqlstate is not None and sqlstate.startswith(_PROGRAM_LIMIT_EXCEEDED)


def _sqlite_code(error: sqlite3.Error) -> int | None:
    """Return what went wrong by SQLite's primary code, which its lowest byte is; errors of Python's own have none."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _one_line(text: str) -> str:
    """Make a sentence of what libpq says over several lines, for each address that it has tried."""
    told = [line.strip() for line in text.splitlines() if not line.startswith("\t")]
    joined = " ".join(told).replace("connection failed: ", "").replace("FATAL:  ", "")
    return joined if len(joined) <= _SAID_MAX else f"{joined[:_SAID_MAX]}…"

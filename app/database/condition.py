"""Check whether a database takes writes, and whether a connection pool before it keeps what a session relies on.

A read that succeeds says neither. A frozen database and a standby answer every question, and a pool that lends
connections for one transaction works until two clients use the same server connection.
"""

import sqlite3
from contextlib import closing
from typing import cast

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import PoolProxiedConnection

from app.database.driver import Connection as DriverConnection
from app.database.errors import UnfitDatabaseError, is_of_the_connection
from app.database.transactions import SESSION

#: A pool in use by others hands out servers as it likes; in so many rounds two clients share one almost surely.
_ROUNDS = 8

_WRITABLE = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"
_PROCESS = "SELECT pg_backend_pid()"
_FORMATS = b"SELECT current_setting('TimeZone'), current_setting('DateStyle')"

READ_ONLY = "read-only"
STANDBY = "read-only: a standby, until it is promoted"


class LosesStatementsError(UnfitDatabaseError):
    """The pool gives a client another server for each transaction, without the statements that were prepared there."""

    def __init__(self) -> None:
        super().__init__(
            "the pool before it loses prepared statements: use PgBouncer 1.21 or newer with max_prepared_statements, "
            "or add ?prepare_threshold=none to the URL"
        )


class LosesSettingsError(UnfitDatabaseError):
    """The pool gives a client another server for each transaction, without the formats that were set there."""

    def __init__(self) -> None:
        settings = " ".join(f"ALTER ROLE … SET {name} = '{value}';" for name, value in SESSION.items())
        super().__init__(
            f"the pool before it loses the settings of a session: use PgBouncer, or set them for the role: {settings}"
        )


def why_not_writable(engine: Engine) -> str | None:
    """Say why nothing can be written, if so, without waiting for writers. Raises `SQLAlchemyError`."""
    if engine.dialect.name == "sqlite":
        return _why_sqlite_is_not(engine)
    if _why_postgresql_is_not(engine) is None:
        return None
    # A connection that began in this state stays in it after the database has left it.
    engine.dispose()
    return _why_postgresql_is_not(engine)


def _why_postgresql_is_not(engine: Engine) -> str | None:
    with engine.connect() as connection:
        is_standby, is_read_only = connection.exec_driver_sql(_WRITABLE).one()
    if is_standby:
        return STANDBY
    return READ_ONLY if is_read_only else None


def _why_sqlite_is_not(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            _begin_at_once(cast("sqlite3.Connection", connection.connection.driver_connection))
    except (OperationalError, sqlite3.OperationalError) as error:
        # Its lowest byte says what it is. Where it is only busy, another connection writes.
        code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY:
            return READ_ONLY
        if code != sqlite3.SQLITE_BUSY:
            raise
    return None


def _begin_at_once(connection: sqlite3.Connection) -> None:
    """Take the write lock, if it is free, and give it back."""
    [[timeout_ms]] = connection.execute("PRAGMA busy_timeout")
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")


def check_pool(engine: Engine) -> None:
    """Find out what a pool before PostgreSQL loses, if there is one, with two clients that take turns.

    A pool may have a single server, so neither holds it while the other waits. Both are new, so that the driver gives
    their statements the same names. Raises `UnfitDatabaseError` and what the driver raises.
    """
    if engine.dialect.name == "sqlite" or not _is_behind_pool(engine):
        return
    fresh = engine.pool.recreate()
    try:
        with closing(fresh.connect()) as one, closing(fresh.connect()) as other:
            for _ in range(_ROUNDS):
                _look_at_server(one)
                _look_at_server(other)
    finally:
        fresh.dispose()


def _is_behind_pool(engine: Engine) -> bool:
    """Compare the process that the server runs for us with the one that we were told of: a pool makes one up."""
    with engine.connect() as connection:
        driver_connection = cast("DriverConnection", connection.connection.driver_connection)
        return bool(connection.exec_driver_sql(_PROCESS).scalar_one() != driver_connection.info.backend_pid)


def _look_at_server(connection: PoolProxiedConnection) -> None:
    driver_connection = cast("DriverConnection", connection.driver_connection)
    try:
        [(timezone, datestyle)] = driver_connection.execute(_FORMATS, prepare=True).fetchall()
    except psycopg.Error as error:
        connection.invalidate()
        if is_of_the_connection(error):
            raise LosesStatementsError from None
        raise
    if (timezone, datestyle) != (SESSION["timezone"], SESSION["datestyle"]):
        raise LosesSettingsError

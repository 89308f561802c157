"""Run migrations over one connection, one process at a time, each in a transaction of its own.

A release works on the tables of the next one, so that it goes on while these run. Therefore no table is locked for
longer than its own migration takes, and nobody has to queue for long behind a migration that waits for a table.

What was done is left in `config.attributes["moved"]`, as the revisions before and after; `"before"` is there even if
nothing could be done, and `"invalid_indexes"` names those that PostgreSQL does not use. With `"to_newest"` there, a
database that a later release has upgraded is left as it is: an older one would not know its revision. `"say"` is told
what takes longer than it should, and `"locked_seconds_max"` bounds that.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationStep
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError

from app.database import DatabaseUnavailableError, UnfitDatabaseError
from app.database.files import make_private, tighten
from app.database.requirements import require_postgresql, require_sqlite
from app.database.urls import driver_arguments
from app.models import Base
from app.preflight import is_newer

#: Any number that no other application takes in the same database.
_ADVISORY_LOCK = 6_280_101

#: Seconds to reach a server. Here a person waits, who would rather be told.
_CONNECT_TIMEOUT_S = 10

#: Everybody else queues behind a migration that waits for a table: well within the four seconds that a delivery has.
_LOCK_TIMEOUT_MS = 500
#: The pause between two tries, in which the transactions that have queued run.
_PAUSE_S = 1
#: Longer than any transaction of the service; a backup takes longer than anybody would wait.
_LOCKED_SECONDS_MAX = 60

#: Who has used our tables for longest. Of other roles' transactions not everybody may see when they began.
_HOLDERS = text(
    "SELECT DISTINCT activity.pid, activity.usename, activity.application_name, activity.xact_start "
    "FROM pg_locks JOIN pg_class ON pg_class.oid = pg_locks.relation "
    "JOIN pg_stat_activity AS activity ON activity.pid = pg_locks.pid "
    "WHERE pg_locks.granted AND pg_class.relname = ANY(:tables) AND pg_locks.pid <> pg_backend_pid() "
    "AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "ORDER BY activity.xact_start NULLS LAST LIMIT 3"
)

#: What a CREATE INDEX CONCURRENTLY leaves that fails, or is still at work.
_INVALID_INDEXES = text(
    "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
    "WHERE NOT indisvalid AND relname = ANY(:indexes) AND pg_table_is_visible(indrelid) ORDER BY relname"
)

config = context.config


class TablesLockedError(DatabaseUnavailableError):
    """Somebody uses a table that is to be changed, and does not come to an end."""

    def __init__(self, seconds: float, holders: str) -> None:
        super().__init__(
            f"a table that is to be changed has been in use for {seconds:.0f} s, by {holders}. Wait until that "
            "is over, or end it, and run the same command again"
        )


class InvalidIndexError(UnfitDatabaseError):
    """Indexes that were made beforehand are not complete; a migration would leave them as they are."""

    def __init__(self, names: list[str]) -> None:
        dropped = "; ".join(f"DROP INDEX {name}" for name in names)
        super().__init__(
            f"CREATE INDEX CONCURRENTLY has left indexes that are INVALID. If none is at work any more: {dropped}. "
            "Then make them again, or let flask db upgrade do it"
        )


def run_migrations() -> None:
    """Migrate step by step under a lock: of several that start at once, the others find nothing to do.

    Raises `UnfitDatabaseError` and `TablesLockedError`.
    """
    url, arguments = driver_arguments(make_url(config.get_main_option("sqlalchemy.url") or ""))
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    else:
        event.listen(engine, "do_connect", _connect_to_postgresql)
    before, steps = _plan(engine)
    for step in steps:
        _take_when_free(engine, step)
    with engine.connect() as connection:
        _configure(connection, lambda _heads, _context: [])
        config.attributes["moved"] = (before, context.get_context().get_current_revision())


def _plan(engine: Engine) -> tuple[str | None, list[MigrationStep]]:
    """Say where the database is, and which steps lead from there to where the command wants it.

    A command that only looks does it here, and leads nowhere.
    """
    steps: list[MigrationStep] = []
    with engine.begin() as connection:
        _take_lock(connection)
        invalid = _invalid_indexes(connection)
        config.attributes["invalid_indexes"] = invalid
        _configure(connection, None)
        migration = context.get_context()
        before = migration.get_current_revision()
        config.attributes["before"] = before
        if before is None or not (config.attributes.get("to_newest") and is_newer(before)):
            ask = migration.opts["fn"]
            _configure(connection, lambda heads, migration: steps.extend(ask(heads, migration)) or [])
            context.run_migrations()
        if invalid and any(step.is_upgrade for step in steps):
            raise InvalidIndexError(invalid)
    return before, steps


def _take_when_free(engine: Engine, step: MigrationStep) -> None:
    """Take a step as soon as its tables are free. Raises `TablesLockedError`."""
    first_tried = time.monotonic()
    is_told = False
    while True:
        try:
            return _take(engine, step)
        except DBAPIError as error:
            # A step that changes a table after it has made an index on it may deadlock with a delivery.
            if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                raise
        with engine.connect() as connection:
            holders = _holders(connection)
        waited = time.monotonic() - first_tried
        if waited > config.attributes.get("locked_seconds_max", _LOCKED_SECONDS_MAX):
            raise TablesLockedError(waited, holders)
        if not is_told:
            config.attributes.get("say", _say_nothing)(
                f"A table that is to be changed is in use, by {holders}. Waiting."
            )
            is_told = True
        time.sleep(_PAUSE_S)


def _take(engine: Engine, step: MigrationStep) -> None:
    """Take a step, unless another process has just taken it."""
    with engine.begin() as connection:
        _take_lock(connection)
        if engine.dialect.name == "postgresql":
            # After the lock that lets one process migrate, which may take as long as it takes.
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        _configure(connection, lambda heads, _context: [step] if _starts_from(step, heads) else [], is_step=True)
        context.run_migrations()


def _starts_from(step: MigrationStep, heads: tuple[str, ...]) -> bool:
    return tuple(step.from_revisions_no_deps) == tuple(heads)


def _configure(
    connection: Connection,
    steps: Callable[[Any, MigrationContext], list[MigrationStep]] | None,
    *,
    is_step: bool = False,
) -> None:
    """Prepare to take `steps`, or those that the command asks for."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        # SQLite cannot alter a table, so later migrations copy it.
        render_as_batch=connection.dialect.name == "sqlite",
        # Only a step makes Alembic's own table: what is looked at, or fails, leaves nothing behind.
        dont_mutate=not is_step,
        **({} if steps is None else {"fn": steps}),
    )


def _holders(connection: Connection) -> str:
    rows = connection.execute(_HOLDERS, {"tables": list(Base.metadata.tables)}).all()
    return "; ".join(map(_described, rows)) or "somebody who is gone by now"


def _described(row: Any) -> str:  # noqa: ANN401 -- a row of pg_stat_activity
    application = f", {row.application_name}" if row.application_name else ""
    since = "" if row.xact_start is None else f", since {row.xact_start:%Y-%m-%d %H:%M:%S%z}"
    return f"process {row.pid} (role {row.usename}{application}{since})"


def _invalid_indexes(connection: Connection) -> list[str]:
    if connection.dialect.name != "postgresql":
        return []
    names = [str(index.name) for table in Base.metadata.tables.values() for index in table.indexes]
    return list(connection.scalars(_INVALID_INDEXES, {"indexes": names}))


def _say_nothing(_text: str) -> None:
    pass


def _prepare_sqlite(engine: Engine) -> None:
    require_sqlite()
    if engine.url.database is not None and "uri" not in engine.url.query:
        make_private(Path(engine.url.database))
        tighten(Path(engine.url.database))
    # The driver would commit before every CREATE TABLE; this way SQLite takes them all back together.
    event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA busy_timeout = 60000"))


def _connect_to_postgresql(_dialect: Any, _record: Any, arguments: Any, options: Any) -> psycopg.Connection:  # noqa: ANN401 -- SQLAlchemy's own
    connection = psycopg.connect(*arguments, **{"connect_timeout": _CONNECT_TIMEOUT_S, **options})
    try:
        # Before anything is asked: SQLAlchemy does not understand what a database in SQL_ASCII says of itself.
        require_postgresql(connection.info)
    except BaseException:
        connection.close()
        raise
    return connection


def _take_lock(connection: Connection) -> None:
    # SQLite's BEGIN IMMEDIATE is the lock already.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


run_migrations()

"""Run migrations over one connection, one process at a time.

What was done is left in `config.attributes["moved"]`, as the revisions before and after. With `"to_newest"` there, a
database that a later release has upgraded is left as it is: an older one would not know its revision.
"""

from pathlib import Path
from typing import Any

import psycopg
from alembic import context
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url

from app.database.files import make_private, tighten
from app.database.requirements import require_postgresql, require_sqlite
from app.database.urls import driver_arguments
from app.models import Base
from app.preflight import is_newer

#: Any number that no other application takes in the same database.
_ADVISORY_LOCK = 6_280_101

#: Seconds to reach a server. Here a person waits, who would rather be told.
_CONNECT_TIMEOUT_S = 10

config = context.config


def run_migrations() -> None:
    """Migrate in one transaction and under a lock: of several that start at once, the others find nothing to do.

    Raises `UnfitDatabaseError`.
    """
    url, arguments = driver_arguments(make_url(config.get_main_option("sqlalchemy.url") or ""))
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    else:
        event.listen(engine, "do_connect", _connect_to_postgresql)
    with engine.begin() as connection:
        _take_lock(connection)
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            # SQLite cannot alter a table, so later migrations copy it.
            render_as_batch=engine.dialect.name == "sqlite",
        )
        before = context.get_context().get_current_revision()
        if before is None or not (config.attributes.get("to_newest") and is_newer(before)):
            context.run_migrations()
        config.attributes["moved"] = (before, context.get_context().get_current_revision())


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

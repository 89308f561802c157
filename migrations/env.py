"""Run migrations over one connection, one process at a time."""

from alembic import context
from sqlalchemy import Connection, NullPool, create_engine, event

from app.models import Base

#: Any number that no other application takes in the same database.
_ADVISORY_LOCK = 6_280_101

config = context.config


def run_migrations() -> None:
    """Migrate in one transaction and under a lock: of several that start at once, the others find nothing to do."""
    engine = create_engine(config.get_main_option("sqlalchemy.url") or "", poolclass=NullPool, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        # The driver would commit before every CREATE TABLE; this way SQLite takes them all back together.
        event.listen(engine, "connect", lambda connection, _record: setattr(connection, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA busy_timeout = 60000"))
    with engine.begin() as connection:
        _take_lock(connection)
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            # SQLite cannot alter a table, so later migrations copy it.
            render_as_batch=engine.dialect.name == "sqlite",
        )
        context.run_migrations()


def _take_lock(connection: Connection) -> None:
    # SQLite's BEGIN IMMEDIATE is the lock already.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")


run_migrations()

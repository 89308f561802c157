"""The database's clock: machines whose own clocks differ agree by it on when something is due.

SQLite has none of its own: it lives on one machine, and goes by the clock of that.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import DateTime, func, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from app.database.pipeline import Rows, Statement, execute

_CLOCK = select(func.clock_timestamp(type_=DateTime(timezone=True)).label("shown"))


def clock_query(connection: Connection, *, is_needed: bool = True) -> Statement:
    """Ask a database that has a clock of its own what it shows. First in a message, it waits for no lock."""
    has_rows = is_needed and connection.dialect.name == "postgresql"
    return Statement(lambda _: _CLOCK, lambda _: {}, has_rows=has_rows)


def machine_time() -> datetime:
    """Say what this machine's clock shows."""
    return datetime.now(UTC)


def lead(shown: Rows, *, asked_at: datetime) -> timedelta:
    """Say by how much the database's clock is ahead of this machine's, which showed `asked_at` before it was asked.

    When within the answer's time the clock was read is not known: of all that is possible it is what is nearest to 0.
    """
    if not shown.rows:
        return timedelta(0)
    at: datetime = shown.rows[0][0]
    return max(at - machine_time(), min(at - asked_at, timedelta(0)))


def clock_lead(session: Session) -> timedelta:
    """Ask by how much the database's clock is ahead of this machine's."""
    connection = session.connection()
    asked_at = machine_time()
    (shown,) = execute(connection, clock_query(connection))
    return lead(shown, asked_at=asked_at)


def database_now(session: Session) -> datetime:
    """Say what the database's clock shows: how late it is for what is due by it."""
    return machine_time() + clock_lead(session)

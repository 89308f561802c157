"""Queries about a table that do not read all of it: an estimate of its rows, the values of an index, a few keys."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, or_, select
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session

from app.database.pipeline import table_of

#: More values than this no sentence names.
DISTINCT_MAX = 20


def estimated_rows(session: Session, model: type[DeclarativeBase]) -> int | None:
    """Say about how many rows a table has, or `None` where the database does not know.

    PostgreSQL keeps an estimate, and counting would take seconds. SQLite keeps none, and counts millions in a moment.
    """
    table = table_of(model)
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        return session.scalar(select(func.count()).select_from(table))
    estimate = connection.exec_driver_sql(
        "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", (table.name,)
    ).scalar()
    # Of a table that was never analyzed it says -1, and of one that was empty then 0.
    return None if estimate is None or estimate <= 0 else int(estimate)


def distinct_values(session: Session, column: InstrumentedAttribute[Any]) -> list[Any]:
    """List the values of an indexed column, or the first of them, with one look into the index for each."""
    found: list[Any] = []
    statement = select(column).where(column.is_not(None)).order_by(column).limit(1)
    while len(found) < DISTINCT_MAX:
        value = session.scalar(statement.where(column > found[-1]) if found else statement)
        if value is None:
            break
        found.append(value)
    return found


def any_of_keys(columns: Sequence[InstrumentedAttribute[Any]], keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    """Hold where these columns are one of a few keys.

    Each key is written out column by column: of tuples SQLite would look up the first column alone.
    """
    return or_(false(), *(and_(*(column == value for column, value in zip(columns, key, strict=True))) for key in keys))


def has_value(session: Session, column: InstrumentedAttribute[Any], value: object) -> bool:
    """Say whether some row has this value in an indexed column."""
    return session.scalar(select(column).where(column == value).limit(1)) is not None

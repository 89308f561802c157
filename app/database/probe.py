"""Probe: try on a database what the promises need of its engine, with tables that are made for it and dropped."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import Error as DriverError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.database.engine_properties import PROPERTIES, Bench, NotKeptError, Property
from app.database.errors import DatabaseUnavailableError, is_transient, name_of


@dataclass(frozen=True)
class Finding:
    """Whether the engine has one property, and what it did instead."""

    name: str
    sentence: str
    problem: str | None


class CannotProbeError(Exception):
    """The table of the probe cannot be made."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            f"The probe makes a table of its own in the database and drops it, and may not: {cause}. Run it as the "
            "role that owns the tables."
        )


def probe(engine: Engine) -> Iterator[Finding]:
    """Try one property after another.

    Raises `CannotProbeError`, and `DatabaseUnavailableError` where there is no database to probe.
    """
    bench = Bench(engine)
    try:
        with bench.writing() as connection:
            bench.table.create(connection)
    except SQLAlchemyError as error:
        if is_transient(error):
            raise DatabaseUnavailableError(name_of(error)) from error
        raise CannotProbeError(name_of(error)) from error
    try:
        for each in PROPERTIES:
            if bench.is_postgresql or not each.only_postgresql:
                yield Finding(each.name, each.sentence, _problem(bench, each))
    finally:
        with bench.writing() as connection:
            bench.table.drop(connection)


def _problem(bench: Bench, tried: Property) -> str | None:
    try:
        tried.run(bench)
    except NotKeptError as error:
        return str(error)
    except (SQLAlchemyError, DriverError) as error:
        return f"the database refused: {name_of(error)}"
    return None

"""Plain rows: objects with a model's columns and properties, invisible to the ORM session.

The session's change tracking would cost more than reading, judging and writing the rows.
"""

from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy import Table
from sqlalchemy.orm import DeclarativeBase

M = TypeVar("M", bound=DeclarativeBase)


def plain(model: type[M]) -> type[M]:
    """Make the class of a model's plain rows. A column that is not given is empty.

    The type checker takes them for the model: its columns are there to be read and to be written.
    """
    return cast("type[M]", _plain(model))


@cache
def _plain(model: type[DeclarativeBase]) -> type:
    empty = dict.fromkeys(column.key for column in table_of(model).columns)

    def initialize(self: object, **values: Any) -> None:  # noqa: ANN401 -- whatever the columns hold
        self.__dict__ = empty | values

    properties = {name: value for name, value in vars(model).items() if isinstance(value, property)}
    return type(model.__name__, (), {"__init__": initialize, "__table__": table_of(model), **properties})


def table_of(model: type[DeclarativeBase] | DeclarativeBase) -> Table:
    """Give the table of a mapped class or of a row of it, plain or not."""
    return cast("Table", model.__table__)

"""Rows that no session watches: watching what is read, judged and written whole would cost more than all of that."""

from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy import Table
from sqlalchemy.orm import DeclarativeBase

M = TypeVar("M", bound=DeclarativeBase)


def unwatched(model: type[M]) -> type[M]:
    """Make a class of plain objects that have what the rows of a mapped class have: its columns and its properties.

    A column that is not given is empty. To type checkers they are the mapped class, and to whoever only reads and
    writes their columns they are; a session does not know them, and writes nothing that is changed in them.
    """
    return cast("type[M]", _unwatched(model))


@cache
def _unwatched(model: type[DeclarativeBase]) -> type:
    empty = dict.fromkeys(column.key for column in table_of(model).columns)

    def initialize(self: object, **values: Any) -> None:  # noqa: ANN401 -- whatever the columns hold
        self.__dict__ = empty | values

    properties = {name: value for name, value in vars(model).items() if isinstance(value, property)}
    return type(model.__name__, (), {"__init__": initialize, "__table__": table_of(model), **properties})


def table_of(model: type[DeclarativeBase] | DeclarativeBase) -> Table:
    """Give the table of a mapped class or of a row of it, watched or not."""
    return cast("Table", model.__table__)

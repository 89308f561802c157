"""Read and write any number of rows with one statement, whose text does not depend on how many they are.

PostgreSQL takes all of them as one value, in JSON, so that each connection parses and plans a statement once. SQLite
runs within the process, where a statement for each row costs next to nothing.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVarTuple, cast as typed

from sqlalchemy import (
    JSON,
    ColumnElement,
    Dialect,
    Executable,
    Insert,
    Result,
    Row,
    Select,
    Table,
    TableValuedAlias,
    Text,
    TypeDecorator,
    Update,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, QueryableAttribute, Session
from sqlalchemy.types import TypeEngine

Ts = TypeVarTuple("Ts")

#: The parameter that carries all rows.
_ROWS = "rows"


class Among:
    """Narrows statements to the rows with given keys, and knows how each parameter is to be given."""

    def __init__(self, dialect_name: str) -> None:
        self._dialect_name = dialect_name
        self._columns: dict[str, Sequence[QueryableAttribute[Any]]] = {}

    def __call__(self, name: str, *columns: QueryableAttribute[Any]) -> ColumnElement[bool]:
        """Hold where these columns of one table are among the keys that the parameter of this name brings."""
        self._columns[name] = columns
        if self._dialect_name == "postgresql":
            return tuple_(*columns).in_(self._keys(name, columns))
        return tuple_(*columns).in_(bindparam(name, expanding=True))

    def find(self, selected: Select[*Ts], name: str, *columns: QueryableAttribute[Any]) -> Select[*Ts]:
        """Narrow what is selected from one table so, looking each key up by itself.

        PostgreSQL would otherwise choose once what looks cheaper, by how many rows it knows of then: to look the keys
        up, or to read all rows that may be looked for, which can be many by the time that a connection still does so.
        """
        if self._dialect_name != "postgresql":
            return selected.where(self(name, *columns))
        self._columns[name] = columns
        keys = self._keys(name, columns).subquery()
        matches = (column == keys.c[column.key] for column in columns)
        # What has an offset is not mixed with what is around it.
        found = selected.where(*matches).offset(literal_column("0")).lateral()
        # Its columns come to be when they are named: here, or differently in each of the threads that need it first.
        return typed("Select[*Ts]", select(*found.c).select_from(keys.join(found, true())))

    def _keys(self, name: str, columns: Sequence[QueryableAttribute[Any]]) -> Select[*tuple[Any, ...]]:
        keys = _recordset(columns[0].class_.__table__, [each.key for each in columns], name)
        # Without a word on how many they are: planned for any number, a plan is kept, and made but once.
        return select(*keys.c)

    def parameters(self, dialect: Dialect, keys: Mapping[str, Collection[tuple[Any, ...]]]) -> dict[str, Any]:
        """Write keys down as the parameters of the statement."""
        if self._dialect_name != "postgresql":
            return {name: list(keys[name]) for name in self._columns}
        parameters: dict[str, Any] = {}
        for name, columns in self._columns.items():
            names = [each.key for each in columns]
            rows = [dict(zip(names, key, strict=True)) for key in keys[name]]
            parameters[name] = _json(columns[0].class_.__table__, rows, dialect)
        return parameters


class Lookup:
    """A SELECT for any number of keys, made once for each database."""

    def __init__(self, build: Callable[[Among], Executable]) -> None:
        self._built = cache(lambda dialect_name: (build(among := Among(dialect_name)), among))

    def __call__(self, session: Session, **keys: Collection[tuple[Any, ...]]) -> Result[*tuple[Any, ...]]:
        """Find the rows of these keys, each a tuple."""
        dialect = session.get_bind().dialect
        statement, among = self._built(dialect.name)
        return session.execute(statement, among.parameters(dialect, keys))


def insert_all(
    session: Session,
    rows: Sequence[DeclarativeBase],
    *,
    returning: Sequence[QueryableAttribute[Any]] = (),
    or_lock: bool = False,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Insert new rows of one table, which the session does not get to know. What the database counts is left out.

    With `or_lock`, rows that are there already are locked until the transaction ends instead.
    """
    if not rows:
        return []
    table = _table(rows[0])
    names = [each.key for each in table.columns if each.identity is None]
    values = [{name: getattr(row, name) for name in names} for row in rows]
    connection = session.connection()
    statement = _insert(connection.dialect.name, table, tuple(names), tuple(returning), or_lock)
    if connection.dialect.name == "postgresql":
        result = connection.execute(statement, {_ROWS: _json(table, values, connection.dialect)})
    else:
        result = connection.execute(statement, values)
    return result.all() if returning else []


def update_all(session: Session, rows: Sequence[DeclarativeBase], names: Sequence[str]) -> None:
    """Write these columns of rows of one table, found by their id, which the session does not know."""
    if not rows:
        return
    table = _table(rows[0])
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        values = [{name: getattr(row, name) for name in ("id", *names)} for row in rows]
        connection.execute(_update(table, tuple(names)), {_ROWS: _json(table, values, connection.dialect)})
    else:
        found = update(table).where(table.c.id == bindparam("row_id"))
        columns = {"row_id": "id", **{name: name for name in names}}
        values = [{name: getattr(row, attribute) for name, attribute in columns.items()} for row in rows]
        connection.execute(found.values({name: bindparam(name) for name in names}), values)


@cache
def _insert(
    dialect_name: str,
    table: Table,
    names: Sequence[str],
    returning: Sequence[Any],
    or_lock: bool,  # noqa: FBT001 -- a part of the key
) -> Insert:
    # The dialects have no type in common that knows ON CONFLICT.
    statement: Any = sqlite.insert(table)
    if dialect_name == "postgresql":
        rows = _recordset(table, names, _ROWS)
        statement = postgresql.insert(table).from_select(list(names), select(*rows.c))
    if or_lock:
        # Setting a column to itself locks a row that is there already; DO NOTHING would not wait for it.
        key = list(table.primary_key)
        statement = statement.on_conflict_do_update(index_elements=key, set_={key[0]: statement.excluded[key[0].key]})
    return typed("Insert", statement.returning(*returning) if returning else statement)


@cache
def _update(table: Table, names: Sequence[str]) -> Update:
    rows = _recordset(table, ["id", *names], _ROWS)
    return update(table).where(table.c.id == rows.c.id).values({name: rows.c[name] for name in names})


def _recordset(table: Table, names: Sequence[str], parameter: str) -> TableValuedAlias:
    """Read a parameter as rows of a table, of which only some columns are there."""
    value = cast(bindparam(parameter, type_=Text), JSON)
    function = func.json_populate_recordset(literal_column(f"NULL::{table.name}"), value)
    return function.table_valued(*(column(name, table.c[name].type) for name in names)).alias(f"given_{parameter}")


def _json(table: Table, rows: Iterable[Mapping[str, Any]], dialect: Dialect) -> str:
    """Write rows down as PostgreSQL reads them: each value as text of its type."""
    write = _writers(table, dialect)
    return json.dumps(
        [{name: None if value is None else write[name](value) for name, value in row.items()} for row in rows]
    )


@cache
def _writers(table: Table, dialect: Dialect) -> dict[str, Callable[[Any], str | int]]:
    return {each.key: _writer(each.type, dialect) for each in table.columns}


def _writer(of_type: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], str | int]:
    if isinstance(of_type, TypeDecorator):
        bind, write = of_type.process_bind_param, _writer(of_type.impl_instance, dialect)
        return lambda value: write(bind(value, dialect))
    return _WRITERS.get(of_type.python_type, str)


def _hexadecimal(value: bytes) -> str:
    return rf"\x{value.hex()}"


_WRITERS: dict[type, Callable[[Any], str | int]] = {bytes: _hexadecimal, int: int, datetime: datetime.isoformat}


def _table(row: DeclarativeBase) -> Table:
    return typed("Table", row.__table__)

"""Bulk statements: one statement for any number of rows, whose text does not depend on how many.

PostgreSQL takes all rows as one value, in JSON, so that each connection parses and plans a statement once. SQLite runs
within the process, where a statement for each row costs next to nothing.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeVarTuple, cast

from sqlalchemy import (
    JSON,
    ColumnElement,
    CompoundSelect,
    Dialect,
    Executable,
    Insert,
    Select,
    Table,
    TableValuedAlias,
    Text,
    TypeDecorator,
    Update,
    and_,
    bindparam,
    cast as sql_cast,
    column,
    func,
    literal_column,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, QueryableAttribute
from sqlalchemy.types import TypeEngine

from app.database.pipeline import Statement, table_of

Ts = TypeVarTuple("Ts")

OnConflict = Literal["refuse", "lock", "leave"]

#: The parameter that carries all rows.
_ROWS = "rows"
#: The name of the key by which a `CopiedColumn` finds the row to copy from.
_KEY = "row_key"
#: The field of a key that `KeyFilter.first` starts after.
_AFTER = "after"


class KeyFilter:
    """Narrows statements to the rows with given keys, and makes the parameters for each database."""

    def __init__(self, dialect_name: str) -> None:
        self._dialect_name = dialect_name
        self._fields: dict[str, _Fields] = {}
        #: Parameters that SQLite, too, is given as JSON.
        self._in_json: set[str] = set()

    def __call__(self, name: str, *columns: QueryableAttribute[Any]) -> ColumnElement[bool]:
        """Build the condition that these columns are among the keys of this parameter."""
        self._fields[name] = _fields(columns)
        if self._dialect_name == "postgresql":
            return tuple_(*columns).in_(self._keys(name))
        # For several columns at once SQLite may use the index for the first column only, and read all tokens of a
        # client. The conditions on each column are redundant, and make it use the index for all.
        each = (column.in_(bindparam(f"{name}_{column.key}", expanding=True)) for column in columns)
        return and_(tuple_(*columns).in_(bindparam(name, expanding=True)), *each)

    def find(self, selected: Select[*Ts], name: str, *columns: QueryableAttribute[Any]) -> Select[*Ts]:
        """Narrow a select from one table to the rows with these keys, by an index look-up for each key.

        PostgreSQL would otherwise plan a scan where the table is small, and a connection keeps its plan when the table
        has grown.
        """
        if self._dialect_name != "postgresql":
            return selected.where(self(name, *columns))
        self._fields[name] = _fields(columns)
        keys = self._keys(name).subquery()
        matches = (column == keys.c[column.key] for column in columns)
        # OFFSET 0 is an optimization fence: the planner cannot flatten the lateral subquery.
        found = selected.where(*matches).offset(literal_column("0")).lateral()
        # Touch `.c` here: it is created lazily, and not thread-safe.
        return cast("Select[*Ts]", select(*found.c).select_from(keys.join(found, true())))

    def first(
        self,
        selected: Select[*Ts],
        limit: int,
        name: str,
        *columns: QueryableAttribute[Any],
        after: QueryableAttribute[Any],
    ) -> Select[*Ts]:
        """Narrow a select from one table, in its order, to the first `limit` rows of each key.

        A key has one value more than there are columns: its rows are those whose `after` is greater than that value.
        """
        self._fields[name] = (*_fields(columns), (_AFTER, after.type))
        if self._dialect_name == "postgresql":
            keys = self._keys(name).subquery()
            matches = [column == keys.c[column.key] for column in columns]
            found = selected.where(*matches, after > keys.c[_AFTER]).limit(literal_column(str(limit))).lateral()
            return cast("Select[*Ts]", select(*found.c).select_from(keys.join(found, true())))
        # SQLite has no LATERAL, and would read all rows of the keys to find the first ones of each.
        self._in_json.add(name)
        given = func.json_each(bindparam(name, type_=Text)).table_valued("value").alias(f"given_{name}")
        matches = [column == _field_of(given, str(column.key)) for column in columns]
        ids = selected.with_only_columns(after).where(*matches, after > _field_of(given, _AFTER))
        few = ids.limit(literal_column(str(limit))).correlate(given)
        found_rows = select(*selected.selected_columns).select_from(given).join(after.class_, after.in_(few))
        return cast("Select[*Ts]", found_rows)

    def where_in_found(
        self, selected: Select[*Ts], column: QueryableAttribute[Any], found: CompoundSelect[Any]
    ) -> Select[*Ts]:
        """Narrow a select from one table to the values that another statement finds, by an index look-up for each.

        A value that is found twice gives its row twice.
        """
        if self._dialect_name != "postgresql":
            return selected.where(column.in_(found))
        values = found.subquery()
        rows = selected.where(column == next(iter(values.c))).offset(literal_column("0")).lateral()
        return cast("Select[*Ts]", select(*rows.c).select_from(values.join(rows, true())))

    def _keys(self, name: str) -> Select[*tuple[Any, ...]]:
        keys = _recordset(name, self._fields[name])
        # No number of rows is given, so that the plan holds for any number and is made once.
        return select(*keys.c)

    def _given_to_sqlite(
        self, dialect: Dialect, keys: Mapping[str, Collection[tuple[Any, ...]]]
    ) -> Iterator[tuple[str, Any]]:
        for name, fields in self._fields.items():
            if name in self._in_json:
                yield name, _json(fields, keys[name], dialect)
                continue
            yield name, list(keys[name])
            for index, (field, _) in enumerate(fields):
                yield f"{name}_{field}", list({key[index] for key in keys[name]})

    def parameters(self, dialect: Dialect, keys: Mapping[str, Collection[tuple[Any, ...]]]) -> dict[str, Any]:
        """Return keys as the parameters of the statement."""
        if self._dialect_name != "postgresql":
            return dict(self._given_to_sqlite(dialect, keys))
        return {name: _json(fields, keys[name], dialect) for name, fields in self._fields.items()}


class KeyedStatement:
    """A statement for the rows with given keys, built once for each dialect."""

    def __init__(self, build: Callable[[KeyFilter], Executable]) -> None:
        self._build = build
        self._built = cache(self._build_for)

    def __call__(self, **keys: Collection[tuple[Any, ...]]) -> Statement:
        """Return the statement for the rows with these keys, each a tuple."""
        return Statement(
            self._statement,
            lambda dialect: self._built(dialect.name)[1].parameters(dialect, keys),
            has_rows=any(keys.values()),
        )

    def _build_for(self, dialect_name: str) -> tuple[Executable, KeyFilter]:
        keys_in = KeyFilter(dialect_name)
        return self._build(keys_in), keys_in

    def _statement(self, dialect_name: str) -> Executable:
        return self._built(dialect_name)[0]


class CopiedColumn(NamedTuple):
    """A column of inserted rows whose values are copied from another table: its name, the source, and the key there."""

    name: str
    of: QueryableAttribute[Any]
    key: QueryableAttribute[Any]


def insertion(
    model: type[DeclarativeBase],
    rows: Sequence[DeclarativeBase],
    *,
    returning: Sequence[QueryableAttribute[Any]] = (),
    on_conflict: OnConflict = "refuse",
    copied: CopiedColumn | None = None,
    keys: Sequence[Any] = (),
) -> Statement:
    """Describe an INSERT of rows of a model's table, plain or not; ids that the database assigns are left out.

    `on_conflict` says what happens to a row that is there already: the statement fails, the row is locked until the
    transaction ends, or it is left as it is. A copied column has one of `keys` for each row.
    """
    table = table_of(model)
    names, fields = _inserted(table, copied)
    values = [[getattr(row, name) for name in names] for row in rows]
    if copied:
        values = [[*row, key] for row, key in zip(values, keys, strict=True)]
    return Statement(
        partial(
            _insert, table=table, fields=fields, returning=tuple(returning), on_conflict=on_conflict, copied=copied
        ),
        partial(_parameters, fields=fields, rows=values),
        has_rows=bool(rows),
    )


def update_of(
    model: type[DeclarativeBase],
    rows: Sequence[DeclarativeBase],
    names: Sequence[str] = (),
    *,
    adding: Sequence[str] = (),
) -> Statement:
    """Describe an UPDATE of these columns of rows of a model's table, plain or not, found by their primary key.

    The values of the columns in `adding` are added to those in the database.
    """
    table = table_of(model)
    written = (*(each.key for each in table.primary_key), *names, *adding)
    values = [[getattr(row, name) for name in written] for row in rows]
    fields = _updated(table, written)
    return Statement(
        partial(_update, table=table, fields=fields, adding=frozenset(adding)),
        partial(_parameters, fields=fields, rows=values),
        has_rows=bool(rows),
    )


# --- the statements --------------------------------------------------------------------------------------------------

#: The name and the type of each value of a row.
_Fields = tuple[tuple[str, TypeEngine[Any]], ...]


def _fields(columns: Iterable[ColumnElement[Any] | QueryableAttribute[Any]]) -> _Fields:
    return tuple((str(each.key), each.type) for each in columns)


@cache
def _inserted(table: Table, copied: CopiedColumn | None) -> tuple[Sequence[str], _Fields]:
    """Name the columns that rows are inserted with, and all that is given for that."""
    left_out = copied.name if copied else None
    columns = [each for each in table.columns if each.identity is None and each.key != left_out]
    key = ((_KEY, copied.key.type),) if copied else ()
    return [each.key for each in columns], (*_fields(columns), *key)


@cache
def _updated(table: Table, names: Sequence[str]) -> _Fields:
    return _fields(table.c[name] for name in names)


@cache
def _insert(
    dialect_name: str,
    *,
    table: Table,
    fields: _Fields,
    returning: Sequence[Any],
    on_conflict: OnConflict,
    copied: CopiedColumn | None,
) -> Insert:
    given = _given(dialect_name, fields)
    if copied:
        found = select(copied.of).where(copied.key == given.pop(_KEY)).scalar_subquery()
        given[copied.name] = found
    # The dialects have no type in common that knows ON CONFLICT.
    statement: Any = (
        postgresql.insert(table).from_select(list(given), select(*given.values()))
        if dialect_name == "postgresql"
        else sqlite.insert(table).values(given)
    )
    if on_conflict == "leave":
        statement = statement.on_conflict_do_nothing()
    if on_conflict == "lock":
        # Setting a column to itself locks a row that is there already; DO NOTHING would not wait for it.
        key = list(table.primary_key)
        statement = statement.on_conflict_do_update(index_elements=key, set_={key[0]: statement.excluded[key[0].key]})
    return cast("Insert", statement.returning(*returning) if returning else statement)


@cache
def _update(dialect_name: str, *, table: Table, fields: _Fields, adding: frozenset[str]) -> Update:
    given = _given(dialect_name, fields)
    found = update(table).where(*(each == given.pop(each.key) for each in table.primary_key))
    return found.values({name: table.c[name] + value if name in adding else value for name, value in given.items()})


def _given(dialect_name: str, fields: _Fields) -> dict[str, ColumnElement[Any]]:
    """Name the values of one row as columns of a statement for all rows."""
    if dialect_name == "postgresql":
        return dict(_recordset(_ROWS, fields).c)
    return {name: bindparam(f"given_{name}", type_=of_type) for name, of_type in fields}


def _recordset(parameter: str, fields: _Fields) -> TableValuedAlias:
    """Read a parameter as rows."""
    value = sql_cast(bindparam(parameter, type_=Text), JSON)
    rows = func.json_to_recordset(value).table_valued(*(column(name, of_type) for name, of_type in fields))
    return rows.render_derived(name=f"given_{parameter}", with_types=True)


def _field_of(given: TableValuedAlias, name: str) -> ColumnElement[Any]:
    """Read a field of a key that SQLite is given as JSON."""
    return func.json_extract(given.c.value, literal_column(f"'$.{name}'"))


# --- the rows --------------------------------------------------------------------------------------------------------


def _parameters(dialect: Dialect, *, fields: _Fields, rows: Sequence[Sequence[Any]]) -> Any:  # noqa: ANN401 -- the driver's
    if dialect.name == "postgresql":
        return {_ROWS: _json(fields, rows, dialect)}
    names = [f"given_{name}" for name, _ in fields]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _json(fields: _Fields, rows: Iterable[Sequence[Any]], dialect: Dialect) -> str:
    """Return rows as JSON that PostgreSQL reads: each value as text of its type."""
    writers = _writers(fields, dialect)
    return json.dumps(
        [
            {name: write(value) for (name, write), value in zip(writers, row, strict=True) if value is not None}
            for row in rows
        ]
    )


@cache
def _writers(fields: _Fields, dialect: Dialect) -> Sequence[tuple[str, Callable[[Any], str | int]]]:
    return [(name, _writer(of_type, dialect)) for name, of_type in fields]


def _writer(of_type: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], str | int]:
    if isinstance(of_type, TypeDecorator):
        bind, write = of_type.process_bind_param, _writer(of_type.impl_instance, dialect)
        if write is str:
            # The value is text once it is bound.
            return lambda value: cast("str", bind(value, dialect))
        return lambda value: write(bind(value, dialect))
    return _WRITERS.get(of_type.python_type, str)


def _hexadecimal(value: bytes) -> str:
    return rf"\x{value.hex()}"


_WRITERS: dict[type, Callable[[Any], str | int]] = {bytes: _hexadecimal, int: int, datetime: datetime.isoformat}

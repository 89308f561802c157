"""Pipeline: several statements sent to PostgreSQL in one message, so that they cost one round trip.

They run in the order given; each sees the writes of those before it. A hook on SQLAlchemy's `do_execute` sends the
message through the driver, so that errors, events and the pool behave as for any statement. SQLite runs each by itself.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import psycopg
from psycopg.errors import PipelineAborted
from sqlalchemy import Dialect, Engine, Executable, Table, event
from sqlalchemy.engine import Connection, ExecutionContext
from sqlalchemy.orm import DeclarativeBase

from app.database.driver import Connection as DriverConnection

M = TypeVar("M", bound=DeclarativeBase)

#: The execution option that carries the statements of a message.
_MESSAGE = "notifyauth_message"
#: The execution option that says whether the message ends with COMMIT.
_COMMITS = "notifyauth_commits"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with its parameters, for either database.

    A function that describes one is a noun with what it is at its end (`_query`, `_lock`, `_insertion`, `_update`,
    `_deletion`). It asks the database nothing: `execute` does.
    """

    #: Returns the statement for a dialect's name, the same object each time.
    statement: Callable[[str], Executable]
    #: Returns its parameters for a dialect.
    parameters: Callable[[Dialect], Any]
    #: False if there are no rows; then it is not sent.
    has_rows: bool = True


class Rows(NamedTuple):
    """The result of a statement: the names of its columns, and its rows."""

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def of(self, model: type[M]) -> list[M]:
        """Return it as plain rows of a model."""
        make = plain(model)
        return [make(**dict(zip(self.names, row, strict=True))) for row in self.rows]


def execute(connection: Connection, *statements: Statement) -> list[Rows]:
    """Execute statements in one message, and return the rows of each."""
    return _send(connection, statements, commits=False)


def execute_and_commit(connection: Connection, *statements: Statement) -> list[Rows]:
    """Execute statements and, on PostgreSQL, COMMIT in one message; SQLite commits when the transaction ends.

    No statement may follow in this transaction. The commit that SQLAlchemy makes when its block ends finds no
    transaction open, and sends nothing.
    """
    return _send(connection, statements, commits=True)


def _send(connection: Connection, statements: Sequence[Statement], *, commits: bool) -> list[Rows]:
    asked = [each for each in statements if each.has_rows]
    if not asked:
        answers = []
    elif connection.dialect.name == "postgresql":
        answers = _send_in_pipeline(connection, asked, commits=commits)
    else:
        answers = [_send_one(connection, each) for each in asked]
    found = iter(answers)
    return [next(found) if each.has_rows else Rows((), ()) for each in statements]


def _send_one(connection: Connection, each: Statement) -> Rows:
    parameters = each.parameters(connection.dialect)
    result = connection.execute(each.statement(connection.dialect.name), parameters)
    return Rows(tuple(result.keys()), result.all()) if result.returns_rows else Rows((), ())


# --- plain rows ------------------------------------------------------------------------------------------------------


def plain(model: type[M]) -> type[M]:
    """Make the class of a model's plain rows: objects with its columns and properties, which no session watches.

    The type checker takes it for the model, but it is another class: a row of it is no instance of the model, has no
    lazy column, and is equal to itself alone, which makes it a key of dicts and sets. No session writes it. A column
    that is not given is empty. ORM tracking would cost more than the work itself.
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


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


class _Compiled(NamedTuple):
    """A statement as the driver takes it."""

    text: str
    names: Sequence[str]
    #: The positions of columns whose values must be converted, each with its converter.
    readers: Sequence[tuple[int, Callable[[Any], Any]]]

    def answer(self, cursor: "psycopg.Cursor[Any]") -> Rows:
        rows = cursor.fetchall() if self.names else []
        if not self.readers:
            return Rows(self.names, rows)
        read = [list(row) for row in rows]
        for row in read:
            for index, reader in self.readers:
                row[index] = reader(row[index])
        return Rows(self.names, read)


class _Sent(NamedTuple):
    """A statement of a message, its parameters, and the cursor that receives its answer."""

    compiled: _Compiled
    parameters: Any
    cursor: "psycopg.Cursor[Any]"


@cache
def _compiled(statement: Executable, dialect: Dialect) -> _Compiled:
    columns = list(getattr(statement, "exported_columns", ()))
    readers = [each.type.dialect_impl(dialect).result_processor(dialect, None) for each in columns]
    return _Compiled(
        str(statement.compile(dialect=dialect)),  # type: ignore[attr-defined] # every statement is a clause, too
        [each.key for each in columns],
        [(index, reader) for index, reader in enumerate(readers) if reader is not None],
    )


def _send_in_pipeline(connection: Connection, statements: Sequence[Statement], *, commits: bool) -> list[Rows]:
    dialect = connection.dialect
    message = []
    for each in statements:
        cursor = cast("psycopg.Cursor[Any]", connection.connection.cursor())
        message.append(_Sent(_compiled(each.statement(dialect.name), dialect), each.parameters(dialect), cursor))
    # SQLAlchemy is given the last statement, so that it handles errors as ever; `_execute` sends them all.
    options = {_MESSAGE: message, _COMMITS: commits}
    connection.exec_driver_sql(message[-1].compiled.text, execution_options=options)
    return [each.compiled.answer(each.cursor) for each in message]


def enable_pipelines(engine: Engine) -> None:
    """Add a hook to a PostgreSQL engine, so that it can send several statements as one message."""
    event.listen(engine, "do_execute", _execute)


def _execute(cursor: "psycopg.Cursor[Any]", _text: str, _parameters: object, context: ExecutionContext) -> bool:
    """Execute all statements of a message; without one, SQLAlchemy executes its statement itself."""
    message: Sequence[_Sent] | None = context.execution_options.get(_MESSAGE)
    if message is None:
        return False
    error: psycopg.Error | None = None
    commits: bool = context.execution_options[_COMMITS]
    with cast("DriverConnection", cursor.connection).confirmed(cursor) if commits else nullcontext():
        try:
            with cursor.connection.pipeline():
                try:
                    for compiled, parameters, each in message:
                        each.execute(compiled.text, parameters, prepare=True)
                    if commits:
                        # The driver's own commit would be a message of its own.
                        cursor.execute("COMMIT")
                except psycopg.Error as broken:
                    # Leaving the pipeline raises only `PipelineAborted`: keep the first error.
                    error = broken
        except psycopg.Error as last:
            error = error or last
        if error is not None:
            raise _first(error)
    return True


def _first(error: psycopg.Error) -> psycopg.Error:
    """Return the error of the statement that broke, not that later ones were skipped, which the driver raises last."""
    while isinstance(error, PipelineAborted) and isinstance(error.__context__, psycopg.Error):
        error = error.__context__
    return error

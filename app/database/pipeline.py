"""Ask the database several things in one message, where it takes that: each message is a journey there and back.

The statements are SQLAlchemy's, and run one after the other in the order in which they are given: each sees what those
before it have done, and what others had committed when its turn came. PostgreSQL takes them as a pipeline.
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

#: Carries the statements of a message.
_MESSAGE = "notifyauth_message"
#: Says whether the message ends the transaction.
_COMMITS = "notifyauth_commits"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, and the rows that it is for."""

    #: Gives the statement for a kind of database, the same object each time.
    statement: Callable[[str], Executable]
    #: Writes the rows down for it.
    parameters: Callable[[Dialect], Any]
    #: Whether there are any. For none the database is asked nothing.
    has_rows: bool = True


class Rows(NamedTuple):
    """What a request found."""

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def of(self, model: type[M]) -> list[M]:
        """Read it as rows of a mapped class, which no session watches."""
        make = plain(model)
        return [make(**dict(zip(self.names, row, strict=True))) for row in self.rows]


def execute(connection: Connection, *requests: Statement) -> list[Rows]:
    """Ask in one message, and return what each request found."""
    return _send(connection, requests, commits=False)


def execute_and_commit(connection: Connection, *requests: Statement) -> list[Rows]:
    """Ask in one message that ends the transaction with a commit, if the database takes that in one.

    Nothing may be asked in this transaction afterwards. Where the commit is no part of the message, it follows when the
    transaction ends.
    """
    return _send(connection, requests, commits=True)


def _send(connection: Connection, requests: Sequence[Statement], *, commits: bool) -> list[Rows]:
    asked = [request for request in requests if request.has_rows]
    if not asked:
        answers = []
    elif connection.dialect.name == "postgresql":
        answers = _send_together(connection, asked, commits=commits)
    else:
        answers = [_send_alone(connection, request) for request in asked]
    found = iter(answers)
    return [next(found) if request.has_rows else Rows((), ()) for request in requests]


def _send_alone(connection: Connection, request: Statement) -> Rows:
    parameters = request.parameters(connection.dialect)
    result = connection.execute(request.statement(connection.dialect.name), parameters)
    return Rows(tuple(result.keys()), result.all()) if result.returns_rows else Rows((), ())


# --- plain rows ------------------------------------------------------------------------------------------------------


def plain(model: type[M]) -> type[M]:
    """Make the class of a model's plain rows: objects with its columns and properties, which no session watches.

    Watching what is read, judged and written whole would cost more than all of that. A column that is not given is
    empty. The type checker takes them for the model: its columns are there to be read and to be written.
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


class _Written(NamedTuple):
    """A statement as the driver takes it."""

    text: str
    names: Sequence[str]
    #: The columns whose values are not yet what Python is to have, and what makes them so.
    readers: Sequence[tuple[int, Callable[[Any], Any]]]

    def answer(self, cursor: "psycopg.Cursor[Any]") -> Rows:
        rows = cursor.fetchall() if self.names else []
        if not self.readers:
            return Rows(self.names, rows)
        read = [list(row) for row in rows]
        for row in read:
            for place, reader in self.readers:
                row[place] = reader(row[place])
        return Rows(self.names, read)


class _Sent(NamedTuple):
    """A statement on its way, and where its answer comes to."""

    written: _Written
    parameters: Any
    cursor: "psycopg.Cursor[Any]"


@cache
def _written(statement: Executable, dialect: Dialect) -> _Written:
    columns = list(getattr(statement, "exported_columns", ()))
    readers = [each.type.dialect_impl(dialect).result_processor(dialect, None) for each in columns]
    return _Written(
        str(statement.compile(dialect=dialect)),  # type: ignore[attr-defined] # every statement is a clause, too
        [each.key for each in columns],
        [(place, reader) for place, reader in enumerate(readers) if reader is not None],
    )


def _send_together(connection: Connection, requests: Sequence[Statement], *, commits: bool) -> list[Rows]:
    dialect = connection.dialect
    message = []
    for request in requests:
        cursor = cast("psycopg.Cursor[Any]", connection.connection.cursor())
        message.append(_Sent(_written(request.statement(dialect.name), dialect), request.parameters(dialect), cursor))
    # SQLAlchemy is told of the last alone, and deals with whatever goes wrong as it always does.
    options = {_MESSAGE: message, _COMMITS: commits}
    connection.exec_driver_sql(message[-1].written.text, execution_options=options)
    return [each.written.answer(each.cursor) for each in message]


def enable_pipelines(engine: Engine) -> None:
    """Let an engine of PostgreSQL take several statements as one message."""
    event.listen(engine, "do_execute", _execute)


def _execute(cursor: "psycopg.Cursor[Any]", _text: str, _parameters: object, context: ExecutionContext) -> bool:
    """Execute all statements of a message; what is none SQLAlchemy executes itself."""
    message: Sequence[_Sent] | None = context.execution_options.get(_MESSAGE)
    if message is None:
        return False
    error: psycopg.Error | None = None
    commits: bool = context.execution_options[_COMMITS]
    with cast("DriverConnection", cursor.connection).confirmed(cursor) if commits else nullcontext():
        try:
            with cursor.connection.pipeline():
                try:
                    for written, parameters, each in message:
                        each.execute(written.text, parameters, prepare=True)
                    if commits:
                        # The driver's own commit would be a message of its own.
                        cursor.execute("COMMIT")
                except psycopg.Error as broken:
                    # Leaving the pipeline finds out no more than that all after it was left undone.
                    error = broken
        except psycopg.Error as last:
            error = error or last
        if error is not None:
            raise _first(error)
    return True


def _first(error: psycopg.Error) -> psycopg.Error:
    """Find what broke: the driver may raise that what came after it was left undone, while it deals with that."""
    while isinstance(error, PipelineAborted) and isinstance(error.__context__, psycopg.Error):
        error = error.__context__
    return error

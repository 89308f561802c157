"""The connection to PostgreSQL, a subclass of psycopg's: opens transactions, confirms commits, keeps the deadline.

SQLAlchemy and the pipeline both use the driver's connection, so neither can get past what is checked here.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from math import inf
from typing import Any, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import PipelineStatus, TransactionStatus
from typing_extensions import override

from app.database.transactions import Opening

T = TypeVar("T")

#: The deadline of this thread's work with the database, on the monotonic clock.
deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

#: NOTICE, INFO and the like say nothing about whether a commit holds. Not translated, unlike what `severity` says.
_WARNING = "WARNING"


#: What the driver raises, beside errors of its own, only where it cannot read what came.
_GARBAGE = (UnicodeDecodeError, AssertionError)
#: What it raises where all that it does is to read.
UNREADABLE = (ValueError, LookupError, ArithmeticError, NotImplementedError, AssertionError, psycopg.DataError)


def seconds_left() -> float:
    """Return the seconds until the deadline of this thread's work; infinity without one."""
    until = deadline.get()
    return inf if until is None else max(0.0, until - time.monotonic())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Set the deadline of all waits for the database within this block, in place of an earlier one."""
    token = deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        deadline.reset(token)


class CommitNotConfirmedError(psycopg.OperationalError):
    """The database answered a COMMIT, but not that it holds.

    PostgreSQL answers with success and a warning where the wait for the synchronous standby was cancelled: a failover
    would lose what was committed. It answers with a rollback, and no error, where a statement had failed before.
    """


class UnreadableAnswerError(psycopg.InterfaceError):
    """The database sent what the driver cannot read, as a dying server or a broken proxy does."""

    def __init__(self, error: Exception) -> None:
        # Not its message, which may quote what came.
        super().__init__(f"the answer cannot be read ({type(error).__name__})")


class AnswerTimeoutError(psycopg.OperationalError):
    """The database did not answer before the deadline of the work."""


class Connection(psycopg.Connection[Any]):
    """A connection that opens its transactions with their settings, and takes no commit with a warning for confirmed.

    It gives up, and closes, when the deadline of the work has passed: the timeouts of the server are no help against a
    server, or a proxy before it, that has fallen silent.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 -- the driver's own
        super().__init__(*arguments, **options)
        self.cursor_factory = Cursor
        #: What the next statement is to begin a transaction with.
        self.opening: Opening | None = None
        self._warnings: list[str] = []
        self.add_notice_handler(self._note_warning)

    def _note_warning(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == _WARNING:
            self._warnings.append(notice.sqlstate or _WARNING)

    @contextmanager
    def confirmed(self, committing: "psycopg.Cursor[Any] | None" = None) -> Iterator[None]:
        """Commit within this block, and raise `CommitNotConfirmedError` where the database does not just say yes.

        Any warning is a no. Where a cursor commits, it must have been told COMMIT, not ROLLBACK.
        """
        self._warnings.clear()
        yield
        if self._warnings:
            message = f"the commit came with a warning ({', '.join(self._warnings)})"
            raise CommitNotConfirmedError(message)
        if committing is not None and committing.statusmessage != "COMMIT":
            message = "the transaction was rolled back"
            raise CommitNotConfirmedError(message)

    @override
    def commit(self) -> None:
        self.opening = None
        if self.info.transaction_status is TransactionStatus.INERROR:
            message = "the transaction had failed before its commit"
            raise CommitNotConfirmedError(message)
        with self.confirmed():
            super().commit()

    @override
    def rollback(self) -> None:
        self.opening = None
        super().rollback()

    @override
    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        until = deadline.get()
        if until is not None:
            left = max(0, until - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        try:
            return super().wait(gen, interval, timeout)
        except _GARBAGE as error:
            self.close()
            raise UnreadableAnswerError(error) from error
        except psycopg.OperationalError as error:
            # The answer may still come, and would be taken for that of the next statement.
            if self.info.transaction_status is TransactionStatus.ACTIVE:
                self.close()
                # The cleanup of this generator fails on a closed connection: here, where the error is suppressed.
                with suppress(psycopg.Error, RuntimeError):
                    gen.close()
            if error.sqlstate is None and until is not None and time.monotonic() >= until:
                message = "no answer in time"
                raise AnswerTimeoutError(message) from None
            raise


class Cursor(psycopg.Cursor[Any]):
    """A cursor whose first statement opens the transaction, and which says so where rows cannot be read."""

    @override
    def execute(self, *arguments: Any, **options: Any) -> Self:
        self._open_transaction()
        return super().execute(*arguments, **options)

    @override
    def executemany(self, *arguments: Any, **options: Any) -> None:
        self._open_transaction()
        super().executemany(*arguments, **options)

    @property
    @override
    def description(self) -> list[psycopg.Column] | None:
        with self._readable():
            return super().description

    @property
    @override
    def statusmessage(self) -> str | None:
        with self._readable():
            return super().statusmessage

    @override
    def fetchone(self) -> Any:
        with self._readable():
            return super().fetchone()

    @override
    def fetchmany(self, size: int = 0) -> list[Any]:
        with self._readable():
            return super().fetchmany(size)

    @override
    def fetchall(self) -> list[Any]:
        with self._readable():
            return super().fetchall()

    def _open_transaction(self) -> None:
        connection = self.connection
        if not isinstance(connection, Connection) or connection.opening is None:
            return
        opening, connection.opening = connection.opening, None
        if connection.info.pipeline_status is PipelineStatus.OFF:
            psycopg.Cursor(connection).execute(opening.message, prepare=False)
        else:
            # A pipeline takes one statement at a time; these go out together with the first of the work.
            for statement in opening.statements:
                psycopg.Cursor(connection).execute(statement, prepare=True)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Tell an answer that cannot be read from an error of ours, and never ask that connection again."""
        try:
            yield
        except UNREADABLE as error:
            if getattr(error, "sqlstate", None) is not None:
                # The server said so, in an answer that can be read.
                raise
            self.connection.close()
            raise UnreadableAnswerError(error) from error

"""The database's troubles are told from what it refuses, and named in words that quote nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError

from app.database.errors import UnfitDatabaseError, is_transient, said_by
from app.database.requirements import (
    OldPostgreSQLError,
    OldSQLiteError,
    WrongEncodingError,
    require_postgresql,
    require_sqlite,
)


def refused(statement: str, *parameters: object) -> OperationalError:
    """What SQLAlchemy makes of SQLite's answer."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with closing(connection), pytest.raises(sqlite3.OperationalError) as told:
        connection.execute(statement, parameters)
    return OperationalError(statement, None, told.value)


@pytest.mark.parametrize(
    "statement", ["INSERT INTO inbox RETURNIN id", "SELECT nothing", "SELECT * FROM nowhere", "SELECT json('{')"]
)
def test_a_statement_that_sqlite_does_not_understand_is_no_trouble(statement: str) -> None:
    assert not is_transient(refused(statement))


@pytest.mark.parametrize("statement", ["ROLLBACK TO lost", "COMMIT", "ROLLBACK"])
def test_a_transaction_that_sqlite_has_ended_is_trouble(statement: str) -> None:
    """A full disk ends it, and the error that comes last is all that is seen of that."""
    assert is_transient(refused(statement))


def test_a_file_that_cannot_be_opened_is_trouble_and_says_so() -> None:
    with pytest.raises(sqlite3.OperationalError) as told:
        sqlite3.connect("/nowhere/at/all.db")
    assert is_transient(OperationalError("", None, told.value))
    assert said_by(told.value) == "unable to open database file"


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (psycopg.errors.ProgramLimitExceeded, False),
        (psycopg.errors.StatementTooComplex, False),
        (psycopg.errors.UntranslatableCharacter, False),
        (psycopg.errors.SyntaxError, False),
        (psycopg.errors.InsufficientPrivilege, False),
        (psycopg.errors.LockNotAvailable, True),
        (psycopg.errors.DiskFull, True),
        (psycopg.errors.AdminShutdown, True),
        (psycopg.errors.ReadOnlySqlTransaction, True),
    ],
)
def test_a_statement_that_postgresql_refuses_is_not_transient(error: type[psycopg.Error], *, transient: bool) -> None:
    wrapped = DBAPIError.instance("", None, error("said"), psycopg.Error)
    assert is_transient(wrapped) is transient


def test_a_message_that_may_quote_a_value_is_not_repeated() -> None:
    assert said_by(psycopg.errors.UniqueViolation("Key (auth_state)=(s-1) already exists.")) is None
    assert said_by(psycopg.errors.InvalidTextRepresentation('invalid input: "token-1"')) is None
    assert said_by(refused("SELECT json(?)", '{"token-1"').orig) is None  # type: ignore[arg-type] # it is an exception


def test_a_message_of_libpq_over_several_lines_becomes_one_line() -> None:
    said = 'connection failed: connection to server at "h", port 1 failed: FATAL:  no\n\tIs the server running?'
    assert said_by(psycopg.OperationalError(said)) == 'connection to server at "h", port 1 failed: no'


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, however long it may be" * 40)
    with closing(sqlite3.connect(file)) as connection, pytest.raises(sqlite3.DatabaseError) as told:
        connection.execute("SELECT 1 FROM inbox")
    assert said_by(told.value) == "file is not a database"
    assert is_transient(DBAPIError.instance("", None, told.value, sqlite3.Error))


def test_an_old_sqlite_library_is_named_with_a_remedy() -> None:
    require_sqlite((3, 35, 0))
    with pytest.raises(OldSQLiteError, match=r"3\.34\.1, and 3\.35\.0 or newer is needed: use PostgreSQL"):
        require_sqlite((3, 34, 1))


class Info(NamedTuple):
    """What a connection knows of its server: that of one that cannot be had here."""

    server_version: int = 16_00_04
    encoding: str = "UTF8"

    def parameter_status(self, _name: str) -> str:
        return self.encoding


@pytest.mark.parametrize(
    ("info", "error"),
    [
        (Info(server_version=13_00_22), OldPostgreSQLError),
        (Info(encoding="SQL_ASCII"), WrongEncodingError),
        (Info(encoding="LATIN1"), WrongEncodingError),
    ],
)
def test_a_server_that_is_too_old_or_encoded_otherwise_is_refused(info: Info, error: type[UnfitDatabaseError]) -> None:
    require_postgresql(Info())  # type: ignore[arg-type] # the two things that are asked of it
    with pytest.raises(error):
        require_postgresql(info)  # type: ignore[arg-type] # as above

"""The version and the encoding that the database must have.

Checked on each new connection, which costs nothing: a server may be replaced, or failed over, at any time.
"""

import sqlite3

from psycopg import ConnectionInfo

from app.database.errors import UnfitDatabaseError

#: The first version that knows RETURNING.
SQLITE_MIN = (3, 35, 0)
#: The oldest release that the service is tested on, as libpq numbers versions.
POSTGRESQL_MIN = 14_00_00
#: An authState may hold any character, and only this encoding has all of them.
ENCODING = "UTF8"


class OldSQLiteError(UnfitDatabaseError):
    """The SQLite library that Python was built with does not know what our statements need."""

    def __init__(self, version: tuple[int, ...]) -> None:
        super().__init__(
            f"the SQLite library of this Python is {_dotted(version)}, and {_dotted(SQLITE_MIN)} or newer is needed: "
            "use PostgreSQL, or a Python with a newer SQLite"
        )


class OldPostgreSQLError(UnfitDatabaseError):
    """The server is of a release that the service is not made for."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the server is PostgreSQL {version // 10_000}, and {POSTGRESQL_MIN // 10_000} is the oldest")


class WrongEncodingError(UnfitDatabaseError):
    """The database cannot hold every character."""

    def __init__(self, encoding: str | None) -> None:
        super().__init__(
            f"the database is encoded in {encoding}, and {ENCODING} is needed: make another with CREATE DATABASE … "
            f"ENCODING '{ENCODING}' TEMPLATE template0"
        )


def require_sqlite(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> None:
    """Refuse a library that is too old. Raises `OldSQLiteError`."""
    if version < SQLITE_MIN:
        raise OldSQLiteError(version)


def require_postgresql(info: ConnectionInfo) -> None:
    """Refuse a server that is too old or a database that is not in UTF-8, of which each connection is told.

    Raises `OldPostgreSQLError` and `WrongEncodingError`.
    """
    if info.server_version < POSTGRESQL_MIN:
        raise OldPostgreSQLError(info.server_version)
    if (encoding := info.parameter_status("server_encoding")) != ENCODING:
        raise WrongEncodingError(encoding)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

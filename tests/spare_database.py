"""A PostgreSQL database that one test after another uses: emptied in between, and given up once it is not as new.

To copy a database takes up to a third of a second, for its catalogs are some nine hundred files; to empty one takes a
hundredth. Most tests write rows and nothing else, so that nothing but rows has to go.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL

#: Where PostgreSQL keeps what is defined in a database.
CATALOGS = (
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_event_trigger",
    "pg_extension",
    "pg_index",
    "pg_namespace",
    "pg_policy",
    "pg_proc",
    "pg_rewrite",
    "pg_sequence",
    "pg_statistic",
    "pg_trigger",
    "pg_type",
)
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname"
RESTART_SEQUENCES = (
    "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence JOIN pg_class ON oid = seqrelid "
    "WHERE relnamespace = 'public'::regnamespace"
)
#: What is set for the database, and what the planner knows of it. A table that was never analyzed and has fewer than
#: ten pages is a new one to it.
SETTINGS = """
WITH ours AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace),
this AS (SELECT * FROM pg_database WHERE datname = current_database())
SELECT 'database', datconnlimit, hashtext(concat(datdba, datacl)) FROM this
UNION ALL SELECT 'settings', count(*), 0 FROM pg_db_role_setting JOIN this ON oid = setdatabase
UNION ALL SELECT 'analyzed', count(*), 0 FROM ours WHERE relkind = 'r' AND reltuples >= 0
UNION ALL SELECT 'grown', count(*), 0 FROM ours
    WHERE relkind IN ('r', 'i') AND pg_relation_size(oid) >= 10 * current_setting('block_size')::int
"""
#: Every change of a definition writes a row of a catalog, in a transaction that is newer than all before.
DEFINITIONS = SQL(" UNION ALL ").join(
    SQL("SELECT {}, count(*), max(xmin::text::bigint) FROM {}").format(each, Identifier(each)) for each in CATALOGS
)


@dataclass
class SpareDatabase:
    """A copy of a template, and what the copy was like when it was made."""

    url: URL

    def __post_init__(self) -> None:
        with self._connected() as connection:
            self._tables = [name for (name,) in connection.execute(TABLES)]
            self._first_rows = {table: rows for table in self._tables if (rows := rows_of(connection, table))}
            self._shape = shape_of(connection)

    @property
    def name(self) -> str:
        assert self.url.database is not None
        return self.url.database

    def empty(self) -> bool:
        """Put the first rows in the place of all others, and say whether the database is as new."""
        with suppress(psycopg.Error), self._connected() as connection, connection.transaction():
            if shape_of(connection) != self._shape:
                return False
            # Neither foreign keys nor triggers: all goes at once.
            connection.execute("SET LOCAL session_replication_role = replica")
            for table in self._tables:
                connection.execute(SQL("DELETE FROM {}").format(Identifier(table)))
            for table, rows in self._first_rows.items():
                with connection.cursor().copy(SQL("COPY {} FROM STDIN").format(Identifier(table))) as copy:
                    copy.write(rows)
            connection.execute(RESTART_SEQUENCES)
            return True
        return False

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(libpq_url(self.url), autocommit=True) as connection:
            yield connection


def rows_of(connection: psycopg.Connection, table: str) -> bytes:
    """Read a whole table, in the form in which it can be written again."""
    with connection.cursor().copy(SQL("COPY {} TO STDOUT").format(Identifier(table))) as copy:
        return b"".join(bytes(each) for each in copy)


def shape_of(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Read in what two databases with the same rows may differ."""
    return [*connection.execute(SETTINGS), *connection.execute(DEFINITIONS)]


def libpq_url(url: URL) -> str:
    """Write a URL as psycopg itself reads it, password included."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)

"""Whether the database is one that the service can work on, and keeps what it has committed."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.database import DatabaseUnavailableError, UnfitDatabaseError, name_of
from app.database.condition import STANDBY
from app.installation.database_remedies import remedy_of
from app.installation.findings import Finding, failed, ok, warning
from app.preflight import (
    OK,
    IncompleteTablesError,
    MissingPrivilegesError,
    NoSchemaError,
    NotMigratedError,
    OutdatedReleaseError,
    check_database,
    synchronous_standbys,
    waits_for_standby,
    why_not_replicated,
)
from app.wiring import Service

#: Ages in minutes and deadlines in seconds are computed from both clocks.
_CLOCK_DIFFERENCE_MAX = timedelta(seconds=5)

#: How every file of SQLite begins.
_MAGIC = b"SQLite format 3\0"


def examine_database(service: Service) -> Iterator[Finding]:
    """Look at the database as the start of the service does, and at more of it, and change nothing."""
    asked = service.settings.database_asked
    if not service.database.is_there():
        yield failed("database", str(service.no_database_file))
        return
    if (problem := _why_not_opened(service.settings.sqlite_file)) is not None:
        yield problem
        return
    try:
        version, encoding, difference = service.database.run(_look, read_only=True)
    except UnfitDatabaseError as error:
        yield failed("database", error.cause)
        return
    except (DatabaseUnavailableError, SQLAlchemyError) as error:
        cause = error.cause if isinstance(error, DatabaseUnavailableError) else name_of(error)
        yield failed("database", f"{asked} is unreachable: {cause}", remedy_of(cause))
        return
    yield ok("database", f"{asked}: {version}, {encoding}")
    if difference is not None:
        yield _clock(difference)
    for examine in (_examine_pool, _examine_tables, _examine_writing, _examine_durability):
        try:
            yield from examine(service)
        except UnfitDatabaseError as error:
            yield failed("database", error.cause)
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            cause = error.cause if isinstance(error, DatabaseUnavailableError) else name_of(error)
            yield failed("database", cause, remedy_of(cause))


def _why_not_opened(file: Path | None) -> Finding | None:
    """Say why there is no use in connecting to an SQLite file."""
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            header = opened.read(len(_MAGIC))
    except OSError as error:
        remedy = "run the doctor as the account of the service, or correct the file's owner and mode"
        return failed("database", f"{file} cannot be read: {error.strerror}", remedy)
    if not header:
        return failed("migrated", f"run flask db upgrade: {file} is empty")
    if not header.startswith(_MAGIC):
        return failed("database", f"{file} is no SQLite database", "correct FLASK_DATABASE_URL")
    return None


def _look(session: Session) -> tuple[str, str, timedelta | None]:
    """Read version, encoding, and by how much the server's clock is ahead of ours."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        encoding = str(connection.exec_driver_sql("PRAGMA encoding").scalar_one())
        return f"SQLite {sqlite3.sqlite_version}", encoding, None
    before = datetime.now(UTC)
    row = session.execute(
        text(
            "SELECT clock_timestamp() AS now, current_setting('server_version') AS version, "
            "current_setting('server_encoding') AS encoding"
        )
    ).one()
    ours = before + (datetime.now(UTC) - before) / 2
    return f"PostgreSQL {row.version}", row.encoding, row.now - ours


def _clock(difference: timedelta) -> Finding:
    seconds = difference.total_seconds()
    if abs(difference) <= _CLOCK_DIFFERENCE_MAX:
        return ok("database_clock", "the database's clock and ours agree within 5 seconds")
    said = f"the database's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} ours"
    return failed("database_clock", said, "let both machines keep their time by NTP: timedatectl, chronyc tracking")


def _examine_pool(service: Service) -> Iterator[Finding]:
    service.database.check_pool()
    yield ok("pool", "none before the database loses what the service needs")


def _examine_tables(service: Service) -> Iterator[Finding]:
    try:
        found = service.database.run(check_database, read_only=True)
    except NotMigratedError as error:
        yield failed("migrated", str(error))
    except OutdatedReleaseError as error:
        yield failed("migrated", str(error))
    except IncompleteTablesError as error:
        yield failed("migrated", error.cause)
    except (MissingPrivilegesError, NoSchemaError) as error:
        yield failed("privileges", error.cause)
    else:
        yield ok("migrated", "" if found == OK else found)
        yield ok("privileges", "the role may do all that the service does")


def _examine_writing(service: Service) -> Iterator[Finding]:
    if (reason := service.database.why_not_writable()) is not None:
        yield failed("writable", reason, service.database.run(partial(_how_to_unfreeze, reason=reason), read_only=True))
    else:
        yield ok("writable")
    if service.database.run(waits_for_standby, read_only=True):
        said = "commits wait for a synchronous standby that is not there"
        yield failed("standby", said, "bring the standby back, or reset synchronous_standby_names")
    elif service.settings.is_replicated:
        yield service.database.run(_replicated, read_only=True)
    elif not service.settings.uses_sqlite:
        yield ok("standby", "no commit waits for one that is not there")


#: Where a setting comes from, as PostgreSQL names it, and how it is taken back there.
_UNFREEZE = {
    "database": 'it is frozen by a setting of the database: ALTER DATABASE "{database}" RESET {name}',
    "user": 'it is frozen by a setting of the role: ALTER ROLE "{role}" RESET {name}',
    "database user": (
        'it is frozen by a setting of the role here: ALTER ROLE "{role}" IN DATABASE "{database}" RESET {name}'
    ),
    "global": "it is frozen by a setting of all roles: ALTER ROLE ALL RESET {name}",
    "client": "it is frozen by an option of the connection: take {name} out of FLASK_DATABASE_URL and PGOPTIONS",
}
_FROZEN_BY_SERVER = (
    "it is frozen by a setting of the server: take {name} out of its configuration (ALTER SYSTEM RESET, or "
    "postgresql.conf), and reload it"
)
_FROZEN = text(
    "SELECT source, setting, name, current_user AS role, current_database() AS database "
    "FROM pg_settings WHERE name = 'default_transaction_read_only'"
)


def _how_to_unfreeze(session: Session, reason: str) -> str:
    """Say what makes a database writable that is not."""
    if session.get_bind().dialect.name == "sqlite":
        return "free its disk, correct the owner and the mode of the file, or correct FLASK_DATABASE_URL"
    if reason == STANDBY:
        return "point FLASK_DATABASE_URL at the primary, or promote this one: SELECT pg_promote()"
    found = session.execute(_FROZEN).one()
    if found.setting != "on":
        return "unfreeze it, or point FLASK_DATABASE_URL at the primary"
    how = _UNFREEZE.get(found.source, _FROZEN_BY_SERVER)
    return f"{how.format(name=found.name, role=found.role, database=found.database)}; see first why it was set"


def _replicated(session: Session) -> Finding:
    """Say whether commits outlive the machine of the database, as FLASK_DURABILITY=replicated wants."""
    if (reason := why_not_replicated(session)) is not None:
        remedy = "set synchronous_standby_names and start the standbys as docs/replication.md says"
        return failed("standby", f"{reason}, and FLASK_DURABILITY is replicated", remedy)
    return ok("standby", f"{synchronous_standbys(session)} confirm commits")


def _examine_durability(service: Service) -> Iterator[Finding]:
    found = service.database.unsafe_durability_settings()
    if service.settings.uses_sqlite and (mode := found.pop("journal_mode", None)) is not None:
        yield warning("durable", f"the file is in journal mode {mode}", "the start of the service switches it to WAL")
    elif not found:
        yield ok("durable", "what is committed survives a power cut")
    for name, value in sorted(found.items()):
        said = f"{name} = {value}: a power cut may take back what was acknowledged"
        yield failed("durable", said, f"set {name} as docs/database.md says, and reload the server")

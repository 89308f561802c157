"""Preflight: check that this release can work on the database: its migration, its privileges, its standby.

Done at the start, in /readyz and by every `flask …` command. An error is one sentence with the problem and its remedy.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Text, column, inspect, select, table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database import UnfitDatabaseError, is_transient
from app.models import REVISION, Base

#: Alembic's own table, which says at which revision the database is.
_VERSION_TABLE = "alembic_version"

_FIND_REVISION = select(column("version_num", Text)).select_from(table(_VERSION_TABLE))

#: The privileges that the service needs on each table; an operator may withhold all others. Rows of the history and
#: the index key are only inserted, and of most tables no row is deleted.
_PRIVILEGES = {
    _VERSION_TABLE: ("SELECT",),
    "transitions": ("SELECT", "INSERT"),
    "index_key": ("SELECT", "INSERT"),
    "inbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "event_outbox": ("SELECT", "INSERT", "DELETE"),
    "events": ("SELECT", "INSERT", "DELETE"),
    "webhook_deliveries": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "webhook_attempts": ("SELECT", "INSERT", "DELETE"),
    "refused_deliveries": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    # The key locks.
    "rendezvous": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
_PRIVILEGES_OF_OTHERS = ("SELECT", "INSERT", "UPDATE")

#: A table that is not there is left out: that is an error of the migration.
_MISSING_PRIVILEGES = text(
    "SELECT current_user AS role, name, string_agg(privilege, ', ' ORDER BY privilege) AS privileges "
    "FROM unnest(CAST(:names AS text[]), CAST(:privileges AS text[])) AS needed (name, privilege) "
    "WHERE NOT has_table_privilege(to_regclass(name), privilege) GROUP BY name ORDER BY name"
)

#: With names in this setting a commit waits until so many of those machines have it: one, where no number is said.
_NEEDED = (
    "CASE WHEN current_setting('synchronous_standby_names') = '' THEN 0 ELSE coalesce((regexp_match("
    r"current_setting('synchronous_standby_names'), '^\s*((any|first)\s+)?(\d+)\s*\(', 'i'))[3]\:\:int, 1) END"
)
#: Only a privileged role sees whether a standby is synchronous. Every role sees how many standbys there are.
_STREAMING = "(SELECT count(*) FROM pg_stat_replication WHERE sync_state IS NULL OR sync_state IN ('sync', 'quorum'))"
#: For how many standbys commits wait, and how many there are, as far as the role may see.
_STANDBYS = text(f"SELECT {_NEEDED} AS needed, {_STREAMING} AS streaming")
#: Every role sees what its own connections wait for; a commit that waits for a standby that is there is over in
#: milliseconds. Ours wait whatever synchronous_commit says.
_WAITS_FOR_STANDBY = text(
    f"SELECT {_NEEDED} > {_STREAMING} OR {_NEEDED} > 0 "  # noqa: S608 -- constants of ours
    "AND EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
    "AND query_start < clock_timestamp() - interval '1 second')"
)

#: How revisions are numbered.
_REVISION = re.compile(r"[0-9]{4}")

OK = "ok"
NEWER = "newer"


class NotMigratedError(Exception):
    """The database does not have the tables that this release works with."""

    def __init__(self, revision: str | None) -> None:
        self.revision = revision
        found = "has no tables yet" if revision is None else f"is at revision {revision}, this version needs {REVISION}"
        super().__init__(f"The database (FLASK_DATABASE_URL) {found}. Run: flask db upgrade")


class NoDatabaseFileError(NotMigratedError):
    """There is no SQLite file where the setting says, or not yet: its path may be wrong.

    `slip` is a sentence about a name that is probably meant to be FLASK_DATABASE_URL. A migration is offered only where
    nothing speaks for a mistake: elsewhere it would make an empty database in the wrong place.
    """

    def __init__(self, path: Path, *, is_default: bool = False, slip: str = "") -> None:
        super().__init__(None)
        self.path = path
        has_folder = path.parent.is_dir()
        said = f"There is no database {path}" + ("" if has_folder else f", nor a folder {path.parent}")
        relative = (
            f" The path in FLASK_DATABASE_URL is relative, and leads from here to {path.absolute()}: an absolute "
            f"one has four slashes, sqlite:////{path}."
        )
        if slip:
            said += f", where it is if FLASK_DATABASE_URL is not set: {slip}"
        elif has_folder or is_default:
            said += ": correct FLASK_DATABASE_URL, or make it. Run: flask db upgrade"
        elif path.is_absolute():
            said += ": correct FLASK_DATABASE_URL, or for a new database make the folder first."
        else:
            said += "."
        self.args = (said if path.is_absolute() or slip else f"{said.removesuffix('.')}.{relative}",)


class OutdatedReleaseError(Exception):
    """The database is at a revision that this release cannot work with."""

    def __init__(self, revision: str) -> None:
        self.revision = revision
        super().__init__(
            f"The database (FLASK_DATABASE_URL) is at revision {revision}, and this version, which is made for "
            f"{REVISION}, cannot work on it any more. Install a newer one."
        )


class IncompleteTablesError(UnfitDatabaseError):
    """The database says to be at this release's revision, and a table or a column is not there."""

    def __init__(self) -> None:
        super().__init__(
            f"it says to be at revision {REVISION}, and lacks a table or column of it: somebody has taken or renamed "
            "one; bring it back, or restore a backup"
        )


class NoSchemaError(UnfitDatabaseError):
    """The role may not even look into the schema."""

    def __init__(self) -> None:
        super().__init__("the role may use no schema of its search_path: GRANT USAGE ON SCHEMA … TO it")


class MissingPrivilegesError(UnfitDatabaseError):
    """The role may not do what the service does with its tables."""

    def __init__(self, role: str, privileges: Mapping[str, str]) -> None:
        lacking = "; ".join(f"GRANT {missing} ON {table} TO {role}" for table, missing in privileges.items())
        super().__init__(f"the role {role} lacks privileges: {lacking}")


def check_database(session: Session) -> str:
    """Check the privileges and the tables, and return `ok`, or how much newer the tables are than this release.

    A release works on its own tables and on those of the next one, so that old processes go on through an upgrade.

    Raises `NotMigratedError`, `OutdatedReleaseError`, and of `UnfitDatabaseError` those of this module.
    """
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    if is_postgresql and session.scalar(text("SELECT current_schema()")) is None:
        raise NoSchemaError
    if not inspect(session.connection()).has_table(_VERSION_TABLE):
        raise NotMigratedError(None)
    if is_postgresql:
        _require_privileges(session)
    revision = session.scalars(_FIND_REVISION).one_or_none()
    if revision == REVISION:
        if not _has_our_columns(session):
            raise IncompleteTablesError
        return OK
    if revision is None or not is_newer(revision):
        raise NotMigratedError(revision)
    if not _has_our_columns(session):
        raise OutdatedReleaseError(revision)
    return f"{NEWER} ({revision})"


def is_newer(revision: str) -> bool:
    """Say whether a revision is one of a later release: this release's own is the last that it knows."""
    return _REVISION.fullmatch(revision) is not None and revision > REVISION


def waits_for_standby(session: Session) -> bool:
    """Say whether commits wait for a synchronous standby that is not there."""
    return session.get_bind().dialect.name == "postgresql" and bool(session.scalar(_WAITS_FOR_STANDBY))


def synchronous_standbys(session: Session) -> int:
    """Count the standbys that confirm commits: none where commits wait for nobody, and of what is not PostgreSQL."""
    needed, streaming = _count_standbys(session)
    return streaming if needed else 0


def why_not_replicated(session: Session) -> str | None:
    """Say why what is committed would be gone with the machine of the database, if so."""
    needed, streaming = _count_standbys(session)
    if not needed:
        return "not replicated: commits wait for no standby (synchronous_standby_names is empty)"
    if not streaming:
        return "not replicated: no synchronous standby streams"
    return (
        None if streaming >= needed else f"not replicated: commits wait for {needed} standbys, and {streaming} streams"
    )


def _count_standbys(session: Session) -> tuple[int, int]:
    """Say for how many standbys a commit waits, and how many there are that it may wait for."""
    if session.get_bind().dialect.name != "postgresql":
        return 0, 0
    found = session.execute(_STANDBYS).one()
    return found.needed, found.streaming


def _require_privileges(session: Session) -> None:
    tables = {name: _PRIVILEGES.get(name, _PRIVILEGES_OF_OTHERS) for name in (_VERSION_TABLE, *Base.metadata.tables)}
    needed = [(name, privilege) for name, privileges in tables.items() for privilege in privileges]
    names, privileges = zip(*needed, strict=True)
    missing = session.execute(_MISSING_PRIVILEGES, {"names": list(names), "privileges": list(privileges)}).all()
    if missing:
        raise MissingPrivilegesError(missing[0].role, {each.name: each.privileges for each in missing})


def _has_our_columns(session: Session) -> bool:
    """Say whether every column of this release is there; a later release may have dropped one."""
    try:
        for ours in Base.metadata.tables.values():
            session.execute(select(ours).limit(0))
    except DBAPIError as error:
        if is_transient(error):
            raise
        return False
    return True

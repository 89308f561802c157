"""Give each run a database of its own, migrated, with every authorization of the mix consulted and nothing else."""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import click
import psycopg
from sqlalchemy import URL, create_engine, insert, make_url, text
from sqlalchemy.exc import ArgumentError
from uuid_utils.compat import uuid7

from app.config import new_vault_key
from app.models import Authorization, Transition
from app.simulator.keys import SANDBOX_CLIENT_ID, make_sandbox
from benchmarks.mix import Life
from tests.postgres import PostgresServer, running_cluster

ROOT = Path(__file__).parent.parent
FLASK = Path(sys.executable).with_name("flask")
#: Where `make` puts the packages of a work tree.
_ITS_FLASK = Path(".venv", "bin", "flask")
#: Names a PostgreSQL to use instead of the one that is started; its user must be allowed to make databases.
URL_VARIABLE = "BENCH_DATABASE_URL"

#: What survives a power cut is what is measured. A checkpoint within a round would be the bad luck of one contestant,
#: so there is one before each round and none during it.
SERVER_SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "listen_addresses": "",
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
}
#: So many consults are inserted with one statement.
_BATCH = 10_000


@dataclass(frozen=True)
class WorkTree:
    """A version of the service: its folder, and the `flask` that has its packages."""

    folder: Path
    flask: Path

    @classmethod
    def at(cls, folder: Path) -> "WorkTree":
        """Give the version in a folder, with this version's packages where it has none of its own."""
        folder = folder.resolve()
        return cls(folder, folder / _ITS_FLASK if (folder / _ITS_FLASK).is_file() else FLASK)

    def environ(self, given: Mapping[str, str]) -> dict[str, str]:
        """Give an environment in which its code is what is imported."""
        return {**given, "PYTHONPATH": str(self.folder)}


#: The version that the bench belongs to.
HERE = WorkTree(ROOT, FLASK)


@dataclass(frozen=True)
class Secrets:
    """What a service needs beside a database: keys that protect nothing."""

    keyring: Path
    vault_key: str

    @classmethod
    def make(cls, folder: Path) -> "Secrets":
        """Make a sandbox, as `flask simulator keys` does."""
        keyring = folder / "keyring.toml"
        make_sandbox(keyring)
        return cls(keyring, new_vault_key())

    @property
    def vault_key_bytes(self) -> bytes:
        """The vault key itself."""
        return base64.b64decode(self.vault_key)

    def environ(self, url: str) -> dict[str, str]:
        """Give the environment of a service that has this database."""
        return {
            "FLASK_DATABASE_URL": url,
            "FLASK_KEYRING": str(self.keyring),
            "FLASK_VAULT_KEYS": self.vault_key,
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
        }


class Databases(Protocol):
    """Makes databases of one kind."""

    def fresh(self) -> AbstractContextManager[str]:
        """Make a database for the length of a block, and give its URL."""

    def process_id(self) -> int | None:
        """Give the first process of the server, if there is one and it runs on this machine."""


class PostgresqlDatabases:
    """Databases of one PostgreSQL server."""

    def __init__(self, server: PostgresServer, template: str, process_id: int | None, *, version: str) -> None:
        #: As the server says it.
        self.version = version
        self._server = server
        self._template = template
        self._process_id = process_id

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Make a database for the length of a block, and give its URL."""
        with self._server.database(template=self._template) as url:
            yield url.render_as_string(hide_password=False)

    def process_id(self) -> int | None:
        """Give the first process of the server, if it is ours."""
        return self._process_id


@dataclass(frozen=True)
class OneDatabase:
    """A database that is there already, and stays when a run is over."""

    url: str
    server_process_id: int | None

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Give it as it is."""
        yield self.url

    def process_id(self) -> int | None:
        """Give the first process of the server, if it is ours."""
        return self.server_process_id


class SqliteDatabases:
    """Databases that are files, on the disk of the folder that is given."""

    def __init__(self, template: Path) -> None:
        self._template = template

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """Make a database for the length of a block, and give its URL."""
        with tempfile.TemporaryDirectory(dir=self._template.parent) as folder:
            yield f"sqlite:///{shutil.copyfile(self._template, Path(folder) / 'notifyauth.db')}"

    def process_id(self) -> None:
        """Return nothing: SQLite runs within the process that uses it."""
        return


@contextmanager
def postgresql_databases(
    versions: Iterable[WorkTree], secrets: Secrets, lives: Sequence[Life]
) -> Iterator[dict[WorkTree, PostgresqlDatabases]]:
    """Start PostgreSQL, unless the environment names one, and prepare for each version what is copied for its runs."""
    with running_postgresql() as (server, process_id), ExitStack() as stack:
        made = {}
        for version in versions:
            url = stack.enter_context(server.database(template="template0"))
            _prepare(url.render_as_string(hide_password=False), version, secrets, lives)
            assert url.database is not None
            made[version] = PostgresqlDatabases(server, url.database, process_id, version=server_version(url))
        yield made


def server_version(url: URL) -> str:
    """Give the version of a PostgreSQL server, as it says it itself."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return str(connection.scalar(text("SHOW server_version")))
    finally:
        # Nobody may be connected to what is copied.
        engine.dispose()


@contextmanager
def running_postgresql() -> Iterator[tuple[PostgresServer, int | None]]:
    """Connect to the server that the environment names, or start one and give its first process too."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        with ExitStack() as stack:
            try:
                server = stack.enter_context(PostgresServer.connected(_postgresql_url(given)))
            except psycopg.OperationalError as error:
                message = f"{URL_VARIABLE}: {error}"
                raise click.ClickException(message) from error
            yield server, None
        return
    with running_cluster(SERVER_SETTINGS) as cluster, PostgresServer.connected(cluster.url) as server:
        yield server, cluster.process_id()


def _postgresql_url(given: str) -> URL:
    try:
        url = make_url(given)
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        message = f"{URL_VARIABLE} is no URL of a PostgreSQL server."
        raise click.UsageError(message)
    return url


def sqlite_databases(
    folder: Path, versions: Iterable[WorkTree], secrets: Secrets, lives: Sequence[Life]
) -> dict[WorkTree, SqliteDatabases]:
    """Prepare for each version what is copied for its runs."""
    made = {}
    for version in versions:
        template = Path(tempfile.mkdtemp(dir=folder)) / "template.db"
        _prepare(f"sqlite:///{template}", version, secrets, lives)
        made[version] = SqliteDatabases(template)
    return made


def _prepare(url: str, version: WorkTree, secrets: Secrets, lives: Sequence[Life]) -> None:
    migrate(url, secrets, version)
    consult(url, lives)


def migrate(url: str, secrets: Secrets, version: WorkTree = HERE) -> None:
    """Make the tables as an operator of this version makes them: each serves only those that it knows."""
    environ = version.environ(secrets.environ(url))
    subprocess.run([version.flask, "db", "upgrade"], cwd=version.folder, env=environ, check=True, capture_output=True)


def consult(url: str, lives: Sequence[Life]) -> None:
    """Put every authorization on record, straight into the tables: what is measured is notifications."""
    engine = create_engine(url)
    now = datetime.now(UTC)
    for first in range(0, len(lives), _BATCH):
        begun = [(uuid7(), life) for life in lives[first : first + _BATCH]]
        with engine.begin() as connection:
            connection.execute(insert(Authorization), [_authorization(key, life, now) for key, life in begun])
            connection.execute(insert(Transition), [_consult(key, now) for key, _ in begun])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "sqlite":
            # A copy of the file alone has to be all of the database.
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        else:
            connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def _authorization(key: object, life: Life, now: datetime) -> dict[str, object]:
    return {
        "id": key,
        "client_id": SANDBOX_CLIENT_ID,
        "auth_state": life.auth_state,
        "flow": life.flow,
        "state": "consulted",
        "version": 1,
        "user_ref": f"user-{life.auth_state}",
        "customer_belongs_to": "GCASH",
        "created_at": now,
        "updated_at": now,
    }


def _consult(key: object, now: datetime) -> dict[str, object]:
    return {
        "authorization_id": key,
        "sequence": 1,
        "event": "consult",
        "from_state": None,
        "to_state": "consulted",
        "cause": "api",
        "notification_id": None,
        "at": now,
    }

"""Fixtures for all tests: a database of the test's own, migrated and empty, on SQLite and on PostgreSQL; a keyring.

A database is migrated once and then copied, which makes a fresh one cheap enough for every test.
"""

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from unittest.mock import patch

import alembic.command
import hypothesis
import pytest
from alembic.config import Config
from cryptography.hazmat.primitives import serialization
from sqlalchemy import make_url

from app.simulator.keys import make_sandbox
from tests.postgres import PostgresServer, running_server

ROOT = Path(__file__).parent.parent

# An example that asks a database takes as long as it takes.
hypothesis.settings.register_profile("notifyauth", deadline=None)
hypothesis.settings.load_profile("notifyauth")


#: Where files are kept in memory, and how much has to be free there: a run uses about a gibibyte.
MEMORY, MEMORY_BYTES_MIN = Path("/dev/shm"), 4 << 30  # noqa: S108 -- pytest makes a folder of its own in it


def pytest_configure() -> None:
    """Remove the user's own settings, ours and PostgreSQL's, since each test sets what it needs; read each key once."""
    keep_files_in_memory()
    for name in [name for name in os.environ if name.startswith(("FLASK_", "PG"))]:
        del os.environ[name]
    # OpenSSL checks a private key for 30 ms whenever it is read, and a run reads the same few a thousand times.
    patch.object(serialization, "load_der_private_key", cache(serialization.load_der_private_key)).start()


def keep_files_in_memory() -> None:
    """Let no test wait for the disk: where others write, a commit to SQLite can take longer than a delivery may."""
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measure the coverage of no process that a test starts which is not measured itself: it takes a third more CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("no_cover") is not None:
            for name in [name for name in os.environ if name.startswith("COVERAGE")]:
                patch.delenv(name)
        return (yield)


def migrate(url: str) -> None:
    """Bring a database to the newest schema, as ``flask db upgrade`` does."""
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    alembic.command.upgrade(config, "head")


@pytest.fixture(scope="session")
def keyring_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keyring of a sandbox, with the private keys of the simulator and of the merchant beside it."""
    path = tmp_path_factory.mktemp("sandbox") / "keyring.toml"
    make_sandbox(path)
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of the test's own; the test runs once on each kind."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def unmigrated_database_url(request: pytest.FixtureRequest) -> str:
    """A database without a table, for tests of the migrations; the test runs once on each kind."""
    url = request.getfixturevalue(f"unmigrated_{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of the test's own."""
    return f"sqlite:///{shutil.copyfile(migrated_sqlite, tmp_path / 'notifyauth.db')}"


@pytest.fixture
def postgresql_url(postgresql: PostgresServer, migrated_postgresql: str) -> Iterator[str]:
    """A migrated PostgreSQL database of the test's own."""
    with postgresql.emptied_database(template=migrated_postgresql) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def unmigrated_sqlite_url(tmp_path: Path) -> str:
    """An SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'unmigrated.db'}"


@pytest.fixture
def unmigrated_postgresql_url(postgresql: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database without a table."""
    with postgresql.database(template="template0") as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """The server that ``TEST_DATABASE_URL`` names, or one that lives as long as the test run."""
    given = os.environ.get("TEST_DATABASE_URL")
    with nullcontext(make_url(given)) if given else running_server() as url, PostgresServer.connected(url) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: PostgresServer) -> Iterator[str]:
    """The name of a migrated database, to be copied and otherwise left alone."""
    with postgresql.database(template="template0") as url:
        migrate(url.render_as_string(hide_password=False))
        assert url.database is not None
        yield url.database


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied and otherwise left alone."""
    file = tmp_path_factory.mktemp("migrated") / "notifyauth.db"
    migrate(f"sqlite:///{file}")
    return file

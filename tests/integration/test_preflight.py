"""A database that this release cannot work on is named in one sentence, before anything is served on it."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL
from sqlalchemy import URL, make_url, text

from app.database import DatabaseUnavailableError
from app.models import REVISION
from app.preflight import MissingPrivilegesError, NoSchemaError, OutdatedReleaseError
from app.simulator.keys import make_sandbox
from app.wiring import Service, conditions, is_ready
from tests.builders import an_environ, some_settings
from tests.conftest import ROOT, migrate
from tests.integration.shell import run_flask
from tests.integration.test_wiring import ALL_OK, ready
from tests.postgres import Cluster, running_cluster

ROLE = "notifyauth_app"
SECRET = "the-password"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server whose settings may be changed, and that asks one role for a password."""
    with running_cluster({"listen_addresses": "", "fsync": "off"}) as cluster:
        rules = cluster.folder / "data" / "pg_hba.conf"
        rules.write_text(f"local all {ROLE} scram-sha-256\n{rules.read_text(encoding='utf-8')}", encoding="utf-8")
        with psycopg.connect(address(cluster.url), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{SECRET}'")
            admin.execute("SELECT pg_reload_conf()")
        yield cluster


def address(url: URL) -> str:
    """The address of a database, as psycopg itself reads it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def a_database(cluster: Cluster, *options: str) -> Iterator[URL]:
    """A new database of the cluster, which belongs to its superuser."""
    with psycopg.connect(address(cluster.url), autocommit=True) as admin:
        admin.execute(SQL(f"CREATE DATABASE trial TEMPLATE template0 {' '.join(options)}"))
        try:
            yield cluster.url.set(database="trial")
        finally:
            admin.execute("DROP DATABASE trial WITH (FORCE)")


def of_role(url: URL) -> URL:
    """The same database for an ordinary role."""
    return url.set(username=ROLE, password=SECRET)


def granted(url: URL, *statements: str) -> None:
    with psycopg.connect(address(url), autocommit=True) as admin:
        for statement in statements:
            admin.execute(SQL(statement))


@contextmanager
def a_service(url: URL | str, folder: Path) -> Iterator[Service]:
    text_of_url = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    settings = some_settings(text_of_url, folder)
    if not settings.keyring_path.exists():
        make_sandbox(settings.keyring_path)
    service = Service(settings)
    try:
        yield service
    finally:
        service.database.close()


def upgrade(url: URL, keyring_path: Path) -> str:
    """What `flask db upgrade` says, which must refuse in one sentence."""
    environ = an_environ(url.render_as_string(hide_password=False), keyring_path)
    result = run_flask("db", "upgrade", environ=environ)
    assert (result.returncode, result.stdout) == (2, "")
    (sentence,) = result.stderr.splitlines()
    assert SECRET not in sentence
    return sentence


# --- encodings ---


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_character_is_refused(
    cluster: Cluster, encoding: str, keyring_path: Path, tmp_path: Path
) -> None:
    with a_database(cluster, f"ENCODING '{encoding}' LOCALE 'C'") as url:
        assert f"cannot be used: the database is encoded in {encoding}, and UTF8 is needed" in upgrade(
            url, keyring_path
        )
        refused = run_flask("serve", environ=an_environ(url.render_as_string(hide_password=False), keyring_path))
        assert refused.returncode == 2
        assert f"encoded in {encoding}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        with a_service(url, tmp_path) as service:
            checks = service.ready()
            assert checks["database"].startswith(f"the database is encoded in {encoding}")
            assert not is_ready(checks)


# --- privileges ---


def test_a_role_that_may_not_create_tables_cannot_upgrade(cluster: Cluster, keyring_path: Path) -> None:
    with a_database(cluster) as url:
        granted(url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        sentence = upgrade(of_role(url), keyring_path)
    assert "may not migrate the database: permission denied for schema public" in sentence
    assert "GRANT it CREATE ON its SCHEMA" in sentence


def test_a_role_that_may_not_do_what_the_service_does_is_told_what_to_grant(cluster: Cluster, tmp_path: Path) -> None:
    with a_database(cluster) as url:
        migrate(address(url).replace("postgresql:", "postgresql+psycopg:"))
        granted(
            url,
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}",
            f"REVOKE INSERT, DELETE ON inbox FROM {ROLE}",
        )
        with a_service(of_role(url), tmp_path) as service:
            with pytest.raises(MissingPrivilegesError, match=f"GRANT DELETE, INSERT ON inbox TO {ROLE}"):
                service.open_all()
            assert not is_ready(service.ready())
            # History is only ever added to, so nobody need be able to change it.
            granted(
                url,
                f"GRANT INSERT, DELETE ON inbox TO {ROLE}",
                f"REVOKE UPDATE, DELETE ON transitions, index_key FROM {ROLE}",
            )
            service.open_all()
            assert ready(service) == ALL_OK


def test_a_role_without_usage_of_the_schema_is_told_to_grant_it_and_not_to_migrate(
    cluster: Cluster, tmp_path: Path
) -> None:
    with a_database(cluster) as url:
        migrate(address(url).replace("postgresql:", "postgresql+psycopg:"))
        granted(url, "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
        with a_service(of_role(url), tmp_path) as service, pytest.raises(NoSchemaError, match="GRANT USAGE"):
            service.open_all()


# --- what cannot be connected to ---


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"password": "geheim"}, f'password authentication failed for user "{ROLE}"'),
        ({"database": "elsewhere"}, 'database "elsewhere" does not exist'),
        ({"port": 1}, "No such file or directory"),
        ({"query": {}, "host": "no-such-host.invalid"}, "failed to resolve host 'no-such-host.invalid'"),
        ({"query": {}, "host": "127.0.0.1", "port": 1}, 'connection to server at "127.0.0.1", port 1 failed'),
    ],
    ids=["password", "database", "socket", "host", "port"],
)
def test_the_error_of_a_wrong_url_quotes_the_database(
    cluster: Cluster, wrong: dict[str, object], said: str, keyring_path: Path, tmp_path: Path
) -> None:
    url = of_role(cluster.url).set(**wrong)  # type: ignore[arg-type] # what each case names
    environ = an_environ(url.render_as_string(hide_password=False), keyring_path)
    for command in (("inbox", "list"), ("db", "upgrade")):
        result = run_flask(*command, environ=environ)
        (sentence,) = result.stderr.splitlines()
        assert result.returncode == 2
        assert said in sentence
        assert f"/{url.database} (FLASK_DATABASE_URL)" in sentence
        assert not any(secret in sentence for secret in (SECRET, "geheim"))
    with a_service(url, tmp_path) as service:
        assert said in service.ready()["database"]


# --- revisions ---


@contextmanager
def at_revision(url: str, revision: str, folder: Path) -> Iterator[Service]:
    """A service on a database that says to be at this revision."""
    with a_service(url, folder) as service:
        service.open_all()
        statement = text("UPDATE alembic_version SET version_num = :revision")
        service.database.run(lambda session: session.execute(statement, {"revision": revision}))
    with a_service(url, folder) as service:
        yield service


def test_a_database_that_a_later_release_has_upgraded_is_worked_on(database_url: str, tmp_path: Path) -> None:
    settings = some_settings(database_url, tmp_path)
    make_sandbox(settings.keyring_path)
    old = Service(settings)
    old.open_all()
    statement = text("UPDATE alembic_version SET version_num = '9001'")
    old.database.run(lambda session: session.execute(statement))
    old.database.run(lambda session: session.execute(text("ALTER TABLE inbox ADD COLUMN told_at INTEGER")))
    for service in (old, Service(settings)):
        service.open_all()
        assert ready(service) == ALL_OK | {"migrated": "newer (9001)"}
        assert is_ready(service.ready())
        service.database.close()


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE transitions DROP COLUMN cause", "ALTER TABLE rendezvous RENAME TO key_locks"],
    ids=["column", "table"],
)
def test_a_newer_database_without_a_column_of_this_release_is_refused(
    database_url: str, change: str, tmp_path: Path
) -> None:
    """A release may take away, two releases later, what no release in between has used."""
    settings = some_settings(database_url, tmp_path)
    make_sandbox(settings.keyring_path)
    old = Service(settings)
    old.open_all()
    old.database.run(lambda session: session.execute(text("UPDATE alembic_version SET version_num = '9002'")))
    old.database.run(lambda session: session.execute(text(change)))
    new = Service(settings)
    with pytest.raises(OutdatedReleaseError, match="9002"):
        new.open_all()
    new.database.close()
    checks = old.ready()
    assert checks["migrated"] == "too new (9002): install a newer release"
    assert not is_ready(checks)
    old.database.close()


@pytest.mark.parametrize("revision", ["0001", "abcd", ""])
def test_a_database_at_an_older_or_a_strange_revision_is_to_be_upgraded(
    database_url: str, revision: str, tmp_path: Path
) -> None:
    with at_revision(database_url, revision, tmp_path) as service:
        checks = service.ready()
        assert checks["migrated"] == "run flask db upgrade"
        assert not is_ready(checks)


def test_an_upgrade_says_what_it_did(unmigrated_database_url: str, keyring_path: Path) -> None:
    environ = an_environ(unmigrated_database_url, keyring_path)

    def said(*arguments: str) -> str:
        result = run_flask("db", *arguments, environ=environ)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    assert said("upgrade", "0001") == "Upgraded the database from no tables to 0001.\n"
    assert said("upgrade") == f"Upgraded the database from 0001 to {REVISION}.\n"
    assert said("upgrade") == f"Nothing to do: the database is at {REVISION}.\n"
    assert said("downgrade", "0001", "--yes") == f"Took the database back from {REVISION} to 0001.\n"


def test_an_upgrade_by_an_older_release_finds_nothing_to_do(
    database_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    """Where each machine upgrades as it starts, one of the old release may do so after the new one."""
    with at_revision(database_url, "9001", tmp_path) as service:
        result = run_flask("db", "upgrade", environ=an_environ(service.settings.database_url, keyring_path))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        f"Nothing to do: the database is at 9001, which is newer than this version's {REVISION}.\n"
    )


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE inbox RENAME TO inbox2", "ALTER TABLE transitions DROP COLUMN cause"],
    ids=["table", "column"],
)
def test_a_database_that_has_lost_a_table_or_a_column_is_not_ready_and_nothing_starts_on_it(
    database_url: str, change: str, keyring_path: Path, tmp_path: Path
) -> None:
    with a_service(database_url, tmp_path) as service:
        service.open_all()
        service.database.run(lambda session: session.execute(text(change)))
        checks = service.ready()
        assert "lacks a table or column" in checks["database"]
        assert not is_ready(checks)
    environ = {"PATH": os.environ["PATH"], **an_environ(database_url, keyring_path)}
    worker = subprocess.run(
        [sys.executable, "-c", "import app.wsgi"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert worker.returncode == 3
    (sentence,) = worker.stderr.splitlines()
    assert "cannot be used: it says to be at revision" in sentence


# --- files ---


@pytest.mark.parametrize("made_before", [True, False], ids=["made before", "new"])
def test_the_files_of_sqlite_are_their_owners_whatever_the_umask(
    tmp_path: Path, keyring_path: Path, *, made_before: bool
) -> None:
    file = tmp_path / "notifyauth.db"
    url = f"sqlite:///{file}"
    if made_before:
        file.touch()
        file.chmod(0o666)
    result = run_flask("db", "upgrade", environ=an_environ(url, keyring_path))
    assert result.returncode == 0
    with a_service(url, tmp_path) as service:
        service.open_all()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("notifyauth.db*")}
        assert modes == dict.fromkeys(("notifyauth.db", "notifyauth.db-wal", "notifyauth.db-shm"), 0o600)


def test_a_database_file_that_all_may_read_is_made_private_at_the_start(sqlite_url: str, tmp_path: Path) -> None:
    file = Path(make_url(sqlite_url).database or "")
    file.chmod(0o644)
    with a_service(sqlite_url, tmp_path) as service:
        service.open_all()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # Whom an operator has let in stays.
    file.chmod(0o640)
    with a_service(sqlite_url, tmp_path) as service:
        service.ready()
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


# --- commits that wait ---


@pytest.mark.parametrize("privileged", [True, False], ids=["superuser", "ordinary role"])
def test_commits_that_wait_for_a_standby_are_noticed(cluster: Cluster, tmp_path: Path, *, privileged: bool) -> None:
    with a_database(cluster) as url:
        migrate(address(url).replace("postgresql:", "postgresql+psycopg:"))
        granted(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")
        with a_service(url if privileged else of_role(url), tmp_path) as service:
            service.open_all()
            assert ready(service) == ALL_OK
            granted(cluster.url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
            try:
                wait_for(service, "commits wait for a synchronous standby that is not there")
                assert true_of(service) == {"standby_missing"}
            finally:
                granted(cluster.url, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
            wait_for(service, "ok")


def test_a_commit_that_waits_is_noticed_by_a_role_that_may_not_see_which_standby_is_synchronous(
    cluster: Cluster, tmp_path: Path
) -> None:
    """There is a standby, but not the one that is waited for."""
    programs = Path(f"/proc/{cluster.process_id()}/exe").resolve().parent
    waiting = "commits wait for a synchronous standby that is not there"
    with a_database(cluster) as url:
        migrate(address(url).replace("postgresql:", "postgresql+psycopg:"))
        granted(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")
        (tmp_path / "wal").mkdir()
        receiver = subprocess.Popen(
            [programs / "pg_receivewal", "-D", tmp_path / "wal", "-h", cluster.folder, "-U", "postgres"],
            stderr=subprocess.DEVNULL,
        )
        with a_service(of_role(url), tmp_path) as service:
            try:
                service.open_all()
                wait_until_connected(cluster)
                granted(cluster.url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
                with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
                    write_for_ever(service)
                assert service.ready()["database"] == waiting
            finally:
                granted(cluster.url, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
                receiver.kill()
                receiver.wait()
            wait_for(service, "ok")


def true_of(service: Service) -> set[str]:
    """The conditions that alerts are told of."""
    return {name for name, is_so in conditions(service.check()).items() if is_so}


def write_for_ever(service: Service) -> None:
    """Write again and again: the server takes its settings in its own time."""
    write = text("UPDATE index_key SET sealed_key = sealed_key")
    while True:
        service.database.run(lambda session: session.execute(write))


def wait_until_connected(cluster: Cluster) -> None:
    with psycopg.connect(address(cluster.url), autocommit=True) as admin:
        deadline = time.monotonic() + 30
        while not admin.execute("SELECT FROM pg_stat_replication").fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def wait_for(service: Service, said: str) -> None:
    """Return once that is said of the database: a server reads its settings anew in its own time."""
    deadline = time.monotonic() + 30
    while ready(service)["database"] != said:
        assert time.monotonic() < deadline, service.ready()
        time.sleep(0.05)

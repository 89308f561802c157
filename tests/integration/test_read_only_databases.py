"""A database that answers every question and takes nothing: frozen by its owner, a standby, a file."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from app import create_app
from app.database import Database
from app.database.condition import READ_ONLY, STANDBY
from app.simulator.draft import authcode_created, token_canceled
from tests.builders import an_environ
from tests.conftest import migrate
from tests.integration.http_client import API_KEY, HttpClient
from tests.integration.shell import Shell
from tests.integration.stage import Stage
from tests.postgres import SERVER_SETTINGS, running_cluster


@pytest.fixture
def http_on_postgresql(postgresql_url: str, keyring_path: Path) -> Iterator[HttpClient]:
    """A service on PostgreSQL, of which each connection has read before."""
    http = HttpClient(
        create_app(an_environ(postgresql_url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}")), keyring_path
    )
    http.consult()
    assert http.get("/readyz", key=None).status_code == 200
    yield http
    http.service.database.close()


@contextmanager
def frozen(url: str) -> Iterator[None]:
    """Make a database read-only for every session that begins now, and end the others, as its owner would."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {owner.info.dbname} SET default_transaction_read_only = on")
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        try:
            yield
        finally:
            owner.execute("SET default_transaction_read_only = off")
            owner.execute(f"ALTER DATABASE {owner.info.dbname} RESET default_transaction_read_only")


def test_a_frozen_database_is_not_written_to(http_on_postgresql: HttpClient, postgresql_url: str) -> None:
    http = http_on_postgresql
    with frozen(postgresql_url):
        for number in range(8):
            # Each connection has had its first transaction that only reads.
            assert http.get("/v1/authorizations").status_code == 200
            assert http.notify(authcode_created("s-1", f"code-{number}")).status_code == 503
        assert http.post("/v1/authorizations", {"authState": "s-2"}).status_code == 503
        unready = http.get("/readyz", key=None)
        assert (unready.status_code, unready.get_json()["checks"]["database"]) == (503, READ_ONLY)
        assert http.get("/v1/authorizations").get_json()["authorizations"][0]["state"] == "consulted"
    assert http.get("/readyz", key=None).status_code == 200
    assert http.notify(authcode_created("s-1", "code-0")).status_code == 200
    assert http.post("/v1/authorizations", {"authState": "s-2"}).status_code == 201


def test_a_frozen_database_is_verified_and_refuses_in_its_own_words(
    http_on_postgresql: HttpClient, postgresql_url: str
) -> None:
    http_on_postgresql.notify(token_canceled("nobody"))
    shell = Shell(http_on_postgresql.app, http_on_postgresql.keyring_path)
    with frozen(postgresql_url):
        assert shell.run("authorizations", "verify").output.startswith("1 authorization checked: everything agrees.\n")
        assert shell.run("authorizations", "verify").exit_code == 0
        refused = shell.run("inbox", "dismiss", "1", "--reason", "a test")
        assert refused.exit_code != 0
        assert "in a read-only transaction" in refused.output


def test_a_standby_is_not_ready_and_its_reports_come_again(keyring_path: Path) -> None:
    with running_cluster(SERVER_SETTINGS) as cluster:
        url = cluster.url.render_as_string(hide_password=False)
        migrate(url)
        http = HttpClient(create_app(an_environ(url, keyring_path, FLASK_API_KEYS=f"shop={API_KEY}")), keyring_path)
        http.consult()
        http.service.database.close()
        process_id = cluster.process_id()
        (cluster.folder / "data" / "standby.signal").touch()
        os.kill(process_id, signal.SIGINT)
        cluster.start_again()
        assert http.post("/v1/authorizations", {"authState": "s-2"}).status_code == 503
        assert http.notify(authcode_created("s-1", "code-1")).status_code == 503
        unready = http.get("/readyz", key=None)
        assert (unready.status_code, unready.get_json()["checks"]["database"]) == (503, STANDBY)
        assert http.get("/v1/authorizations").status_code == 200
        with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as owner:
            owner.execute("SELECT pg_promote()")
        assert http.get("/readyz", key=None).status_code == 200
        assert http.notify(authcode_created("s-1", "code-1")).status_code == 200
        http.service.database.close()


def test_a_file_that_may_not_be_written_is_not_ready(sqlite_url: str) -> None:
    path = make_url(sqlite_url).database
    database = Database(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert database.why_not_writable() == READ_ONLY
    database.close()


def test_a_database_that_others_write_to_is_writable(stage: Stage) -> None:
    stage.consult()
    with stage.database.engine.begin() as other:
        other.exec_driver_sql("DELETE FROM rendezvous")
        assert stage.database.why_not_writable() is None

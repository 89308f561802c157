"""PostgreSQL says that a commit went well when its wait for the standby was cancelled: that is not stored."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.database import Database, DatabaseUnavailableError
from app.database.pipeline import Statement, execute
from app.preflight import _STANDBYS, synchronous_standbys, waits_for_standby, why_not_replicated
from app.receiver import Receipt
from app.simulator.draft import authcode_created, token_canceled, token_created
from app.simulator.keys import make_sandbox
from app.wiring import Service, is_ready
from tests.builders import some_settings
from tests.conftest import migrate
from tests.integration.stage import Stage, a_stage
from tests.postgres import SERVER_SETTINGS, PostgresServer, running_cluster

CODE = authcode_created("s-1", "code-1").body()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of which the tests of this file may say that it has a standby."""
    with running_cluster(SERVER_SETTINGS) as cluster, PostgresServer.connected(cluster.url) as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    """A migrated database of the test's own."""
    with server.database(template="template0") as url:
        migrate(url.render_as_string(hide_password=False))
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection]:
    """A connection that may cancel the waits of others."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as admin:
        yield admin


@pytest.fixture
def stage(url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service that has one consult on record."""
    stage = a_stage(url, alipay_key)
    stage.consult()
    yield stage
    stage.database.close()


def set_standby(admin: psycopg.Connection, name: str) -> None:
    admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    admin.execute("SELECT pg_reload_conf()")


def cancel_waits(admin: psycopg.Connection) -> int:
    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return len(admin.execute(waiting).fetchall())


@contextmanager
def standby_away(admin: psycopg.Connection, *, is_cancelled: bool) -> Iterator[None]:
    """Let every commit wait for a standby that does not exist, and cancel the waits if wanted."""
    ended = threading.Event()
    url = admin.info.dsn

    def cancel() -> None:
        with psycopg.connect(url, autocommit=True) as canceller:
            while not ended.wait(0.01):
                cancel_waits(canceller)

    def commit_until_it_waits() -> None:
        with psycopg.connect(url, autocommit=True) as other:
            warnings: list[object] = []
            other.add_notice_handler(warnings.append)
            other.execute("SET client_min_messages = warning; SET synchronous_commit = on")
            while not warnings:
                other.execute("SELECT pg_logical_emit_message(true, 'probe', '')")

    set_standby(admin, "nobody")
    probe = threading.Thread(target=commit_until_it_waits)
    probe.start()
    while probe.is_alive():
        cancel_waits(admin)
        probe.join(0.01)
    canceller = threading.Thread(target=cancel)
    if is_cancelled:
        canceller.start()
    try:
        yield
    finally:
        ended.set()
        if is_cancelled:
            canceller.join()
        set_standby(admin, "")


def is_to_be_sent_again(receipt: Receipt) -> bool:
    answer = receipt.answer
    return (answer.status, answer.result_status, answer.result_code) == (503, "U", "UNKNOWN_EXCEPTION")


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "endless"])
def test_a_commit_that_no_standby_confirmed_acknowledges_nothing(
    stage: Stage, admin: psycopg.Connection, *, is_cancelled: bool
) -> None:
    with standby_away(admin, is_cancelled=is_cancelled):
        assert is_to_be_sent_again(stage.notify(CODE))
    receipt = stage.notify(CODE)
    assert (receipt.answer.status, receipt.outcome) == (200, "applied")
    assert len(stage.entries()) == 1
    assert [event for _, event, _, _ in stage.moves()] == ["consult", "authcode_created"]


def test_nor_does_it_acknowledge_a_single_delivery(stage: Stage, admin: psycopg.Connection) -> None:
    stage.notify(token_canceled("token-1"))
    authorization = stage.consult()
    with stage.broken_code(authorization), standby_away(admin, is_cancelled=True):
        assert is_to_be_sent_again(stage.notify(CODE))
    assert stage.notify(CODE).outcome == "applied"
    assert [event for _, event, _, _ in stage.moves()] == ["consult", "authcode_created"]


def report_consult(stage: Stage) -> object:
    return stage.consult("s-2")


def report_the_same_again(stage: Stage) -> object:
    return stage.consult("s-1")


def process_again(stage: Stage) -> object:
    return [stage.process(entry.id) for entry in stage.entries()]


@pytest.mark.parametrize("work", [report_consult, report_the_same_again, process_again])
def test_no_report_is_answered_with_success_that_no_standby_confirmed(
    stage: Stage, admin: psycopg.Connection, work: Callable[[Stage], object]
) -> None:
    stage.notify(token_created("s-1", "token-1"))
    with standby_away(admin, is_cancelled=True), pytest.raises(DatabaseUnavailableError, match="commit"):
        work(stage)
    work(stage)


def test_no_index_key_is_used_that_no_standby_confirmed(url: str, admin: psycopg.Connection, tmp_path: Path) -> None:
    service = Service(some_settings(url, tmp_path))
    with standby_away(admin, is_cancelled=True), pytest.raises(DatabaseUnavailableError, match="commit"):
        _ = service.vault
    _ = service.vault
    service.database.close()


def test_a_role_that_is_spared_warnings_hears_of_such_commits(
    url: str, admin: psycopg.Connection, alipay_key: RSAPrivateKey
) -> None:
    admin.execute(f"ALTER DATABASE {admin.info.dbname} SET client_min_messages = error")
    stage = a_stage(url, alipay_key)
    with standby_away(admin, is_cancelled=True):
        assert is_to_be_sent_again(stage.notify(CODE))
    stage.database.close()


def test_a_commit_that_became_a_rollback_is_no_success(stage: Stage) -> None:
    def fail_and_go_on(session: Session) -> None:
        connection = session.connection().connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        connection.execute("SELECT 1")
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 1 / 0")

    with pytest.raises(DatabaseUnavailableError, match="commit"):
        stage.database.run(fail_and_go_on)


def test_commits_that_do_not_wait_for_a_standby_that_is_named_do_not_last(url: str, admin: psycopg.Connection) -> None:
    name = admin.info.dbname
    admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = local")
    database = Database(url)
    assert "synchronous_commit" not in database.unsafe_durability_settings()
    set_standby(admin, "nobody")
    try:
        wait_until_named(database, "nobody")
        assert database.unsafe_durability_settings()["synchronous_commit"] == "local"
    finally:
        set_standby(admin, "")
    database.close()


@pytest.mark.parametrize("setting", ["off", "local"])
def test_a_database_set_not_to_wait_for_its_standby_does_not_have_that_acknowledged_either(
    url: str, admin: psycopg.Connection, alipay_key: RSAPrivateKey, setting: str
) -> None:
    """Where a standby is named, a commit is promised to outlive the machine; a role's setting must not undo it."""
    admin.execute(f"ALTER DATABASE {admin.info.dbname} SET synchronous_commit = {setting}")
    stage = a_stage(url, alipay_key)
    with standby_away(admin, is_cancelled=True):
        assert is_to_be_sent_again(stage.notify(CODE))
        with pytest.raises(DatabaseUnavailableError, match="commit"):
            stage.consult()
    assert stage.notify(CODE).answer.status == 200
    stage.database.close()


@pytest.mark.parametrize(
    ("setting", "used"),
    [("off", "on"), ("local", "on"), ("on", "on"), ("remote_write", "remote_write"), ("remote_apply", "remote_apply")],
)
def test_a_commit_is_never_weaker_than_the_database_is_set_to(
    url: str, admin: psycopg.Connection, setting: str, used: str
) -> None:
    admin.execute(f"ALTER DATABASE {admin.info.dbname} SET synchronous_commit = {setting}")
    database = Database(url)
    ask = select(func.current_setting("synchronous_commit").label("value"))
    assert database.run(lambda session: session.scalar(ask)) == used
    # What stands in the transaction of one message, too.
    asked = Statement(lambda _: ask, lambda _: {"current_setting_1": "synchronous_commit"})
    assert database.run_once(lambda connection: execute(connection, asked)[0].rows) == [(used,)]
    database.close()


def test_a_database_whose_settings_become_unsafe_is_named_while_they_are(
    url: str, admin: psycopg.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = some_settings(url, tmp_path)
    make_sandbox(settings.keyring_path)
    service = Service(settings)
    service.open_all()
    caplog.set_level(logging.INFO, "app")
    # Once an application was made in this process, nothing goes further than this logger.
    logging.getLogger("app").addHandler(caplog.handler)
    assert "synchronous_commit" not in service.ready()["database"]
    admin.execute("ALTER SYSTEM SET synchronous_commit = off")
    admin.execute("SELECT pg_reload_conf()")
    try:
        checks = database_said(service, lambda said: "synchronous_commit = off" in said)
        assert is_ready(checks)
    finally:
        admin.execute("ALTER SYSTEM RESET synchronous_commit")
        admin.execute("SELECT pg_reload_conf()")
    database_said(service, lambda said: "synchronous_commit" not in said)
    logging.getLogger("app").removeHandler(caplog.handler)
    told = [each.message for each in caplog.records if vars(each).get("setting") == "synchronous_commit"]
    assert list(dict.fromkeys(told)) == [
        "the database is set to forget commits",
        "the database is set to keep commits again",
    ]
    service.database.close()


def test_a_service_told_to_be_replicated_is_ready_only_where_a_standby_confirms_commits(
    url: str, admin: psycopg.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`tests/acceptance/test_replication.py` has it with standbys."""
    settings = replace(some_settings(url, tmp_path), is_replicated=True)
    make_sandbox(settings.keyring_path)
    service = Service(settings)
    logging.getLogger("app").addHandler(caplog.handler)
    service.open_all()
    logging.getLogger("app").removeHandler(caplog.handler)
    assert "the database does not confirm commits as it should" in [each.message for each in caplog.records]
    assert service.database.run(synchronous_standbys, read_only=True) == 0
    checks = service.ready()
    assert checks["database"] == "not replicated: commits wait for no standby (synchronous_standby_names is empty)"
    assert not is_ready(checks)
    set_standby(admin, "nobody")
    try:
        checks = database_said(service, lambda said: "not replicated" not in said)
        assert checks["database"] == "commits wait for a synchronous standby that is not there"
    finally:
        set_standby(admin, "")
    service.database.close()


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ("", 0),
        ("*", 1),
        ("a, b", 1),
        ("1 (a)", 1),
        ("ANY 2 (a, b, c)", 2),
        ("any 2(*)", 2),
        ("FIRST 3 (a, b, c)", 3),
        ("2 (a, b)", 2),
        ('"2 (a", b', 1),
    ],
)
def test_for_how_many_standbys_commits_wait_is_read_as_postgresql_reads_it(
    stage: Stage, admin: psycopg.Connection, names: str, needed: int
) -> None:
    def said(session: Session) -> str:
        return why_not_replicated(session) or ""

    set_standby(admin, names)
    try:
        wait_until_named(stage.database, names)
        found = stage.database.run(lambda session: session.execute(_STANDBYS).one(), read_only=True)
        assert (found.needed, found.streaming) == (needed, 0)
        assert stage.database.run(waits_for_standby, read_only=True) == (needed > 0)
        assert ("is empty" in stage.database.run(said, read_only=True)) == (needed == 0)
    finally:
        set_standby(admin, "")


def wait_until_named(database: Database, names: str) -> None:
    """Return once the server has read its settings anew, which it does in its own time."""
    shown = text("SHOW synchronous_standby_names")
    deadline = time.monotonic() + 30
    while database.run(lambda session: session.scalar(shown), read_only=True) != names:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def database_said(service: Service, is_so: Callable[[str], bool]) -> dict[str, str]:
    """What is found once that is said of the database: a server reads its settings anew in its own time."""
    deadline = time.monotonic() + 30
    while not is_so((checks := service.ready())["database"]):
        assert time.monotonic() < deadline, checks
        time.sleep(0.05)
    return checks

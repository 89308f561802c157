"""The database away, silent, slow, full, read-only or locked: nothing hangs, nothing is lost, no restart is needed."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from psycopg.pq import TransactionStatus
from sqlalchemy import text

from app import create_app, metrics
from app.database import Database, DatabaseUnavailableError
from app.limits import POOL_SIZE
from app.receiver import Receipt, Receiver
from app.simulator.draft import authcode_created, token_canceled
from app.wiring import Service
from tests.acceptance.server import a_free_port
from tests.builders import CLIENT_ID, a_signed_delivery, an_environ
from tests.integration.network import Network, a_network_to
from tests.integration.stage import Stage, a_stage

#: Larger than what the last page of a full file may still have room for.
CODE = authcode_created("s-1", "code-1").body()[:-1] + b', "padding": "' + b"." * 50_000 + b'"}'

FORGETFUL = "the database is set to forget commits"

#: A delivery may take four seconds; a busy machine adds to that.
SECONDS_MAX = 8
#: More than there are connections, and places to wait for one.
CROWD = 3 * POOL_SIZE


@pytest.fixture
def network(postgresql_url: str) -> Iterator[Network]:
    """A network on which a database of the test's own is reached."""
    with a_network_to(postgresql_url, a_free_port()) as network:
        yield network


@pytest.fixture
def afar(network: Network, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service whose database is on the other side of the network, and has been used before."""
    stage = a_stage(network.url, alipay_key)
    stage.consult()
    yield stage
    stage.database.close()


@pytest.fixture
def on_sqlite(sqlite_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service on SQLite, that has used it before."""
    stage = a_stage(sqlite_url, alipay_key)
    stage.consult()
    yield stage
    stage.database.close()


@pytest.fixture
def on_postgresql(postgresql_url: str, alipay_key: RSAPrivateKey) -> Iterator[Stage]:
    """A service on PostgreSQL, that has used it before."""
    stage = a_stage(postgresql_url, alipay_key)
    stage.consult()
    yield stage
    stage.database.close()


def is_to_be_sent_again(receipt: Receipt) -> bool:
    answer = receipt.answer
    return (answer.status, answer.result_status, answer.result_code) == (503, "U", "UNKNOWN_EXCEPTION")


def refused_in_time(stage: Stage, receiver: Receiver | None = None) -> bool:
    """Deliver, and say whether Alipay was told to send again, before it would have hung up."""
    started = time.monotonic()
    delivery = a_signed_delivery(stage.alipay_key, client_id=CLIENT_ID, request_time="1", body=CODE)
    receipt = (receiver or stage.receiver).receive(delivery)
    return is_to_be_sent_again(receipt) and time.monotonic() - started < SECONDS_MAX


def works_again(stage: Stage) -> bool:
    """Deliver once more, and say whether just this delivery was stored and processed."""
    return stage.notify(CODE).outcome == "applied" and [each.deliveries for each in stage.entries()] == [1]


@contextmanager
def another_connection(stage: Stage) -> Iterator[psycopg.Connection]:
    url = stage.database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


# --- PostgreSQL ---


def test_a_wait_for_a_locked_table_is_short(on_postgresql: Stage) -> None:
    with another_connection(on_postgresql) as other, other.transaction():
        other.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
        assert refused_in_time(on_postgresql)
    assert works_again(on_postgresql)


def test_a_database_that_became_read_only_is_written_to_as_soon_as_it_can_be(on_postgresql: Stage) -> None:
    """As after a failover: sessions that began on a standby stay read-only, so the pool must drop them."""
    name = on_postgresql.database.engine.url.database
    with another_connection(on_postgresql) as other:
        other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        on_postgresql.database.close()
        assert refused_in_time(on_postgresql)
        assert on_postgresql.state() == "consulted"
        other.execute("SET default_transaction_read_only = off")
        other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert works_again(on_postgresql)


@pytest.mark.parametrize("when", ["at once", "at the commit"])
def test_a_full_disk_of_the_server_acknowledges_nothing(on_postgresql: Stage, when: str) -> None:
    """A trigger says what PostgreSQL says of a full disk, where it would say it."""
    timing = "INITIALLY DEFERRED" if when == "at the commit" else "NOT DEFERRABLE"
    with another_connection(on_postgresql) as other:
        other.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END$$"
        )
        deferrable = "DEFERRABLE " if when == "at the commit" else ""
        other.execute(
            f"CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON inbox {deferrable}{timing} "
            "FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
        assert refused_in_time(on_postgresql)
        other.execute("DROP TRIGGER full_disk ON inbox")
    assert works_again(on_postgresql)


def test_a_server_that_was_restarted_is_not_even_noticed(on_postgresql: Stage) -> None:
    with another_connection(on_postgresql) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert works_again(on_postgresql)


def test_a_transaction_that_its_process_forgot_does_not_keep_its_locks(on_postgresql: Stage) -> None:
    show = text("SHOW idle_in_transaction_session_timeout")
    assert on_postgresql.database.run(lambda session: session.scalar(show)) == "10s"


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_a_server_that_falls_silent_is_not_waited_for_long(afar: Stage, network: Network, *, known: bool) -> None:
    """In the middle of a connection that has served before, or at the beginning of a new one."""
    if not known:
        afar.database.close()
    with network.silent():
        assert refused_in_time(afar)
    assert works_again(afar)


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_noise_from_a_dying_server_is_no_failure_of_ours(afar: Stage, network: Network, *, known: bool) -> None:
    for _ in range(10):
        if not known:
            afar.database.close()
        with network.noisy():
            assert refused_in_time(afar)
            with pytest.raises(DatabaseUnavailableError):
                afar.consult("s-2")
            with pytest.raises(DatabaseUnavailableError):
                afar.document()
        afar.consult()
    assert works_again(afar)


def test_a_server_that_was_unreachable_is_reached_again(afar: Stage, network: Network) -> None:
    with network.closed():
        assert refused_in_time(afar)
    assert works_again(afar)


def test_a_database_that_takes_too_long_is_not_waited_for(afar: Stage, network: Network) -> None:
    """Each message comes back within every timeout, but there are several of them."""
    with network.slow(0.7):
        assert refused_in_time(afar)
    # The commit may have been on its way: whether or not it was, the redelivery finds or makes the one effect.
    assert afar.notify(CODE).outcome == "applied"
    assert [each.outcome for each in afar.entries()] == ["applied"]
    assert len(afar.moves()) == 2


def test_a_service_that_started_without_its_database_works_once_it_is_there(
    network: Network, alipay_key: RSAPrivateKey
) -> None:
    with network.closed():
        stage = a_stage(network.url, alipay_key)
        assert refused_in_time(stage)
    stage.consult()
    assert works_again(stage)
    stage.database.close()


def test_nothing_is_acknowledged_that_is_not_on_record(afar: Stage, network: Network) -> None:
    """Connections break in the middle of everything, the commit and its answer included."""
    drafts = [token_canceled(f"token-{number}") for number in range(40)]
    with network.breaking(0.03):
        receipts = [afar.notify(draft) for draft in drafts]
    acknowledged = {receipt.entry_id for receipt in receipts if receipt.answer.status == 200}
    assert acknowledged
    assert all(receipt.answer.status == 200 or is_to_be_sent_again(receipt) for receipt in receipts)
    assert acknowledged <= {entry.id for entry in afar.entries()}
    again = {afar.notify(draft).entry_id for draft in drafts}
    assert again == {entry.id for entry in afar.entries()}
    assert len(again) == len(drafts)


def codes_applied() -> float:
    """How many codes this process has counted as applied."""
    labels = {"type": "AUTHCODE_CREATED", "outcome": "applied"}
    (counted,) = [
        sample.value
        for metric in metrics.collect((), revision="")
        for sample in metric.samples
        if sample.name == "notifyauth_notifications_total" and sample.labels == labels
    ]
    return counted


@pytest.mark.parametrize("lost", [1, 2])
def test_a_delivery_whose_commit_is_not_answered_is_counted_once(afar: Stage, network: Network, lost: int) -> None:
    """It is committed. The retry finds it on record, and must not count it as another delivery."""
    before = codes_applied()
    with network.losing_answers_to_commits(lost):
        receipt = afar.notify(CODE)
    assert (receipt.answer.status, receipt.outcome) == (200, "applied")
    assert [each.deliveries for each in afar.entries()] == [1]
    assert codes_applied() == before + 1
    assert len(afar.moves()) == 2


@pytest.mark.parametrize("lost", [1, 2])
def test_a_redelivery_whose_commit_is_not_answered_is_counted_once(afar: Stage, network: Network, lost: int) -> None:
    afar.notify(CODE)
    afar.clock.forward(minutes=2)
    with network.losing_answers_to_commits(lost):
        assert afar.notify(CODE).answer.status == 200
    assert [each.deliveries for each in afar.entries()] == [2]


def test_a_delivery_whose_results_cannot_be_read_after_the_commit_is_counted_once(
    on_postgresql: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is confirmed by then, so that this must be told from a batch that was rolled back."""
    before = codes_applied()
    unread: list[object] = []
    fetchall = psycopg.Cursor.fetchall

    def fail_once_after_a_commit(cursor: psycopg.Cursor) -> list[object]:
        if not unread and cursor.connection.info.transaction_status is TransactionStatus.IDLE:
            unread.append(cursor)
            raise ValueError
        return fetchall(cursor)

    monkeypatch.setattr(psycopg.Cursor, "fetchall", fail_once_after_a_commit)
    receipt = on_postgresql.notify(CODE)
    assert len(unread) == 1
    assert (receipt.answer.status, receipt.outcome, receipt.is_new) == (200, "applied", True)
    assert [each.deliveries for each in on_postgresql.entries()] == [1]
    assert codes_applied() == before + 1


# --- SQLite ---

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


def file_of(stage: Stage) -> Path:
    return Path(stage.database.engine.url.database or "")


def test_a_file_that_another_process_locked_is_not_waited_for_long(on_sqlite: Stage) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, file_of(on_sqlite)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert refused_in_time(on_sqlite)
        assert on_sqlite.state() == "consulted"
        other.communicate()
    assert works_again(on_sqlite)


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000"),
        ("PRAGMA query_only = on", "PRAGMA query_only = off"),
    ],
    ids=["full", "read-only"],
)
def test_a_file_that_cannot_be_written_acknowledges_nothing(on_sqlite: Stage, trouble: str, remedy: str) -> None:
    """The only connection is set to fail as all would on a full disk, or one that is mounted read-only."""
    tell_connection(on_sqlite, trouble)
    assert refused_in_time(on_sqlite)
    assert on_sqlite.state() == "consulted"
    tell_connection(on_sqlite, remedy)
    assert works_again(on_sqlite)


def tell_connection(stage: Stage, pragma: str) -> None:
    pooled = stage.database.engine.raw_connection()
    pooled.cursor().execute(pragma)
    pooled.close()


def test_a_database_file_that_was_replaced_is_not_written_to(on_sqlite: Stage) -> None:
    """What went into the old file, which has no name any more, would be acknowledged and gone."""
    file = file_of(on_sqlite)
    copy = file.with_name("copy.db")
    with sqlite3.connect(file) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    copy.rename(file)
    assert refused_in_time(on_sqlite)
    file.with_name(file.name + "-wal").unlink()
    file.with_name(file.name + "-shm").unlink()
    on_sqlite.database.close()
    assert works_again(on_sqlite)


# --- both ---


@contextmanager
def held(stage: Stage) -> Iterator[None]:
    """Hold what every delivery needs."""
    if stage.database.engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(file_of(stage), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    else:
        with another_connection(stage) as connection, connection.transaction():
            connection.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
            yield


def test_a_crowd_before_a_locked_database_is_answered_and_leaves_nothing_behind(stage: Stage) -> None:
    """More come at once than there are connections, and as many again behind each other."""
    stage.consult()
    before = set(threading.enumerate())
    receiver = stage.receiver
    with held(stage), ThreadPoolExecutor(CROWD) as pool:
        # However many deliveries wait, each is answered before Alipay hangs up.
        assert all(pool.map(lambda _: refused_in_time(stage, receiver), range(10 * CROWD)))
        # Reads do not wait for the deliveries that cannot write.
        count = text("SELECT count(*) FROM authorizations")
        assert stage.database.run(lambda session: session.scalar(count), read_only=True) == 1
    receiver.close()
    assert stage.entries() == []
    # Threads of earlier tests may have ended: what counts is that none is new.
    assert set(threading.enumerate()) <= before
    assert stage.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined] # every pool of ours counts
    assert works_again(stage)
    assert 0 < connections_of(stage) <= POOL_SIZE


def connections_of(stage: Stage) -> int:
    """How many connections a service has to its database, as the server, or the system, sees it."""
    if stage.database.engine.dialect.name == "sqlite":
        file = file_of(stage).resolve()
        opened = (entry.resolve() for entry in Path("/proc/self/fd").iterdir())
        return sum(each == file for each in opened)
    with another_connection(stage) as other:
        count = other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert count is not None
    return int(count[0])


# --- settings that forget ---


def test_a_server_that_is_set_to_forget_is_said_to_be_at_the_start(
    on_postgresql: Stage, postgresql_url: str, keyring_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server of the tests does without fsync, and this database without synchronous_commit."""
    with another_connection(on_postgresql) as other:
        other.execute(f"ALTER DATABASE {on_postgresql.database.engine.url.database} SET synchronous_commit = off")
    app = create_app(an_environ(postgresql_url, keyring_path))
    logging.getLogger("app").addHandler(caplog.handler)
    service: Service = app.extensions["notifyauth"]
    service.open_all()
    service.open_all()
    logging.getLogger("app").removeHandler(caplog.handler)
    service.database.close()
    warned = [vars(record) for record in caplog.records if record.message == FORGETFUL]
    assert [(each["levelname"], each["value"]) for each in warned if each["setting"] == "synchronous_commit"] == [
        ("WARNING", "off")
    ]


def test_sqlite_is_set_to_remember(on_sqlite: Stage) -> None:
    assert on_sqlite.database.unsafe_durability_settings() == {}


def test_a_file_system_that_refuses_the_journal_is_said_to(tmp_path: Path) -> None:
    """SQLite's own stand-in for one without shared memory, as network file systems are."""
    database = Database(f"sqlite:///file:{tmp_path}/new.db?vfs=unix-dotfile&uri=true")
    assert database.unsafe_durability_settings() == {"journal_mode": "delete"}
    database.close()


def test_work_that_gets_no_connection_in_time_fails(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    held_up = [database.engine.connect() for _ in range(POOL_SIZE)]
    with pytest.raises(DatabaseUnavailableError, match="TimeoutError"):
        database.run(lambda session: session.execute(text("SELECT 1")), read_only=True)
    for connection in held_up:
        connection.close()
    database.close()


def test_readers_before_a_locked_table_keep_no_connection_from_deliveries(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    stage = a_stage(postgresql_url, alipay_key)
    stage.consult()
    with (
        psycopg.connect(postgresql_url.replace("+psycopg", "")) as other,
        ThreadPoolExecutor(POOL_SIZE + 1) as threads,
    ):
        other.execute("LOCK TABLE authorizations IN ACCESS EXCLUSIVE MODE")
        readers = [threads.submit(stage.document) for _ in range(POOL_SIZE)]
        time.sleep(0.3)
        delivery = threads.submit(stage.notify, authcode_created("s-1", "code-1"))
        # Longer than a delivery waits for a connection.
        time.sleep(1.3)
        other.rollback()
        assert delivery.result().answer.status == 200
        for reader in readers:
            reader.result()
    stage.database.close()

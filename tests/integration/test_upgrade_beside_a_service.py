"""`flask db upgrade` beside a service and its readers: nobody waits long behind it, and it says what it waits for."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import alembic.command
import psycopg
import pytest
from sqlalchemy import create_engine, text

from app.models import REVISION
from tests.integration.shell import Shell
from tests.integration.test_migrations import a_config

#: Far longer than a migration of an empty database waits for a table, far shorter than until it gives up.
A_WHILE_S = 20

BEFOREHAND = "CREATE INDEX ix_inbox_received_at_id ON inbox (received_at, id)"
MAKE_INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_inbox_received_at_id'::regclass"


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection:
    return psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=autocommit)


def revision(url: str) -> str:
    with connect(url) as connection:
        [[found]] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(found)


@pytest.fixture
def reader(unmigrated_postgresql_url: str) -> Iterator[psycopg.Connection]:
    """Somebody who reads an authorization of the release before and does not come to an end, as pg_dump does."""
    alembic.command.upgrade(a_config(unmigrated_postgresql_url), "0002")
    with connect(unmigrated_postgresql_url, autocommit=False) as connection:
        connection.execute("SET application_name = 'a backup'")
        connection.execute("SELECT count(*) FROM authorizations")
        yield connection


def test_deliveries_do_not_queue_behind_an_upgrade_that_waits_for_a_reader(
    unmigrated_postgresql_url: str, reader: psycopg.Connection
) -> None:
    said: list[str] = []
    config = a_config(unmigrated_postgresql_url)
    config.attributes["say"] = said.append
    with ThreadPoolExecutor(1) as pool:
        upgrade = pool.submit(alembic.command.upgrade, config, "head")
        wait_until(lambda: bool(said))
        # It tries again and again, and lets those through who have queued behind it: each within less than its tries.
        with connect(unmigrated_postgresql_url) as other:
            other.execute("SET statement_timeout = '4s'")
            for _ in range(5):
                other.execute("SELECT count(*) FROM authorizations")
                other.execute("UPDATE authorizations SET version = version")
                time.sleep(0.3)
        assert not upgrade.done()
        reader.rollback()
        upgrade.result(timeout=60)
    assert revision(unmigrated_postgresql_url) == REVISION
    assert len(said) == 1
    assert f"in use, by process {reader.info.backend_pid} (role " in said[0]
    assert ", a backup, since 2" in said[0]


def test_an_upgrade_that_deadlocks_with_a_delivery_is_tried_again(unmigrated_postgresql_url: str) -> None:
    """0010 makes an index on `authorizations`, which keeps writers out, and at its end keeps everybody out."""
    config = a_config(unmigrated_postgresql_url)
    alembic.command.upgrade(config, "0009")
    with (
        connect(unmigrated_postgresql_url) as writer,
        connect(unmigrated_postgresql_url) as delivery,
        ThreadPoolExecutor(2) as pool,
    ):
        # Holds the migration up between the two.
        writer.execute("BEGIN; LOCK TABLE access_tokens IN ROW EXCLUSIVE MODE")
        delivery.execute("BEGIN; LOCK TABLE authorizations IN ROW SHARE MODE")
        upgrade = pool.submit(alembic.command.upgrade, config, "0010")
        wait_until(lambda: is_waited_for(unmigrated_postgresql_url, "access_tokens"))
        writing = pool.submit(delivery.execute, "LOCK TABLE authorizations IN ROW EXCLUSIVE MODE")
        wait_until(lambda: writing.done() or is_waited_for(unmigrated_postgresql_url, "authorizations"))
        writer.execute("ROLLBACK")
        writing.result(timeout=60)
        delivery.execute("ROLLBACK")
        upgrade.result(timeout=60)
    assert revision(unmigrated_postgresql_url) == "0010"


def is_waited_for(url: str, table: str) -> bool:
    """Whether somebody waits for a table."""
    with connect(url) as other:
        query = "SELECT FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)"
        return other.execute(query, [table]).fetchone() is not None


def test_an_upgrade_gives_up_behind_a_reader_that_does_not_end_and_names_it(
    unmigrated_postgresql_url: str, reader: psycopg.Connection
) -> None:
    config = a_config(unmigrated_postgresql_url)
    config.attributes["locked_seconds_max"] = 0
    with pytest.raises(Exception, match=rf"has been in use .* by process {reader.info.backend_pid} \(role"):
        alembic.command.upgrade(config, "head")
    assert revision(unmigrated_postgresql_url) == "0002"


def test_each_migration_commits_before_the_next_one_begins(unmigrated_database_url: str) -> None:
    """A lock that one of them takes is not held while another reads a whole table."""
    alembic.command.upgrade(a_config(unmigrated_database_url), "0004")
    engine = create_engine(unmigrated_database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE maintenance_runs (in_the_way INTEGER)"))
    alembic.command.downgrade(a_config(unmigrated_database_url), "0002")
    with pytest.raises(Exception, match="maintenance_runs"):
        alembic.command.upgrade(a_config(unmigrated_database_url), "head")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0004"
    engine.dispose()


def test_indexes_that_were_made_beforehand_are_left_as_they_are(unmigrated_postgresql_url: str) -> None:
    alembic.command.upgrade(a_config(unmigrated_postgresql_url), "0004")
    with connect(unmigrated_postgresql_url) as connection:
        for made in (
            BEFOREHAND,
            "CREATE INDEX ix_authorizations_unfinished ON authorizations (id) WHERE resume_after IS NOT NULL",
            """
            CREATE INDEX ix_inbox_parked_reason_received_at ON inbox (reason, received_at)
            WHERE outcome = 'parked' AND reason IS NOT NULL
            """,
        ):
            connection.execute(made.encode())
    alembic.command.upgrade(a_config(unmigrated_postgresql_url), "head")
    alembic.command.check(a_config(unmigrated_postgresql_url))


def test_an_index_that_is_not_valid_is_not_taken_for_one(unmigrated_postgresql_url: str) -> None:
    config = a_config(unmigrated_postgresql_url)
    alembic.command.upgrade(config, "0002")
    with connect(unmigrated_postgresql_url) as connection:
        connection.execute(BEFOREHAND)
        connection.execute(MAKE_INVALID)
    with pytest.raises(Exception, match=r"INVALID.*: DROP INDEX ix_inbox_received_at_id\."):
        alembic.command.upgrade(config, "head")
    assert revision(unmigrated_postgresql_url) == "0002"
    with connect(unmigrated_postgresql_url) as connection:
        connection.execute("DROP INDEX ix_inbox_received_at_id")
    alembic.command.upgrade(config, "head")
    assert revision(unmigrated_postgresql_url) == REVISION


def test_a_check_names_an_index_that_is_not_valid(shell: Shell, database_url: str) -> None:
    if not database_url.startswith("postgresql"):
        pytest.skip("SQLite's indexes are always valid")
    with connect(database_url) as connection:
        connection.execute(MAKE_INVALID)
    result = shell.run("db", "check")
    assert result.exit_code == 1
    assert "ix_inbox_received_at_id" in result.stderr
    # There is nothing to upgrade: a service whose start includes that is not to be kept from it.
    assert shell.ask("db", "upgrade").startswith("Nothing to do")


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + A_WHILE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)

"""`flask db probe`: what the promises need of an engine is found where it is, and missed where it is not."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL, Engine, StaticPool, create_engine, inspect, text

from app.database.engine_properties import PROPERTIES
from app.database.engines import make_engine
from app.database.probe import probe
from app.simulator.keys import make_sandbox
from tests.builders import an_environ
from tests.integration.shell import Shell, run_flask


def tables(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def missing(engine: Engine) -> set[str]:
    """The properties that the probe does not find."""
    before = tables(engine)
    found = {each.name for each in probe(engine) if each.problem is not None}
    assert tables(engine) == before
    return found


@pytest.fixture
def shared_connection(database_url: str) -> Iterator[Engine]:
    """An engine whose pool lends one connection to everybody at once."""
    arguments = {"check_same_thread": False} if database_url.startswith("sqlite") else {}
    engine = create_engine(database_url, poolclass=StaticPool, connect_args=arguments)
    yield engine
    engine.dispose()


def test_the_engines_of_the_service_have_all_that_the_promises_need(shell: Shell) -> None:
    before = tables(shell.service.database.engine)
    lines = shell.ask("db", "probe").splitlines()
    assert lines
    assert all(line.startswith("✓ ") for line in lines)
    assert tables(shell.service.database.engine) == before


def test_every_property_is_tried_on_postgresql_and_said_in_json(postgresql_url: str, keyring_path: Path) -> None:
    result = run_flask("db", "probe", "--json", environ=an_environ(postgresql_url, keyring_path))
    assert result.returncode == 0
    assert json.loads(result.stdout) == [{"id": each.name, "ok": True, "problem": None} for each in PROPERTIES]


def test_a_database_need_not_be_migrated(unmigrated_postgresql_url: str) -> None:
    engine = make_engine(unmigrated_postgresql_url)
    assert missing(engine) == set()
    assert tables(engine) == set()
    engine.dispose()


def test_a_default_that_the_service_overrides_does_no_harm(postgresql_url: str) -> None:
    """Each transaction says how it is isolated."""
    engine = make_engine(postgresql_url)
    name = engine.url.database
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"))
        connection.execute(text(f"ALTER DATABASE {name} SET client_min_messages = 'error'"))
    engine.dispose()
    assert missing(engine) == set()
    engine.dispose()


def test_transactions_that_keep_their_snapshot_after_a_lock_are_found(postgresql_url: str) -> None:
    engine = create_engine(postgresql_url, isolation_level="REPEATABLE READ")
    assert {"row_locks", "unique_keys"} <= missing(engine)
    engine.dispose()


def test_a_pool_that_shares_its_connection_is_found(shared_connection: Engine) -> None:
    found = missing(shared_connection)
    assert {"row_locks", "unique_keys", "snapshots"} <= found
    assert ("advisory_locks" in found) == (shared_connection.dialect.name == "postgresql")


def test_numbers_in_ranges_and_warnings_that_are_dropped_are_found(postgresql_url: str) -> None:
    """A sequence that gives each connection numbers in advance, and a driver that hears no warning."""
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION hand_out_ranges() RETURNS event_trigger LANGUAGE plpgsql AS $$DECLARE found regclass; "
                "BEGIN FOR found IN SELECT objid FROM pg_event_trigger_ddl_commands() WHERE object_type = 'sequence' "
                "LOOP EXECUTE format('ALTER SEQUENCE %s CACHE 1000', found); END LOOP; END$$"
            )
        )
        connection.execute(
            text(
                "CREATE EVENT TRIGGER hand_out_ranges ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
                "EXECUTE FUNCTION hand_out_ranges()"
            )
        )
    assert {"identity", "commit_warnings"} <= missing(engine)
    engine.dispose()


def test_a_property_that_is_missing_ends_the_command_with_1(shell: Shell, shared_connection: Engine) -> None:
    shell.service.database.engine = shared_connection
    result = shell.run("db", "probe")
    assert result.exit_code == 1
    assert "✗ row_locks: " in result.stdout
    assert "✓ rollback: " in result.stdout


@pytest.fixture
def limited_url(postgresql_url: str) -> Iterator[URL]:
    """The database, for a role that may make no table."""
    # Roles belong to the whole server, which other test runs may share.
    role = f"limited_{uuid4().hex}"
    engine = make_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    yield engine.url.set(username=role)
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()


def test_a_role_that_may_make_no_table_is_told_so(shell: Shell, limited_url: URL) -> None:
    shell.service.database.engine = make_engine(limited_url)
    result = shell.run("db", "probe")
    shell.service.database.close()
    assert result.exit_code == 2
    assert "permission denied for schema public. Run it as the role that owns the tables." in result.stderr


def test_a_database_that_is_not_there_is_named(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring.toml"
    make_sandbox(keyring)
    result = run_flask("db", "probe", environ=an_environ(f"sqlite:///{tmp_path}/none.db", keyring))
    assert result.returncode == 2
    assert "There is no database" in result.stderr
    assert not (tmp_path / "none.db").exists()

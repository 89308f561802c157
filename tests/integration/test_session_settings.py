"""Whatever a server, a database, a role or the environment is set to, the service reads what it wrote."""

from collections.abc import Sequence
from datetime import datetime

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.database import Database
from app.simulator.draft import authcode_created, token_created
from tests.integration.stage import NOON, Stage, a_stage

SETTINGS = {
    "datestyle": "German",
    "timezone": "Pacific/Kiritimati",
    "client_encoding": "latin1",
    "bytea_output": "escape",
    "intervalstyle": "sql_standard",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "lock_timeout": "0",
    "plan_cache_mode": "force_custom_plan",
}


SHOWN = (
    *("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"),
    *("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"),
)
SHOW = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in SHOWN))


def live(stage: Stage) -> None:
    """Read and write every kind of value."""
    authorization = stage.consult("s-態", user_ref="ü-1")
    stage.notify(authcode_created("s-態", "code-1"))
    stage.report_token(authorization, "token-1")
    document = stage.document("s-態")
    assert (document["authState"], document["userRef"], document["state"]) == ("s-態", "ü-1", "token_active")
    assert datetime.fromisoformat(document["createdAt"]) == NOON


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_database_may_be_set_to_anything(postgresql_url: str, alipay_key: RSAPrivateKey, setting: str) -> None:
    stage = a_stage(postgresql_url, alipay_key)
    name = stage.database.engine.url.database
    with psycopg.connect(postgresql_url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {name} SET {setting} = '{SETTINGS[setting]}'")
    live(stage)
    stage.database.close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGDATESTYLE", "SQL, DMY"),
        ("PGTZ", "Asia/Tokyo"),
        ("PGCLIENTENCODING", "LATIN1"),
        ("PGOPTIONS", "-c datestyle=Postgres -c client_encoding=latin1 -c timezone=Asia/Tokyo -c lock_timeout=0"),
    ],
)
def test_the_environment_may_say_anything(
    postgresql_url: str, alipay_key: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    stage = a_stage(postgresql_url, alipay_key)
    live(stage)
    stage.database.close()


def test_each_transaction_brings_the_timeouts_and_leaves_none(postgresql_url: str) -> None:
    """Others may share the connection, behind a pool."""
    database = Database(postgresql_url)
    before = settings_after(database)
    for read_only, is_hot in ((False, True), (False, False), (True, False)):
        database.run(lambda session: session.execute(SHOW).one(), read_only=read_only, is_hot=is_hot)
        assert settings_after(database) == before == ("0", "0", "0", "on", "on", "on", "on")
    database.close()


def test_deliveries_and_reports_alone_have_planner_switches_and_short_timeouts(postgresql_url: str) -> None:
    """All else is planned as PostgreSQL plans; a statement has as long as a request."""
    database = Database(postgresql_url)

    def show(session: Session) -> Sequence[str]:
        return tuple(session.execute(SHOW).one())

    planned_by_us, planned_freely = ("off", "off", "off", "off"), ("on", "on", "on", "on")
    assert database.run(show, is_hot=True) == ("100ms", "3s", "10s", *planned_by_us)
    assert database.run_once(lambda connection: tuple(connection.execute(SHOW).one()))[-4:] == planned_by_us
    # Who writes and waits keeps what it has locked, and who reads and waits a connection that deliveries need.
    assert database.run(show) == ("100ms", "4s", "10s", *planned_freely)
    assert database.run(show, read_only=True) == ("100ms", "4s", "10s", *planned_freely)
    assert database.run(show, read_only=True, seconds_max=60) == ("100ms", "1min", "1min", *planned_freely)
    database.close()


def settings_after(database: Database) -> Sequence[str] | None:
    """What a connection is set to between two transactions."""
    pooled = database.engine.raw_connection()
    assert isinstance(pooled.driver_connection, psycopg.Connection)
    found: Sequence[str] | None = pooled.driver_connection.execute(str(SHOW)).fetchone()
    pooled.close()
    return found


def test_a_column_whose_type_is_changed_under_the_service_fails_nothing(
    postgresql_url: str, alipay_key: RSAPrivateKey
) -> None:
    """Every connection keeps plans for the old type; some of them for the statements of a single delivery."""
    stage = a_stage(postgresql_url, alipay_key)
    for number in range(8):
        stage.consult(f"s-{number}")
        stage.notify(authcode_created(f"s-{number}", "code-1"))
    with psycopg.connect(postgresql_url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute("ALTER TABLE authorizations ALTER COLUMN auth_state TYPE text")
    receipt = stage.notify(token_created("s-1", "token-1"))
    assert (receipt.answer.status, receipt.outcome) in {(200, "applied"), (503, None)}
    assert stage.notify(token_created("s-1", "token-1")).outcome == "applied"
    stage.consult("s-9")
    assert {outcome for outcome, _ in stage.outcomes()} == {"applied"}
    stage.database.close()

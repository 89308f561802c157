"""Whatever a server, a database, a role or the environment is set to, the service reads what it wrote."""

from datetime import datetime

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from sqlalchemy import text

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
    show = text("SELECT current_setting('lock_timeout'), current_setting('enable_seqscan')")
    for read_only in (False, True):
        assert database.run(lambda session: tuple(session.execute(show).one()), read_only=read_only) == ("100ms", "off")
    pooled = database.engine.raw_connection()
    assert isinstance(pooled.driver_connection, psycopg.Connection)
    assert pooled.driver_connection.execute(str(show)).fetchone() == ("0", "on")
    pooled.close()
    database.close()


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

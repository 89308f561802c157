"""An operator asks what is wrong with the installation."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from app import create_app
from app.database import Database
from app.leases import Leases
from app.wiring import Service
from tests.builders import an_environ
from tests.integration.calling_http import keyring_with_gateway
from tests.integration.shell import Shell

PARTS = ["settings", "keyring", "endpoints", "database", "migrated", "vault", "worker"]


@pytest.fixture(autouse=True)
def _durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' PostgreSQL is set to forget what it commits, for speed."""
    monkeypatch.setattr(Database, "unsafe_durability_settings", lambda _: {})


def let_a_worker_live(service: Service) -> None:
    service.database.run(lambda session: Leases("w").renew(session, ["numbering"], now=datetime.now(UTC)))


def test_all_is_well(shell: Shell) -> None:
    let_a_worker_live(shell.service)
    result = shell.run("doctor")
    assert (result.exit_code, result.stdout.splitlines()) == (0, [f"✓ {part}" for part in PARTS])


def test_no_worker_is_named(shell: Shell) -> None:
    result = shell.run("doctor")
    assert result.exit_code == 1
    assert "✗ worker: no worker runs (none has run yet): nothing is told until flask work" in result.stdout
    assert "✓ database" in result.stdout


def test_without_a_worker_it_is_said_that_no_calls_are_made_where_some_are(
    database_url: str, keyring_path: Path, tmp_path: Path
) -> None:
    with_gateway = keyring_with_gateway(keyring_path, tmp_path, "https://gateway.example")
    shell = Shell(create_app(an_environ(database_url, with_gateway)), with_gateway)
    found = "no worker runs (none has run yet): nothing is told, and no call to Alipay is made, until flask work or"
    assert f"✗ worker: {found}" in shell.run("doctor").stdout
    readyz = shell.app.test_client().get("/readyz")
    assert readyz.status_code == 200
    assert readyz.get_json()["checks"]["worker"].startswith(found)
    let_a_worker_live(shell.service)
    assert "✓ worker" in shell.run("doctor").stdout
    shell.service.database.close()


def test_each_part_is_an_object_for_programs(shell: Shell) -> None:
    result = shell.run("doctor", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [each["id"] for each in found] == PARTS
    assert [each["id"] for each in found if not each["ok"]] == ["worker"]
    assert found[0] == {"id": "settings", "ok": True, "problem": None}


def test_a_database_that_is_not_migrated_is_named(unmigrated_database_url: str, keyring_path: Path) -> None:
    shell = Shell(create_app(an_environ(unmigrated_database_url, keyring_path)), keyring_path)
    result = shell.run("doctor")
    shell.service.database.close()
    assert result.exit_code == 1
    assert "✗ migrated: run flask db upgrade" in result.stdout


def test_a_broken_keyring_and_broken_endpoints_are_named(database_url: str, tmp_path: Path) -> None:
    keyring, endpoints = tmp_path / "keyring.toml", tmp_path / "endpoints.toml"
    keyring.write_text("[clients", encoding="utf-8")
    endpoints.write_text("[endpoints.shop]\nurl = 7\n", encoding="utf-8")
    environ = an_environ(database_url, keyring, FLASK_ENDPOINTS=str(endpoints))
    shell = Shell(create_app(environ), keyring)
    result = shell.run("doctor")
    shell.service.database.close()
    assert result.exit_code == 1
    assert "✗ keyring: " in result.stdout
    assert "✗ endpoints: " in result.stdout
    assert "✓ database" in result.stdout


def test_nothing_is_changed(shell: Shell) -> None:
    def tables() -> list[int]:
        names = ("inbox", "authorizations", "leases", "index_key")
        return shell.service.database.run(
            lambda session: [session.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names]  # noqa: S608 -- our own names
        )

    before = tables()
    shell.run("doctor")
    assert tables() == before

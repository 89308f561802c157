"""A service that starts is one that can work; one that cannot says what to do."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from app.alipay.keyring import KeyringError
from app.config import Settings
from app.index_key import WrongVaultKeyError
from app.models import IndexKey
from app.preflight import NotMigratedError
from app.simulator.keys import make_sandbox
from app.wiring import Service
from tests.builders import some_settings

#: No worker runs here, which keeps nobody from being ready.
ALL_OK = {"database": "ok", "migrated": "ok", "vault": "ok"}


def ready(service: Service) -> dict[str, str]:
    """What `/readyz` says, but for the settings of the tests' servers, which do without fsync."""
    checks = service.ready()
    assert checks.pop("worker").startswith(("no worker runs (none has run yet)", "unknown"))
    return {name: "ok" if said.startswith("set to forget") else said for name, said in checks.items()}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A database and a vault key that were never used."""
    return some_settings(database_url, tmp_path)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    """A service that has a keyring too."""
    make_sandbox(settings.keyring_path)
    service = Service(settings)
    yield service
    service.database.close()


def test_a_service_with_everything_in_place_is_ready(service: Service) -> None:
    assert not service.never_blocks(service.settings.notify_path)
    service.open_all()
    assert ready(service) == ALL_OK
    assert service.never_blocks(service.settings.notify_path)


def test_several_processes_that_start_at_once_get_the_same_index_key(settings: Settings) -> None:
    services = [Service(settings) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        indexes = set(pool.map(lambda service: service.vault.blind_index("token", "t"), services))
    assert len(indexes) == 1
    count = select(func.count()).select_from(IndexKey)
    assert services[0].database.run(lambda session: session.scalar(count)) == 1
    for service in services:
        service.database.close()


def test_a_wrong_vault_key_is_found_at_start_and_in_readiness(service: Service) -> None:
    service.open_all()
    wrong = Service(replace(service.settings, vault_keys=(b"w" * 32,)))
    with pytest.raises(WrongVaultKeyError, match="FLASK_VAULT_KEYS"):
        wrong.open_all()
    assert ready(wrong) == ALL_OK | {"vault": "does not open"}
    wrong.database.close()


def test_a_database_without_tables_is_found_at_start_and_in_readiness(
    unmigrated_database_url: str, tmp_path: Path
) -> None:
    service = Service(some_settings(unmigrated_database_url, tmp_path))
    with pytest.raises(NotMigratedError, match="flask db upgrade"):
        _ = service.vault
    assert ready(service) == {"database": "ok", "migrated": "run flask db upgrade", "vault": "unknown"}
    service.database.close()


def test_a_database_of_an_older_version_is_named(service: Service) -> None:
    service.database.run(lambda session: session.execute(text("UPDATE alembic_version SET version_num = '0000'")))
    with pytest.raises(NotMigratedError, match="0000"):
        service.open_all()


def test_a_database_that_is_away_is_not_ready(tmp_path: Path) -> None:
    service = Service(some_settings("postgresql://nobody@127.0.0.1:1/nothing", tmp_path))
    checks = service.ready()
    assert checks.pop("database").startswith('unreachable: connection to server at "127.0.0.1", port 1 failed')
    assert checks == {"migrated": "unknown", "vault": "unknown", "worker": "unknown"}


def test_a_missing_keyring_is_found_at_start(settings: Settings) -> None:
    service = Service(settings)
    with pytest.raises(KeyringError, match=r"keyring\.toml"):
        service.open_all()
    service.database.close()

"""Help is to be had whatever the settings are, and asking for it writes nothing; what needs a setting names it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.builders import an_environ
from tests.conftest import ROOT
from tests.integration.shell import run_flask

ENVIRONS: Mapping[str, Mapping[str, str]] = {
    "nothing is set": {},
    "no vault key": {"FLASK_DATABASE_URL": "postgresql://127.0.0.1:1/notifyauth"},
    "a bad setting": {"FLASK_DATABASE_URL": "mysql://127.0.0.1:1/notifyauth"},
}


@pytest.mark.parametrize("arguments", [("--help",), ("db",), ("inbox", "list", "--help"), ("serve", "--help")])
@pytest.mark.parametrize("name", ENVIRONS)
def test_help_works_whatever_the_settings_are(name: str, arguments: tuple[str, ...]) -> None:
    before = sorted(ROOT.glob("instance/*"))
    result = run_flask(*arguments, environ=ENVIRONS[name])
    # A group that is asked for without a command shows its help as an error.
    shown = result.stdout or result.stderr
    assert shown.startswith("Usage: flask ")
    assert "Error" not in result.stdout + result.stderr
    if arguments == ("--help",):
        assert result.stderr == ""
        assert "authorizations" in result.stdout
    assert sorted(ROOT.glob("instance/*")) == before


@pytest.mark.parametrize("name", ENVIRONS)
def test_a_vault_key_can_be_made_whatever_the_settings_are(name: str) -> None:
    assert run_flask("keys", "new-vault-key", environ=ENVIRONS[name]).returncode == 0


@pytest.mark.parametrize("command", [("serve",), ("inbox", "list"), ("keys", "reseal")])
def test_a_command_that_needs_vault_keys_names_the_setting_before_it_asks_the_database(
    keyring_path: Path, command: tuple[str, ...]
) -> None:
    environ = {**ENVIRONS["no vault key"], "FLASK_KEYRING": str(keyring_path)}
    result = run_flask(*command, environ=environ)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: FLASK_VAULT_KEYS must be set when FLASK_DATABASE_URL is not SQLite: ")


@pytest.mark.parametrize("command", [("serve",), ("inbox", "list"), ("routes",), ("run",)])
def test_a_bad_setting_ends_every_command_that_needs_it(command: tuple[str, ...]) -> None:
    result = run_flask(*command, environ=ENVIRONS["a bad setting"])
    assert result.returncode == 2
    assert result.stderr.endswith(
        "Error: FLASK_DATABASE_URL must be a URL that starts with postgresql:// or sqlite:///.\n"
    )


def test_the_migrations_of_another_database_than_sqlite_need_no_vault_keys(
    unmigrated_postgresql_url: str, keyring_path: Path
) -> None:
    environ = {
        name: value
        for name, value in an_environ(unmigrated_postgresql_url, keyring_path).items()
        if "VAULT" not in name
    }
    assert run_flask("db", "upgrade", environ=environ).returncode == 0

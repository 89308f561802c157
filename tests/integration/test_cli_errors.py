"""What an operator can mend is said in one sentence, with an exit code, by every command."""

import os
from pathlib import Path

import pytest

from app.config import new_vault_key
from tests.builders import an_environ
from tests.integration.shell import run_flask


@pytest.fixture
def environ(sqlite_url: str, keyring_path: Path) -> dict[str, str]:
    """The environment of a service that real processes are run in."""
    return an_environ(sqlite_url, keyring_path)


def refusal(*arguments: str, environ: dict[str, str], exit_code: int = 2) -> str:
    """Run a command that must end so, and return the one line it says."""
    result = run_flask(*arguments, environ=environ)
    assert (result.returncode, result.stdout) == (exit_code, "")
    (sentence,) = result.stderr.splitlines()
    return sentence


@pytest.mark.parametrize("command", [("inbox", "list"), ("db", "upgrade"), ("keys", "show"), ("run",)])
def test_a_bad_setting_is_one_sentence_for_every_command_that_needs_it(
    environ: dict[str, str], command: tuple[str, ...]
) -> None:
    environ["FLASK_METRICS_OPEN"] = "yes"
    assert refusal(*command, environ=environ) == "Error: FLASK_METRICS_OPEN must be 0 or 1."


def test_a_vault_key_can_be_made_where_one_is_missing(environ: dict[str, str]) -> None:
    environ["FLASK_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    del environ["FLASK_VAULT_KEYS"]
    assert "flask keys new-vault-key" in refusal("inbox", "list", environ=environ)
    made = run_flask("keys", "new-vault-key", environ=environ)
    assert made.returncode == 0
    environ["FLASK_VAULT_KEYS"] = made.stdout
    assert "FLASK_VAULT_KEYS" not in refusal("inbox", "list", environ=environ)


def test_a_database_that_does_not_answer(environ: dict[str, str]) -> None:
    environ["FLASK_DATABASE_URL"] = "postgresql://nobody:the-password@127.0.0.1:1/none"
    for command in (("inbox", "list"), ("authorizations", "consult", "s-1"), ("db", "upgrade")):
        sentence = refusal(*command, environ=environ)
        assert "FLASK_DATABASE_URL" in sentence
        assert "the-password" not in sentence


def test_a_database_that_is_not_migrated(environ: dict[str, str], tmp_path: Path) -> None:
    environ["FLASK_DATABASE_URL"] = f"sqlite:///{tmp_path}/new.db"
    for command in (("inbox", "list"), ("inbox", "purge", "--older-than", "90d", "--yes"), ("keys", "reseal")):
        assert refusal(*command, environ=environ).endswith("Run: flask db upgrade")


def test_a_file_that_is_no_database(environ: dict[str, str], keyring_path: Path) -> None:
    environ["FLASK_DATABASE_URL"] = f"sqlite:///{keyring_path}"
    assert "FLASK_DATABASE_URL" in refusal("inbox", "list", environ=environ)


def test_a_wrong_vault_key(environ: dict[str, str]) -> None:
    assert run_flask("inbox", "list", environ=environ).returncode == 0
    environ["FLASK_VAULT_KEYS"] = new_vault_key()
    assert "FLASK_VAULT_KEYS does not open this database." in refusal("inbox", "list", environ=environ)


def test_a_keyring_that_is_not_there(environ: dict[str, str], tmp_path: Path) -> None:
    environ["FLASK_KEYRING"] = str(tmp_path / "none.toml")
    for command in (("keys", "show"), ("authorizations", "consult", "s-1")):
        assert "FLASK_KEYRING" in refusal(*command, environ=environ)


def test_a_key_that_is_not_rsa(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "keyring.toml"
    ed25519 = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
    path.write_text(f'[clients.X.alipay_public_keys]\n1 = "{ed25519}"\n')
    environ["FLASK_KEYRING"] = str(path)
    assert "is not an RSA key" in refusal("keys", "show", environ=environ)


def test_what_is_not_found_is_one_sentence_and_another_exit_code(environ: dict[str, str]) -> None:
    assert refusal("inbox", "show", "7", environ=environ, exit_code=1).startswith("Error: There is no entry 7")
    sentence = refusal("authorizations", "show", os.fsdecode(b"\xff\x1b"), environ=environ, exit_code=1)
    assert sentence == r"Error: There is no authorization with authState or id \udcff\x1b."

"""What destroys data asks first, what names nothing is refused, and no answer comes from a database nobody named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from app import create_app_with
from app.config import read_settings
from app.models import REVISION
from tests.builders import an_environ
from tests.conftest import migrate
from tests.integration.shell import Shell, run_flask


@pytest.fixture
def nameless(keyring_path: Path, tmp_path: Path) -> Iterator[Shell]:
    """An operator who has not set FLASK_DATABASE_URL."""
    environ = {"FLASK_KEYRING": str(keyring_path)}
    shell = Shell(create_app_with(read_settings(environ, instance_path=tmp_path / "instance")), keyring_path)
    yield shell
    shell.service.database.close()


def tables(url: str) -> list[str]:
    engine = create_engine(url)
    names = inspect(engine).get_table_names()
    engine.dispose()
    return names


@pytest.mark.parametrize("answer", ["n\n", "", "\n"], ids=["no", "end of input", "enter"])
def test_a_downgrade_without_a_yes_changes_nothing(shell: Shell, database_url: str, answer: str) -> None:
    result = shell.run("db", "downgrade", "base", stdin=answer)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "This deletes every table, and all that is in them, from " in result.stderr
    assert "inbox" in tables(database_url)


def test_a_downgrade_is_done_after_a_yes(shell: Shell, database_url: str) -> None:
    assert shell.ask("db", "downgrade", "0001", stdin="y\n") == f"Took the database back from {REVISION} to 0001.\n"
    assert shell.ask("db", "downgrade", "base", "--yes") == "Took the database back from 0001 to no tables.\n"
    assert tables(database_url) == ["alembic_version"]
    assert shell.ask("db", "downgrade", "base", "--yes") == "Nothing to do: the database is at no tables.\n"


@pytest.mark.parametrize("revision", ["", " ", "@"])
@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_a_revision_that_names_nothing_is_refused(shell: Shell, command: str, revision: str) -> None:
    result = shell.run("db", command, revision)
    assert result.exit_code == 2
    assert "it must name one, such as 0001" in result.stderr


@pytest.mark.parametrize("command", ["current", "check", "downgrade"])
def test_only_an_upgrade_makes_a_database(keyring_path: Path, tmp_path: Path, command: str) -> None:
    environ = an_environ(f"sqlite:///{tmp_path}/new.db", keyring_path)
    arguments = ("base", "--yes") if command == "downgrade" else ()
    result = run_flask("db", command, *arguments, environ=environ)
    assert result.returncode == 2
    assert result.stderr == "Error: The database (FLASK_DATABASE_URL) has no tables yet. Run: flask db upgrade\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("inbox", "list"),
        ("authorizations", "show", "s-1"),
        ("inbox", "purge", "--older-than", "90d"),
        ("keys", "reseal"),
    ],
)
def test_a_command_makes_no_database_where_none_is_named(nameless: Shell, command: tuple[str, ...]) -> None:
    result = nameless.run(*command)
    assert result.exit_code == 2
    address = f"sqlite:///{nameless.service.settings.instance_path}/notifyauth.db"
    assert f"FLASK_DATABASE_URL is not set: this is about {address}" in result.stderr
    assert "Run: flask db upgrade" in result.stderr
    assert [path.name for path in nameless.service.settings.instance_path.iterdir()] == ["vault.key"]


def test_an_answer_says_that_no_database_was_named(nameless: Shell) -> None:
    migrate(nameless.service.settings.database_url)
    # What asks no database has nothing to say of one.
    assert nameless.run("keys", "show").stderr == ""
    listed = nameless.run("inbox", "list")
    assert listed.exit_code == 0
    assert "FLASK_DATABASE_URL is not set: this is about sqlite:///" in listed.stderr
    assert "FLASK_DATABASE_URL" not in listed.stdout


def test_an_answer_from_a_database_that_was_named_says_nothing_of_it(shell: Shell) -> None:
    assert shell.run("inbox", "list").stderr == ""

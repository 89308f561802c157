"""`flask db`: commands that destroy data ask first, unknown revisions are refused, and a default database is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from app.config import read_settings
from app.factory import create_app_with
from app.models import REVISION
from tests.builders import an_environ
from tests.conftest import migrate
from tests.integration.shell import Shell, run_flask, run_flask_at_terminal


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


@pytest.mark.parametrize("answer", ["n\n", "", "y\n"], ids=["no", "end of input", "yes"])
def test_a_downgrade_without_a_terminal_changes_nothing(shell: Shell, database_url: str, answer: str) -> None:
    result = shell.run("db", "downgrade", "base", stdin=answer)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "This deletes every table, and all that is in them, from " in result.stderr
    assert "Add --yes" in result.stderr
    assert "inbox" in tables(database_url)


def test_a_downgrade_asks_first_at_a_terminal(sqlite_url: str, keyring_path: Path) -> None:
    environ, question = an_environ(sqlite_url, keyring_path), b"[y/N]: "
    for answer in (b"n", b""):
        run_flask_at_terminal("db", "downgrade", "base", environ=environ, answers={question: answer})
        assert "inbox" in tables(sqlite_url)
    said = run_flask_at_terminal("db", "downgrade", "base", environ=environ, answers={question: b"y"})
    assert f"Took the database back from {REVISION} to no tables." in said


def test_a_downgrade_is_done_with_yes(shell: Shell, database_url: str) -> None:
    assert shell.ask("db", "downgrade", "0001", "--yes") == f"Took the database back from {REVISION} to 0001.\n"
    assert shell.ask("db", "downgrade", "base", "--yes") == "Took the database back from 0001 to no tables.\n"
    assert tables(database_url) == ["alembic_version"]
    assert shell.ask("db", "downgrade", "base", "--yes") == "Nothing to do: the database is at no tables.\n"


@pytest.mark.parametrize("revision", ["", " ", "@"])
@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_a_revision_that_names_nothing_is_refused(shell: Shell, command: str, revision: str) -> None:
    result = shell.run("db", command, revision)
    assert result.exit_code == 2
    assert "it must name one, such as 0001" in result.stderr


def test_a_path_with_a_slip_in_its_folder_is_named(keyring_path: Path, tmp_path: Path) -> None:
    environ = an_environ(f"sqlite:///{tmp_path}/slip/new.db", keyring_path)
    for command in (("inbox", "list"), ("db", "current")):
        result = run_flask(*command, environ=environ)
        assert result.returncode == 2
        assert f"There is no database {tmp_path}/slip/new.db, nor a folder {tmp_path}/slip:" in result.stderr


@pytest.mark.parametrize("command", ["current", "check", "downgrade"])
def test_only_an_upgrade_makes_a_database(keyring_path: Path, tmp_path: Path, command: str) -> None:
    environ = an_environ(f"sqlite:///{tmp_path}/new.db", keyring_path)
    arguments = ("base", "--yes") if command == "downgrade" else ()
    result = run_flask("db", command, *arguments, environ=environ)
    assert result.returncode == 2
    there_is_none = f"Error: There is no database {tmp_path}/new.db: correct FLASK_DATABASE_URL, or make it."
    assert result.stderr == f"{there_is_none} Run: flask db upgrade\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ("inbox", "list"),
        ("authorizations", "show", "s-1"),
        ("inbox", "purge", "--older-than", "90d", "--yes"),
        ("keys", "reseal"),
    ],
)
def test_a_command_makes_no_database_where_none_is_named(nameless: Shell, command: tuple[str, ...]) -> None:
    result = nameless.run(*command)
    assert result.exit_code == 2
    address = f"sqlite:///{nameless.service.settings.instance_path}/notifyauth.db"
    assert f"FLASK_DATABASE_URL is not set: this is about {address}" in result.stderr
    assert "Run: flask db upgrade" in result.stderr
    assert not nameless.service.settings.instance_path.exists()


def test_an_answer_says_that_no_database_was_named(nameless: Shell) -> None:
    nameless.service.settings.instance_path.mkdir()
    migrate(nameless.service.settings.database_url)
    # What asks no database has nothing to say of one.
    assert nameless.run("keys", "show").stderr == ""
    listed = nameless.run("inbox", "list")
    assert listed.exit_code == 0
    assert "FLASK_DATABASE_URL is not set: this is about sqlite:///" in listed.stderr
    assert "FLASK_DATABASE_URL" not in listed.stdout
    # Where there is something, it is hardly another database that was meant, unless it has not what is looked for.
    assert "FLASK_DATABASE_URL" not in nameless.run("authorizations", "consult", "s-1").stderr
    assert "FLASK_DATABASE_URL" not in nameless.run("authorizations", "list").stderr
    assert "FLASK_DATABASE_URL is not set" in nameless.run("authorizations", "show", "s-2").stderr


def test_an_answer_from_a_database_that_was_named_says_nothing_of_it(shell: Shell) -> None:
    assert shell.run("inbox", "list").stderr == ""


@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_a_revision_that_is_not_there_is_refused_with_those_that_are(shell: Shell, command: str) -> None:
    arguments = ("--yes",) if command == "downgrade" else ()
    result = shell.run("db", command, "0099", *arguments)
    assert result.exit_code == 2
    assert f"Error: No way leads from {REVISION} to 0099. The revisions are 0001, 0002, " in result.stderr


def test_a_check_says_how_to_get_to_the_newest_revision(shell: Shell) -> None:
    assert shell.ask("db", "check") == f"The database is at {REVISION}, with just the tables of this version.\n"
    shell.ask("db", "downgrade", "0001", "--yes")
    result = shell.run("db", "check")
    assert result.exit_code == 1
    assert result.stderr.endswith(f"is at revision 0001, this version needs {REVISION}. Run: flask db upgrade\n")


def test_a_check_says_where_the_tables_differ(shell: Shell, database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_inbox_reason_id")
    engine.dispose()
    result = shell.run("db", "check")
    assert result.exit_code == 1
    assert "Error: The tables are not those that this version makes. They differ in: " in result.stderr
    assert "ix_inbox_reason_id" in result.stderr


def test_a_folder_that_is_not_there_is_named(keyring_path: Path, tmp_path: Path) -> None:
    result = run_flask("db", "upgrade", environ=an_environ(f"sqlite:///{tmp_path}/slip/new.db", keyring_path))
    assert result.returncode == 2
    assert result.stderr == (
        f"Error: The folder of the database, {tmp_path}/slip, does not exist: make it, or mend FLASK_DATABASE_URL.\n"
    )
    assert list(tmp_path.iterdir()) == []

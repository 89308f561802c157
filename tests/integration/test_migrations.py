"""The migrations make what the models describe, forth and back, on every database, however many start at once."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, Popen

import alembic.command
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from app.models import REVISION
from tests.conftest import ROOT, migrate


def a_config(url: str) -> Config:
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_models_and_migrations_are_equal(database_url: str) -> None:
    """Alembic's check raises where a table, column, type, index or constraint differs."""
    alembic.command.check(a_config(database_url))


def test_every_migration_can_be_taken_back_and_made_again(unmigrated_database_url: str) -> None:
    config = a_config(unmigrated_database_url)
    for revision in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
        alembic.command.upgrade(config, revision.revision)
        alembic.command.downgrade(config, "-1")
        alembic.command.upgrade(config, revision.revision)
    alembic.command.check(config)
    alembic.command.downgrade(config, "base")
    assert tables(unmigrated_database_url) == {"alembic_version"}


def test_the_service_knows_which_migration_it_needs() -> None:
    assert ScriptDirectory.from_config(a_config("sqlite://")).get_current_head() == REVISION


def test_several_that_migrate_at_once_all_succeed(unmigrated_database_url: str) -> None:
    program = "import sys; from tests.conftest import migrate; migrate(sys.argv[1])"
    starts = [
        Popen([sys.executable, "-c", program, unmigrated_database_url], cwd=ROOT, stderr=PIPE, text=True)
        for _ in range(4)
    ]
    with ThreadPoolExecutor(len(starts)) as pool:
        errors = list(pool.map(lambda start: start.communicate(timeout=60)[1], starts))
    assert [start.returncode for start in starts] == [0] * 4, errors
    assert "inbox" in tables(unmigrated_database_url)


def test_a_failing_migration_leaves_nothing_behind(unmigrated_database_url: str) -> None:
    engine = create_engine(unmigrated_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE rendezvous (in_the_way INTEGER)")
    engine.dispose()
    with pytest.raises(Exception, match="rendezvous"):
        migrate(unmigrated_database_url)
    assert tables(unmigrated_database_url) == {"rendezvous"}


def test_numbers_are_the_only_names_of_migrations() -> None:
    names = sorted(path.name for path in Path(ROOT / "migrations" / "versions").glob("*.py"))
    assert [name.split("_")[0] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]

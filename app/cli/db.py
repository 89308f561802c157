"""Migrate the database: `flask db`."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
from sqlalchemy.exc import DBAPIError

from app.cli.errors import Refusal, UsageProblem
from app.cli.groups import Commands, the_service

if TYPE_CHECKING:
    from alembic.config import Config

PROJECT = Path(__file__).parent.parent.parent

db = Commands("db", help="Migrate the database.")


class NotMigratableError(UsageProblem):
    """The database does not do what a migration asks of it."""

    def __init__(self, error: DBAPIError) -> None:
        cause = type(error.orig).__name__
        super().__init__(f"The database cannot be used ({cause}): is it there, and is FLASK_DATABASE_URL right?")


@db.command()
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Bring the database to REVISION, by default the newest. Several may start this at once."""
    _run(lambda alembic, config: alembic.upgrade(config, revision))


@db.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Take the database back to REVISION; "base" drops every table and all that is in them."""
    _run(lambda alembic, config: alembic.downgrade(config, revision))


@db.command()
def current() -> None:
    """Print the revision the database is at."""
    _run(lambda alembic, config: alembic.current(config))


@db.command()
def check() -> None:
    """Exit 1 unless the database is at the newest revision and has just the tables of the models."""
    _run(lambda alembic, config: alembic.check(config), refusal=Refusal)


def _run(
    command: Callable[[ModuleType, "Config"], None], *, refusal: Callable[[str], click.ClickException] = UsageProblem
) -> None:
    """Run one of Alembic's commands on the database of FLASK_DATABASE_URL."""
    # Importing Alembic takes half as long as a whole command that does without it.
    from alembic import command as alembic  # noqa: PLC0415 -- see above
    from alembic.config import Config  # noqa: PLC0415 -- see above
    from alembic.util import CommandError  # noqa: PLC0415 -- see above

    settings = the_service().settings
    if settings.uses_sqlite:
        settings.instance_path.mkdir(parents=True, exist_ok=True)
    config = Config(toml_file=PROJECT / "pyproject.toml")
    # A percent sign, as in an escaped password, would start an interpolation.
    config.set_main_option("sqlalchemy.url", settings.database_url.replace("%", "%%"))
    try:
        command(alembic, config)
    except CommandError as error:
        raise refusal(str(error)) from None
    except DBAPIError as error:
        raise NotMigratableError(error) from None

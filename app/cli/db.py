"""`flask db`: migrate the database, by Alembic."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from app.cli.command_group import CommandGroup
from app.cli.current_service import the_service
from app.cli.errors import Refusal, UsageProblem
from app.config import make_private_folder
from app.database import name_of
from app.models import REVISION
from app.preflight import NotMigratedError, is_newer

if TYPE_CHECKING:
    from alembic.config import Config

PROJECT = Path(__file__).parent.parent.parent

#: The revisions before and after a migration; `None` is a database without tables.
Moved = tuple[str | None, str | None]

db = CommandGroup("db", help="Migrate the database.")


class MayNotMigrateError(UsageProblem):
    """The role that FLASK_DATABASE_URL names may not change tables."""

    def __init__(self, said: str) -> None:
        super().__init__(
            f"The role of FLASK_DATABASE_URL may not migrate the database: {said}. Migrate as the role that owns the "
            "tables, and GRANT it CREATE ON its SCHEMA."
        )


class Revision(click.ParamType[str]):
    """The name of a revision, or one relative to another."""

    name = "revision"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is: Alembic says which there are, and only breaks where nothing is named."""
        text = str(value)
        if not text.strip(" @"):
            self.fail('it must name one, such as 0001, or "head" or "base".', param, ctx)
        return text


@db.command()
@click.argument("revision", type=Revision(), default="head")
def upgrade(revision: str) -> None:
    """Bring the database to REVISION, by default the newest. Several may start this at once."""

    def run(alembic: ModuleType, config: "Config") -> None:
        config.attributes["to_newest"] = revision == "head"
        alembic.upgrade(config, revision)

    settings = the_service().settings
    if settings.uses_default_database:
        make_private_folder(settings.instance_path)
    before, after = _run(run, is_to_be_there=False)
    if before != after:
        click.echo(f"Upgraded the database from {_named(before)} to {_named(after)}.")
    elif after is not None and is_newer(after):
        click.echo(f"Nothing to do: the database is at {after}, which is newer than this version's {REVISION}.")
    else:
        click.echo(f"Nothing to do: the database is at {_named(after)}.")


@db.command()
@click.argument("revision", type=Revision())
@click.option("--yes", is_flag=True, help="Do not ask.")
def downgrade(revision: str, *, yes: bool) -> None:
    """Take the database back to REVISION; "base" drops every table and all that is in them."""
    if not yes:
        asked = the_service().settings.database_asked
        lost = "every table, and all that is in them," if revision == "base" else f"all that came after {revision}"
        click.confirm(f"This deletes {lost} from {asked}. Go on?", abort=True, err=True)
    before, after = _run(lambda alembic, config: alembic.downgrade(config, revision))
    if before == after:
        click.echo(f"Nothing to do: the database is at {_named(after)}.")
    else:
        click.echo(f"Took the database back from {_named(before)} to {_named(after)}.")


@db.command()
def current() -> None:
    """Print the revision the database is at."""
    _run(lambda alembic, config: alembic.current(config))


@db.command()
def check() -> None:
    """Exit 1 unless the database is at the newest revision and has just the tables of the models."""
    _run(lambda alembic, config: alembic.check(config), refusal=Refusal)


def _named(revision: str | None) -> str:
    return "no tables" if revision is None else revision


def _run(
    command: Callable[[ModuleType, "Config"], None],
    *,
    refusal: Callable[[str], click.ClickException] = UsageProblem,
    is_to_be_there: bool = True,
) -> Moved:
    """Run one of Alembic's commands on the database of FLASK_DATABASE_URL, and say between which revisions it went.

    Raises `NotMigratedError` where it is to be there and is not.
    """
    # Importing Alembic takes half as long as a whole command that does without it.
    from alembic import command as alembic  # noqa: PLC0415 -- see above
    from alembic.config import Config  # noqa: PLC0415 -- see above
    from alembic.util import CommandError  # noqa: PLC0415 -- see above

    is_there = the_service().database.is_there()
    if is_to_be_there and not is_there:
        raise NotMigratedError(None)
    config = Config(toml_file=PROJECT / "pyproject.toml")
    # A percent sign, as in an escaped password, would start an interpolation.
    config.set_main_option("sqlalchemy.url", the_service().settings.database_url.replace("%", "%%"))
    try:
        command(alembic, config)
    except CommandError as error:
        raise refusal(str(error)) from None
    except DBAPIError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise MayNotMigrateError(name_of(error)) from None
        raise
    moved: Moved = config.attributes["moved"]
    return moved

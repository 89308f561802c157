"""`flask db`: migrate the database, by Alembic, and probe its engine."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from app.cli import options
from app.cli.command_group import CommandGroup
from app.cli.current_service import the_service
from app.cli.errors import REFUSED, Refusal, UsageProblem
from app.cli.tables import print_json
from app.config import make_private_folder
from app.database import name_of
from app.models import REVISION
from app.preflight import NotMigratedError, OutdatedReleaseError, is_newer
from app.release import migrations_folder

if TYPE_CHECKING:
    from alembic.config import Config

#: The revisions before and after a migration; `None` is a database without tables.
Moved = tuple[str | None, str | None]

db = CommandGroup("db", help="Migrate the database, and try whether its engine is fit.")


class MayNotMigrateError(UsageProblem):
    """The role that FLASK_DATABASE_URL names may not change tables."""

    def __init__(self, said: str) -> None:
        super().__init__(
            f"The role of FLASK_DATABASE_URL may not migrate the database: {said}. Migrate as the role that owns the "
            "tables, and GRANT it CREATE ON its SCHEMA."
        )


class NoFolderError(UsageProblem):
    """There is no folder for the file of an SQLite database; a slip in its name, most likely, so that none is made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"The folder of the database, {folder}, does not exist: make it, or mend FLASK_DATABASE_URL.")


class NoWayError(UsageProblem):
    """From where the database is, no migration leads to what was asked for."""

    def __init__(self, wanted: str | None, at: str | None, known: Sequence[str]) -> None:
        if at is not None and at not in known:
            problem = f"The database is at revision {at}, which this version does not know: use the one that made it."
        else:
            problem = (
                f"No way leads from {_named(at)} to {wanted}. The revisions are {', '.join(known)}; base is before the "
                "first, head is the newest."
            )
        super().__init__(problem)


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
    if settings.sqlite_file is not None and not settings.sqlite_file.parent.is_dir():
        raise NoFolderError(settings.sqlite_file.parent)
    if settings.uses_sqlite:
        # The index key is made here, where an operator reads that it was made.
        _ = the_service().sealer
    before, after = _run(run, wanted=revision, is_to_be_there=False)
    if before != after:
        click.echo(f"Upgraded the database from {_named(before)} to {_named(after)}.")
    elif after is not None and is_newer(after):
        click.echo(f"Nothing to do: the database is at {after}, which is newer than this version's {REVISION}.")
    else:
        click.echo(f"Nothing to do: the database is at {_named(after)}.")


@db.command()
@click.argument("revision", type=Revision())
@options.yes
def downgrade(revision: str, *, yes: bool) -> None:
    """Take the database back to REVISION; "base" drops every table and all that is in them."""
    asked = the_service().settings.database_asked
    lost = "every table, and all that is in them," if revision == "base" else f"all that came after {revision}"
    options.confirm(f"This deletes {lost} from {asked}.", yes=yes)
    before, after = _run(lambda alembic, config: alembic.downgrade(config, revision), wanted=revision)
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
    _run(_check)
    click.echo(f"The database is at {REVISION}, with just the tables of this version.")


@db.command()
@options.as_json
def probe(*, as_json: bool) -> None:
    """Try on the database what the promises need of its engine. Exit 1 if it lacks something.

    It makes a table of its own, and drops it. The service may run beside it; the database need not be migrated.
    """
    # Only this command has a use for it.
    from app.database.probe import CannotProbeError, probe as probe_engine  # noqa: PLC0415 -- see above

    service = the_service()
    if not service.database.is_there():
        raise service.no_database_file
    found = []
    try:
        for finding in probe_engine(service.database.engine):
            found.append(finding)
            if not as_json:
                mark, problem = ("✓", "") if finding.problem is None else ("✗", f": {finding.problem}")
                click.echo(f"{mark} {finding.name}: {finding.sentence}{problem}")
    except CannotProbeError as error:
        raise UsageProblem(str(error)) from None
    if as_json:
        print_json([{"id": each.name, "ok": each.problem is None, "problem": each.problem} for each in found])
    if any(each.problem is not None for each in found):
        raise click.exceptions.Exit(REFUSED)


def _check(alembic: ModuleType, config: "Config") -> None:
    """Compare the tables with the models. Raises `Refusal`."""
    from alembic.util import AutogenerateDiffsDetected, CommandError  # noqa: PLC0415 -- see `_run`

    config.stdout = io.StringIO()
    try:
        alembic.check(config)
    except AutogenerateDiffsDetected as error:
        differences = str(error).partition(": ")[2]
        message = f"The tables are not those that this version makes. They differ in: {differences}"
        raise Refusal(message) from None
    except CommandError:
        at = config.attributes["before"]
        raise Refusal(
            str(OutdatedReleaseError(at) if at is not None and is_newer(at) else NotMigratedError(at))
        ) from None
    if invalid := config.attributes["invalid_indexes"]:
        message = f"Not valid, and of no use: {', '.join(invalid)}. Make each again with REINDEX INDEX CONCURRENTLY."
        raise Refusal(message)


def _named(revision: str | None) -> str:
    return "no tables" if revision is None else revision


def _run(
    command: Callable[[ModuleType, "Config"], None],
    *,
    wanted: str | None = None,
    is_to_be_there: bool = True,
) -> Moved:
    """Run one of Alembic's commands on the database of FLASK_DATABASE_URL, and say between which revisions it went.

    Raises `NotMigratedError` where it is to be there and is not, and `NoWayError` where none leads to `wanted`.
    """
    # Importing Alembic takes half as long as a whole command that does without it.
    from alembic import command as alembic  # noqa: PLC0415 -- see above
    from alembic.config import Config  # noqa: PLC0415 -- see above
    from alembic.util import CommandError  # noqa: PLC0415 -- see above

    is_there = the_service().database.is_there()
    if is_to_be_there and not is_there:
        raise the_service().no_database_file
    config = Config()
    # A percent sign, as in an escaped password, would start an interpolation.
    for option, value in (
        ("script_location", str(migrations_folder())),
        ("sqlalchemy.url", the_service().settings.database_url),
    ):
        config.set_main_option(option, value.replace("%", "%%"))
    config.attributes["say"] = partial(click.echo, err=True)
    try:
        command(alembic, config)
    except CommandError:
        raise NoWayError(wanted, config.attributes.get("before"), _revisions(config)) from None
    except DBAPIError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise MayNotMigrateError(name_of(error)) from None
        raise
    moved: Moved = config.attributes["moved"]
    return moved


def _revisions(config: "Config") -> list[str]:
    """Name every revision that there is, the oldest first."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 -- see `_run`

    return sorted(each.revision for each in ScriptDirectory.from_config(config).walk_revisions())

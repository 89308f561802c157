"""The command `notifyauth`: every `flask …` command of the service, wherever it is installed.

`flask` has to be told by FLASK_APP which application is meant; this knows. It reads no `.env` of the folder that it is
called in, and leaves out Flask's own commands, which serve for development.
"""

import click
from flask.cli import FlaskGroup

from app import create_app
from app.release import version


def _show_version(context: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001 -- as click calls it
    if value:
        # Imported late: no command need wait for it.
        from app.models import REVISION  # noqa: PLC0415

        click.echo(f"notifyauth {version()} (migrations {REVISION})")
        context.exit()


def main() -> None:
    """Run the command that the arguments name."""
    group = FlaskGroup(
        name="notifyauth",
        help="Run and operate notifyauth.",
        create_app=create_app,
        add_default_commands=False,
        add_version_option=False,
        load_dotenv=False,
        set_debug_flag=False,
    )
    # Another application cannot be chosen, nor its debug mode.
    group.params = [option for option in group.params if option.name not in {"app", "debug"}]
    with_version = click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and exit.",
    )
    with_version(group).main(prog_name="notifyauth")


if __name__ == "__main__":
    main()

"""The command `notifyauth`: every `flask …` command of the service, wherever it is installed.

`flask` has to be told by FLASK_APP which application is meant; this knows. It reads no `.env` of the folder that it is
called in, and leaves out Flask's own commands, which serve for development.
"""

import click
from flask.cli import FlaskGroup

from app import create_app
from app.models import REVISION
from app.release import version


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
    with_version = click.version_option(version(), message=f"%(prog)s %(version)s (migrations {REVISION})")
    with_version(group).main(prog_name="notifyauth")


if __name__ == "__main__":
    main()

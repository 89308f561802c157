"""`flask doctor`: what is wrong with the installation, or with a signature. A command is in its file."""

import click
from flask.cli import with_appcontext

from app.cli import options
from app.cli.command_group import CommandGroup
from app.cli.doctor.installation import examine_installation
from app.cli.doctor.refused import refused
from app.cli.doctor.signature import signature


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.pass_context
@with_appcontext
@options.as_json
def doctor(context: click.Context, *, as_json: bool) -> None:
    """Say what is wrong with the installation: its settings, keyring, endpoints, database, vault and worker.

    It changes nothing. Ends with 1 if something is wrong. Whether each endpoint is told in time: flask endpoints check.
    """
    if context.invoked_subcommand is None:
        examine_installation(as_json=as_json)


doctor.add_command(refused)
doctor.add_command(signature)

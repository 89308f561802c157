"""`flask authorizations revoke`: have Alipay revoke the token, which is given to nobody from then on."""

from functools import partial

import click
from flask.cli import with_appcontext

from app.cli import options
from app.cli.authorizations import calling
from app.cli.authorizations.finding import find_one, name_argument
from app.cli.current_service import look_up
from app.cli.tables import plain
from app.gateway import requests


@click.command()
@with_appcontext
@name_argument
@options.client
@calling.wait
@options.yes
def revoke(name: str, client_id: str | None, seconds: int, *, yes: bool) -> None:
    """Revoke the token of an authorization for good, for a client that has a gateway. It asks first.

    From now on the token is given to nobody. A background worker makes the call, and repeats it until the token is
    gone. What has not ended in time goes on; what failed ends the command with 1.
    """
    found = look_up(lambda session: find_one(session, name, client_id))
    auth_state = found.auth_state
    options.confirm(f"This revokes the token of {plain(auth_state)} for good: the user must agree anew.", yes=yes)
    call_id = calling.begin(partial(requests.ask_revoke, authorization_id=found.id, cause=calling.shell_cause()))
    if call_id is None:
        click.echo("Nothing new.")
        calling.print_state(found.id, auth_state)
        return
    calling.wait_and_print(call_id, auth_state, seconds=seconds)

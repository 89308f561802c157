"""`flask authorizations refresh`: have Alipay refresh the token now."""

from functools import partial

import click
from flask.cli import with_appcontext

from app.cli import options
from app.cli.authorizations import calling
from app.cli.authorizations.finding import find_one, name_argument
from app.cli.current_service import look_up
from app.gateway import requests


@click.command()
@with_appcontext
@name_argument
@options.client
@calling.wait
def refresh(name: str, client_id: str | None, seconds: int) -> None:
    """Refresh the token of an authorization now, for a client that has a gateway.

    A background worker makes the call. What has not ended in time goes on; what failed ends the command with 1.
    """
    found = look_up(lambda session: find_one(session, name, client_id))
    call_id = calling.begin(partial(requests.ask_refresh, authorization_id=found.id, cause=calling.shell_cause()))
    if call_id is not None:
        calling.wait_and_print(call_id, found.auth_state, seconds=seconds)

"""`flask authorizations consult`: register the authState that notifications will name."""

import click
from flask.cli import with_appcontext

from app.alipay.notification import AUTH_STATE_CHARACTERS_MAX
from app.alipay.wallets import meant_wallet
from app.cli.authorizations.reporting import record_and_print
from app.cli.options import Words
from app.cli.tables import plain
from app.reports import USER_REF_CHARACTERS_MAX, WALLET_CHARACTERS_MAX, Consult
from app.state_machine import Flow


@click.command()
@with_appcontext
@click.argument("auth_state", metavar="AUTH_STATE", type=Words(AUTH_STATE_CHARACTERS_MAX))
@click.option("--client", "client_id", metavar="ID", help="For whom, if the keyring has several clients.")
@click.option(
    "--flow", type=click.Choice([each.value for each in Flow]), help="How the token comes. [default: the client's]"
)
@click.option("--user-ref", metavar="TEXT", type=Words(USER_REF_CHARACTERS_MAX), help="Your own name for the user.")
@click.option("--wallet", metavar="TEXT", type=Words(WALLET_CHARACTERS_MAX), help="customerBelongsTo, such as GCASH.")
def consult(auth_state: str, client_id: str | None, flow: str | None, user_ref: str | None, wallet: str | None) -> None:
    """Register a consult: the authState that notifications will name.

    The same again changes nothing; what was left unsaid before is added, and a contradiction is refused.
    A flow that was left unsaid can be corrected until a code or a token has come.
    """
    said = Consult(
        auth_state=auth_state,
        client_id=client_id,
        flow=None if flow is None else Flow(flow),
        user_ref=user_ref,
        customer_belongs_to=wallet,
    )
    record_and_print(said, auth_state)
    meant = meant_wallet(wallet or "")
    if meant is not None:
        click.echo(f"{plain(wallet)} may be misspelt: {meant} is a wallet that is known.", err=True)

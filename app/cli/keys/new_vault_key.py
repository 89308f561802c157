"""`flask keys new-vault-key`: make a key for the vault."""

import click

from app.config import new_vault_key as make_vault_key


# No application is needed, so that a key can be made where the application does not start for want of one.
@click.command()
def new_vault_key() -> None:
    """Print a new vault key.

    In FLASK_VAULT_KEYS, or instance/vault.key, the first seals, all open. So it goes last, behind those in use, until
    every process of the service has started anew with it; then it goes first, everything starts anew again, and: flask
    keys reseal
    """
    click.echo(make_vault_key())
    click.echo(
        "Keep it: nothing opens the database without it. The first key of all is FLASK_VAULT_KEYS as it is. Another "
        "goes last, with a comma between it and those in use: in FLASK_VAULT_KEYS or, if that is unset, in "
        "instance/vault.key. Start the service anew, put it first, start anew again, then run: flask keys reseal",
        err=True,
    )

"""`flask simulator keys`: make the keys of a sandbox, and the keyring that knows them."""

from pathlib import Path

import click

from app.cli.errors import Refusal
from app.cli.simulator.options import client_option, keyring_path
from app.simulator.keys import MERCHANT_KEY_NAME, SIMULATOR_KEY_NAME, KeysExistError, make_sandbox


@click.command("keys")
@client_option
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Where to put the files.")
def make_keys(client_id: str, directory: Path | None) -> None:
    """Make the keys of a sandbox, and the keyring that knows them.

    Without --dir the keyring is the one the service reads, FLASK_KEYRING. Nothing is ever overwritten.
    """
    service_path = keyring_path()
    path = directory / "keyring.toml" if directory else service_path
    try:
        make_sandbox(path, client_id=client_id)
    except (KeysExistError, OSError) as error:
        raise Refusal(str(error)) from None
    click.echo(f"{path}\n  introduces client {client_id} to the service")
    click.echo(f"{path.with_name(SIMULATOR_KEY_NAME)}\n  signs as Alipay, for the simulator only")
    click.echo(f"{path.with_name(MERCHANT_KEY_NAME)}\n  signs the service's acknowledgements")
    if path != service_path:
        click.echo(f"The service reads it with FLASK_KEYRING={path}")

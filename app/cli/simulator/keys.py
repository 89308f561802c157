"""`flask simulator keys`: make the keys of a sandbox, and the keyring that knows them."""

from pathlib import Path

import click

from app.cli.errors import Refusal
from app.cli.simulator.options import client_option, keyring_path
from app.simulator.keys import MERCHANT_KEY_NAME, SIMULATOR_KEY_NAME, KeysExistError, is_gateway_url, make_sandbox


def _gateway(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_gateway_url(value):
        message = "it is https:// and a host, or http:// and this machine, such as http://127.0.0.1:8800, with no path."
        raise click.BadParameter(message)
    return value and value.rstrip("/")


@click.command("keys")
@client_option
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Where to put the files.")
@click.option(
    "--gateway",
    metavar="URL",
    callback=_gateway,
    help="Let the service make the calls of the client, to this gateway: http://127.0.0.1:8800 is the pretend one.",
)
def keys(client_id: str, directory: Path | None, gateway: str | None) -> None:
    """Make the keys of a sandbox, and the keyring that knows them.

    Without --dir the keyring is the one the service reads, FLASK_KEYRING. Nothing is ever overwritten.
    """
    service_path = keyring_path()
    path = directory / "keyring.toml" if directory else service_path
    try:
        make_sandbox(path, client_id=client_id, gateway=gateway)
    except (KeysExistError, OSError) as error:
        raise Refusal(str(error)) from None
    click.echo(f"{path}\n  introduces client {client_id} to the service")
    click.echo(f"{path.with_name(SIMULATOR_KEY_NAME)}\n  signs as Alipay, for the simulator only")
    signed = "acknowledgements and calls" if gateway else "acknowledgements"
    click.echo(f"{path.with_name(MERCHANT_KEY_NAME)}\n  signs the service's {signed}")
    if gateway:
        click.echo(f"{gateway}\n  is called by the service for this client")
    if path != service_path:
        click.echo(f"The service reads it with FLASK_KEYRING={path}")

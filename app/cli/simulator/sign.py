"""`flask simulator sign`: the headers that make any bytes a delivery of Alipay's, for curl and other tools."""

from datetime import UTC, datetime
from typing import BinaryIO

import click

from app.cli.simulator.options import DEFAULT_URL, header_value, signed_uri, signer_options
from app.config import DEFAULT_NOTIFY_PATH
from app.simulator.sender import Signer, epoch_milliseconds, headers_of

_CURL_EXAMPLE = f"""\b
Example:
  flask simulator sign body.json |
    curl -H @- --data-binary @body.json \\
    {DEFAULT_URL}
"""


@click.command(epilog=_CURL_EXAMPLE)
@click.argument("file", type=click.File("rb"))
@click.option(
    "--uri",
    metavar="URI",
    default=DEFAULT_NOTIFY_PATH,
    show_default=True,
    callback=signed_uri,
    help="The path it will be posted to, with the query if there is one; of a URL just those are signed.",
)
@click.option("--request-time", metavar="TEXT", callback=header_value, help="By default now, in epoch milliseconds.")
@signer_options
def sign(file: BinaryIO, signer: Signer, uri: str, request_time: str | None) -> None:
    """Print the headers that make any bytes a delivery of Alipay's.

    FILE holds the body, - is stdin. The headers are printed as curl reads them, and any test can.
    """
    request_time = request_time or epoch_milliseconds(datetime.now(UTC))
    delivery = signer.sign(file.read(), uri=uri, request_time=request_time)
    for name, value in headers_of(delivery).items():
        click.echo(f"{name}: {value}")

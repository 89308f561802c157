"""`flask doctor signature`: why a delivery does not verify, and what to do about it."""

from typing import BinaryIO

import click
from flask.cli import with_appcontext

from app.alipay.delivery import HttpRequest, MalformedRequestError
from app.cli import options
from app.cli.current_service import the_service
from app.cli.doctor.diagnosed import diagnose_request, print_diagnosis, registered_url_option
from app.cli.errors import REFUSED, UsageProblem
from app.cli.request_file import OversizedRequestError, read_request
from app.cli.tables import print_json


@click.command()
@with_appcontext
@click.argument("file", type=click.File("rb"))
@registered_url_option
@options.as_json
def signature(file: BinaryIO, registered_url: str | None, *, as_json: bool) -> None:
    """Say why the HTTP request in FILE, head and body, does not verify, and what to do; - is stdin.

    Which key signed, and over which digest, is read out of the signature. What was signed is found by trying what
    proxies, frameworks and settings make of a request. Nothing is stored and nothing is accepted by it. Ends with 0 if
    the signature verifies, and with 1 if it does not.
    """
    request = _request(file)
    service = the_service()
    diagnosis = diagnose_request(service, request, registered_url)
    if as_json:
        print_json(diagnosis.document())
    else:
        print_diagnosis(diagnosis, request, service)
    if not diagnosis.verifies:
        raise click.exceptions.Exit(REFUSED)


def _request(file: BinaryIO) -> HttpRequest:
    try:
        return read_request(file)
    except (OversizedRequestError, MalformedRequestError) as error:
        message = str(error)
        raise UsageProblem(f"{message[:1].upper()}{message[1:]}") from None

"""`flask inbox deliver`: deliver a raw HTTP request, verified like any other."""

from http import HTTPStatus
from typing import BinaryIO

import click
from flask.cli import with_appcontext

from app.alipay.acknowledgement import is_acknowledgement
from app.alipay.delivery import BODY_BYTES_MAX, Delivery, MalformedRequestError
from app.cli.current_service import the_service
from app.cli.errors import REFUSED, Refusal
from app.cli.request_file import OversizedRequestError, read_request, with_public_path
from app.cli.tables import plain, print_facts


class NotDeliveredError(Refusal):
    """The notification endpoint would have refused the request."""

    def __init__(self, status: HTTPStatus, problem: str) -> None:
        super().__init__(f"{status.value} {status.phrase}: {problem}")


@click.command()
@with_appcontext
@click.argument("file", type=click.File("rb"))
def deliver(file: BinaryIO) -> None:
    """Deliver the HTTP request in FILE, head and body; - is stdin.

    It is verified like any other, as a request to the path that Alipay signs, FLASK_PUBLIC_NOTIFY_PATH. Ends with 0 if
    it was acknowledged.
    """
    delivery = _request(file)
    receipt = the_service().receiver.receive(delivery)
    answer = receipt.answer
    print_facts(
        {
            "status": f"{answer.status} {HTTPStatus(answer.status).phrase}",
            "result": f"{answer.result_status} {answer.result_code}",
            "entry": receipt.entry_id,
            "outcome": receipt.outcome,
            "reason": receipt.reason,
        }
    )
    if not is_acknowledgement(answer.status, answer.body):
        raise click.exceptions.Exit(REFUSED)


def _request(file: BinaryIO) -> Delivery:
    """Read a request as the notification endpoint does.

    Raises `NotDeliveredError` and `Refusal`.
    """
    try:
        delivery = read_request(file).delivery
    except OversizedRequestError as error:
        raise NotDeliveredError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from None
    except MalformedRequestError as error:
        raise NotDeliveredError(HTTPStatus.BAD_REQUEST, str(error)) from None
    settings = the_service().settings
    path = delivery.uri.partition("?")[0]
    if path not in {settings.notify_path, settings.public_notify_path}:
        problem = f"notifications go to {settings.public_notify_path}, not to {plain(path)}."
        raise NotDeliveredError(HTTPStatus.NOT_FOUND, problem)
    if delivery.method != "POST":
        raise NotDeliveredError(HTTPStatus.METHOD_NOT_ALLOWED, "notifications are sent with POST.")
    if len(delivery.body) > BODY_BYTES_MAX:
        raise NotDeliveredError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(OversizedRequestError()))
    return with_public_path(delivery, settings)

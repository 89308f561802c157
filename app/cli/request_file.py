"""Read a raw HTTP request, head and body, from a file or from stdin: no more of it than a server would take."""

from dataclasses import replace
from typing import BinaryIO

from app.alipay.delivery import BODY_BYTES_MAX, Delivery, HttpRequest, parse_http_request
from app.config import Settings

#: The server accepts no larger head, and the endpoint no larger body.
_HEAD_BYTES_MAX = 64 * 1024
_REQUEST_BYTES_MAX = _HEAD_BYTES_MAX + BODY_BYTES_MAX


class OversizedRequestError(ValueError):
    """The file holds more than a head and a body of the sizes that are accepted."""

    def __init__(self) -> None:
        super().__init__(f"the body of a notification has at most {BODY_BYTES_MAX} bytes.")


def read_request(file: BinaryIO) -> HttpRequest:
    """Read the request in a file. Raises `OversizedRequestError` and `MalformedRequestError`."""
    raw = file.read(_REQUEST_BYTES_MAX + 1)
    if len(raw) > _REQUEST_BYTES_MAX:
        raise OversizedRequestError
    return parse_http_request(raw)


def with_public_path(delivery: Delivery, settings: Settings) -> Delivery:
    """Give a delivery to the endpoint the path that Alipay signs; one to another path stays as it is."""
    path, mark, query = delivery.uri.partition("?")
    if path not in {settings.notify_path, settings.public_notify_path}:
        return delivery
    return replace(delivery, uri=settings.public_notify_path + mark + query)

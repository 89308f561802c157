"""Read the exact bytes of a request's body: at most one more than is allowed, and never a part for the whole."""

from flask import request

from app.alipay.delivery import BODY_BYTES_MAX
from app.server.rsgi_to_wsgi import announced_length


class BodyTooLargeError(Exception):
    """The body is larger than anything that is sent here. Not all of it was read."""


class BodyIncompleteError(Exception):
    """The sender went away, or announced another length than it sent."""


def exact_body() -> bytes:
    """Read the body as it was sent.

    The framework would cut a chunked body silently: one byte more than is allowed tells that it is too long.

    Raises `BodyTooLargeError` and `BodyIncompleteError`.
    """
    stream = request.environ["wsgi.input"]
    if not request.environ.get("CONTENT_LENGTH"):
        body: bytes = stream.read(BODY_BYTES_MAX + 1)
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLargeError
        return body
    announced = announced_length(request.environ)
    if announced is None:
        raise BodyIncompleteError
    if announced > BODY_BYTES_MAX:
        raise BodyTooLargeError
    body = stream.read(announced)
    if len(body) != announced:
        raise BodyIncompleteError
    return body

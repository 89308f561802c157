"""The notification endpoint: copies one delivery exactly as it came, and responds as the receiver says.

It never blocks, so that the event loop calls it (`Service.never_blocks`): it verifies, parses and submits. The response
is deferred until the delivery is stored, and keeps no thread until then: `app.server.rsgi_to_wsgi` is called back. Any
other WSGI server reads the response, and so waits.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Response, abort, current_app, request
from typing_extensions import override

from app import metrics
from app.alipay.acknowledgement import NotifyResponse, refuse
from app.alipay.delivery import Delivery
from app.logs import failure
from app.quarantine import KEPT_HEADERS
from app.receiver import Receipt
from app.server.rsgi_to_wsgi import RECEIVED, Deferred
from app.web.every_request import origin
from app.web.request_body import BodyIncompleteError, BodyTooLargeError, exact_body
from app.wiring import Service

_log = logging.getLogger(__name__)


def add_endpoint(app: Flask, path: str) -> None:
    """Add the endpoint at this path, and at no other: the signature covers the path to the letter."""

    def require_exact_path() -> None:
        # Else the framework would redirect to a path with a slash at its end, or take the one for the other.
        if request.path != path and request.path.rstrip("/") == path.rstrip("/"):
            abort(HTTPStatus.NOT_FOUND)

    app.before_request(require_exact_path)
    app.add_url_rule(path, "notify", _notify, methods=["POST"], provide_automatic_options=False, strict_slashes=False)


def _notify() -> Response:
    received: float = request.environ.get(RECEIVED, time.perf_counter())
    try:
        receipt = _receive()
    except BodyTooLargeError:
        _log.warning("delivery refused", extra={"cause": "too_large", **origin().fields()})
        answer = refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "PARAM_ILLEGAL", "The body is larger than 64 KiB.")
    except BodyIncompleteError:
        _log.warning("delivery refused", extra={"cause": "incomplete", **origin().fields()})
        answer = refusal(HTTPStatus.BAD_REQUEST, "PARAM_ILLEGAL", "The body is not as long as announced.")
    except Exception as error:  # noqa: BLE001 -- the receiver could not be made: nothing was stored, so Alipay is to send again
        _log.error("delivery not received", extra={**failure(error), **origin().fields()})
        answer = refusal(HTTPStatus.SERVICE_UNAVAILABLE, "UNKNOWN_EXCEPTION", "Send it again.", result_status="U")
    else:
        return DeferredResponse(receipt, lambda response: _fill(response, receipt.result().answer, received))
    response = Response()
    _fill(response, answer, received)
    return response


def _receive() -> "Future[Receipt]":
    service: Service = current_app.extensions["notifyauth"]
    delivery = _delivery(service.settings.public_notify_path, exact_body())
    return service.receiver.receive_later(delivery, other_headers=_other_headers)


def _delivery(public_path: str, body: bytes) -> Delivery:
    # The server hands over no raw request line: the path is known, and the query comes as it was sent.
    query = request.environ.get("QUERY_STRING", "")
    return Delivery(
        method=request.method,
        uri=f"{public_path}?{query}" if query else public_path,
        client_id=request.headers.get("client-id", ""),
        request_time=request.headers.get("request-time", ""),
        signature=request.headers.get("signature", ""),
        body=body,
        origin=origin(),
    )


def _other_headers() -> dict[str, str]:
    headers = request.headers
    return {name: headers[name] for name in KEPT_HEADERS if name in headers}


def refusal(status: HTTPStatus, result_code: str, message: str, *, result_status: str = "F") -> NotifyResponse:
    """Refuse a request that never became a delivery, in the words of the protocol and unsigned."""
    return refuse(
        _delivery(request.path, b""),
        status=status,
        result_code=result_code,
        result_status=result_status,
        message=message,
        client=None,
        now=datetime.now(UTC),
    )


def _fill(response: Response, answer: NotifyResponse, received: float) -> None:
    """Copy the receiver's answer into the response, and count it."""
    metrics.DELIVERIES.inc(answer.status)
    if answer.status >= HTTPStatus.BAD_REQUEST:
        metrics.REFUSED_REQUESTS.inc(answer.status, "notify")
    metrics.LATENCY.observe(time.perf_counter() - received)
    response.status_code = answer.status
    response.headers.update(answer.headers)
    response.set_data(answer.body)


class DeferredResponse(Response):
    """A response that is filled in when it is read, once a future is resolved.

    Flask is done with the request by then: what it has added to the headers stays, and of the status and the body it
    sees nothing.
    """

    def __init__(
        self,
        future: "Future[Any]",
        fill: Callable[[Response], None],
        *,
        on_client_gone: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.future = future
        self.on_client_gone = on_client_gone
        self._fill = fill

    @override
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return _DeferredBody(self, environ, start_response)

    def read(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Fill it in, and begin to send it as any other."""
        self._fill(self)
        return super().__call__(environ, start_response)


@dataclass
class _DeferredBody(Deferred):
    response: DeferredResponse
    environ: WSGIEnvironment
    start_response: StartResponse

    @override
    def add_done_callback(self, callback: Callable[[], None]) -> None:
        self.response.future.add_done_callback(lambda _: callback())

    def __post_init__(self) -> None:
        self.is_for_client_only = self.response.on_client_gone is not None

    @override
    def leave(self) -> None:
        if self.response.on_client_gone is not None:
            self.response.on_client_gone()
        self.close()

    @override
    def __iter__(self) -> Iterator[bytes]:
        # A server hears of the status with the first piece, which is early enough (PEP 3333).
        yield from self.response.read(self.environ, self.start_response)

    def close(self) -> None:
        """End the response, whether it was read or not."""
        self.response.close()

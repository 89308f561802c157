"""Alipay's door: copy one delivery exactly as it came, and answer what the receiver says."""

import logging
import time
from datetime import UTC, datetime
from http import HTTPStatus

from flask import Flask, Response, current_app, request

from app import metrics
from app.alipay.acknowledgement import Answer, refuse
from app.alipay.delivery import Delivery
from app.logs import failure
from app.rsgi import RECEIVED
from app.service import Service
from app.web.incoming import BodyIncompleteError, BodyTooLargeError, exact_body

_log = logging.getLogger(__name__)


def open_door(app: Flask, path: str) -> None:
    """Listen for notifications at this path."""
    app.add_url_rule(path, "notify", _notify, methods=["POST"], provide_automatic_options=False)


def _notify() -> Response:
    received: float = request.environ.get(RECEIVED, time.perf_counter())
    answer = _answer()
    metrics.DELIVERIES.labels(answer.status).inc()
    metrics.LATENCY.observe(time.perf_counter() - received)
    return to_response(answer)


def _answer() -> Answer:
    service: Service = current_app.extensions["notifyauth"]
    try:
        delivery = _delivery(service.settings.public_notify_path, exact_body())
        return service.receiver.receive(delivery).answer
    except BodyTooLargeError:
        return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "PARAM_ILLEGAL", "The body is larger than 64 KiB.")
    except BodyIncompleteError:
        return refusal(HTTPStatus.BAD_REQUEST, "PARAM_ILLEGAL", "The body is not as long as announced.")
    except Exception as error:  # noqa: BLE001 -- the receiver could not be made: nothing was stored, so Alipay is to send again
        _log.error("delivery not received", extra=failure(error))
        return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "UNKNOWN_EXCEPTION", "Send it again.", result_status="U")


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
    )


def refusal(status: HTTPStatus, result_code: str, message: str, *, result_status: str = "F") -> Answer:
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


def to_response(answer: Answer) -> Response:
    """Copy an answer out."""
    return Response(answer.body, answer.status, headers=dict(answer.headers))

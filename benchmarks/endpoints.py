"""Two endpoints of the bench: one that only acknowledges, and one that also verifies the signature.

They measure what our server, framework and cryptography cost; the rest is what notifyauth itself costs.
"""

import os
from pathlib import Path

from flask import Flask, Response, abort, request

from app.alipay.acknowledgement import ACKNOWLEDGEMENT
from app.alipay.delivery import BODY_BYTES_MAX, Delivery
from app.alipay.keyring import Keyring
from app.alipay.signature import NotAuthenticError, verify
from app.config import DEFAULT_NOTIFY_PATH
from app.server.rsgi_to_wsgi import RsgiToWsgi

empty = Flask("empty", static_folder=None)
verifying = Flask("verifying", static_folder=None)

_KEYRING = Keyring.load(Path(os.environ["FLASK_KEYRING"]))


@empty.post(DEFAULT_NOTIFY_PATH)
def acknowledge() -> Response:
    """Acknowledge whatever it is; even so, a body has to be read before the next request can be."""
    request.get_data()
    return Response(ACKNOWLEDGEMENT, mimetype="application/json")


@verifying.post(DEFAULT_NOTIFY_PATH)
def acknowledge_authentic() -> Response:
    """Acknowledge what Alipay has signed, and store nothing."""
    delivery = Delivery(
        method=request.method,
        uri=DEFAULT_NOTIFY_PATH,
        client_id=request.headers["client-id"],
        request_time=request.headers["request-time"],
        signature=request.headers["signature"],
        body=request.get_data(),
    )
    try:
        verify(delivery, _KEYRING)
    except NotAuthenticError:
        abort(401)
    return Response(ACKNOWLEDGEMENT, mimetype="application/json")


_THREADS = int(os.environ["BENCH_THREADS"])

empty_endpoint = RsgiToWsgi(empty, _THREADS, body_bytes_max=BODY_BYTES_MAX)
verifying_endpoint = RsgiToWsgi(verifying, _THREADS, body_bytes_max=BODY_BYTES_MAX)

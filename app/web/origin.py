"""Where a request came from: its id, which every answer carries, and its address, as refusals are logged with them.

A stranger may have written all of it, so each part has a bound, and nothing is decided by it.
"""

import os
import re

from flask import Flask, Response, g, request

from app.alipay.delivery import Origin

#: What proxies make: UUIDs, hexadecimal numbers, trace ids.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=-]{0,127}")
#: Makes a collision among the requests of a year unlikely.
_OWN_ID_BYTES = 8
#: Three or four proxies, each with an IPv6 address.
_FORWARDED_CHARACTERS_MAX = 160


def init_app(app: Flask) -> None:
    """Give every answer its id."""
    app.after_request(_add_request_id)


def origin() -> Origin:
    """Say where the request came from; its id is the one it brought, if that is well-formed, or one of ours."""
    if "origin" not in g:
        environ = request.environ
        brought = environ.get("HTTP_X_REQUEST_ID", "")
        g.origin = Origin(
            request_id=brought if _REQUEST_ID.fullmatch(brought) else os.urandom(_OWN_ID_BYTES).hex(),
            address=environ.get("REMOTE_ADDR", ""),
            forwarded_for=environ.get("HTTP_X_FORWARDED_FOR", "")[:_FORWARDED_CHARACTERS_MAX],
        )
    made: Origin = g.origin
    return made


def _add_request_id(response: Response) -> Response:
    response.headers["X-Request-Id"] = origin().request_id
    return response

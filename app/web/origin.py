"""Where a request came from: its id, which its response carries, and its address. Refusals are logged with them.

Any sender may have written all of it, so each part has a bound, and nothing is decided by it.
"""

import random
import re

from flask import Flask, Response, request

from app.alipay.delivery import Origin

#: The key in the environment of a request, once it is made.
_ORIGIN = "notifyauth.origin"
_REQUEST_ID_HEADER = "X-Request-Id"

#: What proxies make: UUIDs, hexadecimal numbers, trace ids.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=-]{0,127}")
#: Makes a collision among the requests of a year unlikely.
_OWN_ID_BITS = 64
#: Three or four proxies, each with an IPv6 address.
_FORWARDED_CHARACTERS_MAX = 160


def init_app(app: Flask) -> None:
    """Give every response the id of its request."""
    app.after_request(_add_request_id)


def origin() -> Origin:
    """Say where the request came from; its id is the one it brought, if that is well-formed, or one of ours."""
    environ = request.environ
    made: Origin | None = environ.get(_ORIGIN)
    if made is None:
        brought = environ.get("HTTP_X_REQUEST_ID", "")
        made = environ[_ORIGIN] = Origin(
            request_id=brought if _REQUEST_ID.fullmatch(brought) else f"{random.getrandbits(_OWN_ID_BITS):016x}",
            address=environ.get("REMOTE_ADDR", ""),
            forwarded_for=environ.get("HTTP_X_FORWARDED_FOR", "")[:_FORWARDED_CHARACTERS_MAX],
        )
    return made


def _add_request_id(response: Response) -> Response:
    response.headers.add(_REQUEST_ID_HEADER, origin().request_id)
    return response

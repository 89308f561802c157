"""What every request goes through: it is given an id, bounded in time, and refused where the framework would bend it.

The id and the address of a request are logged with whatever is refused. Any sender may have written all of it, so each
part has a bound, and nothing is decided by it.
"""

import random
import re
import time
from contextlib import ExitStack

from flask import Flask, Response, abort, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed

from app.alipay.delivery import Origin
from app.database import within
from app.limits import ANSWER_SECONDS_MAX
from app.server.rsgi_to_wsgi import RECEIVED, REJECT_STATUS

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
    """Put these before and after every endpoint."""
    app.after_request(_add_request_id)
    app.before_request(_start_time_limit)
    app.teardown_request(_end_time_limit)
    app.before_request(_refuse_for_server)
    app.before_request(_require_one_first_slash)
    app.before_request(_require_method_as_written)


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


def _start_time_limit() -> None:
    """Bound everything that the request waits for. The time began when the server had received the whole request."""
    now = time.perf_counter()
    limit = ExitStack()
    limit.enter_context(within(ANSWER_SECONDS_MAX - (now - request.environ.get(RECEIVED, now))))
    g.limit = limit


def _end_time_limit(_error: BaseException | None) -> None:
    if "limit" in g:
        g.limit.close()


def _refuse_for_server() -> None:
    """Refuse what the server rejects: only it knows that a body is late, or that its queue is full."""
    if (status := request.environ.get(REJECT_STATUS)) is not None:
        abort(status)


def _require_one_first_slash() -> None:
    """Refuse a path that begins with several slashes, which the framework would take for one."""
    if request.environ.get("PATH_INFO", "").startswith("//"):
        abort(404)


def _require_method_as_written() -> None:
    """Refuse "post", which the framework would take for POST: it is another method (RFC 9110, 9.1)."""
    if request.url_rule is not None and request.environ.get("REQUEST_METHOD", "") != request.method:
        routes = current_app.create_url_adapter(request)
        raise MethodNotAllowed(None if routes is None else sorted(routes.allowed_methods()))

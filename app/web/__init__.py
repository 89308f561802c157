"""The HTTP endpoints: Alipay's, the merchant's, and the operator's."""

import time
from contextlib import ExitStack

from flask import Flask, abort, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed

from app.config import Settings
from app.database import within
from app.server.rsgi_to_wsgi import RECEIVED, REJECT_STATUS
from app.web import api, health, notify, openapi, origin, problems

#: Every request is answered by then, whatever the database does. Waiting for a thread counts.
ANSWER_SECONDS_MAX = 4


def init_app(app: Flask, settings: Settings) -> None:
    """Add the endpoints."""
    # A path with a slash too many is another path, which nothing is signed for: no redirect.
    app.url_map.merge_slashes = False
    origin.init_app(app)
    app.before_request(_start_time_limit)
    app.teardown_request(_end_time_limit)
    app.before_request(_refuse_for_server)
    app.before_request(_require_one_first_slash)
    app.before_request(_require_method_as_written)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.blueprint)
    notify.add_endpoint(app, settings.notify_path)
    problems.init_app(app, settings.notify_path)


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

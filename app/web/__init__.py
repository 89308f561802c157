"""The doors over HTTP: Alipay's, the merchant's, and the operator's."""

import time
from contextlib import ExitStack

from flask import Flask, abort, current_app, g, request
from werkzeug.exceptions import MethodNotAllowed

from app.config import Settings
from app.database import within
from app.server.rsgi_to_wsgi import RECEIVED, REJECT_STATUS
from app.web import api, health, notify, openapi, origin, problems

#: Alipay, and a merchant's own service, hear from us by then, whatever the database does: waiting for a thread counts.
ANSWER_SECONDS_MAX = 4


def init_app(app: Flask, settings: Settings) -> None:
    """Open the doors."""
    # A path with a slash too many is another path: nobody is redirected, and nothing is signed for it.
    app.url_map.merge_slashes = False
    origin.init_app(app)
    app.before_request(_begin_in_time)
    app.teardown_request(_end)
    app.before_request(_refuse)
    app.before_request(_require_one_first_slash)
    app.before_request(_require_method_as_written)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.blueprint)
    notify.add_endpoint(app, settings.notify_path)
    problems.init_app(app, settings.notify_path)


def _begin_in_time() -> None:
    """Let all that the request waits for end within the time of an answer, which began when the request was whole."""
    now = time.perf_counter()
    limit = ExitStack()
    limit.enter_context(within(ANSWER_SECONDS_MAX - (now - request.environ.get(RECEIVED, now))))
    g.limit = limit


def _end(_error: BaseException | None) -> None:
    if "limit" in g:
        g.limit.close()


def _refuse() -> None:
    """Refuse for the server, which knows what the application cannot: that a body is late, or a queue is full."""
    if (status := request.environ.get(REJECT_STATUS)) is not None:
        abort(status)


def _require_one_first_slash() -> None:
    """Refuse what the framework lets pass: it takes all slashes that a path begins with for one."""
    if request.environ.get("PATH_INFO", "").startswith("//"):
        abort(404)


def _require_method_as_written() -> None:
    """Refuse what the framework lets pass: it takes "post" for POST, which is another method (RFC 9110, 9.1)."""
    if request.url_rule is not None and request.environ.get("REQUEST_METHOD", "") != request.method:
        routes = current_app.create_url_adapter(request)
        raise MethodNotAllowed(None if routes is None else sorted(routes.allowed_methods()))

"""The doors over HTTP: Alipay's, the merchant's, and the operator's."""

from flask import Flask, abort, current_app, request
from werkzeug.exceptions import MethodNotAllowed

from app.config import Settings
from app.rsgi import REFUSAL
from app.web import api, health, notify, openapi, origin, problems


def init_app(app: Flask, settings: Settings) -> None:
    """Open the doors."""
    # A path with a slash too many is another path: nobody is redirected, and nothing is signed for it.
    app.url_map.merge_slashes = False
    origin.init_app(app)
    app.before_request(_refuse)
    app.before_request(_require_one_first_slash)
    app.before_request(_require_method_as_written)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.blueprint)
    notify.open_door(app, settings.notify_path)
    problems.init_app(app, settings.notify_path)


def _refuse() -> None:
    """Refuse for the server, which knows what the application cannot: that a body is late, or a queue is full."""
    if (status := request.environ.get(REFUSAL)) is not None:
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

"""The doors over HTTP: Alipay's, the merchant's, and the operator's."""

from flask import Flask, abort, request

from app.config import Settings
from app.web import api, health, notify, openapi, problems


def init_app(app: Flask, settings: Settings) -> None:
    """Open the doors."""
    # A path with a slash too many is another path: nobody is redirected, and nothing is signed for it.
    app.url_map.merge_slashes = False
    app.before_request(_require_one_first_slash)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.blueprint)
    notify.open_door(app, settings.notify_path)
    problems.init_app(app, settings.notify_path)


def _require_one_first_slash() -> None:
    """Refuse what the framework lets pass: it takes all slashes that a path begins with for one."""
    if request.environ.get("PATH_INFO", "").startswith("//"):
        abort(404)

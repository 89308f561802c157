"""The doors over HTTP: Alipay's, the merchant's, and the operator's."""

from flask import Flask

from app.config import Settings
from app.web import api, health, notify, openapi, problems


def init_app(app: Flask, settings: Settings) -> None:
    """Open the doors."""
    # A path with a slash too many is another path: nobody is redirected, and nothing is signed for it.
    app.url_map.merge_slashes = False
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.blueprint)
    notify.open_door(app, settings.notify_path)
    problems.init_app(app, settings.notify_path)

"""All endpoints together, and what goes before and after them."""

from flask import Flask

from app.config import Settings
from app.web import api, calls, every_request, feed, health, notify, openapi, problems


def init_app(app: Flask, settings: Settings) -> None:
    """Add the endpoints."""
    # A path with a slash too many is another path, which nothing is signed for: no redirect.
    app.url_map.merge_slashes = False
    every_request.init_app(app)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(calls.blueprint)
    app.register_blueprint(feed.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(openapi.blueprint)
    notify.add_endpoint(app, settings.notify_path)
    problems.init_app(app, settings.notify_path)

"""Make the application of its parts: settings, logs, the service, endpoints and commands."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from flask import Flask

from app import logs, metrics, web
from app.cli import all_commands
from app.cli.errors import BAD_SETTING, bad_settings_end_the_shell, is_looked_for_commands
from app.config import SettingError, Settings, read_settings
from app.wiring import Service

_log = logging.getLogger(__name__)

#: Flask's instance folder is beside it.
PACKAGE = "app"


def create_app(environ: Mapping[str, str] | None = None) -> Flask:
    """Make the application with its endpoints and commands, from settings in the environment.

    Nothing is opened yet: the commands that migrate, or make keys, run before there is anything to open. Servers start
    from `app.wsgi`, which opens and checks it all. Raises `SettingError`; to a `flask …` command it says so itself.
    """
    app = Flask(PACKAGE, static_folder=None)
    # Reading the settings may have something to say.
    logs.configure()
    with bad_settings_end_the_shell():
        try:
            settings = read_settings(os.environ if environ is None else environ, instance_path=Path(app.instance_path))
        except SettingError as error:
            if not is_looked_for_commands():
                raise
            # Help is to be had whatever the settings are; a command that needs them says what is wrong.
            app.extensions[BAD_SETTING] = error
            all_commands.init_app(app)
            return app
    return create_app_with(settings, app)


def create_app_with(settings: Settings, app: Flask | None = None) -> Flask:
    """Make the application with settings that are read already."""
    app = app or Flask(PACKAGE, static_folder=None)
    logs.configure(on_dropped=metrics.count_dropped_lines)
    for warning in settings.warnings:
        _log.warning("a setting is probably not as it is meant", extra={"warning": warning})
    app.extensions["notifyauth"] = Service(settings)
    web.init_app(app, settings)
    all_commands.init_app(app)
    return app

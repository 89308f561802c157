"""Receive Alipay's notifyAuthorization notifications, and know for every user whether an authorization stands."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def create_app(environ: Mapping[str, str] | None = None) -> "Flask":
    """Make the application with its endpoints and commands, from settings in the environment.

    Nothing is opened yet: the commands that migrate, or make keys, run before there is anything to open. Servers start
    from `app.wsgi`, which opens and checks it all. Raises `SettingError`; to a `flask …` command it says so itself.
    """
    # Imported late: what uses one part of the package, as the simulator does, need not wait for all of it.
    from app import factory  # noqa: PLC0415

    return factory.create_app(environ)

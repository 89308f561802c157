"""What a command works with: the service of its application, the database, and the user who runs it."""

import getpass
from collections.abc import Callable
from typing import TypeVar

import click
from flask import current_app
from sqlalchemy.orm import Session

from app.alipay.keyring import KeyringError
from app.cli.errors import BAD_SETTING, SERVICE
from app.config import SettingError
from app.database.contents import distinct_values
from app.limits import LOOK_UP_SECONDS_MAX
from app.models import Authorization
from app.wiring import Service

T = TypeVar("T")


def the_service() -> Service:
    """Return the service of the application whose command is running. Raises `SettingError`."""
    bad_setting: SettingError | None = current_app.extensions.get(BAD_SETTING)
    if bad_setting is not None:
        raise bad_setting
    service: Service = current_app.extensions["notifyauth"]
    # A test may do what a command does without one.
    if (context := click.get_current_context(silent=True)) is not None:
        context.meta[SERVICE] = service
    return service


def look_up(work: Callable[[Session], T]) -> T:
    """Read from the database, once it is known to be migrated and to open under the vault keys.

    Raises what `Service.vault` raises.
    """
    service = the_service()
    _ = service.vault
    return service.database.run(work, read_only=True, seconds_max=LOOK_UP_SECONDS_MAX)


def known_clients(session: Session) -> list[str]:
    """Name the clients of the keyring, if there is one, and those that have authorizations on record."""
    try:
        configured = set(the_service().keyring.clients)
    except KeyringError:
        configured = set()
    return sorted(configured.union(distinct_values(session, Authorization.client_id)))


def operating_user() -> str | None:
    """Name who runs the command, for the history; `None` where the system has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None

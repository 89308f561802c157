"""The check before a reload: what would stop a new process from starting."""

import logging
import os
from pathlib import Path

import click

from app.cli.errors import plain_errors
from app.config import SettingError, read_settings
from app.database import DatabaseUnavailableError, UnfitDatabaseError
from app.logs import failure
from app.wiring import Service

_log = logging.getLogger(__name__)


def problem_of_a_reload(instance_path: Path) -> str | None:
    """Say what would stop a new process from starting, of all that may have changed since this process started."""
    try:
        with plain_errors():
            service = Service(read_settings(os.environ, instance_path=instance_path))
            try:
                service.open_all()
            except UnfitDatabaseError:
                raise
            except DatabaseUnavailableError:
                # Workers wait for a database that is away, so it does not stop a reload.
                pass
            finally:
                service.database.close()
    except SettingError as error:
        return str(error)
    except click.ClickException as error:
        return error.message
    except Exception as error:  # noqa: BLE001 -- whatever it is, those that serve are to go on
        _log.error("check failed", extra=failure(error))
        return "A worker could not start."
    return None

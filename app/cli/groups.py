"""Run commands for a person: errors as sentences, no log lines unless something is wrong, and the service at hand."""

import getpass
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.orm import Session
from typing_extensions import override

from app.alipay.keyring import KeyringError
from app.cli.errors import SERVICE, plain_errors
from app.database.contents import distinct_values
from app.models import Authorization
from app.wiring import Service

T = TypeVar("T")

#: A person waits longer than a request, and a rare combination of filters may read more than a page of an index.
LOOK_UP_SECONDS_MAX = 60


class Commands(AppGroup):
    """A group of commands that a person runs and waits for."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        with plain_errors(), _warnings_only(), _default_database_is_named(ctx):
            return super().invoke(ctx)


def the_service() -> Service:
    """Return the service of the application whose command is running."""
    service: Service = current_app.extensions["notifyauth"]
    # A test may do what a command does without one.
    if (context := click.get_current_context(silent=True)) is not None:
        context.meta[SERVICE] = service
    return service


def operating_user() -> str | None:
    """Name who runs the command, for the history; `None` where the system has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


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


@contextmanager
def _default_database_is_named(ctx: click.Context) -> Iterator[None]:
    """Say beside an answer that it comes from the database that is used where none is named.

    An empty list out of an empty file is otherwise taken for the truth about the database that was meant.
    """
    try:
        yield
    finally:
        _name_default_database(ctx)


def _name_default_database(ctx: click.Context) -> None:
    service: Service | None = ctx.meta.get(SERVICE)
    if service is not None and service.settings.uses_default_database and service.was_asked:
        click.echo(f"FLASK_DATABASE_URL is not set: this is about {service.settings.database_asked}", err=True)


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Keep quiet about what goes well: a command says that itself, and a log is for servers."""
    logger = logging.getLogger("app")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)

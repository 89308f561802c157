"""A group of commands for a person at a terminal: errors are sentences, and only warnings are logged."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from app.cli.errors import SERVICE, plain_errors
from app.database import DatabaseUnavailableError
from app.models import Authorization, InboxEntry
from app.wiring import Service


class CommandGroup(AppGroup):
    """A group of commands that a person runs and waits for."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        with plain_errors(), _warnings_only(), _default_database_is_named(ctx):
            return super().invoke(ctx)


@contextmanager
def _default_database_is_named(ctx: click.Context) -> Iterator[None]:
    """Say, where no database is named, which one has nothing to show, or has not what was asked for.

    An empty list out of an empty file is otherwise taken for the truth about the database that was meant.
    """
    has_answered = False
    try:
        yield
        has_answered = True
    finally:
        service: Service | None = ctx.meta.get(SERVICE)
        is_default = service is not None and service.settings.uses_default_database and service.was_asked
        if service is not None and is_default and not (has_answered and _has_anything(service)):
            click.echo(f"FLASK_DATABASE_URL is not set: this is about {service.settings.database_asked}", err=True)


def _has_anything(service: Service) -> bool:
    """Say whether there is anything on record."""
    try:
        found = service.database.run(
            lambda session: [session.scalar(select(each).limit(1)) for each in (Authorization.id, InboxEntry.id)],
            read_only=True,
        )
    except (DatabaseUnavailableError, DBAPIError):
        return False
    return any(each is not None for each in found)


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Log nothing below a warning: a command itself says what goes well, and a log is for servers."""
    logger = logging.getLogger("app")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)

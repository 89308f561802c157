"""A group of commands for a person at a terminal: errors are sentences, and only warnings are logged."""

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import click
from flask.cli import AppGroup
from typing_extensions import override

from app.cli.errors import SERVICE, plain_errors

if TYPE_CHECKING:
    from app.wiring import Service


class _OnDemand(Mapping[str, click.Command]):
    """Commands by name, each imported from the file of its function when it is asked for."""

    def __init__(self, package: str, functions: Mapping[str, str]) -> None:
        self._package = package
        self._functions = functions

    @override
    def __getitem__(self, name: str) -> click.Command:
        function = self._functions[name]
        command: click.Command = getattr(import_module(f"{self._package}.{function}"), function)
        return command

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    @override
    def __len__(self) -> int:
        return len(self._functions)


def on_demand(package: str, functions: Mapping[str, str]) -> MutableMapping[str, click.Command]:
    """Make the commands of a group, each by the name of its function and of its file.

    Flask imports the groups that need no application before every command, and a test that signs its requests with
    `flask simulator sign` waits for none of the others. Click only looks commands up, and adds none by itself.
    """
    return cast("MutableMapping[str, click.Command]", _OnDemand(package, functions))


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


def _has_anything(service: "Service") -> bool:
    """Say whether there is anything on record."""
    # Imported late: only a command that has a service has waited for these already.
    from sqlalchemy import select  # noqa: PLC0415
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    from app.database import DatabaseUnavailableError  # noqa: PLC0415
    from app.models import Authorization, InboxEntry  # noqa: PLC0415

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

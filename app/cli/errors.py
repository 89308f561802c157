"""Errors of commands: one sentence and an exit code, as a person at a terminal has no use for a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.config import SettingError

#: Exit codes that scripts rely on.
REFUSED = 1
USAGE = 2


#: The key under which a command leaves its service in the context: its application is gone once it has ended.
SERVICE = "notifyauth.service"

#: The key of the `SettingError` in an application that has only commands, because a setting is bad.
BAD_SETTING = "notifyauth.bad_setting"


class UsageProblem(click.ClickException):
    """A setting, a file or the database is not as it must be: the command could not do its work."""

    exit_code = USAGE


class Refusal(click.ClickException):
    """The request was refused, or nothing was found."""

    exit_code = REFUSED


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error that an operator can mend into a sentence and an exit code."""
    try:
        yield
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except Exception as error:
        # Imported late: it knows the errors of every part of the service, and most commands end without any.
        from app.cli.explained_errors import explained  # noqa: PLC0415

        problem = explained(error)
        if problem is None:
            raise
        raise problem from None


def is_looked_for_commands() -> bool:
    """Say whether Flask loads the application to find a command, or to list all of them, and none is running yet.

    The commands of Flask itself, such as `run`, load it once they are running.
    """
    context = click.get_current_context(silent=True)
    return context is not None and context.parent is None


@contextmanager
def bad_settings_end_the_shell() -> Iterator[None]:
    """End a `flask …` command with one sentence where a setting is bad; every other caller gets the error.

    Flask prints a traceback of every exception that it meets on its way, so this leaves as `exit` does.
    """
    try:
        yield
    except SettingError as error:
        if click.get_current_context(silent=True) is None:
            raise
        UsageProblem(str(error)).show()
        sys.exit(USAGE)

"""Errors of commands: one sentence and an exit code, as a person at a terminal has no use for a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.exc import DBAPIError

from app.alipay.keyring import KeyringError
from app.cli.tables import plain
from app.config import SettingError
from app.database import DatabaseUnavailableError, UnfitDatabaseError, name_of
from app.events.endpoints import EndpointsError, UnknownEndpointError
from app.index_key import WrongVaultKeyError
from app.preflight import NotMigratedError, OutdatedReleaseError
from app.report_errors import ClientNotInKeyringError, ClientNotNamedError, ReportRefusedError
from app.vault import VaultError
from app.vocabulary import NewerReleaseError
from app.wiring import Service

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


class DatabaseProblem(UsageProblem):
    """The database did not do what a command asked of it."""

    def __init__(self, error: DatabaseUnavailableError | DBAPIError) -> None:
        match error:
            case UnfitDatabaseError():
                problem, cause = "cannot be used", error.cause
            case DatabaseUnavailableError():
                problem, cause = "is unavailable", error.cause
            case _:
                problem, cause = "refused to do this", name_of(error)
        super().__init__(f"The database {_asked()} {problem}: {cause}.")


class Refusal(click.ClickException):
    """The request was refused, or nothing was found."""

    exit_code = REFUSED


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error that an operator can mend into a sentence and an exit code."""
    try:
        yield
    except (
        SettingError,
        KeyringError,
        EndpointsError,
        NotMigratedError,
        OutdatedReleaseError,
        WrongVaultKeyError,
        VaultError,
    ) as error:
        raise UsageProblem(str(error)) from None
    except (DatabaseUnavailableError, DBAPIError) as error:
        raise DatabaseProblem(error) from None
    except ClientNotInKeyringError as error:
        known = ", ".join(map(plain, sorted(error.known))) or "none"
        message = f"The keyring has no --client {plain(error.client_id)}. Known are: {known}."
        raise Refusal(message) from None
    except ClientNotNamedError as error:
        # Its message speaks of a field of the API.
        raise Refusal(str(error).replace("clientId", "--client")) from None
    except (UnknownEndpointError, NewerReleaseError) as error:
        raise Refusal(str(error)) from None
    except ReportRefusedError as error:
        raise Refusal(_for_shell(str(error))) from None


def _for_shell(problem: str) -> str:
    """Say of a field of the API how the shell takes it."""
    for field in ("replaces", "authCode"):
        problem = problem.replace(f"in `{field}`", f'as "{field}" in a JSON object on stdin')
    return problem


def _asked() -> str:
    """Say which database a command asked, without its password, and where its address comes from."""
    service: Service | None = click.get_current_context().meta.get(SERVICE)
    if service is None:
        return "of FLASK_DATABASE_URL"
    origin = "FLASK_DATABASE_URL is not set" if service.settings.uses_default_database else "FLASK_DATABASE_URL"
    return f"{service.settings.database_asked} ({origin})"


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

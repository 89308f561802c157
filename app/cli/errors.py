"""Say what is wrong in one sentence: a person at a terminal has no use for a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.exc import DBAPIError

from app.alipay.keyring import KeyringError
from app.config import SettingError
from app.database import DatabaseUnavailableError
from app.receiver.errors import ClientNotInKeyringError, ClientNotNamedError, ReportRefusedError
from app.service import NotMigratedError, WrongVaultKeyError
from app.vault import VaultError

#: Exit codes that scripts rely on.
REFUSED = 1
USAGE = 2


class UsageProblem(click.ClickException):
    """A setting, a file or the database is not as it must be: the command could not do its work."""

    exit_code = USAGE


class Refusal(click.ClickException):
    """What was asked for was not found, or is not allowed."""

    exit_code = REFUSED


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what an operator can mend into a sentence and an exit code."""
    try:
        yield
    except (KeyringError, NotMigratedError, WrongVaultKeyError, VaultError) as error:
        raise UsageProblem(str(error)) from None
    except DatabaseUnavailableError as error:
        sentence = f"{error} FLASK_DATABASE_URL must name one that answers now: start it, or correct the URL."
        raise UsageProblem(sentence) from None
    except DBAPIError as error:
        # Not the driver's own words: they may quote what a stranger wrote.
        sentence = f"The database of FLASK_DATABASE_URL refused to do this ({type(error.orig).__name__})."
        raise UsageProblem(sentence) from None
    except (ClientNotNamedError, ClientNotInKeyringError) as error:
        # Their messages speak of a field of the API.
        raise Refusal(str(error).replace("clientId", "--client")) from None
    except ReportRefusedError as error:
        raise Refusal(str(error)) from None


@contextmanager
def bad_settings_end_the_shell() -> Iterator[None]:
    """End a `flask …` command with one sentence where a setting is bad; whoever else is calling gets the error.

    Flask loads the application while it looks for the command, and for `flask --help` prints a traceback of every
    exception. So this leaves as `exit` does.
    """
    try:
        yield
    except SettingError as error:
        if click.get_current_context(silent=True) is None:
            raise
        UsageProblem(str(error)).show()
        sys.exit(USAGE)

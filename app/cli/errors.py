"""Say what is wrong in one sentence: a person at a terminal has no use for a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.alipay.keyring import KeyringError
from app.database import DatabaseUnavailableError
from app.service import NotMigratedError, WrongVaultKeyError

#: Exit codes that scripts rely on.
REFUSED = 1
USAGE = 2


class UsageProblem(click.ClickException):
    """A setting, a file or the database is not as it must be: the command could not even begin."""

    exit_code = USAGE


class Refusal(click.ClickException):
    """What was asked for was not found, or is not allowed."""

    exit_code = REFUSED


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what an operator can mend into a sentence and an exit code."""
    try:
        yield
    except (KeyringError, NotMigratedError, WrongVaultKeyError) as error:
        raise UsageProblem(str(error)) from None
    except DatabaseUnavailableError as error:
        raise UsageProblem(f"{error} FLASK_DATABASE_URL names a server that does not answer, or not now.") from None

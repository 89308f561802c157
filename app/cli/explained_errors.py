"""What the errors of the service's parts say to a person at a terminal, and with which exit code they end a command."""

import click
from sqlalchemy.exc import DBAPIError

from app.alipay.keyring import KeyringError
from app.cli.errors import SERVICE, Refusal, UsageProblem
from app.cli.tables import plain
from app.config import SettingError
from app.database import DatabaseUnavailableError, UnfitDatabaseError, is_transient, name_of
from app.events.endpoints import EndpointsError, UnknownEndpointError
from app.index_key import WrongVaultKeyError
from app.preflight import NoDatabaseFileError, NotMigratedError, OutdatedReleaseError
from app.report_errors import ClientNotInKeyringError, ClientNotNamedError, ReportRefusedError
from app.vault import VaultError
from app.vocabulary import NewerReleaseError
from app.wiring import Service


class DatabaseProblem(UsageProblem):
    """The database did not do what a command asked of it."""

    def __init__(self, error: DatabaseUnavailableError | DBAPIError) -> None:
        match error:
            case UnfitDatabaseError():
                problem, cause = "cannot be used", error.cause
            case DatabaseUnavailableError():
                problem, cause = "is unavailable", error.cause
            case _:
                # What never answered, or refused the connection, has refused nothing of the command.
                problem = "is unavailable" if is_transient(error) else "refused to do this"
                cause = name_of(error)
        super().__init__(f"The database {_asked()} {problem}: {cause}.")


_NOTHING_IS_SET = (
    "No setting of the service is set here: if there is an environment file, such as systemd's EnvironmentFile, it was "
    "not read."
)


def explained(error: Exception) -> click.ClickException | None:  # noqa: PLR0911 -- a return for each kind of error
    """Say an error that an operator can mend in a sentence; `None` of any other."""
    match error:
        case KeyringError() | NoDatabaseFileError() if _uses_only_defaults():
            return UsageProblem(f"{str(error).rstrip('.')}. {_NOTHING_IS_SET}")
        case (
            SettingError()
            | KeyringError()
            | EndpointsError()
            | NotMigratedError()
            | OutdatedReleaseError()
            | WrongVaultKeyError()
            | VaultError()
        ):
            return UsageProblem(str(error))
        case DatabaseUnavailableError() | DBAPIError():
            return DatabaseProblem(error)
        case ClientNotInKeyringError():
            known = ", ".join(map(plain, sorted(error.known))) or "none"
            return Refusal(f"The keyring has no --client {plain(error.client_id)}. Known are: {known}.")
        case ClientNotNamedError():
            # Its message speaks of a field of the API.
            return Refusal(str(error).replace("clientId", "--client"))
        case UnknownEndpointError() | NewerReleaseError():
            return Refusal(str(error))
        case ReportRefusedError():
            return Refusal(_for_shell(str(error)))
        case _:
            return None


def _for_shell(problem: str) -> str:
    """Say of a field of the API how the shell takes it."""
    for field in ("replaces", "authCode"):
        problem = problem.replace(f"in `{field}`", f'as "{field}" in a JSON object on stdin')
    return problem


def _uses_only_defaults() -> bool:
    service: Service | None = click.get_current_context().meta.get(SERVICE)
    return service is not None and service.settings.uses_only_defaults


def _asked() -> str:
    """Say which database a command asked, without its password, and where its address comes from."""
    service: Service | None = click.get_current_context().meta.get(SERVICE)
    if service is None:
        return "of FLASK_DATABASE_URL"
    origin = "FLASK_DATABASE_URL is not set" if service.settings.uses_default_database else "FLASK_DATABASE_URL"
    return f"{service.settings.database_asked} ({origin})"

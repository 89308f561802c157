"""`flask doctor`: what is wrong with the installation, a line for each part, and what to do about it."""

from collections.abc import Callable, Iterator

import click
from flask.cli import with_appcontext

from app.alipay.keyring import KeyringError
from app.cli import options
from app.cli.current_service import the_service
from app.cli.errors import REFUSED
from app.cli.tables import plain, print_json
from app.config import SettingError
from app.events.endpoints import EndpointsError
from app.preflight import NEWER, OK


@click.command()
@with_appcontext
@options.as_json
def doctor(*, as_json: bool) -> None:
    """Say what is wrong with the installation: its settings, keyring, endpoints, database, vault and worker.

    It changes nothing. Ends with 1 if something is wrong. Whether each endpoint is told in time: flask endpoints check.
    """
    found = list(_problems())
    if as_json:
        print_json([{"id": part, "ok": problem is None, "problem": problem} for part, problem in found])
    else:
        for part, problem in found:
            click.echo(f"✓ {part}" if problem is None else f"✗ {part}: {plain(problem)}")
    if any(problem is not None for _, problem in found):
        raise click.exceptions.Exit(REFUSED)


def _problems() -> Iterator[tuple[str, str | None]]:
    """Go through the parts of the service, and say of each what is wrong with it, if anything is."""
    try:
        service = the_service()
    except SettingError as error:
        yield "settings", str(error)
        return
    yield "settings", None
    yield "keyring", _error_of(lambda: service.keyring)
    yield "endpoints", _error_of(lambda: service.endpoints)
    for part, state in service.check().items():
        yield part, None if state == OK or state.startswith(f"{NEWER} ") else state


def _error_of(load: Callable[[], object]) -> str | None:
    try:
        load()
    except (KeyringError, EndpointsError) as error:
        return str(error)
    return None

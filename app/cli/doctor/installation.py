"""`flask doctor` without a command: what is wrong with the installation, a line for each part, and what to do."""

from collections.abc import Callable, Iterator

import click

from app.alipay.keyring import KeyringError
from app.cli.current_service import the_service
from app.cli.errors import REFUSED
from app.cli.tables import plain, print_json
from app.config import SettingError
from app.events.endpoints import EndpointsError
from app.preflight import NEWER, OK


def examine_installation(*, as_json: bool) -> None:
    """Print what is wrong with each part, and end with 1 if something is."""
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

"""`flask endpoints check`: whether endpoints.toml is in order, every host resolves, and everybody is told."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.cli.current_service import look_up, the_service
from app.cli.errors import REFUSED
from app.cli.tables import moment, plain
from app.events import deliveries
from app.events.addresses import is_link_local
from app.events.endpoints import Endpoint
from app.models import Lease

#: A holder shows a sign of life every other second, and clocks of two machines differ.
_SILENT_MAX = timedelta(minutes=1)


@click.command()
@with_appcontext
def check() -> None:
    """Check that endpoints.toml is in order, that every host resolves, and that everybody is told in time.

    Ends with 1 if something is not as it should be, and with 2 if endpoints.toml cannot be used.
    """
    service = the_service()
    endpoints = service.endpoints
    if not endpoints:
        place = service.settings.endpoints_path or service.settings.instance_path / "endpoints.toml"
        click.echo(f"Nobody is told of events: {place} names no endpoint.")

    def troubles(session: Session) -> dict[str, list[str]]:
        found = {each.name: list(_troubles(session, each, now=datetime.now(UTC))) for each in endpoints.values()}
        for name in deliveries.endpoints_with_due(session):
            if name not in endpoints:
                due = _counted(deliveries.standing(session, name).due)
                found[name] = [f"{due} to be sent to it, and endpoints.toml does not name it"]
        return found

    found = look_up(troubles)
    for endpoint in endpoints.values():
        if (problem := _why_unreachable(endpoint)) is not None:
            found[endpoint.name].insert(0, problem)
    for name, problems in found.items():
        click.echo(f"{plain(name)}: {'; '.join(problems) or 'in order'}.")
    if any(found.values()):
        raise click.exceptions.Exit(REFUSED)


def _troubles(session: Session, endpoint: Endpoint, *, now: datetime) -> Iterator[str]:
    """Say what keeps an endpoint from being told."""
    lease = session.get(Lease, f"endpoint:{endpoint.name}")
    if lease is None or lease.holder is None or now - lease.at > _SILENT_MAX:
        yield "no worker sends to it: flask serve and flask work do, and know of a new endpoint after a SIGHUP"
    standing = deliveries.standing(session, endpoint.name)
    if standing.failed_before:
        said = "" if standing.last_error is None else f": {plain(standing.last_error.rstrip('.'))}"
        yield f"{_counted(standing.failed_before)} to be sent again, the next at {moment(standing.due_at)}{said}"
    elif standing.due_at is not None and standing.due_at < now - _SILENT_MAX:
        yield f"{_counted(standing.due)} to be sent to it since {moment(standing.due_at)}"


def _counted(number: int) -> str:
    at_least = "at least " if number >= deliveries.COUNTED_MAX else ""
    return f"{at_least}{number} {'delivery is' if number == 1 else 'deliveries are'}"


def _why_unreachable(endpoint: Endpoint) -> str | None:
    """Look the host up. Nothing is sent to it: flask events test does that."""
    url = urlsplit(endpoint.url)
    host = url.hostname or ""
    try:
        found = socket.getaddrinfo(host, url.port or url.scheme, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"its host {plain(host)} cannot be resolved"
    if any(is_link_local(str(address[0])) for *_, address in found):
        return f"its host {plain(host)} leads to a link-local address, and such are refused"
    return None

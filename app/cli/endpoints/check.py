"""`flask endpoints check`: whether endpoints.toml is in order, every host resolves, and everybody is told."""

from datetime import UTC, datetime

import click
from flask.cli import with_appcontext
from sqlalchemy.orm import Session

from app.cli.current_service import look_up, the_service
from app.cli.errors import REFUSED
from app.cli.tables import plain
from app.events import deliveries
from app.installation.outside import counted, untold, why_unreachable


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
        found = {
            each.name: [trouble.said for trouble in untold(session, each, now=datetime.now(UTC))]
            for each in endpoints.values()
        }
        for name in deliveries.endpoints_with_due(session):
            if name not in endpoints:
                due = counted(deliveries.standing(session, name).due)
                found[name] = [f"{due} to be sent to it, and endpoints.toml does not name it"]
        return found

    found = look_up(troubles)
    for endpoint in endpoints.values():
        if (problem := why_unreachable(endpoint)) is not None:
            found[endpoint.name].insert(0, problem)
    for name, problems in found.items():
        click.echo(f"{plain(name)}: {plain('; '.join(problems)) or 'in order'}.")
    if any(found.values()):
        raise click.exceptions.Exit(REFUSED)
